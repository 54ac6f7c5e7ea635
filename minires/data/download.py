"""Fetch a file from the first mirror that gives the right bytes, with the standard library.

The file appears under its name only when it is whole and checked: it is written beside it, flushed to the disk and
renamed. Two processes that fetch the same file do not disturb each other.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from minires.errors import DataError

CHUNK = 1 << 18
Report = Callable[[int], None]


def fetch(
    urls: Sequence[str],
    destination: Path,
    check: Callable[[Path], None],
    *,
    max_bytes: int,
    timeout: float = 20.0,
    quiet: bool = False,
) -> Path:
    """Download `destination`, trying the urls in their order.

    Args:
        urls: http or https.
        check: called with the temporary file; raises DataError if the content is wrong.
        max_bytes: a longer answer is given up.
        timeout: seconds without a byte until the next mirror is tried.
        quiet: no progress on standard error.

    Returns:
        destination.

    Raises:
        DataError: no mirror gave the right file; the message has each one's reason. Nothing is left behind.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=destination.parent):
            pass
    except OSError as error:
        raise DataError(f"cannot write into {destination.parent} ({error.strerror}); give another data_dir") from error
    reasons = []
    for url in urls:
        try:
            _fetch_one(url, destination, check, max_bytes, timeout, quiet)
            return destination
        except (OSError, http.client.HTTPException, ValueError, DataError) as error:
            reasons.append(f"  {url}: {_reason(error)}")
            if not quiet:
                print(f"{destination.name}: {reasons[-1].strip()}", file=sys.stderr)
    raise DataError(f"{destination.name}: no mirror gave the file:\n" + "\n".join(reasons))


def _fetch_one(
    url: str, destination: Path, check: Callable[[Path], None], max_bytes: int, timeout: float, quiet: bool
) -> None:
    if not url.startswith(("http://", "https://")):
        raise DataError(f"only http and https are fetched, got {url!r}")
    descriptor, name = tempfile.mkstemp(prefix=f".{destination.name}.", suffix=".part", dir=destination.parent)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "minires"})
        with os.fdopen(descriptor, "wb") as out, urllib.request.urlopen(request, timeout=timeout) as answer:
            length = answer.headers.get("Content-Length", "")
            expected = int(length) if length.isdecimal() else None
            if expected is not None and expected > max_bytes:
                raise DataError(f"announces {expected} bytes, at most {max_bytes} were expected")
            with progress(destination.name, expected, quiet) as report:
                got = _copy(answer, out, max_bytes, report)
            if expected is not None and got != expected:  # read(n) ends quietly where the connection ends
                raise DataError(f"truncated: {got} of {expected} bytes")
            out.flush()
            os.fsync(out.fileno())
        check(Path(name))
        os.chmod(name, 0o644)  # mkstemp gives 0600; a shared folder is to be read by others
        os.replace(name, destination)
    except BaseException:  # an interrupt too must leave nothing behind
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _copy(answer: http.client.HTTPResponse, out: BinaryIO, max_bytes: int, report: Report) -> int:
    got = 0
    while chunk := answer.read(CHUNK):
        got += len(chunk)
        if got > max_bytes:
            raise DataError(f"sends more than the {max_bytes} bytes expected at most")
        out.write(chunk)
        report(got)
    return got


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__


@contextlib.contextmanager
def progress(name: str, total: int | None, quiet: bool = False) -> Iterator[Report]:
    """Show how far a download is: a bar of rich's on a terminal, else a plain line at each tenth and at the end."""
    if quiet:
        yield lambda got: None
        return
    if sys.stderr.isatty():
        try:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
        except ImportError:
            pass
        else:
            columns = (
                "{task.description}",
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=Console(stderr=True)) as bar:
                task = bar.add_task(name, total=total)
                yield lambda got: bar.update(task, completed=got)
            return
    line = _PlainProgress(name, total)
    yield line
    line.close()


class _PlainProgress:
    """`train-images-idx3-ubyte.gz: 40 % of 26.4 MB, 3.1 MB/s`"""

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total, self.got = name, total, 0
        self.begin, self.next_share = time.monotonic(), 0.1

    def __call__(self, got: int) -> None:
        self.got = got
        if self.total and self.next_share < 1 and got / self.total >= self.next_share:
            self.next_share = int(10 * got / self.total) / 10 + 0.1
            self._print(f"{100 * got / self.total:.0f} % of {self.total / 1e6:.1f} MB")

    def close(self) -> None:
        self._print(f"{self.got / 1e6:.1f} MB")

    def _print(self, what: str) -> None:
        rate = self.got / 1e6 / max(time.monotonic() - self.begin, 1e-3)
        print(f"{self.name}: {what}, {rate:.1f} MB/s", file=sys.stderr)
