"""Lists of class names by data set, in the order of the ids, and what they have in common.

A list that other code owns is taken from there; the rest are text files beside this module, a
published name a line. ADE20K-847 and Pascal Context 459 are not here: `read_names` reads the files
that come with them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from crispmask.data.ade20k import ADE20K_CLASSES
from crispmask.data.catalog import CAMVID_CLASSES
from crispmask.data.cityscapes import CITYSCAPES_CLASSES
from crispmask.data.earth import EARTH_CLASSES
from crispmask.errors import InputError

FILES = Path(__file__).parent / "class_lists"

TRAINED_ON = "coco-stuff-171"
"""What open-vocabulary models are usually trained on, so what their test classes are held to."""

VOID_NAMES = frozenset({"background", "other", "others", "void", "unlabeled", "unlabelled"})
"""Names that say what a pixel is not; no text encoder knows what they look like."""

_OWNED = {
    "ade20k-150": ADE20K_CLASSES,
    "camvid-11": CAMVID_CLASSES,
    "cityscapes-19": CITYSCAPES_CLASSES,
    "earth-10": EARTH_CLASSES,
}


def class_lists() -> tuple[str, ...]:
    """Names of all lists."""
    derived = ("voc-20b", "voc-21")
    return tuple(sorted({*_OWNED, *derived, *(path.stem for path in FILES.glob("*.txt"))}))


@cache
def published_names(name: str) -> tuple[str, ...]:
    """A list as the data set spells it, in the order of the ids.

    ``voc-21`` has the background before the 20 objects, ``voc-20b`` behind them. mmsegmentation
    numbers Pascal Context alphabetically: ``sorted(published_names("pascal-context-59"))``.

    Raises:
        InputError: if there is no such list.
    """
    if name in _OWNED:
        return _OWNED[name]
    if name == "voc-21":
        return ("background", *published_names("voc-20"))
    if name == "voc-20b":
        return (*published_names("voc-20"), "background")
    path = FILES / f"{name}.txt"
    if name not in class_lists():
        raise InputError(
            f"there is no class list {name!r}; there are {', '.join(class_lists())}. Any other "
            "is read from a file with a name a line."
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


@cache
def class_list(name: str) -> tuple[str, ...]:
    """A list in words that a text encoder has met: "potted plant" for "pottedplant".

    Raises:
        InputError: if there is no such list.
    """
    return tuple(readable(published) for published in published_names(name))


def readable(published: str) -> str:
    """One published name in usual words, without spare blanks."""
    plain = re.sub(r"\s+", " ", published).strip()
    return str(_table("readable").get(plain, plain))


def synonyms_of(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Other words for some of the names; none that is, or could be, another of the names."""
    found = {name: tuple(_table("synonyms").get(name, ())) for name in names}
    return {name: words for name, words in own_words(found).items() if words}


def own_words(synonyms: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The synonyms of each name without those that another name has, or is."""
    owners: dict[str, set[str]] = {}
    for name, words in synonyms.items():
        for word in (name, *words):
            owners.setdefault(word.casefold(), set()).add(name)
    return {
        name: tuple(w for w in words if owners[w.casefold()] == {name} and w != name)
        for name, words in synonyms.items()
    }


def seen_in(names: Sequence[str], trained_on: Sequence[str] | None = None) -> tuple[bool, ...]:
    """Whether each name is also one of the training names, letter by letter.

    Args:
        names: of the test classes.
        trained_on: names of the training classes; without, those of COCO-Stuff.
    """
    known = set(class_list(TRAINED_ON) if trained_on is None else trained_on)
    return tuple(name in known for name in names)


def common_names(sources: Mapping[str, tuple[str, ...] | None]) -> tuple[str, ...]:
    """The names of the classes on which all sources agree; one that has none does not count.

    Names that are all numbers, as a prior has them that was trained without names, agree with any
    others of their count.

    Raises:
        InputError: if two sources differ.
    """
    known = [(source, names) for source, names in sources.items() if names]
    known.sort(key=lambda item: all(name.isdecimal() for name in item[1]))  # real names first
    first, names = known[0]
    for source, others in known[1:]:
        numbers = all(name.isdecimal() for name in others)
        if len(others) != len(names) or not (numbers or others == names):
            at = first_difference(names, others)
            raise InputError(
                f"{first} knows {len(names)} classes, {source} {len(others)}; from class {at} on "
                f"they differ ({_some(names, at)}; {_some(others, at)}), and they must be the same "
                "ones in the same order."
            )
    return names


def comparable(names: Sequence[str]) -> list[str]:
    """Names in usual words and small letters: what is the same class is the same text."""
    return [readable(name).casefold() for name in names]


def first_difference(names: Sequence[str], others: Sequence[str]) -> int:
    """The first place where two lists differ; where one begins the other, its length."""
    pairs = enumerate(zip(names, others, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(names), len(others)))


def _some(names: Sequence[str], start: int) -> str:
    found = names[start : start + 3]
    return ", ".join(found) or "none"


def read_names(path: Path) -> dict[str, tuple[str, ...]]:
    """Class names and their synonyms from a file, in the order of the ids.

    In a text file each line is a class, and commas separate its synonyms: ``door, entrance``. A
    number before the name (``12: door``) and lines that begin with # are left out. A JSON file
    holds a list of such lines, or an object from each name to the list of its synonyms.

    A word that several classes have goes to the one that has it first on its line, or to none
    where several do. What is left of a line names the class (ADE20K-847 needs this).

    Raises:
        InputError: if the file cannot be read, holds no name, or a class has no word of its own.
    """
    entries = [(readable(first), *map(readable, rest)) for first, *rest in _entries(path)]
    if not entries:
        raise InputError(f"{path} holds no class name; write one a line.")
    first: dict[str, set[int]] = {}
    anywhere: dict[str, set[int]] = {}
    for number, entry in enumerate(entries):
        first.setdefault(entry[0].casefold(), set()).add(number)
        for word in entry:
            anywhere.setdefault(word.casefold(), set()).add(number)
    owners = anywhere | first
    names: dict[str, tuple[str, ...]] = {}
    for number, entry in enumerate(entries):
        own = [word for word in dict.fromkeys(entry) if owners[word.casefold()] == {number}]
        if not own:
            raise InputError(
                f"{path} gives class {number}, {', '.join(entry)!r}, no word that is not also "
                "another class's; add a synonym that tells it apart."
            )
        names[own[0]] = tuple(own[1:])
    return names


def _entries(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); needed is UTF-8 text.") from error
    if isinstance(data, dict) and all(
        isinstance(words, list) and all(isinstance(w, str) for w in words)
        for words in data.values()
    ):
        return [[name, *words] for name, words in data.items()]
    if not isinstance(data, list) or not all(isinstance(line, str) for line in data):
        raise InputError(
            f"{path} must hold a list of names, or an object from names to lists of synonyms."
        )
    lines = (re.sub(r"^\s*\d+\s*:", "", line) for line in data if not line.startswith("#"))
    return [[w for w in line.split(",") if w.strip()] for line in lines if line.strip(" ,")]


@cache
def _table(name: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((FILES / f"{name}.json").read_text(encoding="utf-8"))
    return table
