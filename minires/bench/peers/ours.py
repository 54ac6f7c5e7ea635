"""minires itself, as users have it: a compiled plan for inference, the ordinary loop for training."""

from __future__ import annotations

from typing import Any

import numpy as np

import minires
from minires import backend, optim
from minires.autograd import inference_mode
from minires.bench.judge import step_results
from minires.bench.layers import Layer
from minires.bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Workload
from minires.nn import functional as F
from minires.tensor import Tensor

IMAGE_CHANNELS = 4  # a layer with so few is a network's first, whose input nobody has converted


def open_task(kind: str, variant: str, workload: Workload) -> Any:
    """The task of this kind. `variant`: "reference" keeps to the reference kernels, op by op."""
    if kind == "ops":
        return LayerPass(workload)
    return Inference(workload, variant) if kind == "infer" else Training(workload)


def kernels() -> str:
    """The name of the kernel set that serves ops: `cpu` of minires.kernels.cpu."""
    return backend.current_kernels().__name__.rpartition(".")[2]


def loaded(workload: Workload) -> Any:
    """The network with the judge's weights."""
    model = workload.build()
    model.load_state_dict({name: Tensor(array) for name, array in workload.weights().items()})
    return model


class Inference:
    """One batch through the network."""

    def __init__(self, workload: Workload, variant: str) -> None:
        self.images = workload.images()
        self.model = loaded(workload).eval()
        self.versions = {"minires": minires.__version__, "numpy": np.__version__}
        compiler = None if variant == "reference" else getattr(minires, "compile", None)
        if compiler is None:
            self.run = self.eager
            self.note = f"eager, kernel set {kernels()}" + ("" if variant else " (minires.compile is not there yet)")
        else:
            self.plan = compiler(self.model, workload.input_shape)
            self.run = self.planned
            self.note = f"minires.compile, kernel set {kernels()}"

    def eager(self) -> None:
        """Op by op, without a graph."""
        with inference_mode():
            self.output = self.model(Tensor(self.images)).numpy()

    def planned(self) -> None:
        """The compiled plan."""
        self.output = np.asarray(self.plan(self.images))

    def outcome(self) -> dict[str, np.ndarray]:
        return {"output": self.output}


class Training:
    """One step of SGD on one batch."""

    def __init__(self, workload: Workload) -> None:
        self.images, self.labels = Tensor(workload.images()), Tensor(workload.labels())
        self.model = loaded(workload).train()
        self.optimizer = optim.SGD(
            self.model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        self.note = f"kernel set {kernels()}"
        self.versions = {"minires": minires.__version__, "numpy": np.__version__}

    def run(self) -> None:
        """zero_grad, forward, cross-entropy, backward, step; the loss is read, as loops do."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.loss = loss.item()

    def outcome(self) -> dict[str, np.ndarray]:
        return step_results(self.loss, self.model)


class LayerPass:
    """One pass of one layer, as the kernel set computes it inside a network: where the set keeps arrays of its own kind
    between layers, it gets them, and what it returns is not converted while the clock runs. Images come plain.
    """

    def __init__(self, workload: Workload) -> None:
        self.layer, self.batch = Layer(**workload.layer), workload.batch
        self.kernels = backend.current_kernels()
        self.arrays: dict[str, Any] = self.layer.arrays(workload.batch, workload.seed)
        private = getattr(self.kernels, "PRIVATE", ())
        if private:
            maps = ["x", "grad_y"] if self.layer.c_in > IMAGE_CHANNELS else ["grad_y"]
            self.arrays |= {name: private[0].from_plain(self.arrays[name]) for name in maps}
        self.note = f"kernel set {kernels()}"
        self.versions = {"minires": minires.__version__, "numpy": np.__version__}

    def run(self) -> None:
        """One repetition."""
        self.results = self.layer.compute(self.kernels, self.batch, self.arrays)

    def outcome(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(array) for name, array in self.results.items()}
