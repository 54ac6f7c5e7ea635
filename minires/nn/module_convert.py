"""Moving a module's tensors to another dtype or device, in place: an optimiser that holds the parameters keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

from minires import dtypes
from minires.autograd import no_grad
from minires.errors import DTypeError, UnsupportedError
from minires.nn.parameter import Parameter
from minires.tensor import Tensor


class Conversions:
    """The part of `Module` that converts: `to`, `float`, `double`, `half`, `cpu`, `cuda`."""

    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    children: Callable[[], Iterator[Any]]

    def _apply(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Replace the values of every parameter, of its gradient, and of every buffer by `fn(tensor)`."""
        for child in self.children():
            child._apply(fn)
        with no_grad():
            for parameter in self._parameters.values():
                if parameter is not None:
                    grad = parameter.grad
                    parameter.grad = None  # the gradient of the old dtype does not fit the new values
                    parameter.data = fn(parameter).detach()
                    if grad is not None:
                        parameter.grad = fn(grad).detach()
            for name, buffer in self._buffers.items():
                if buffer is not None:
                    self._buffers[name] = fn(buffer)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Convert in place: `to(device)`, `to(dtype)`, `to(device, dtype)` or `to(tensor)`, also by keyword.

        Only floating tensors change dtype: an integer buffer (`num_batches_tracked`) stays what it is.

        Raises:
            DTypeError: the dtype is not a floating one.
        """
        device, dtype = _parse_to(args, kwargs)
        if dtype is not None and not dtype.is_floating_point:
            raise DTypeError(f"Module.to: dtype must be a floating point one, got {dtype}")

        def convert(tensor: Tensor) -> Tensor:
            wanted = dtype if tensor.is_floating_point() else None
            if device is not None and wanted is not None:
                return tensor.to(device, wanted)
            if device is not None:
                return tensor.to(device)
            return tensor if wanted is None else tensor.to(wanted)

        return self._apply(convert)

    def double(self) -> Self:
        """Every floating tensor to float64."""
        return self.to(dtypes.float64)

    def half(self) -> Self:
        """Every floating tensor to float16."""
        return self.to(dtypes.float16)

    def cpu(self) -> Self:
        """Every tensor to main memory."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        """Every tensor to a GPU: number `device`, or the current one."""
        return self.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)

    def float(self) -> Self:
        """Every floating tensor to float32."""
        return self.to(dtypes.float32)


def _parse_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """(device or None, dtype or None) from the many forms of `to`."""
    known = dict(kwargs)
    known.pop("non_blocking", None)  # a copy here is always complete when the call returns
    known.pop(
        "memory_format", None
    )  # how values lie in memory is each kernel set's private matter; none of them changes
    device, dtype, tensor = known.pop("device", None), known.pop("dtype", None), known.pop("tensor", None)
    if known:
        raise UnsupportedError(f"Module.to: unknown argument {next(iter(known))!r}; it takes device, dtype or tensor")
    for value in args:
        if isinstance(value, Tensor):
            tensor = value
        elif isinstance(value, dtypes.dtype):
            dtype = value
        elif isinstance(value, bool):
            pass  # non_blocking, given by position
        else:
            device = value
    if tensor is not None:
        device, dtype = tensor.device, tensor.dtype
    return device, dtype
