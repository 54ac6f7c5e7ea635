"""Single layers in torch: the operators that its autograd calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from minires.bench.layers import EPS, Layer
from minires.bench.workload import Workload

aten = torch.ops.aten


class LayerPass:
    """One pass of one layer. Arrays are in the right layout before the clock starts."""

    def __init__(self, workload: Workload, layout: torch.memory_format) -> None:
        self.layer = Layer(**workload.layer)
        self.note = ""
        self.versions = {"torch": torch.__version__}

        def tensor(array: np.ndarray) -> torch.Tensor:
            made = torch.from_numpy(array)
            return made.contiguous(memory_format=layout) if array.ndim == 4 else made

        arrays = self.layer.arrays(workload.batch, workload.seed)
        self.t = {name: tensor(array) for name, array in arrays.items()}
        if self.layer.op == "batch_norm":
            self.statistics = self._batch_norm()[1:]

    @torch.no_grad()
    def run(self) -> None:
        """One repetition."""
        forward = self.layer.direction == "forward"
        if self.layer.op == "batch_norm":
            self.results = {"y": self._batch_norm()[0]} if forward else self._batch_norm_backward()
        else:
            self.results = self._convolution() if forward else self._convolution_backward()

    def _batch_norm(self) -> Any:
        return aten.native_batch_norm(self.t["x"], self.t["weight"], self.t["bias"], None, None, True, 0.1, EPS)

    def _batch_norm_backward(self) -> dict[str, torch.Tensor]:
        mask = [True, True, True]
        grads = aten.native_batch_norm_backward(
            self.t["grad_y"], self.t["x"], self.t["weight"], None, None, *self.statistics, True, EPS, mask
        )
        return dict(zip(("grad_x", "grad_weight", "grad_bias"), grads, strict=True))

    def _convolution(self) -> dict[str, torch.Tensor]:
        c = self.layer
        sizes = (list(c.stride), list(c.padding), list(c.dilation), c.groups)
        return {"y": torch.conv2d(self.t["x"], self.t["weight"], None, *sizes)}

    def _convolution_backward(self) -> dict[str, torch.Tensor]:
        c = self.layer
        of_x = c.direction == "backward_x"
        grad_x, grad_weight, _ = aten.convolution_backward(
            self.t["grad_y"], self.t["x"], self.t["weight"], None, list(c.stride), list(c.padding), list(c.dilation),
            False, [0, 0], c.groups, [of_x, not of_x, False],
        )  # fmt: skip
        return {"grad_x": grad_x} if of_x else {"grad_weight": grad_weight}

    def outcome(self) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self.results.items()}
