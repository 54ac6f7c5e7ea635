"""What a library costs before it computes anything: bytes on the disk, and the memory of a process."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["installed_size", "peak_memory"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ROOT = Path(__file__).resolve().parents[2]  # what holds the package: a checkout, or site-packages


def installed_size(packages: Iterable[str]) -> int:
    """Bytes on the disk of some packages and of all that they need, each once.

    Counted is what the packages' own lists of files (RECORD) say; what Python compiles later, __pycache__, is not in them.
    Of a checkout, which has no such list, the files of the package are counted. Extras are not followed, and requirements
    for other systems, which are not installed here, are left out.

    Args:
        packages: names on the index.
    """
    total, waiting, seen = 0, list(packages), set()
    while waiting:
        name = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()  # as the index compares names
        if key in seen:
            continue
        seen.add(key)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if key == "minires":  # a checkout that was never installed
                total += _folder_size(_ROOT / "minires")
                waiting.append("numpy")
            continue
        if key == "minires":
            total += _folder_size(_ROOT / "minires")
        else:
            total += sum(file.size or 0 for file in distribution.files or ())
        for requirement in distribution.requires or ():
            match = _NAME.match(requirement)
            if match and "extra ==" not in requirement.replace("'", "").replace('"', ""):
                waiting.append(match[0])
    return total


def _folder_size(folder: Path) -> int:
    """Bytes of a package's files; through links, since a checkout has kernels/ beside the package."""
    return sum(
        os.path.getsize(os.path.join(place, name))
        for place, folders, names in os.walk(folder, followlinks=True)
        if not place.endswith("__pycache__")
        for name in names
    )


def peak_memory(pid: int) -> int:
    """Bytes of memory that a process, which is still there, has held at most since it began its program; 0 if unknown.

    From Linux's /proc. (What wait4 tells later would count what its parent held when it was started.)
    """
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0
