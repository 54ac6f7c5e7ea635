"""torch: eager or compiled, in either memory format.

`variant` holds the words "channels-last" and "compile", or neither.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from minires.bench.judge import step_results
from minires.bench.peers.torch_ops import LayerPass
from minires.bench.torch_models import build
from minires.bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Workload
from minires.errors import UnsupportedError


def open_task(kind: str, variant: str, workload: Workload) -> Any:
    """The task of this kind."""
    torch.set_num_threads(workload.threads)
    if kind == "ops":
        return LayerPass(workload, memory_format(variant))
    return Inference(workload, variant) if kind == "infer" else Training(workload, variant)


def loaded(workload: Workload) -> Any:
    """The twin with the judge's weights.

    Raises:
        UnsupportedError: torch_models.py does not have this network.
    """
    structure = json.loads(workload.path("structure.json").read_text(encoding="utf-8"))
    if "unsupported" in structure:
        raise UnsupportedError(structure["unsupported"])
    model = build(structure)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in workload.weights().items()})
    return model


def memory_format(variant: str) -> torch.memory_format:
    """Of weights and images."""
    return torch.channels_last if "channels-last" in variant else torch.contiguous_format


class Inference:
    """One batch through the network. Images are in the right layout before the clock starts."""

    def __init__(self, workload: Workload, variant: str) -> None:
        layout = memory_format(variant)
        self.model = loaded(workload).eval().to(memory_format=layout)
        self.images = torch.from_numpy(workload.images()).contiguous(memory_format=layout)
        self.versions = {"torch": torch.__version__}
        self.note = ""
        self.mode: Any = torch.inference_mode
        if "compile" in variant:
            import torch._inductor.config as inductor

            inductor.freezing = True  # weights become constants: batch norm folds into them, and they are packed
            self.mode = torch.no_grad  # freezing asks for it
            self.model = torch.compile(self.model)
            self.note = "inductor, frozen"
            self.run()

    def run(self) -> None:
        """One repetition."""
        with self.mode():
            self.output = self.model(self.images)

    def outcome(self) -> dict[str, np.ndarray]:
        return {"output": self.output.numpy()}


class Training:
    """One step of SGD on one batch."""

    def __init__(self, workload: Workload, variant: str) -> None:
        layout = memory_format(variant)
        self.model = loaded(workload).train().to(memory_format=layout)
        self.images = torch.from_numpy(workload.images()).contiguous(memory_format=layout)
        self.labels = torch.from_numpy(workload.labels())
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True
        )  # fused: torch's fastest form of the same step
        self.versions = {"torch": torch.__version__}
        self.note = ""
        self.call = self.model
        if "compile" in variant:
            self.call = torch.compile(self.model)
            self.note = "inductor"
            self._compile()

    def _compile(self) -> None:
        """Forward and backward once, so that the compiler's memory is none of the step's; then all is as before."""
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        torch.nn.functional.cross_entropy(self.call(self.images), self.labels).backward()
        self.optimizer.zero_grad()
        self.model.load_state_dict(before)  # the running statistics

    def run(self) -> None:
        """zero_grad, forward, cross-entropy, backward, step; the loss is read, as loops do."""
        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.call(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.loss = loss.item()

    def outcome(self) -> dict[str, np.ndarray]:
        return step_results(self.loss, self.model)
