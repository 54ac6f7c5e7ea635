"""The machine: its instruction set, its caches, its cores. What depends on them is decided here.

The layout, 16 channels in a block, is the same everywhere. What differs is how many vector registers there are and how wide
they are, and so how large a tile of sums stays in registers while the innermost loop runs. A tile of `pixels` x `vectors`
needs `pixels * vectors` sums of 16 numbers, `vectors` registers of weights and one for the broadcast number:

    avx512   32 registers of 16 numbers    12 x 2: 24 registers of sums; 12 x 1 for an odd number of blocks
    avx2     16 registers of  8 numbers     6 x 1: 12 registers of sums
    neon     32 registers of  4 numbers     5 x 1: 20 registers of sums
    sse      16 registers of  4 numbers     3 x 1: 12 registers of sums

A name or features given in `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` count as the machine's: Numba compiles for those, so
another machine's kernels can be tested here, as far as this one can run them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minires.kernels.cpu.private_files import is_private, make_private, read_checked, user_cache, write_checked


@dataclass(frozen=True)
class Tile:
    """The micro-kernel's shape: pixels times vectors of 16 output channels."""

    pixels: int
    vectors: int


@dataclass(frozen=True)
class Machine:
    """What kernels depend on.

    Attributes:
        cpu: LLVM's name of the processor.
        features: LLVM's list of its features, as in "+avx2,-avx512f".
        instruction_set: "avx512", "avx2", "neon" or "sse" (the last also where nothing is known).
        l1_bytes, l2_bytes: the data caches of a core.
    """

    cpu: str
    features: str
    instruction_set: str
    l1_bytes: int
    l2_bytes: int


WIDE, NARROW = "wide", "narrow"
# A wide tile takes two channel blocks at a time, a narrow one takes one.
TILES = {
    "avx512": {WIDE: Tile(12, 2), NARROW: Tile(12, 1)},
    "avx2": {WIDE: Tile(6, 1), NARROW: Tile(6, 1)},
    "neon": {WIDE: Tile(5, 1), NARROW: Tile(5, 1)},
    "sse": {WIDE: Tile(3, 1), NARROW: Tile(3, 1)},
}


def instruction_set_of(architecture: str, features: str) -> str:
    """The instruction set of an architecture (`platform.machine()`) with LLVM's features."""
    if architecture.lower() in ("aarch64", "arm64"):
        return "neon"
    has = set(features.split(","))
    if {"+avx512f", "+fma"} <= has:
        return "avx512"
    return "avx2" if {"+avx2", "+fma"} <= has else "sse"


@cache
def machine() -> Machine:
    """This machine, or the one that the environment tells Numba to compile for."""
    cpu, features = _cpu(), _features()
    return Machine(cpu, features, instruction_set_of(platform.machine(), features), *_cache_bytes())


def _cpu() -> str:
    return os.environ.get("NUMBA_CPU_NAME") or host()[0]


def _features() -> str:
    given = os.environ.get("NUMBA_CPU_FEATURES")
    if given is not None:
        return given
    if os.environ.get("NUMBA_CPU_NAME", "").lower() == "generic":
        return ""  # as Numba reads it: what every machine of this architecture can
    return host()[1]


@cache
def host() -> tuple[str, str]:
    """LLVM's name of this processor, and its list of the processor's features.

    To load LLVM for these two words takes longer than to load all kernels of a network. So the answer is kept on disk, under
    the hash of what Linux says of the processor; elsewhere LLVM is asked each time.
    """
    file = _answer_file()
    kept = read_checked(file) if file is not None and is_private(file.parent) else None
    if kept is not None:
        name, _, features = kept.decode().partition("\n")
        return name, features
    from llvmlite.binding import get_host_cpu_features, get_host_cpu_name

    name = get_host_cpu_name()
    try:
        features = str(get_host_cpu_features().flatten())
    except RuntimeError:  # LLVM does not know this processor
        features = ""
    if file is not None and make_private(file.parent):
        write_checked(file, f"{name}\n{features}".encode())
    return name, features


# What /proc/cpuinfo says of one processor and not of its kind.
_OF_ONE = {b"processor", b"cpu MHz", b"physical id", b"core id", b"apicid", b"initial apicid", b"siblings", b"bogomips"}


def _answer_file(cpuinfo: Path = Path("/proc/cpuinfo")) -> Path | None:
    """Where the answer for this processor lies; None where it cannot be told from others, or there is no place."""
    try:
        with cpuinfo.open("rb") as file:
            first = list(itertools.takewhile(bytes.strip, file))  # up to the first empty line: the first processor
        folder = user_cache() / "minires" / "processor"
    except (OSError, RuntimeError):
        return None
    kind = b"".join(line for line in first if line.partition(b":")[0].strip() not in _OF_ONE)
    if b":" not in kind:
        return None
    words = [kind, *(text.encode() for text in compiler_versions())]
    return folder / hashlib.sha256(b"\0".join(words)).hexdigest()[:16]


def compiler_versions() -> Iterator[str]:
    """Numba's and llvmlite's version files, read and not imported: the import costs more than loading all kernels."""
    for name in ("numba", "llvmlite"):
        found = importlib.util.find_spec(name)
        for folder in found.submodule_search_locations or () if found else ():
            with contextlib.suppress(OSError):
                yield (Path(folder) / "_version.py").read_text()


_SYS = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL = (32 << 10, 512 << 10)  # bytes of level 1 and 2 where the system does not say


def _cache_bytes(folder: Path = _SYS) -> tuple[int, int]:
    """Bytes of a core's level 1 data cache and of its level 2 cache; shared ones count in parts."""
    sizes = list(_USUAL)
    try:
        for entry in folder.glob("index*"):
            level = int((entry / "level").read_text())
            if level > 2 or (entry / "type").read_text().strip() == "Instruction":
                continue
            text = (entry / "size").read_text().strip()
            size = int(text[:-1]) << {"K": 10, "M": 20}[text[-1]]
            shared = (entry / "shared_cpu_list").read_text().strip()
            # Hyper-threads of one core share what is theirs anyhow; a cache of more than two is shared by cores.
            sizes[level - 1] = size // max(1, count_cpus(shared) // 2)
    except (OSError, ValueError, KeyError):
        return _USUAL
    return sizes[0], sizes[1]


def count_cpus(ranges: str) -> int:
    """How many processors a list such as "0-3,8" names."""
    total = 0
    for part in filter(None, ranges.split(",")):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


def tile_for(c_out: int) -> Tile:
    """The micro-kernel's tile for `c_out` output channels.

    Two channel blocks at a time only where their number is even: there is no block behind the last one to write to.
    """
    return TILES[machine().instruction_set][NARROW if -(-c_out // 16) % 2 else WIDE]


# ------------------------------------------------------------------------------------------------------------- cores


def usable_cores() -> int:
    """Cores that this process may keep busy: its affinity mask, a container's quota, its share of an MPI node.

    MPI starts one process a core or a few a machine; each then takes its part, or they would trample on each other.
    """
    everything = os.cpu_count() or 1
    cores = bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else everything
    quota = cgroup_quota()
    if quota is not None:
        cores = min(cores, max(1, round(quota)))
    if bound == everything:  # else the launcher has given each process its own already
        cores = max(1, cores // local_processes())
    return cores


def cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Processors that the control group's quota grants, version 2 or 1; None without a limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        amount = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        return amount / int((root / "cpu" / "cpu.cfs_period_us").read_text()) if amount > 0 else None
    except (OSError, ValueError):
        return None


_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE")


def local_processes() -> int:
    """How many processes of this MPI job share the machine; 1 outside MPI."""
    for name in _LOCAL_SIZES:
        text = os.environ.get(name, "")
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return 1
