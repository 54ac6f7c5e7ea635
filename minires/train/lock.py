"""One process at a time in a run's folder.

Two processes that write one last.ckpt would each be right and both be lost. So whoever trains holds `run.lock`, which
says in one line of JSON who that is. Where the file system can (`flock`: Linux, macOS and their network file systems), the
operating system itself holds the lock and drops it when the process ends, however it ends: what SIGKILL leaves behind is a
file that nobody locks, and the next one takes it. Elsewhere the file's existence is the lock, and the process it names
is looked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from minires.errors import MiniresError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["NAME", "RunBusyError", "RunLock"]

NAME = "run.lock"
_PATIENCE = 1.0  # s for whoever has just taken the lock to write who it is


class RunBusyError(MiniresError, OSError):
    """Another process trains in this folder."""


class RunLock:
    """The lock of one folder, held from the construction to `release`.

    Args:
        folder: the run's folder.

    Attributes:
        stale: who held it before and ended without giving it back (killed, or the machine stopped); None if nobody.

    Raises:
        RunBusyError: another process holds it; names its pid and host.
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.stale: dict[str, Any] | None = None
        self._file: int | None = None
        if fcntl is None or not self._take_locked():
            self._take_by_existence()

    def release(self) -> None:
        """Give it back. Safe to call twice."""
        file, self._file = self._file, None
        if file is None:
            return
        if fcntl is None:  # Windows removes no file that is open
            os.close(file)
            with contextlib.suppress(OSError):
                self.path.unlink()
            return
        # Removed while still locked: whoever opens the old file meanwhile sees that its name has gone (`_is_there`).
        try:
            self.path.unlink()
        except OSError:  # the folder is read-only by now: it stays, and names nobody
            os.ftruncate(file, 0)
        os.close(file)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def _take_locked(self) -> bool:
        """With flock; False where the file system does not have it and somebody's file is there."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                file, ours = self._create(), True
            except FileExistsError:
                try:
                    file, ours = os.open(self.path, os.O_RDWR), False
                except FileNotFoundError:  # given back between our two calls
                    continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read(file)
                os.close(file)
                if _is_alive(holder) is False and time.monotonic() < until:
                    time.sleep(0.02)  # its words are of the one before
                    continue
                raise self._busy(holder) from None
            except OSError:  # ENOLCK, ENOSYS, EOPNOTSUPP
                if not ours:
                    os.close(file)
                    return False
            if _is_there(file, self.path):
                break
            os.close(file)  # the one before gave it back, and its name away, between our two calls
        self.stale = _read(file)
        _write(file)
        self._file = file
        return True

    def _create(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)

    def _take_by_existence(self) -> None:
        """By creating the file, which one process alone can do."""
        for _ in range(2):
            try:
                file = self._create()
            except FileExistsError:
                holder = self._read_path()
                until = time.monotonic() + _PATIENCE
                while holder is None and time.monotonic() < until:  # made a moment ago, and not written yet?
                    time.sleep(0.02)
                    holder = self._read_path()
                if holder is not None and _is_alive(holder) is not False:
                    raise self._busy(holder) from None
                self.stale = holder
                # Set aside, not removed: should another have done the same in the meantime, we hold *its* lock now.
                aside = self.path.with_name(f"{NAME}.{os.getpid()}")
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.path, aside)
                    with open(aside, "rb") as opened:
                        taken = _read(opened.fileno())
                    if taken != holder:
                        with contextlib.suppress(OSError):
                            os.link(aside, self.path)
                        os.unlink(aside)
                        raise self._busy(taken or {}) from None
                    os.unlink(aside)
                continue
            _write(file)
            self._file = file
            return
        raise self._busy(self._read_path() or {})

    def _read_path(self) -> dict[str, Any] | None:
        try:
            with open(self.path, "rb") as file:
                return _read(file.fileno())
        except FileNotFoundError:
            return None

    def _busy(self, holder: dict[str, Any] | None) -> RunBusyError:
        holder = holder or {}
        who = f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown host')}"
        way_out = "wait for it, or end it"
        if holder.get("host") != socket.gethostname():  # from here it cannot be seen whether that one still runs
            way_out += f"; if it is certain that it has gone, remove {self.path}"
        return RunBusyError(
            f"train: {self.path.parent} belongs to {who}, which trains in it since {holder.get('since', '?')}: {way_out}"
        )


def _write(file: int) -> None:
    """Say who holds the lock."""
    pid = os.getpid()
    words = {
        "pid": pid,
        "host": socket.gethostname(),
        "start": _start_time(pid),
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    os.lseek(file, 0, os.SEEK_SET)
    os.ftruncate(file, 0)
    os.write(file, (json.dumps(words) + "\n").encode())


def _read(file: int) -> dict[str, Any] | None:
    """Who the file names; None if it is empty or torn."""
    os.lseek(file, 0, os.SEEK_SET)
    try:
        words = json.loads(os.read(file, 4096))
    except ValueError:
        return None
    return words if isinstance(words, dict) else None


def _is_there(file: int, path: Path) -> bool:
    """Whether the open file is still the one that the path names."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _is_alive(holder: dict[str, Any] | None) -> bool | None:
    """Whether the named process runs; None where that cannot be seen from here."""
    if holder is None or holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return None
    pid = holder["pid"]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's, so it lives (or, on Windows, cannot be asked)
        pass
    start = _start_time(pid)
    # A number is used again after a while: the same pid that began at another time is another process.
    return None if start is None or holder.get("start") is None else start == holder["start"]


def _start_time(pid: int) -> str | None:
    """When a process began, as Linux counts it, with the boot it belongs to; None elsewhere."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            # The second field, the program's name, may hold spaces and parentheses: count behind its last one.
            ticks = file.read().rpartition(")")[2].split()[19]
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{ticks}"
    except (OSError, IndexError):
        return None
