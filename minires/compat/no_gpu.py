"""What torch's helpers for GPUs do on a machine without one: `DataParallel`, `autocast`, `GradScaler`."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from minires.errors import DeviceError, UnsupportedError
from minires.nn import Module


class DataParallel(Module):
    """Calls `module`. Without GPUs torch's class does the same, under the same state-dict keys (`module.conv1.weight`).

    Raises:
        DeviceError: `device_ids` or `output_device` is given: it means GPUs.
    """

    def __init__(self, module: Module, device_ids: Any = None, output_device: Any = None, dim: int = 0) -> None:
        super().__init__()
        if device_ids or output_device is not None:
            raise DeviceError(
                f"DataParallel: device_ids = {device_ids!r}, output_device = {output_device!r}: this version of minires runs "
                "on the CPU; leave both out"
            )
        self.module, self.dim = module, dim
        self.device_ids: list[int] = []

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)


class autocast:
    """torch.autocast: a block in lower precision.

    With `enabled=False` it is nothing. For 'cuda' it does what torch does without a GPU: it warns and stays in the
    tensors' own precision.

    Raises:
        UnsupportedError: enabled for the CPU, where torch computes in bfloat16.
    """

    def __init__(
        self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        if enabled and device_type == "cuda":
            _warn("autocast")
        elif enabled:
            raise UnsupportedError(
                f"torch.autocast: device_type {device_type!r} with enabled=True is not supported (NumPy has no bfloat16); "
                "use enabled=False, or model.half()"
            )

    def __enter__(self) -> autocast:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return call


class cuda_autocast(autocast):
    """torch.cuda.amp.autocast, the older name: for 'cuda'."""

    def __init__(self, enabled: bool = True, dtype: Any = None, cache_enabled: bool = True) -> None:
        super().__init__("cuda", dtype, enabled, cache_enabled)


class GradScaler:
    """torch.amp.GradScaler without a GPU: disabled, so that `scale` and `unscale_` do nothing and `step` just steps."""

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if device != "cuda" and enabled:
            raise UnsupportedError(
                f"torch.amp.GradScaler: device {device!r} with enabled=True is not supported; use enabled=False: float32 "
                "gradients need no scaling"
            )
        if enabled:
            _warn("GradScaler")

    def is_enabled(self) -> bool:
        return False

    def get_scale(self) -> float:
        return 1.0

    def scale(self, outputs: Any) -> Any:
        return outputs

    def unscale_(self, optimizer: Any) -> None:
        return None

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        return optimizer.step(*args, **kwargs)

    def update(self, new_scale: Any = None) -> None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict:
            raise UnsupportedError(
                "GradScaler: the state of a scaler that was in use cannot be taken over without a GPU"
            )


class cuda_grad_scaler(GradScaler):
    """torch.cuda.amp.GradScaler, the older name: without `device`."""

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        super().__init__("cuda", init_scale, growth_factor, backoff_factor, growth_interval, enabled)


def _warn(what: str) -> None:
    warnings.warn(f"{what}: there is no GPU, so it is disabled and everything stays in its own precision", stacklevel=4)
