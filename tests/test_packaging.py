"""What is installed is what is here: packages, data files, dependencies, and no import that the card does not allow."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import minires

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def source_files() -> list[Path]:
    return sorted([*(ROOT / "minires").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")], key=str)


def module_name(path: Path) -> str:
    """`minires.ops.conv` for minires/ops/conv.py, `minires.kernels.geometry` for kernels/geometry.py."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "kernels":
        parts.insert(0, "minires")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def own_files() -> dict[str, Path]:
    """Every module once: the link minires/kernels shows the same files as kernels/."""
    return {module_name(path): path for path in source_files() if "minires/kernels/" not in path.as_posix()}


def test_the_list_of_packages_is_complete() -> None:
    folders = {name for name, path in own_files().items() if path.name == "__init__.py"}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == folders


def test_the_version_is_stated_once() -> None:
    assert PYPROJECT["project"]["version"] == minires.__version__


def test_numpy_is_the_only_dependency() -> None:
    assert [d.split(">")[0] for d in PYPROJECT["project"]["dependencies"]] == ["numpy"]


# Who may import whom: a room may import rooms to its right, never to its left.
ORDER = [
    {"minires.cli", "minires.__main__"},
    {"minires.compat", "minires.train", "minires.lab", "minires.viz", "minires.bench"},
    {
        "minires.models",
        "minires.infer",
        "minires.io",
        "minires.data",
        "minires.optim",
        "minires.distributed",
        "minires.utils",
    },
    {"minires.nn"},
    {"minires.ops", "minires.tensor", "minires.tensor_methods", "minires.creation", "minires.functions"},
    {"minires.autograd"},
    {"minires.backend", "minires.checked", "minires.random", "minires.printing"},
    {"minires.kernels"},
    {"minires.config", "minires.errors", "minires.dtypes", "minires.threads"},
]
# Third-party modules, and the rooms in which each may be imported.
ALLOWED = {
    "numpy": {"minires"},
    "numba": {"minires.kernels.cpu", "minires.cli.doctor"},
    "llvmlite": {"minires.kernels.cpu", "minires.cli.doctor"},  # comes with numba
    "cupy": {"minires.kernels.cuda", "minires.backend", "minires.distributed", "minires.cli.doctor"},
    "threadpoolctl": {"minires.kernels.cpu", "minires.cli", "minires.train", "minires.compat", "minires.threads"},
    "rich": {"minires.cli", "minires.train", "minires.data"},
    "matplotlib": {"minires.train", "minires.viz", "minires.cli.doctor"},
    "PIL": {"minires.data", "minires.cli", "minires.train.report"},
    "mpi4py": {"minires.distributed"},
    "optuna": {"minires.train.tune"},
    "tensorboardX": {"minires.train.tensorboard"},
    "torch": {"minires.bench"},
    "onnxruntime": {"minires.bench"},
    "openvino": {"minires.bench"},
}
# Loaded in a peer's process and nowhere else: these import their library at the top.
PEERS = ("minires.bench.peers.", "minires.bench.torch_models", "minires.bench.recipe_torch")


def imports(path: Path, package: str) -> list[tuple[str, bool]]:
    """(module, whether it is imported when the file is loaded) for each import statement outside TYPE_CHECKING."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, top: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *([base] if base else [])]
                )
            # `from minires import autograd` imports a room, `from minires.errors import X` a name.
            found.extend((f"minires.{alias.name}" if base == "minires" else base, top) for alias in node.names)
        inner = top and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def rank(module: str) -> int | None:
    for position, rooms in enumerate(ORDER):
        if any(module == room or module.startswith(room + ".") for room in rooms):
            return position
    return None


@pytest.mark.parametrize("name", sorted(own_files()))
def test_rooms_import_downwards_only(name: str) -> None:
    path = own_files()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    mine = rank(name)
    if name == "minires":
        return
    assert mine is not None, f"{name} has no place in the order of rooms"
    for target, top in imports(path, package):
        if target.startswith("minires") and top:
            theirs = rank(target)
            assert theirs is None or theirs >= mine, f"{name} imports {target}, which is above it"


@pytest.mark.parametrize("name", sorted(own_files()))
def test_third_party_modules_stay_in_their_rooms(name: str) -> None:
    path = own_files()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for target, top in imports(path, package):
        first = target.split(".")[0]
        if first in sys.stdlib_module_names or first == "minires":
            continue
        assert first in ALLOWED, f"{name} imports {target}, which is no package of the project"
        assert any(name == room or name.startswith(room + ".") for room in ALLOWED[first]), (
            f"{name} must not import {first}"
        )
        assert first == "numpy" or not top or ".kernels." in name or name.startswith(PEERS), (
            f"{name} imports {first} when it loads, not when it is used"
        )


BLOCKER = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        first = name.split('.')[0]
        if first not in sys.stdlib_module_names and first not in ('numpy', 'minires'):
            raise ImportError(f'{name} is blocked: only NumPy and the standard library are there')
sys.meta_path.insert(0, Blocker())
"""


def test_numpy_alone_imports_builds_trains_and_predicts() -> None:
    code = (
        BLOCKER
        + """
import minires
from minires import nn, optim
from minires.nn import functional as F

minires.manual_seed(0)
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
    def forward(self, x):
        return F.residual_relu(self.bn(self.conv(x)), x)

net = nn.Sequential(nn.Conv2d(1, 4, 3), Block(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
x, y = minires.randn(8, 1, 10, 10), minires.arange(8) % 3
optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
losses = []
for _ in range(20):
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses
net.eval()
with minires.no_grad():
    assert net(x).shape == (8, 3)
resnet = minires.models.build('resnet20', num_classes=10)
resnet(minires.randn(2, 3, 32, 32)).sum().backward()
train, test = minires.data.load('digits')
print('trained', losses[0], losses[-1])
"""
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("trained")


def test_import_loads_only_what_is_needed() -> None:
    heavy = ("minires.nn", "minires.models", "minires.data", "rich", "matplotlib", "numba")
    code = f"import sys, minires; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_kernels_have_one_name() -> None:
    done = subprocess.run([sys.executable, "-c", "import kernels"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert "minires.kernels" in done.stderr
