"""Prepare the next items in background threads while the consumer works on the present one.

NumPy releases the interpreter's lock inside its loops, and so do file reads and image decoders: threads overlap with
the training step and share the data set's memory, which processes would have to copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from minires.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


def background_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, depth: int, timeout: float | None = None
) -> Iterator[Result]:
    """`map(function, items)`, with up to `depth` results prepared ahead by `workers` threads.

    The results keep the order of the items. `items` is iterated in the consumer's thread, so a sampler with a state
    is safe. An exception in a thread is raised here, at its item, with the traceback of where it happened. Whoever
    stops iterating (break, an exception, the iterator garbage collected) ends the threads: the generator's `finally`
    cancels what has not begun and waits for what has.

    Args:
        workers: threads; 0 computes in the consumer's thread, nothing ahead.
        depth: results that may lie ready or be in preparation while the consumer holds one.
        timeout: seconds to wait for one result; None: as long as it takes.

    Raises:
        PrefetchTimeout: a result took longer than `timeout`.
    """
    if workers == 0:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="minires-data")
    stuck = False
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > depth:
                yield _take(pending, timeout)
        while pending:
            yield _take(pending, timeout)
    except PrefetchTimeout:
        stuck = True
        raise
    finally:
        pool.shutdown(wait=not stuck, cancel_futures=True)  # waiting for a stuck thread would hide the error


class PrefetchTimeout(DataError):
    """A result was not ready in time."""


def _take(pending: deque[Future[Result]], timeout: float | None) -> Result:
    future = pending.popleft()
    try:
        return future.result(timeout)
    except FutureTimeoutError:
        if future.done():  # the function itself raised a TimeoutError: that is its own error
            raise
        raise PrefetchTimeout(f"data loader: the next batch was not ready after timeout = {timeout} s") from None
