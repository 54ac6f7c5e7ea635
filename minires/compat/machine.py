"""What `torch.cuda`, `torch.backends` and the thread functions answer: a machine with a CPU and no GPU.

Settings that choose among a GPU's algorithms (`torch.backends.cudnn.benchmark = True`) have nothing to act on here, and are
kept as they were set; one that would change a result is refused.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import Any

from minires import random, threads
from minires.backend import as_device
from minires.errors import ArgumentError, DeviceError, UnsupportedError


def no() -> bool:
    """The answer of every `is_available()`."""
    return False


def _nothing() -> None:
    """What there is to free, or to wait for, without a GPU."""


def _seed_no_gpu(seed: int) -> None:
    """Check `seed` as torch does; there is no GPU's generator to seed."""
    random.Generator().manual_seed(seed)


def _zero(device: Any = None) -> int:
    """Bytes of GPU memory in use."""
    return 0


def _no_gpu(*args: Any, **kwargs: Any) -> Any:
    raise DeviceError("torch.cuda: this version of minires runs on the CPU; ask torch.cuda.is_available() first")


CUDA: dict[str, Any] = {
    "is_available": no,
    "is_initialized": no,
    "is_bf16_supported": no,
    "device_count": _zero,
    "manual_seed": _seed_no_gpu,
    "manual_seed_all": _seed_no_gpu,
    "empty_cache": _nothing,
    "memory_allocated": _zero,
    "max_memory_allocated": _zero,
    "memory_reserved": _zero,
    "max_memory_reserved": _zero,
    **dict.fromkeys(
        ("current_device", "set_device", "synchronize", "get_device_name", "get_device_properties"), _no_gpu
    ),
    **dict.fromkeys(("get_device_capability", "current_stream", "init"), _no_gpu),
}

CUDNN: dict[str, Any] = {
    "benchmark": False,
    "deterministic": False,
    "enabled": True,
    "allow_tf32": True,
    "benchmark_limit": 10,
    "is_available": no,
    "version": lambda: None,
}

CUDA_MATMUL: dict[str, Any] = {
    "allow_tf32": False,
    "allow_fp16_reduced_precision_reduction": True,
    "allow_bf16_reduced_precision_reduction": True,
}

# --- threads ---------------------------------------------------------------------------------------------------------


def set_num_threads(count: int) -> None:
    """How many threads NumPy's linear algebra may use.

    Warns: threadpoolctl is not installed, so the number cannot be changed now.
    """
    _check_threads("set_num_threads", count)
    if importlib.util.find_spec("threadpoolctl") is None:
        if count != get_num_threads():
            warnings.warn(
                f"torch.set_num_threads({count}): NumPy's threads can be changed only where threadpoolctl is installed (pip "
                f"install threadpoolctl); set MINIRES_THREADS={count} in the environment",
                RuntimeWarning,
                stacklevel=2,
            )
        return
    threads.limit_threads(count)


def get_num_threads() -> int:
    """How many threads NumPy's linear algebra uses."""
    if importlib.util.find_spec("threadpoolctl") is not None:
        import threadpoolctl

        pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        if pools:
            return int(max(pools))
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return os.cpu_count() or 1


def set_num_interop_threads(count: int) -> None:
    """torch's second pool runs operations of a compiled graph side by side; minires runs one after the other."""
    _check_threads("set_num_interop_threads", count)


def get_num_interop_threads() -> int:
    return 1


def _check_threads(name: str, count: Any) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ArgumentError(f"torch.{name}: expected a positive whole number, got {count!r}")


# --- determinism, precision, default device --------------------------------------------------------------------------

_deterministic = False


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Every operation of minires gives the same bits each time, so either mode is kept already."""
    global _deterministic
    _deterministic = bool(mode)


def are_deterministic_algorithms_enabled() -> bool:
    return _deterministic


_matmul_precision = "highest"


def set_float32_matmul_precision(precision: str) -> None:
    """'high' and 'medium' allow less than float32's precision in products; minires always keeps all of it."""
    global _matmul_precision
    if precision not in ("highest", "high", "medium"):
        raise ArgumentError(
            f"torch.set_float32_matmul_precision: precision must be 'highest', 'high' or 'medium', got {precision!r}"
        )
    _matmul_precision = precision


def get_float32_matmul_precision() -> str:
    return _matmul_precision


def set_default_device(device: Any) -> None:
    """Only the CPU can be the default."""
    as_device("cpu" if device is None else device)


def load_from_url(url: str, *args: Any, **kwargs: Any) -> Any:
    """torch.hub.load_state_dict_from_url: importing it is fine, published ResNet files do; calling it is not."""
    raise UnsupportedError(
        f"load_state_dict_from_url: minires downloads no weights ({url}); build the model without pretrained=True, or load "
        "a checkpoint that minires saved with torch.load"
    )
