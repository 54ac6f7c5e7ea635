"""Run a script written for torch with minires in its place: `minires run-torch FILE [ARGS]`."""

from __future__ import annotations

import linecache
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from minires.compat.replace import TorchImportError, as_torch
from minires.errors import ArgumentError, UnsupportedError

_PACKAGE = str(Path(__file__).resolve().parents[1])


def run(path: str | os.PathLike[str], args: Sequence[str] = ()) -> int:
    """Run the script at `path` as Python would: as `__main__`, with `sys.argv`, its folder first in `sys.path`.

    Args:
        path: the script.
        args: its own arguments.

    Returns:
        The script's exit code; 1 where an exception ended it, which is printed: with the line of the script and what to use
        instead where it asked for something that minires does not have, as a traceback otherwise.

    Raises:
        ArgumentError: there is no such file.
        KeyboardInterrupt: as it came.
    """
    script = os.fspath(path)
    if not os.path.isfile(script):
        raise ArgumentError(f"run-torch: there is no file {script}")
    argv, search = sys.argv, sys.path[:]
    try:
        with as_torch():
            sys.argv = [script, *args]
            sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return _exit_code(end)
    except (UnsupportedError, TorchImportError) as error:
        _show_unsupported(error)
        return 1
    except Exception as error:
        traceback.print_exception(type(error), error, _from_script(error.__traceback__))
        return 1
    finally:
        sys.argv, sys.path[:] = argv, search
    return 0


def _exit_code(end: SystemExit) -> int:
    """The code of `sys.exit(...)`, by Python's rules: None is 0, a text is printed and gives 1."""
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code
    print(end.code, file=sys.stderr)
    return 1


def _from_script(tb: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames that started the script."""
    while tb is not None and not _is_users(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    return tb


def _is_users(filename: str) -> bool:
    """Whether a frame is of the script or of what it imports, and not of minires or of Python's import system."""
    frozen = filename.startswith("<frozen ") or filename in (runpy.__file__, importlib_file())
    return not frozen and not os.path.abspath(filename).startswith(_PACKAGE + os.sep)


def importlib_file() -> str:
    import importlib

    return importlib.__file__


def _show_unsupported(error: Exception) -> None:
    """`train.py:12: in main` with that line of code, then the message: where it stands, and what to use instead."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if _is_users(code.co_filename):
            where = f'  File "{code.co_filename}", line {line}, in {code.co_name}\n'
            source = linecache.getline(code.co_filename, line).strip()
            place = where + (f"    {source}\n" if source else "")
    print(f"{place}minires run-torch: {error}", file=sys.stderr)
