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

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path


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
    from llvmlite.binding import get_host_cpu_name

    return os.environ.get("NUMBA_CPU_NAME") or get_host_cpu_name()


def _features() -> str:
    from llvmlite.binding import get_host_cpu_features

    given = os.environ.get("NUMBA_CPU_FEATURES")
    if given is not None:
        return given
    if os.environ.get("NUMBA_CPU_NAME", "").lower() == "generic":
        return ""  # as Numba reads it: what every machine of this architecture can
    try:
        return str(get_host_cpu_features().flatten())
    except RuntimeError:  # LLVM does not know this processor
        return ""


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
