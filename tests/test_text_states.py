"""Text encoders from folders: what they give, keep, and refuse."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from crispmask.errors import InputError
from crispmask.models.text_states import MINILM, QueryEncoder
from crispmask.models.vocabulary import Vocabulary

pytest.importorskip("transformers")

PLAIN = ("{}",)


def clip_parts() -> tuple[Any, Any]:
    """A random CLIP of 16 channels that spells its words letter by letter."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(i) for i in range(33, 127)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[])
    tokenizer.model_max_length = 77
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIPTextModel(config), tokenizer


def bert_parts(folder: Path) -> tuple[Any, Any]:
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "in", "the"]
    words += ["scene", "water", "forest", "tall", "river"]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=20,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(config, add_pooling_layer=False)
    tokenizer = BertTokenizer(vocab={w: i for i, w in enumerate(words)})
    tokenizer.model_max_length = 20
    return model, tokenizer


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    QueryEncoder(*clip_parts()).save(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    model, tokenizer = bert_parts(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_clip_gives_what_stable_diffusion_would_see(clip: Path) -> None:
    encoder = QueryEncoder.from_folder(clip)
    states = encoder(Vocabulary(class_names=("sky", "cat"), templates=PLAIN))
    assert states.tokens.shape == (2, 77, 16)
    assert states.mask.sum(1).tolist() == [5, 5]  # start, three letters, end
    batch = encoder.tokenizer(["sky", "cat"], padding="max_length", return_tensors="pt")
    out = encoder.encoder(batch["input_ids"])
    torch.testing.assert_close(states.tokens, out.last_hidden_state)
    want = out.pooler_output / out.pooler_output.norm(dim=1, keepdim=True)
    torch.testing.assert_close(states.pooled, want)


def test_bert_gives_the_states_of_each_text_alone(bert: Path) -> None:
    encoder = QueryEncoder.from_folder(bert)
    assert encoder.width == 16
    both = encoder(Vocabulary(class_names=("water", "tall forest"), templates=PLAIN))
    assert both.mask.sum(1).tolist() == [3, 4]
    assert both.tokens[0, 3:].abs().max() == 0
    for i, text in enumerate(("water", "tall forest")):
        out = encoder.encoder(**encoder.tokenizer([text], return_tensors="pt"))
        alone = out.last_hidden_state[0]
        torch.testing.assert_close(both.tokens[i, : len(alone)], alone, atol=1e-5, rtol=1e-4)
        mean = alone.mean(0)
        torch.testing.assert_close(both.pooled[i], mean / mean.norm(), atol=1e-5, rtol=1e-4)


def test_saved_and_loaded_alike(clip: Path) -> None:
    made, loaded = QueryEncoder(*clip_parts()), QueryEncoder.from_folder(clip)
    assert made.fingerprint == loaded.fingerprint
    assert torch.equal(made.encode(["", "sky"]).tokens, loaded.encode(["", "sky"]).tokens)
    with torch.no_grad():
        next(made.encoder.parameters())[0, 0] += 1
    del made.fingerprint
    assert made.fingerprint != loaded.fingerprint


def test_vectors_are_means_over_templates_and_tokens_are_of_the_first(bert: Path) -> None:
    encoder = QueryEncoder.from_folder(bert)
    templates = ("a photo of {}", "{} in the scene")
    both = encoder(Vocabulary(class_names=("water", "river"), templates=templates))
    parts = [encoder(Vocabulary(class_names=("water", "river"), templates=(t,))) for t in templates]
    mean = (parts[0].pooled + parts[1].pooled) / 2
    torch.testing.assert_close(both.pooled, mean / mean.norm(dim=1, keepdim=True))
    assert torch.equal(both.tokens, parts[0].tokens)


def test_each_text_is_computed_once_and_kept_on_disk(bert: Path, tmp_path: Path) -> None:
    vocabulary = Vocabulary(class_names=("water", "forest"), synonyms={"water": ("river",)})
    encoder = QueryEncoder.from_folder(bert, cache=tmp_path)
    seen: list[int] = []
    encoder.encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    first = encoder(vocabulary)
    assert torch.equal(encoder(vocabulary).tokens, first.tokens)
    assert seen == [3]
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    assert all(path.suffix == ".safetensors" for path in files)

    files[0].write_bytes(b"cut short")
    other = QueryEncoder.from_folder(bert, cache=tmp_path)
    other.encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    again = other(vocabulary)
    assert seen == [3, 1]  # the damaged one alone
    torch.testing.assert_close(again.tokens, first.tokens)
    assert torch.equal(again.mask, first.mask)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("вода",), r"'вода' is written in Cyrillic letters .* translate it"),
        (("water", "水"), r"'水' is written in Cjk letters"),
        (("zebra",), "no word for a part of 'zebra'"),
        (("tall " * 30 + "forest",), r"takes 20 tokens, 'tall tall .* makes 40 with its template"),
    ],
)
def test_texts_that_the_encoder_cannot_read(
    bert: Path, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        QueryEncoder.from_folder(bert)(Vocabulary(class_names=words))


def test_folders_that_are_no_encoder(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        QueryEncoder.from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(InputError, match="is of a t5; a text encoder is one of clip_text_model"):
        QueryEncoder.from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match=r"cannot be loaded .* copy them again"):
        QueryEncoder.from_folder(tmp_path)
    model, tokenizer = bert_parts(tmp_path / "part")
    state = {k: v for k, v in model.state_dict().items() if "layer.1" not in k}
    model.save_pretrained(tmp_path / "part", state_dict=state)
    tokenizer.save_pretrained(tmp_path / "part")
    with pytest.raises(InputError, match=r"lacks \d+ tensors .* encoder.layer.1"):
        QueryEncoder.from_folder(tmp_path / "part")
    folder = tmp_path / "sd"
    (folder / "text_encoder").mkdir(parents=True)
    for path in (clip / "text_encoder").iterdir():
        (folder / "text_encoder" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="has no tokenizer/"):
        QueryEncoder.from_folder(folder)


def test_minilm_knows_what_is_alike() -> None:
    pytest.importorskip(MINILM)
    encoder = QueryEncoder.minilm()
    words = ("car", "automobile", "forest", "woodland")
    states = encoder(Vocabulary(class_names=words))
    assert encoder.width == states.tokens.shape[2] == 384
    alike = states.pooled @ states.pooled.T
    assert alike[0, 1] > alike[0, 2]
    assert alike[2, 3] > alike[2, 0]
    torch.testing.assert_close(states.pooled.norm(dim=1), torch.ones(4))


def test_weights_in_a_pickle_are_not_read(clip: Path, tmp_path: Path) -> None:
    shutil.copytree(clip, tmp_path / "sd")
    stored = tmp_path / "sd" / "text_encoder" / "model.safetensors"
    torch.save(load_file(stored), stored.with_name("pytorch_model.bin"))
    stored.unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        QueryEncoder.from_folder(tmp_path / "sd")


def test_states_computed_while_answering_can_be_trained_with(clip: Path) -> None:
    encoder = QueryEncoder.from_folder(clip)
    with torch.inference_mode():
        encoder.encode(["sky"])
    states = encoder.encode(["sky"])
    assert not states.tokens.is_inference()
    weight = torch.ones(16, requires_grad=True)
    (states.tokens * weight).sum().backward()  # type: ignore[no-untyped-call]
    assert states.take([0, 0]).pooled.shape == (2, 16)
