"""Files and folders that appear whole or not at all: written beside their place, then renamed."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A free, hidden name next to ``path``; what is there in the end is removed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A name to write a file, or a new folder, under; without an error it becomes ``path``.

    A file replaces the one that is there, a folder none. After an error all is as it was.
    """
    with beside(path) as temporary:
        yield temporary
        temporary.replace(path)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file that appears whole, text as UTF-8; a failure leaves what was there before."""
    with unfinished(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
