"""The running mean of the weights over the steps of a run: what is judged and kept as the best, where it is on.

    a <- d a + (1 - d) w        after every step t = 1, 2, ...,  with d = min(decay, (1 + t) / (10 + t))

SGD with a large step wanders around a minimum; the mean of where it has been lies nearer to it than where it is. The
warm-up of d lets the mean forget the first, random weights soon: after 10 steps it is 0.55, after 100 0.92.

Batch norm's running mean and variance are averaged with the same d, as timm's ModelEma does (torch's AveragedModel
copies them unless `use_buffers=True`): they then belong to the averaged weights rather than to the last ones. Whole
numbers (`num_batches_tracked`) are copied.

Source: Polyak & Juditsky 1992, Acceleration of stochastic approximation by averaging; the warm-up is that of TensorFlow's
ExponentialMovingAverage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from minires.autograd import no_grad
from minires.errors import StateDictError
from minires.nn import Module
from minires.tensor import Tensor

__all__ = ["WeightAverage"]


class WeightAverage:
    """The average and the number of steps in it.

    Args:
        model: the average begins as a copy of its weights and buffers.
        decay: the largest d.
    """

    def __init__(self, model: Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.arrays: dict[str, Any] = {name: tensor.array.copy() for name, tensor in model.state_dict().items()}

    def update(self, model: Module) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        d = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in model.state_dict().items():
            average, now = self.arrays[name], tensor.array
            if average.dtype.kind == "f":
                average += (1 - d) * (now - average)
            else:
                average[...] = now

    @contextmanager
    def applied_to(self, model: Module) -> Iterator[None]:
        """Inside, `model` has the averaged weights; afterwards its own again, bit for bit, also after an error."""
        tensors = model.state_dict()
        own = {name: tensor.array.copy() for name, tensor in tensors.items()}
        _write(tensors, self.arrays)
        try:
            yield
        finally:
            _write(tensors, own)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: {"steps": int, "average": a state dict of the model}."""
        return {"steps": self.steps, "average": {name: Tensor(array) for name, array in self.arrays.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            StateDictError: it is the average of another model.
        """
        average = {name: tensor.numpy() for name, tensor in state["average"].items()}
        shapes = [{name: array.shape for name, array in arrays.items()} for arrays in (average, self.arrays)]
        if shapes[0] != shapes[1]:
            wrong = sorted({name for name, _ in set(shapes[0].items()) ^ set(shapes[1].items())})
            raise StateDictError(f"WeightAverage: the state is of another model; different: {', '.join(wrong[:5])}")
        self.steps = int(state["steps"])
        for name, array in average.items():
            self.arrays[name][...] = array


def _write(tensors: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Into the tensors themselves: whoever holds them (an optimiser, a caller) goes on holding them."""
    with no_grad():
        for name, tensor in tensors.items():
            tensor.array[...] = arrays[name]
            tensor._bump_version()
