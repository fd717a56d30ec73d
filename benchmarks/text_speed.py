"""What a text segmenter costs, as ratios in one run: many words, chunks, decoders, text states.

    python benchmarks/text_speed.py runs/text-earth --data earth --limit 20

Times are medians of rounds in which the ways take turns. Memory is the peak of what the tensors of
one answer hold at once, without what an operator uses inside itself: it is the same on every
machine. FLOPs are counted on shapes alone, at the sizes of Stable Diffusion. The image is noise;
the mIoU of ranked against exact is of the first classes of the data, among as many words. Numbers
go to benchmarks/results/text_speed_MODEL.json.
"""

import argparse
import json
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # no public name so far
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from crispmask.atomic import write_atomic
from crispmask.cli.asking import in_own_sentence
from crispmask.cli.evaluate_words import image_size
from crispmask.data.class_names import VOID_NAMES, class_list, class_lists
from crispmask.data.source import Split, open_split
from crispmask.evaluate.images import LabelledImages
from crispmask.evaluate.open_vocabulary import WordsProtocol, evaluate_words
from crispmask.evaluate.words import UnderNames
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.vocabulary import Vocabulary
from crispmask.nn.heads import LightDecoder, LightDecoderConfig
from crispmask.provenance import provenance
from crispmask.shapes import Image

RESULTS = Path(__file__).parent / "results"

WORDS = 150
TOP = 32
COUNTS = (40, 150, 300)

SD_VAE: Mapping[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
"""The VAE of Stable Diffusion 1.x and 2.x."""

SD_WIDTH = 320
"""Channels of the last up block of their U-Nets."""


def further_words(names: Sequence[str], count: int) -> tuple[str, ...]:
    """The names and words of the class lists beside them, so many in all."""
    pool = [*names, *(word for name in class_lists() for word in class_list(name))]
    unique: dict[str, str] = {}
    for word in pool:
        if word.casefold() not in VOID_NAMES:
            unique.setdefault(word.casefold(), word)
    assert len(unique) >= count
    return tuple(unique.values())[:count]


def take_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, after one of each that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():  # in turn, so that a slow moment hits all alike
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def many_words(
    segmenter: TextSegmenter, words: Sequence[str], image: Image, *, top: int, rounds: int
) -> dict[str, Any]:
    """Ranking and its best words against all words; words together against one by one.

    One by one is meant in two ways: one row of a batch at a time within one answer, and an answer
    of its own for each word, which looks at the image again. Their text states are there already.
    """
    vocabulary = in_own_sentence(Vocabulary.from_texts(words), segmenter)
    ranked = segmenter.bound(vocabulary, top=top)
    single = segmenter.bound(vocabulary, top=top, chunk=1)
    exact = segmenter.bound(vocabulary, top=None)
    few = [in_own_sentence(Vocabulary.from_texts([word]), segmenter) for word in words[:top]]
    together = segmenter.bound(
        in_own_sentence(Vocabulary.from_texts(words[:top]), segmenter), top=None
    )
    apart = [segmenter.bound(word, top=None) for word in few]
    seconds = take_turns(
        {
            "ranked": lambda: ranked(image),
            "ranked, one by one": lambda: single(image),
            "exact": lambda: exact(image),
            "few, one answer": lambda: together(image),
            "few, an answer each": lambda: [ask(image) for ask in apart],
        },
        rounds,
    )
    return {
        "words": len(words),
        "top": top,
        "pixels": list(image.shape[-2:]),
        "seconds": seconds,
        "exact_over_ranked": seconds["exact"] / seconds["ranked"],
        "one_by_one_over_batched": seconds["ranked, one by one"] / seconds["ranked"],
        "answer_each_over_one_answer": seconds["few, an answer each"] / seconds["few, one answer"],
        "rows_ranked": ranked(image).num_calls,
        "rows_exact": exact(image).num_calls,
    }


def ranked_quality(
    segmenter: TextSegmenter,
    data: LabelledImages,
    words: Sequence[str],
    *,
    top: int,
    limit: int,
) -> dict[str, Any]:
    """MIoU of the ranking's best words as a share of that of all words.

    Args:
        segmenter: a trained one, if the share is to mean something.
        data: its class names are the first of ``words``.
        words: all words.
        top: words that are drawn.
        limit: images.
    """
    vocabulary = in_own_sentence(Vocabulary.from_texts(words), segmenter)
    protocol = WordsProtocol(
        data=f"{limit} images",
        vocabulary=vocabulary,
        trained_on=segmenter.config.class_names,
        image_size=image_size(segmenter, tile=0),
    )
    named = UnderNames(data, vocabulary.label_names)
    miou = {
        name: evaluate_words(
            named, segmenter.bound(vocabulary, top=kept), protocol, oracle=False, limit=limit
        ).scores.miou_truth
        for name, kept in (("ranked", top), ("exact", None))
    }
    share = miou["ranked"] / miou["exact"] if miou["exact"] else None
    return {"images": min(limit, len(data)), "miou": miou, "ranked_over_exact": share}


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what tensors that are made under it hold at once, each storage once.

    Attributes:
        live: bytes now.
        peak: most bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {
            value.untyped_storage()._cdata
            for value in tree_leaves((args, kwargs))
            if isinstance(value, Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self._known and storage._cdata not in given:
                    self._add(storage)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.live -= self._known.pop(key)


def peak_memory(
    segmenter: TextSegmenter, words: Sequence[str], image: Image, *, counts: Sequence[int], top: int
) -> dict[str, Any]:
    """MiB of tensors that one answer holds at most, for more and more words.

    Their text states are made before and not counted.
    """

    def peak(count: int, kept: int | None) -> float:
        vocabulary = in_own_sentence(Vocabulary.from_texts(words[:count]), segmenter)
        ask = segmenter.bound(vocabulary, top=kept)
        with LiveBytes() as memory:
            ask(image)
        return float(memory.peak / 2**20)

    ranked = {count: peak(count, top) for count in counts}
    return {
        "top": top,
        "ranked_mib": ranked,
        "most_over_fewest_words": ranked[max(counts)] / ranked[min(counts)],
        "exact_mib": {count: peak(count, None) for count in (min(counts), max(counts))},
    }


def decoder_flops(size: int = 512) -> dict[str, Any]:
    """FLOPs of one mask by the VAE of Stable Diffusion and by the light decoder of its sizes."""
    from diffusers import AutoencoderKL

    cells = size // 8
    with torch.device("meta"), torch.no_grad():
        network: Any = AutoencoderKL
        vae = network(**SD_VAE).eval()
        light = LightDecoder(LightDecoderConfig(latent_channels=4, feature_channels=SD_WIDTH))
        z_0, feature = torch.empty(1, 4, cells, cells), torch.empty(1, SD_WIDTH, cells, cells)
        with FlopCounterMode(display=False) as by_vae:
            vae.decode(z_0)
        with FlopCounterMode(display=False) as by_light:
            light(z_0, feature, torch.empty(1, 3, size, size))
    flops = {"vae": by_vae.get_total_flops(), "light": by_light.get_total_flops()}
    return {"size": size, "flops": flops, "vae_over_light": flops["vae"] / flops["light"]}


def text_states(segmenter: TextSegmenter, words: Sequence[str]) -> dict[str, Any]:
    """Sentences that the text encoder is given when words are asked that are new, and again."""
    seen: list[int] = []

    def count(module: object, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs["input_ids"]
        seen.append(len(given))

    vocabulary = in_own_sentence(Vocabulary.from_texts(words), segmenter)
    hook = segmenter.words.encoder.register_forward_pre_hook(count, with_kwargs=True)
    try:
        start = time.perf_counter()
        segmenter.words(vocabulary)
        first, sentences = time.perf_counter() - start, sum(seen)
        start = time.perf_counter()
        segmenter.words(vocabulary)
        again, more = time.perf_counter() - start, sum(seen) - sentences
    finally:
        hook.remove()
    return {
        "words": len(words),
        "sentences_first": sentences,
        "sentences_again": more,
        "seconds_first": first,
        "seconds_again": again,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", help="bundled name or folder of a text segmenter")
    parser.add_argument("--data", default="earth", help="labelled images for the mIoU")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val")
    parser.add_argument("--limit", type=int, default=20, help="images for the mIoU")
    parser.add_argument("--size", type=int, default=256, help="side of the image that is timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    split: Split = args.split
    data = open_split(args.data, split)
    segmenter = TextSegmenter.from_pretrained(args.model)
    image = torch.rand(1, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))
    words = further_words(data.class_names, max(COUNTS))
    results = {
        "text_states": text_states(segmenter, words[:WORDS]),
        "many_words": many_words(segmenter, words[:WORDS], image, top=TOP, rounds=args.rounds),
        "ranked_quality": ranked_quality(segmenter, data, words[:WORDS], top=TOP, limit=args.limit),
        "peak_memory": peak_memory(segmenter, words, image, counts=COUNTS, top=TOP),
        "decoder_flops": decoder_flops(),
        "model": args.model,
        "data": f"{args.data} {split}",
        "run": provenance(),
    }
    path = args.output / f"text_speed_{Path(args.model).name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
