"""The layers that `bench ops` measures one by one: what they are, their work, and how a kernel set computes them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minires.kernels.geometry import Conv2dGeometry

__all__ = ["EPS", "PASSES", "Layer", "layers_of"]

EPS = 1e-5
PASSES = {
    "conv2d": ("forward", "backward_x", "backward_weight"),
    "batch_norm": ("forward", "backward"),
}


@dataclass(frozen=True)
class Layer:
    """One pass of one layer.

    Attributes:
        op: "conv2d" or "batch_norm" (which trains: the batch's statistics).
        direction: one of PASSES[op].
        c_in, h, w: of its input.
        c_out, kernel, stride, padding, dilation, groups: of the convolution; (vertical, horizontal) pairs.
    """

    op: str
    direction: str
    c_in: int
    h: int
    w: int
    c_out: int = 0
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    def geometry(self, n: int) -> Conv2dGeometry:
        """Of the convolution, for n images."""
        (k_h, k_w), (pad_h, pad_w) = self.kernel, self.padding
        return Conv2dGeometry(
            n, self.c_in, self.h, self.w, self.c_out, k_h, k_w, *self.stride, pad_h, pad_h, pad_w, pad_w,
            *self.dilation, self.groups,
        )  # fmt: skip

    def work(self, n: int) -> tuple[float, str]:
        """How much there is to do for n images: floating-point operations ("FLOP") of a convolution, whichever pass;
        for a batch norm the bytes that it must at least read and write ("B").
        """
        if self.op == "conv2d":
            g = self.geometry(n)
            return 2.0 * math.prod(g.y_shape) * math.prod(g.weight_shape[1:]), "FLOP"
        arrays = 2 if self.direction == "forward" else 3  # x, y; or x, grad_y, grad_x
        return 4.0 * arrays * n * self.c_in * self.h * self.w, "B"

    def arrays(self, n: int, seed: int) -> dict[str, np.ndarray]:
        """Its inputs in float32, the same in every process: x, weight, [bias], grad_y."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((n, self.c_in, self.h, self.w), np.float32)
        if self.op == "batch_norm":
            weight = rng.uniform(0.5, 1.5, self.c_in).astype(np.float32)
            bias = rng.standard_normal(self.c_in, np.float32)
            return {"x": x, "weight": weight, "bias": bias, "grad_y": rng.standard_normal(x.shape, np.float32)}
        g = self.geometry(n)
        scale = np.float32((2 / math.prod(g.weight_shape[1:])) ** 0.5)
        weight = rng.standard_normal(g.weight_shape, np.float32) * scale
        return {"x": x, "weight": weight, "grad_y": rng.standard_normal(g.y_shape, np.float32)}

    def compute(self, kernels: Any, n: int, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """This pass on a kernel set."""
        x, weight, grad_y = arrays["x"], arrays["weight"], arrays["grad_y"]
        if self.op == "conv2d":
            g = self.geometry(n)
            if self.direction == "forward":
                return {"y": kernels.conv2d_forward(x, weight, None, g)}
            if self.direction == "backward_x":
                return {"grad_x": kernels.conv2d_backward_x(grad_y, weight, g)}
            return {"grad_weight": kernels.conv2d_backward_weight(grad_y, x, g)}
        if self.direction == "forward":
            return {"y": kernels.batch_norm_train(x, weight, arrays["bias"], EPS)[0]}
        if "mean" not in arrays:  # forward's statistics, once: the caller keeps the dictionary
            _, arrays["mean"], arrays["var"] = kernels.batch_norm_train(x, weight, arrays["bias"], EPS)
        grads = kernels.batch_norm_train_backward(grad_y, x, weight, arrays["mean"], arrays["var"], EPS)
        return dict(zip(("grad_x", "grad_weight", "grad_bias"), grads, strict=True))

    def __str__(self) -> str:
        """`conv 3x3/2 64 -> 128, 56x56`, `batch norm 64, 56x56`"""
        if self.op == "batch_norm":
            return f"batch norm {self.c_in}, {self.h}x{self.w}"
        stride = "" if self.stride == (1, 1) else f"/{self.stride[0]}"
        groups = "" if self.groups == 1 else f", {self.groups} groups"
        return f"conv {self.kernel[0]}x{self.kernel[1]}{stride} {self.c_in} -> {self.c_out}{groups}, {self.h}x{self.w}"


def layers_of(model: Any, input_shape: tuple[int, ...]) -> list[tuple[Layer, int]]:
    """The distinct convolutions and batch norms that a network runs, in order, each with how often; forward passes.

    Args:
        model: any module that takes one tensor.
        input_shape: (N, C, H, W); one image is enough.
    """
    from minires import nn
    from minires.autograd import no_grad
    from minires.tensor import Tensor

    found: dict[Layer, int] = {}

    def note(module: Any, inputs: Any, output: Any) -> None:
        _, c, h, w = inputs[0].shape
        if isinstance(module, nn.BatchNorm2d):
            layer = Layer("batch_norm", "forward", c, h, w)
        else:
            sizes = (module.kernel_size, module.stride, module.padding, module.dilation)
            layer = Layer("conv2d", "forward", c, h, w, module.out_channels, *sizes, groups=module.groups)
        found[layer] = found.get(layer, 0) + 1

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)]
    try:
        with no_grad():
            model.eval()(Tensor(np.zeros(input_shape, np.float32)))
    finally:
        for handle in handles:
            handle.remove()
    return list(found.items())
