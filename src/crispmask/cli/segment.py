"""``crispmask segment``: masks of the words that are given with an image."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import track

from crispmask.cli.asking import Asking, in_own_sentence, load_segmenter
from crispmask.cli.matching import Paths, expand, match_some
from crispmask.cli.output import check_kept, check_output, write_labels, write_picture, write_share
from crispmask.data.class_names import class_lists
from crispmask.data.folder import IMAGE_SUFFIXES, LABEL_SUFFIXES
from crispmask.data.sample import read_image
from crispmask.errors import InputError
from crispmask.models.text_question import TextSampling
from crispmask.models.text_start import start_labels
from crispmask.models.vocabulary import CHANCE, Threshold, Vocabulary
from crispmask.provenance import provenance
from crispmask.report.segment import (
    SegmentReport,
    WordsCard,
    WordsImage,
    words_overlay,
    words_palette,
)

PICTURES = 20
"""Images that the page shows; the others are in the JSON file."""

PARTS = ("labels", "overlays", "uncertainty")


@dataclass(frozen=True, kw_only=True)
class SegmentArguments:
    """Segment images by words, the last argument: "water, forest, city".

    Writes OUTPUT/labels/NAME.png (ids in the order of the words), OUTPUT/overlays/NAME.png and
    OUTPUT/uncertainty/NAME.png (0 certain to 255 a guess) for each image, OUTPUT/segment.json and
    the page OUTPUT/segment.html. Where the best word of your own has a chance below 0.4 a pixel is
    background; --background-threshold 0 turns that off, and each pixel gets the word that suits it
    best. A class list has the background that belongs to it.

    Example: crispmask segment photo.jpg "water, forest, city" --model text-earth --output found

    Attributes:
        images: image files, or folders of images; then the words: with commas, the name of a class
            list such as earth-10, or a .txt or .json file.
        model: bundled name, or a folder of a text segmenter.
        output: folder to write to.
        start: labels to go on from in place of noise, for models that were trained for many steps:
            PNGs as this command writes them, ids in the order of the words and 255 where unknown,
            or folders of these; several are matched with the images by name. Images without any
            are segmented as ever.
        strength: how far the start is noised, in (0, 1]; at 1 nothing is left of it.
        asking: how the words are asked for.
    """

    images: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE... WORDS")
    ]
    model: str = "text-earth"
    output: Path = Path("segmented")
    start: Paths = None
    strength: float = 0.5
    asking: Annotated[Asking, tyro.conf.arg(name="")] = field(default_factory=Asking)

    def __post_init__(self) -> None:
        if len(self.images) < 2:
            raise InputError(
                "at least one image and the words are needed, as in `crispmask segment photo.jpg "
                f'"water, forest, city"`, got {len(self.images)} of the two.'
            )

    @property
    def vocabulary(self) -> Vocabulary:
        """The last argument; words of one's own have a background unless it is turned off."""
        words = self.images[-1]
        vocabulary = Vocabulary.parse(words)
        if words.strip() not in class_lists():
            vocabulary = replace(vocabulary, background=Threshold(score=CHANCE))
        return self.asking.with_background(vocabulary)

    @property
    def files(self) -> list[Path]:
        """The images, folders as their files."""
        return expand([Path(name) for name in self.images[:-1]], IMAGE_SUFFIXES)


def segment(args: SegmentArguments) -> int:
    """Segment each image and write the results."""
    if Path(args.images[-1]).suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(
            f"the words must be the last argument, got the image {args.images[-1]}; add them, as "
            'in `crispmask segment photo.jpg "water, forest, city"`.'
        )
    check_output(args.output)
    vocabulary = args.vocabulary
    files = args.files
    _check_names(files)
    starts = match_some(files, args.start, suffixes=LABEL_SUFFIXES, what="start labels")
    written = [args.output / part / f"{path.stem}.png" for path in files for part in PARTS]
    read = [*files, *starts.values(), Path(args.images[-1])]
    check_kept(read, [*written, args.output / "segment.json"])
    segmenter = load_segmenter(args.model, device=args.asking.device)
    vocabulary = in_own_sentence(vocabulary, segmenter)
    options = {**args.asking.options, "strength": args.strength}
    sampling = TextSampling(**options)
    console = Console(stderr=True, markup=False)
    quiet = not console.is_terminal
    for path in track(files, "checking", console=console, transient=True, disable=quiet):
        size = _checked_size(path, segmenter.codec.stride)
        if path in starts:
            start_labels(
                segmenter, starts[path], vocabulary=vocabulary, sampling=sampling, size=size
            )
    ask = segmenter.bound(vocabulary, **options)
    palette = words_palette(vocabulary.label_names)
    images: list[WordsImage] = []
    cards: list[WordsCard] = []
    for path in track(files, "segmenting", console=console, disable=quiet):
        pixels = read_image(path)
        answer = ask(pixels, start=starts.get(path))
        labels, name = answer.labels[0].cpu(), f"{path.stem}.png"
        write_labels(labels, args.output / "labels" / name)
        write_picture(words_overlay(pixels, labels, palette), args.output / "overlays" / name)
        write_share(answer.uncertainty[0], args.output / "uncertainty" / name)
        images.append(WordsImage.of(answer, name=path.stem, file=path.name))
        if len(cards) < PICTURES:
            cards.append(WordsCard.of(answer, pixels, palette))
    report = SegmentReport(
        title=f"{len(files)} image{'s' * (len(files) > 1)} by {args.model}",
        vocabulary=vocabulary,
        images=tuple(images),
        cards=tuple(cards),
        options=asdict(args.asking) | _said_of(starts, args.strength),
        protocol={"model": args.model, **provenance()},
    )
    _, page = report.write(args.output)
    for image in images[:10]:
        console.print(f"{image.name}: {report.sentence(image)}", soft_wrap=True)
    console.print(f"{len(files)} label maps in {args.output}; look at {page}", soft_wrap=True)
    return 0


def _check_names(files: list[Path]) -> None:
    """Check that no two images share a name."""
    stem, count = Counter(path.stem for path in files).most_common(1)[0]
    if count > 1:
        raise InputError(f"images must differ in name, got {stem!r} {count} times; rename some.")


def _said_of(starts: Mapping[Path, Path], strength: float) -> dict[str, Any]:
    """Options of the record that only a start gives."""
    files = {image.name: start.name for image, start in starts.items()}
    return {"start": files, "strength": strength} if files else {}


def _checked_size(path: Path, cell: int) -> tuple[int, int]:
    """Height and width of a picture that can be read and has at least one latent."""
    h, w = read_image(path).shape[1:]
    if min(h, w) < cell:
        raise InputError(
            f"{path} must have at least {cell}x{cell} pixels, one latent of this model, got "
            f"{h}x{w}; enlarge it."
        )
    return h, w
