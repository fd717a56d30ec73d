"""``crispmask evaluate-words``: a text segmenter over data sets, by names, synonyms and others."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from crispmask.cli.asking import Asking, in_own_sentence, load_segmenter
from crispmask.cli.output import check_output
from crispmask.data.class_names import comparable, first_difference
from crispmask.data.source import open_data
from crispmask.errors import InputError
from crispmask.evaluate.images import evenly_spread
from crispmask.evaluate.open_vocabulary import (
    WordsAnswer,
    WordsProtocol,
    WordsResult,
    WordsSegmenter,
    cross_domain,
)
from crispmask.evaluate.words import measure_rows, vocabulary_of, word_rows
from crispmask.models.text_question import TextSampling
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.vocabulary import Vocabulary
from crispmask.provenance import provenance
from crispmask.report.words import WordsReport
from crispmask.report.words_pictures import EXAMPLES, WordsGallery
from crispmask.report.words_scores import NAMES, Row, cells, columns, further, percent
from crispmask.shapes import IGNORE, Image


@dataclass(frozen=True, kw_only=True)
class EvaluateWordsArguments:
    """Measure a segmenter of words on data sets.

    Prints a table for each data set and writes OUTPUT/report.html, to look at, and
    OUTPUT/report.json. Every result has a hash of its protocol: only those with the same hash can
    be compared. Several data sets also give the means over them.

    Example: crispmask evaluate-words text-earth earth --synonyms --output report

    Attributes:
        model: bundled name, or a folder of a text segmenter.
        data: earth (its test blocks), earth:val, fields, camvid:FOLDER/val and the like, or folders
            with images/, labels/ and classes.txt. ade20k-847:FOLDER/val and
            pascal-context-459:FOLDER have 16-bit labels; their lists of names lie in FOLDER, as
            classes.txt and labels.txt.
        output: folder to write to.
        words: words for each DATA, in its order of labels: with commas, the name of a class list,
            or a .txt or .json file; by default the class names of the data.
        synonyms: also measure with synonyms in place of the names, and with both.
        absent: words that are in none of the images; with these also measure how much of the
            images they are given.
        oracle: also measure the model when it is told which classes each image has; takes twice
            as long, and is no result that a user could get.
        limit: images at most of each data set, spread evenly.
        json: print what report.json holds as one line, all else on stderr.
        asking: how the words are asked for.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA...")]
    output: Path
    words: tuple[str, ...] = ()
    synonyms: bool = False
    absent: str = ""
    oracle: bool = False
    limit: int | None = None
    json: bool = False
    asking: Annotated[Asking, tyro.conf.arg(name="")] = field(default_factory=Asking)

    def __post_init__(self) -> None:
        if not self.data or len(set(self.data)) < len(self.data):
            raise InputError(
                f"one or more different data sets are needed, got {', '.join(self.data) or 'none'}."
            )
        if self.words and len(self.words) != len(self.data):
            raise InputError(
                f"--words must be given for each of {len(self.data)} data sets or not at all, got "
                f"{len(self.words)}; put quotes around words with commas."
            )
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit must be at least 1, got {self.limit}.")


def evaluate_by_words(args: EvaluateWordsArguments) -> int:
    """Measure the model on all data sets and show the tables."""
    check_output(args.output)
    absent = Vocabulary.parse(args.absent).class_names if args.absent else ()
    datasets = {name: open_data(name) for name in args.data}
    vocabularies = (
        [Vocabulary.parse(words) for words in args.words]
        if args.words
        else [vocabulary_of(data.class_names) for data in datasets.values()]
    )
    vocabularies = [args.asking.with_background(words) for words in vocabularies]
    for (name, data), words in zip(datasets.items(), vocabularies, strict=True):
        check_order(words.label_names, data.class_names, source=name)
    segmenter = load_segmenter(args.model, device=args.asking.device)
    console = Console(stderr=True, markup=False)
    results: dict[str, dict[str, WordsResult]] = {}
    galleries: dict[str, WordsGallery] = {}
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        for (name, data), words in zip(datasets.items(), vocabularies, strict=True):
            vocabulary = in_own_sentence(words, segmenter)
            rows = word_rows(vocabulary, absent=absent)
            if not args.synonyms:
                rows = {row: found for row, found in rows.items() if "synonyms" not in row}
            images = len(data) if args.limit is None else min(len(data), args.limit)
            ignore = getattr(data, "ignore", IGNORE)
            galleries[name] = WordsGallery(
                vocabulary.label_names, shown=evenly_spread(images, EXAMPLES), ignore=ignore
            )
            task = progress.add_task(name, total=images * len(rows) * (1 + args.oracle))
            results[name] = measure_rows(
                data,
                partial(_counted, segmenter, args.asking, partial(progress.advance, task)),
                rows,
                WordsProtocol(
                    data=name if args.limit is None else f"{name}, {images} images",
                    vocabulary=vocabulary,
                    trained_on=segmenter.config.class_names,
                    image_size=image_size(segmenter, tile=args.asking.tile),
                    options=protocol_options(args.asking, segmenter),
                    ignore=ignore,
                ),
                oracle=args.oracle,
                limit=args.limit,
                watch=galleries[name].add,
            )
    record = report(results, model=args.model, options=asdict(args.asking))
    numbers, page = WordsReport(record=record, galleries=galleries).write(args.output)
    shown = Console(stderr=args.json, soft_wrap=True, markup=False)
    for name, rows in record["results"].items():
        shown.print(table(Path(name).name, rows))
        said = (f"{score} {text}" for score, text in further(rows[NAMES]).items())
        shown.print(f"names, means over classes: {', '.join(said)}")
        hashes = (f"{row} {result['protocol']['hash']}" for row, result in rows.items())
        shown.print(f"protocols: {', '.join(hashes)}")
    if "mean over data sets" in record:
        means = record["mean over data sets"]
        shown.print(
            f"mean over data sets: mIoU {percent(means['miou'])}, classes of interest "
            f"alone {percent(means['coi_miou'])}"
        )
    shown.print(f"all numbers in {numbers}")
    shown.print(f"look at {page}")
    if args.json:
        print(json.dumps(record))
    return 0


def protocol_options(asking: Asking, segmenter: TextSegmenter) -> dict[str, Any]:
    """The options that differ from the defaults and that an answer depends on."""
    default = TextSampling()
    idle = {"chunk", "seed"} if segmenter.config.start == "zeros" else {"chunk"}
    return {
        name: value
        for name, value in asking.options.items()
        if name not in idle and value != getattr(default, name)
    }


def check_order(words: Sequence[str], names: Sequence[str], *, source: str) -> None:
    """Words that are the names of the data set must stand in its order.

    Raises:
        InputError: if they are the same names in another order; other words cannot be checked.
    """
    ours, theirs = comparable(words), comparable(names)
    if sorted(ours) == sorted(theirs) and ours != theirs:
        at = first_difference(ours, theirs)
        raise InputError(
            f"the words must be in the order of the labels of {source}, which call class {at} "
            f"{names[at]!r}, the words {words[at]!r}; leave --words out to take the data's own "
            "names."
        )


def image_size(segmenter: TextSegmenter, *, tile: int) -> str:
    """How the model sees images, in the words of a protocol."""
    side = segmenter.config.image_size
    whole = f"short side {side}" if side else "as they are"
    return f"{whole}, and windows of {tile}" if tile else whole


def report(
    results: dict[str, dict[str, WordsResult]], *, model: str, options: dict[str, Any]
) -> dict[str, Any]:
    """All results as plain values; the means are of the names alone."""
    record: dict[str, Any] = {
        "model": model,
        "options": options,
        "results": {
            name: {row: result.to_dict() for row, result in rows.items()}
            for name, rows in results.items()
        },
        "circumstances": provenance(),
    }
    if len(results) > 1:
        means = cross_domain([rows[NAMES] for rows in results.values()])
        record["mean over data sets"] = asdict(means)
    return record


def table(name: str, rows: Mapping[str, Row]) -> Table:
    """The scores that tell most, in percent; `COLUMNS` says what they mean.

    Args:
        name: of the data set.
        rows: of `WordsResult.to_dict`.
    """
    shown = columns(rows)
    out = Table(f"{name}, in percent", *shown, box=None)
    for row, result in rows.items():
        texts = cells(result)
        out.add_row(row, *(texts[column] for column in shown))
    return out


def _counted(
    segmenter: TextSegmenter, asking: Asking, advance: Callable[[], None], words: Vocabulary
) -> WordsSegmenter:
    """The segmenter bound to words; each answer advances the progress."""
    ask = segmenter.bound(words, **asking.options)

    def counted(image: Image, *, among: Sequence[int] | None) -> WordsAnswer:
        advance()
        return ask(image, among=among)

    return counted
