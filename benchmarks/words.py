"""What a text segmenter is worth: names, synonyms, absent words, steps, decoders, refinement.

    python benchmarks/words.py runs/text-earth earth --base runs/earth-base \
        --refiner runs/earth-refiner-0

All rows are of one model on one split of labelled images, in one run. "base" is a supervised
segmenter of the same classes on the same images, which has no words; its presence is its largest
probability. "no masks drawn" is the control: the network looks once, without a word, and its pixels
are compared with the words. "refined" puts a refiner of the same classes behind the text segmenter.
Classes whose names the model was not trained on count as unseen in every row. Numbers go to
benchmarks/results/words_DATA_MODEL.json.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch.nn import functional as F

from crispmask.atomic import write_atomic
from crispmask.cli.asking import in_own_sentence
from crispmask.cli.evaluate_words import image_size, table
from crispmask.data.source import Split, open_split
from crispmask.errors import InputError
from crispmask.evaluate.images import LabelledImages
from crispmask.evaluate.open_vocabulary import (
    WordsAnswer,
    WordsOutput,
    WordsProtocol,
    WordsResult,
    WordsSegmenter,
)
from crispmask.evaluate.words import measure_rows, vocabulary_of, word_rows
from crispmask.models.bases import load_base
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import Segmenter
from crispmask.models.text_inference import rank
from crispmask.models.text_question import TextSampling, question
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.text_views import scene
from crispmask.models.vocabulary import Vocabulary
from crispmask.provenance import provenance
from crispmask.shapes import Image

RESULTS = Path(__file__).parent / "results"

EVERYWHERE_ABSENT = ("polyp", "skin lesion", "sofa", "spoon", "piano", "giraffe", "microwave")
"""Classes of other data sets that no photo of a street, a field or the Earth from afar shows."""

ABSENT = {
    "earth": ("car", "pedestrian", "bicyclist", "pole", "sign", "fence", *EVERYWHERE_ABSENT),
    "camvid": ("savanna", "wetland", "cropland", "snow", *EVERYWHERE_ABSENT),
}
"""The same with classes of the other data set here, for those whose images cannot show them."""

Ask = Callable[[Vocabulary], WordsSegmenter]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to answer.

    Attributes:
        ask: binds it to a vocabulary.
        rows: vocabularies that it is measured with.
    """

    ask: Ask
    rows: Mapping[str, Vocabulary]


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What a row gave, and what it cost.

    Attributes:
        result: scores.
        seconds: per image.
    """

    result: WordsResult
    seconds: float


def plan(
    segmenter: TextSegmenter,
    vocabulary: Vocabulary,
    *,
    absent: Sequence[str],
    steps: Sequence[int],
    base: Segmenter | None,
    refiner: MaskRefiner | None,
) -> list[Row]:
    """All rows: what is asked, how it is answered, and what it is compared with."""

    def ask(**options: Any) -> Ask:
        return lambda words: segmenter.bound(words, **options)

    names = replace(vocabulary, synonyms={})
    rows = [Row(ask=ask(), rows=word_rows(vocabulary, absent=absent))]
    for count in steps:
        if count > 1:
            rows.append(
                Row(ask=ask(num_inference_steps=count), rows={f"names, {count} steps": names})
            )
    if not segmenter.config.closed:
        other = "vae" if segmenter.config.decode == "light" else "light"
        rows.append(Row(ask=ask(decode=other), rows={f"names, {other} decoder": names}))
    rows.append(Row(ask=ask(flip=True), rows={"names, flip": names}))
    rows.append(Row(ask=without_masks(segmenter), rows={"names, no masks drawn": names}))
    if refiner is not None:
        rows.append(Row(ask=behind(ask(), refiner), rows={"names, refined": names}))
    if base is not None:
        rows.append(Row(ask=without_words(base), rows={"base": names}))
    return rows


def behind(ask: Ask, refiner: MaskRefiner) -> Ask:
    """A refiner's answer, with the presence of what it refines."""

    def bound(words: Vocabulary) -> WordsSegmenter:
        first = ask(words)

        def refined(image: Image, *, among: Sequence[int] | None) -> WordsAnswer:
            answer = first(image, among=among)
            return WordsOutput(labels=refiner(image, answer).labels, presence=answer.presence)

        return refined

    return bound


def without_masks(segmenter: TextSegmenter) -> Ask:
    """The control: scores of pixels and words from the one call that ranks, and no other call."""

    def bound(words: Vocabulary) -> WordsSegmenter:
        asked = question(segmenter, words, TextSampling())

        def answer(image: Image, *, among: Sequence[int] | None) -> WordsAnswer:
            with torch.inference_mode():
                whole = scene(segmenter, image, tile=0, overlap=0, mirrored=False)
                ranking = rank(segmenter, whole, asked)
                near = segmenter.align.scores(ranking.pixels, ranking.words)
                there = F.logsigmoid(ranking.presence)[..., None, None]
                scores = whole.enlarge(near) + there
                found = words.class_scores(ranking.presence).sigmoid()
            found = found[:, : len(words.class_names)]
            return WordsOutput(labels=words.labels(scores.sigmoid(), among=among), presence=found)

        return answer

    return bound


def without_words(base: Segmenter) -> Ask:
    """A supervised segmenter, which knows its classes without being asked."""

    def bound(words: Vocabulary) -> WordsSegmenter:
        def answer(image: Image, *, among: Sequence[int] | None) -> WordsAnswer:
            probs = base(image).probs
            if among is not None:
                only = torch.zeros(probs.shape[1], 1, 1)
                only[list(among)] = 1
                probs = probs * only
            return WordsOutput(labels=probs.argmax(1), presence=probs.amax((2, 3)))

        return answer

    return bound


def measure(
    data: LabelledImages, rows: Sequence[Row], protocol: WordsProtocol, *, limit: int | None
) -> dict[str, Timed]:
    """Scores and seconds of all rows, by name."""
    timed: dict[str, Timed] = {}
    for row in track(rows, "rows", console=Console(stderr=True)):
        for name, words in row.rows.items():
            spent: list[float] = []
            found = measure_rows(
                data,
                partial(stopwatch, row.ask, spent),
                {name: words},
                protocol,
                limit=limit,
            )
            timed[name] = Timed(result=found[name], seconds=sum(spent) / len(spent))
    return timed


def stopwatch(ask: Ask, spent: list[float], words: Vocabulary) -> WordsSegmenter:
    """The segmenter bound to words, which writes down the seconds of each answer."""
    segmenter = ask(words)

    def answer(image: Image, *, among: Sequence[int] | None) -> WordsAnswer:
        start = time.perf_counter()
        output = segmenter(image, among=among)
        spent.append(time.perf_counter() - start)
        return output

    return answer


def facts(segmenter: TextSegmenter, folder: Path) -> dict[str, Any]:
    """What the model is, and how it was trained as far as its folder tells."""
    config, run = segmenter.config, folder / "run.json"
    parts = {"unet": segmenter.unet, "vae": segmenter.codec.vae, "heads": segmenter.heads}
    return {
        "folder": folder.name,
        "trained_on": list(config.class_names),
        "pathway": config.pathway is not None,
        "mask_code": config.mask_code,
        "start": config.start,
        "decode": config.decode,
        "parameters": {
            name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()
        },
        "training": json.loads(run.read_text(encoding="utf-8")) if run.is_file() else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", help="bundled name or folder of a text segmenter")
    parser.add_argument("data", help="earth, camvid, or another data set")
    parser.add_argument("--split", choices=("train", "val", "test"), default=None)
    parser.add_argument("--base", default=None, help="supervised segmenter of the same classes")
    parser.add_argument("--refiner", default=None, help="refiner of the same classes")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 10])
    parser.add_argument("--limit", type=int, default=None, help="use only so many images")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    kind = args.data.partition(":")[0]
    split: Split = args.split or ("test" if kind == "earth" else "val")
    data = open_split(args.data, split)
    segmenter = TextSegmenter.from_pretrained(args.model)
    base = None if args.base is None else load_base(args.base, class_names=data.class_names)
    refiner = None if args.refiner is None else MaskRefiner.from_pretrained(args.refiner)
    for name, model in (("--base", base), ("--refiner", refiner)):
        if model is not None and tuple(model.config.class_names) != tuple(data.class_names):
            raise InputError(f"{name} must know the classes of {args.data}, in their order.")
    vocabulary = in_own_sentence(vocabulary_of(data.class_names), segmenter)
    rows = plan(
        segmenter,
        vocabulary,
        absent=ABSENT.get(kind, EVERYWHERE_ABSENT),
        steps=args.steps,
        base=base,
        refiner=refiner,
    )
    part = "" if args.limit is None else f", {args.limit} images at most"
    protocol = WordsProtocol(
        data=f"{kind} {split}{part}",
        vocabulary=vocabulary,
        trained_on=segmenter.config.class_names,
        image_size=image_size(segmenter, tile=0),
    )
    timed = measure(data, rows, protocol, limit=args.limit)
    record = summary(timed) | {
        "model": facts(segmenter, Path(args.model)),
        "base": args.base,
        "refiner": args.refiner,
        "run": provenance(),
    }
    path = args.output / f"words_{kind}_{Path(args.model).name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
    Console(soft_wrap=True).print(table(protocol.data, record["rows"]))
    print(json.dumps({"written": str(path), "share_of_base": record["share_of_base"]}))


def summary(timed: Mapping[str, Timed]) -> dict[str, Any]:
    """Plain values of all rows, and the mIoU of the names as a share of the base's."""
    share = None
    if "base" in timed:
        ours, theirs = (timed[name].result.scores.miou_truth for name in ("names", "base"))
        share = ours / theirs
    return {
        "rows": {
            name: {"seconds_per_image": row.seconds, **row.result.to_dict()}
            for name, row in timed.items()
        },
        "share_of_base": share,
    }


if __name__ == "__main__":
    main()
