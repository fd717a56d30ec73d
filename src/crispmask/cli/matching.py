"""Files that users give, and which of them belong together."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from crispmask.data.folder import files_by_stem
from crispmask.data.strokes import known_names
from crispmask.errors import InputError

Paths = Annotated[tuple[Path, ...] | None, tyro.conf.arg(metavar="PATH...")]
"""Files of an option that may be left out, which is not the same as giving none."""


def expand(paths: Iterable[Path], suffixes: Sequence[str]) -> list[Path]:
    """Files as given, folders as their files of these endings, sorted.

    Raises:
        InputError: if a path does not exist, has another ending or is a folder without any.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = files_by_stem(path, suffixes)
            if not found:
                raise InputError(
                    f"{path} must hold files ending in {', '.join(suffixes)}, it has none."
                )
            files += found.values()
        elif not path.exists():
            raise InputError(f"{path} does not exist; give a file or a folder that does.")
        elif path.suffix.lower() not in suffixes:
            raise InputError(
                f"a file ending in {', '.join(suffixes)} is needed, got {path}; export it anew as "
                "one of these."
            )
        else:
            files.append(path)
    return files


def match(
    images: Sequence[Path], given: Sequence[Path], *, suffixes: Sequence[str]
) -> list[tuple[Path, Path]]:
    """Each image with its base: a single file with a single image, several or a folder's by stem.

    Args:
        images: files.
        given: files of bases, or folders of such.
        suffixes: endings of the files that count.

    Raises:
        InputError: if two files share a stem or an image has no base.
    """
    bases = expand(given, suffixes)
    if len(images) == len(given) == 1 and not given[0].is_dir():
        return [(images[0], bases[0])]
    by_stem: dict[str, Path] = {}
    for path in bases:
        if path.stem in by_stem:
            raise InputError(
                f"one base per image is needed, got {by_stem[path.stem]} and {path}; remove one."
            )
        by_stem[path.stem] = path
    stems = [path.stem for path in images]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise InputError(f"images must differ in name, got {twice[0]!r} more than once.")
    if missing := [stem for stem in stems if stem not in by_stem]:
        raise InputError(
            f"each image needs a base of the same name, {len(missing)} of {len(images)} have none "
            f"(first: {missing[0]!r}); add {missing[0]}.png, .npy or .npz."
        )
    return [(path, by_stem[path.stem]) for path in images]


def match_some(
    images: Sequence[Path], given: Sequence[Path] | None, *, suffixes: Sequence[str], what: str
) -> dict[Path, Path]:
    """The file of each image that has one: a single file with a single image, others by name.

    The names that a file is for are its own or, in a COCO file, those inside; see `known_names`.

    Args:
        images: that differ in name.
        given: files, or folders of files, of which some may be for other images; None for none.
        suffixes: endings of the files that count.
        what: is in the files, for errors.

    Raises:
        InputError: if nothing is given, a file cannot be read or is for no image, or an image has
            two.
    """
    if given is None:
        return {}
    if not given:
        raise InputError(
            f"a file or folder of {what} is needed, got none; or leave the option out."
        )
    by_stem = {path.stem: path for path in images}
    found: dict[Path, Path] = {}
    for path in given:
        files = expand([path], suffixes)
        if len(images) == len(given) == 1 and not path.is_dir():
            return {images[0]: files[0]}
        matched = [(f, name) for f in files for name in sorted(by_stem.keys() & known_names(f))]
        if not matched:
            raise InputError(
                f"{what} must have the name of their image, {path} has that of none; give the file "
                "the name of the image, or in a COCO file the image its own."
            )
        for file, name in matched:
            image = by_stem[name]
            if image in found:
                raise InputError(
                    f"one file of {what} per image is needed, {image} has {found[image]} and "
                    f"{file}; put them into one."
                )
            found[image] = file
    return found
