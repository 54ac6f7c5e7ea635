"""What every test of the cpu set has: one and two workers, and memory that hides nothing."""

from __future__ import annotations

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")

from minires.kernels.cpu import tasks  # noqa: E402  (numba first)
from minires.kernels.cpu.memory import pool  # noqa: E402


@pytest.fixture(params=[1, 2], ids=["1 worker", "2 workers"])
def workers(request, monkeypatch):
    """The test runs once for each number of workers."""
    monkeypatch.setattr(tasks, "_workers", request.param)
    return request.param


@pytest.fixture
def poisoned_pool(monkeypatch):
    """Every buffer of the pool comes with NaN where values belong: a pixel that a kernel forgets shows."""
    take = pool.take

    def poisoned(key, count, dtype):
        buffer = take(key, count, dtype)
        if isinstance(key, tuple) and key[0] == "blocked":
            _, (n, c, h, w), halo = key
            view = buffer.reshape(n, -(-c // 16), h + 2 * halo, w + 2 * halo, 16)
            inside = view[:, :, halo : halo + h, halo : halo + w]
            inside[:, : c // 16] = np.nan
            inside[:, c // 16 :, :, :, : c % 16] = np.nan  # the last block's lanes without a channel stay zero
        elif isinstance(key, tuple) and key[0] == "rows":  # the stem's images, whose padding stays zero
            _, (n, c, h, w), height, width, top, left = key
            buffer.reshape(n, height, width, c)[:, top : top + h, left : left + w] = np.nan
        elif buffer.dtype.kind == "f":
            buffer[...] = np.nan
        return buffer

    monkeypatch.setattr(pool, "take", poisoned)
