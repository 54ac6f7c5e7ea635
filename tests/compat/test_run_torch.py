"""`minires run-torch FILE [ARGS]`: how a script is started, how it ends, and what is shown when it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from minires.compat.run_torch import run
from minires.errors import ArgumentError
from tests.compat.running import environment, run_script


def script(folder: Path, text: str, name: str = "script.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_run_torch_starts_a_script_as_python_does(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    script(tmp_path / "sub", "import torch\nvalue = torch.ones(2).sum().item()\n", "sibling.py")
    path = script(
        tmp_path / "sub",
        "import sys, os, __main__\nfrom sibling import value\n"
        "print(__name__, sys.argv[1:], os.path.basename(__file__), os.path.basename(sys.path[0]), value)\n"
        "assert __main__.value == value\n",
    )
    done = run_script(path, "--lr", "0.1", cwd=tmp_path)
    assert done.stdout == "__main__ ['--lr', '0.1'] script.py sub 2.0\n", done.stderr
    assert done.returncode == 0


def test_run_torch_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    script(tmp_path / "sub", "code = 7\n", "sibling.py")  # beside the script, not in the folder it is started from
    text = "import sys, torch\nfrom sibling import code\nprint(sys.argv[1:], 'minires' in torch.__version__)\nsys.exit(code)\n"
    script(tmp_path / "sub", text)
    done = subprocess.run(
        [sys.executable, "-m", "minires", "run-torch", "sub/script.py", "--epochs", "3", "-x"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "['--epochs', '3', '-x'] True\n", "")


@pytest.mark.parametrize(
    ("text", "code", "shown"),
    [
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(0)", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no data')", 1, "no data\n"),
        ("import torch", 0, ""),
        ("import torch; raise SystemExit(True)", 1, ""),
    ],
)
def test_run_torch_passes_the_exit_code_on(text: str, code: int, shown: str, tmp_path: Path) -> None:
    path = script(tmp_path, text)
    done = run_script(path)
    assert (done.returncode, done.stderr) == (code, shown)


def test_run_torch_shows_the_line_that_asked_for_too_much(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "import torch\n\n\ndef build():\n    layer = torch.nn.LSTM(3, 4)\n    return layer\n\n\nbuild()\n",
    )
    done = run_script(path)
    assert done.returncode == 1
    place, source, message = done.stderr.splitlines()
    assert place == f'  File "{path}", line 5, in build'
    assert source == "    layer = torch.nn.LSTM(3, 4)"
    assert message.startswith("minires run-torch: torch.nn.LSTM is outside the part of torch that minires has; ")


def test_run_torch_shows_the_import_that_asked_for_too_much(tmp_path: Path) -> None:
    path = script(tmp_path, "import torch\nfrom torchvision import datasets, transforms\n")
    done = run_script(path)
    assert done.returncode == 1
    assert f'File "{path}", line 2, in <module>' in done.stderr
    assert "from torchvision import datasets, transforms" in done.stderr
    assert "minires.data.load" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_torch_shows_other_errors_as_python_does(tmp_path: Path) -> None:
    path = script(tmp_path, "import torch\n\ntorch.ones(2, 3) @ torch.ones(2, 3)\n")
    done = run_script(path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{path}", line 3, in <module>'
    assert "ShapeError" in lines[-1] and "matmul" in lines[-1]
    broken = run_script(script(tmp_path, "def f(:\n", "broken.py"))
    assert broken.returncode == 1
    assert "SyntaxError" in broken.stderr and "run_torch.py" not in broken.stderr


def test_run_torch_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^run-torch: there is no file .*nowhere\.py$"):
        run(tmp_path / "nowhere.py")


def test_run_torch_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    path = script(tmp_path, "import sys, torch\nsys.argv.append('x')\nsys.path.append('y')\nraise KeyError('oh')\n")
    code = (
        "import sys, minires\nfrom minires.compat.run_torch import run\n"
        "before = list(sys.argv), list(sys.path), len(sys.meta_path)\n"
        f"assert run({str(path)!r}, ['a']) == 1\n"
        "assert (sys.argv, sys.path, len(sys.meta_path)) == before\nassert 'torch' not in sys.modules\nprint('same')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stdout == "same\n", done.stderr
    assert "KeyError: 'oh'" in done.stderr
