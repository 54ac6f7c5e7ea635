"""A pool of buffers: memory that dies is used again.

A fresh large array costs a page fault every 4 KB at its first write, more than many kernels take to fill it. So buffers of
the blocked layout come from here and return when the last array that uses them dies. A buffer is used again only for the
same shape: its halo and the lanes behind the last channel were zero when it died, and still are.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np

from minires.kernels.cpu import rehearsal

_HUGE = 2 << 20  # ask for huge pages from this size on: fewer faults, fewer translations
_ALIGN = 64


def aligned(count: int, dtype: Any = np.float32) -> np.ndarray:
    """`count` zeros whose first lies at a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    size = count * dtype.itemsize
    plan = rehearsal.current
    if plan is not None or (size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE")):
        memory = mmap.mmap(-1, size + _HUGE)
        raw = np.frombuffer(memory, np.uint8)
        start = -raw.ctypes.data % _HUGE
        # Whole ones only: the first number in a last, begun huge page would cost all of it, 1 MB a buffer on average.
        whole = size // _HUGE * _HUGE
        if whole and hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE, start, whole)
        if plan is not None:
            plan.mapped(raw, size)
    else:
        raw = np.zeros(size + _ALIGN, np.uint8)
        start = -raw.ctypes.data % _ALIGN
    return raw[start : start + size].view(dtype)


def usable_memory() -> int:
    """Bytes of memory that this machine has, or that a container's limit leaves of it."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        total = 8 << 30
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(limit, encoding="ascii") as file:
                total = min(total, int(file.read()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total


_STALE = 1024  # takes; a training step of ResNet-50 makes some 400


class Pool:
    """Buffers by key, most recently returned first.

    A buffer that dies is put down in a queue, which needs no lock: finalizers run at any moment, in any thread, in the midst
    of this class's own methods too. The next `take` sorts it in.

    Two rules keep what waits small. It is never more than `limit_bytes`: the longest unused keys go first. And where the
    pool must grow, buffers of keys that nobody asked for in the last 1024 takes go back to the system: a new image size or a
    smaller last batch shall not cost memory for ever.

    Attributes:
        limit_bytes: the most that may wait; default: a quarter of the machine's memory.
        make: `make(count, dtype)` makes a new buffer, anything with `nbytes`; default: `aligned`.
        free_bytes: in buffers that wait for use.
        used_bytes: in buffers that are out.
        peak_bytes: the most that free and used together were; `reset_peak` starts anew.
    """

    def __init__(self, limit_bytes: int | None = None, make: Callable[[int, Any], Any] | None = None) -> None:
        self.limit_bytes = usable_memory() // 4 if limit_bytes is None else limit_bytes
        self._make = make
        self._free_bytes = self._used_bytes = self._peak_bytes = 0
        self._free: OrderedDict[Any, list[np.ndarray]] = OrderedDict()  # the key used last stands last
        self._stamps: dict[Any, int] = {}  # the take at which a key was used last
        self._takes = 0
        self._returned: deque[tuple[Any, np.ndarray]] = deque()
        self._lock = threading.Lock()

    def take(self, key: Any, count: int, dtype: Any) -> np.ndarray:
        """A buffer of `count` numbers: one returned under the same key, as it was left, or a new one of zeros."""
        with self._lock:
            self._sort_in()
            self._takes += 1
            self._stamps[key] = self._takes
            waiting = self._free.get(key)
            if waiting:
                buffer = waiting.pop()
                self._free_bytes -= buffer.nbytes
                self._free.move_to_end(key)
            else:
                self._drop_stale()
                buffer = (self._make or aligned)(count, dtype)
            self._used_bytes += buffer.nbytes
            self._peak_bytes = max(self._peak_bytes, self._used_bytes + self._free_bytes)
            if rehearsal.current is not None:
                rehearsal.current.took(key, buffer)
            return buffer

    def give(self, key: Any, buffer: np.ndarray) -> None:
        """Return a buffer; nobody may use it any longer."""
        if rehearsal.current is not None:
            rehearsal.current.gone(id(buffer))
        self._returned.append((key, buffer))
        if self._lock.acquire(blocking=False):  # else whoever holds the lock, or comes next, sorts it in
            try:
                self._sort_in()
            finally:
                self._lock.release()

    def clear(self) -> None:
        """Give all waiting buffers back to the system."""
        with self._lock:
            self._sort_in()
            self._free.clear()
            self._stamps.clear()
            self._free_bytes = 0

    def reset_peak(self) -> None:
        """From now on `peak_bytes` is the most since now."""
        with self._lock:
            self._sort_in()
            self._peak_bytes = self._used_bytes + self._free_bytes

    @property
    def free_bytes(self) -> int:
        self._settle()
        return self._free_bytes

    @property
    def used_bytes(self) -> int:
        self._settle()
        return self._used_bytes

    @property
    def peak_bytes(self) -> int:
        return self._peak_bytes

    def _settle(self) -> None:
        with self._lock:
            self._sort_in()

    def _sort_in(self) -> None:
        while self._returned:
            key, buffer = self._returned.popleft()
            self._used_bytes -= buffer.nbytes
            self._free_bytes += buffer.nbytes
            self._free.setdefault(key, []).append(buffer)
            self._free.move_to_end(key)
        while self._free_bytes > self.limit_bytes:
            self._drop_first()

    def _drop_first(self) -> None:
        """Drop one buffer of the longest unused key."""
        key = next(iter(self._free))
        buffers = self._free[key]
        if buffers:
            self._free_bytes -= buffers.pop(0).nbytes
        if not buffers:
            del self._free[key]
            self._stamps.pop(key, None)

    def _drop_stale(self) -> None:
        while self._free and self._takes - self._stamps.get(next(iter(self._free)), 0) > _STALE:
            self._drop_first()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # another thread may have held it


pool = Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: pool._after_fork())


# ------------------------------------------------------------------------------------------- arrays that give back


def _references(holder: Any) -> tuple[int, int, int]:
    """How many know the array, the buffer behind it, and the memory's owner, to which every view of theirs refers."""
    return sys.getrefcount(holder.data), sys.getrefcount(holder._buffer), sys.getrefcount(holder.data.base)


class _Sample:
    def __init__(self) -> None:
        self._buffer = aligned(1)
        self.data = self._buffer.reshape(1, 1)


_ALONE = _references(_Sample())  # measured, because versions of Python differ in how they count


def give_back(holder: Any) -> None:
    """Return the buffer of a dying array, unless somebody still looks at it: what `__del__` of such an array calls.

    Args:
        holder: `_buffer` came from `pool.take(_key, ...)`, and `data` is a view of it.
    """
    # Incomplete where __init__ failed; no pool where the interpreter is closing.
    if pool is not None and hasattr(holder, "data") and _references(holder) == _ALONE:
        pool.give(holder._key, holder._buffer)
