"""What a result needs beside it to be believed: command, commit, versions, hardware, date."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import torch

import crispmask


def provenance() -> dict[str, str]:
    """The circumstances of this run, in words, ready to be printed or saved."""
    return {
        "command": command(),
        "commit": commit() or "not run from a checkout",
        "software": f"crispmask {crispmask.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}",
        "hardware": hardware(),
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }


def command() -> str:
    """The command line of this process, the program without its folder."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def commit() -> str | None:
    """Commit of the checkout this package runs from, with "-dirty" where files were changed.

    None for an installed package, even where another project's checkout surrounds it.
    """
    here = Path(__file__)
    tracked = _git("ls-files", "--error-unmatch", here.name, folder=here.parent)
    return tracked and _git("describe", "--always", "--dirty", "--exclude=*", folder=here.parent)


def _git(*arguments: str, folder: Path) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def hardware() -> str:
    """Processor, cores, threads in use and GPUs."""
    parts = [f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        parts += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return " + ".join(parts)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
