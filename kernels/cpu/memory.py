"""A pool of buffers: memory that dies is used again.

A fresh large array costs a page fault every 4 KB at its first write, more than many kernels take to fill it. So buffers of
the blocked layout come from here and return when the last array that uses them dies. A buffer is used again only for the
same shape: its halo and the lanes behind the last channel were zero when it died, and still are.
"""

from __future__ import annotations

import mmap
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

_HUGE = 2 << 20  # ask for huge pages from this size on: fewer faults, fewer translations
_ALIGN = 64


def aligned(count: int, dtype: Any = np.float32) -> np.ndarray:
    """`count` zeros whose first lies at a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    size = count * dtype.itemsize
    if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory = mmap.mmap(-1, size + _HUGE)
        memory.madvise(mmap.MADV_HUGEPAGE)
        raw = np.frombuffer(memory, np.uint8)
        start = -raw.ctypes.data % _HUGE
    else:
        raw = np.zeros(size + _ALIGN, np.uint8)
        start = -raw.ctypes.data % _ALIGN
    return raw[start : start + size].view(dtype)


class Pool:
    """Buffers by key, most recently returned first.

    Attributes:
        free_bytes: in buffers that wait for use.
        used_bytes: in buffers that are out.
        peak_bytes: the most that free and used together were.
    """

    def __init__(self, limit_bytes: int = 4 << 30) -> None:
        self.limit_bytes = limit_bytes
        self.free_bytes = self.used_bytes = self.peak_bytes = 0
        self._free: OrderedDict[Any, list[np.ndarray]] = OrderedDict()
        self._lock = threading.RLock()  # a finalizer may run inside any of these methods

    def take(self, key: Any, count: int, dtype: Any) -> np.ndarray:
        """A buffer of `count` numbers: one returned under the same key, as it was left, or a new one of zeros."""
        with self._lock:
            waiting = self._free.get(key)
            if waiting:
                buffer = waiting.pop()
                self.free_bytes -= buffer.nbytes
            else:
                buffer = aligned(count, dtype)
            self.used_bytes += buffer.nbytes
            self.peak_bytes = max(self.peak_bytes, self.used_bytes + self.free_bytes)
            return buffer

    def give(self, key: Any, buffer: np.ndarray) -> None:
        """Return a buffer. Buffers beyond the limit go back to the system, those of the longest unused keys first."""
        with self._lock:
            self.used_bytes -= buffer.nbytes
            self.free_bytes += buffer.nbytes
            self._free.setdefault(key, []).append(buffer)
            self._free.move_to_end(key)
            while self.free_bytes > self.limit_bytes:
                oldest, buffers = next(iter(self._free.items()))
                if not buffers:
                    del self._free[oldest]
                    continue
                self.free_bytes -= buffers.pop(0).nbytes

    def clear(self) -> None:
        """Give all waiting buffers back to the system."""
        with self._lock:
            self._free.clear()
            self.free_bytes = 0


pool = Pool()
