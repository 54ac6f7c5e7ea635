"""Who may be measured: the table of contenders, and which of them are installed here."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field

from minires.errors import ArgumentError, UnknownNameError

__all__ = ["CONTENDERS", "OURS", "Contender", "default_peers", "find", "select"]

OURS = "minires"


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        name: as in --against.
        module: what its process imports; has `open_task(kind, variant, workload)`.
        variant: tells apart contenders that share a module.
        kinds: what it can do: "infer", "train", "ops", "start".
        packages: (name on the index, module) of what must be installed.
        exports: it reads an ONNX file, which torch writes.
        installs: what a user installs to run it, by the names on the index; `packages` also has what writes its files.
        environment: variables of its process, beside the numbers of threads.
    """

    name: str
    module: str
    variant: str = ""
    kinds: tuple[str, ...] = ("infer",)
    packages: tuple[tuple[str, str], ...] = ()
    exports: bool = False
    installs: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package, module in self.packages if importlib.util.find_spec(module) is None]


_TORCH = (("torch", "torch"),)
_EXPORT = (("torch", "torch"), ("onnx", "onnx"), ("onnxscript", "onnxscript"))
_PEERS = "minires.bench.peers"
CONTENDERS = [
    Contender(
        OURS,
        f"{_PEERS}.ours",
        kinds=("infer", "train", "ops", "start"),
        installs=("minires", "numba", "threadpoolctl"),
    ),
    Contender(
        "minires-reference",
        f"{_PEERS}.ours",
        "reference",
        ("infer", "train", "ops", "start"),
        installs=("minires",),
        environment={"MINIRES_KERNELS": "reference"},
    ),
    Contender(
        "torch",
        f"{_PEERS}.torch_peer",
        kinds=("infer", "train", "ops", "start"),
        packages=_TORCH,
        installs=("torch", "numpy"),
    ),
    Contender("torch-channels-last", f"{_PEERS}.torch_peer", "channels-last", ("infer", "train", "ops"), _TORCH),
    Contender("torch-compile", f"{_PEERS}.torch_peer", "compile", ("infer", "train"), _TORCH),
    Contender(
        "torch-compile-channels-last", f"{_PEERS}.torch_peer", "compile channels-last", ("infer", "train"), _TORCH
    ),
    Contender(
        "onnxruntime",
        f"{_PEERS}.onnxruntime_peer",
        kinds=("infer", "start"),
        packages=(("onnxruntime", "onnxruntime"), *_EXPORT),
        exports=True,
        installs=("onnxruntime",),
    ),
    Contender(
        "openvino",
        f"{_PEERS}.openvino_peer",
        kinds=("infer", "start"),
        packages=(("openvino", "openvino"), *_EXPORT),
        exports=True,
        installs=("openvino",),
    ),
]


def find(name: str) -> Contender:
    """The contender called `name`.

    Raises:
        UnknownNameError: there is none; lists all.
    """
    for contender in CONTENDERS:
        if contender.name == name:
            return contender
    raise UnknownNameError.for_name("contender", name, [c.name for c in CONTENDERS])


def select(against: Sequence[str], kind: str) -> list[Contender]:
    """minires, then the contenders named, each once.

    Raises:
        UnknownNameError: an unknown name.
        ArgumentError: a contender that cannot do this kind of work.
    """
    chosen = [find(OURS), *(find(name) for name in against)]
    for contender in chosen:
        if kind not in contender.kinds:
            able = ", ".join(c.name for c in CONTENDERS if kind in c.kinds)
            raise ArgumentError(f"bench {kind}: {contender.name} does not do this; choose from {able}")
    return list({contender.name: contender for contender in chosen}.values())


def default_peers(kind: str) -> list[str]:
    """Every peer that can do this work; our own reference kernels, which nobody waits for, only when they are named."""
    return [c.name for c in CONTENDERS if kind in c.kinds and not c.name.startswith(OURS)]
