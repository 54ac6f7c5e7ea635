"""Which names the modules that stand for torch's have. Everything comes from minires; here it is only arranged.

`table()` gives {"torch": {"randn": ..., ...}, "torch.nn": {...}, ...}. A name that is not here is an UnsupportedError.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import minires
from minires import autograd, creation, dtypes, functions, nn, optim, random, utils
from minires.autograd import anomaly
from minires.autograd.function import Context
from minires.backend import device
from minires.compat import machine, no_gpu, tensor_types
from minires.dtypes import dtype
from minires.io import archive
from minires.nn import conv, functional, init, loss, norm
from minires.optim import lr_scheduler
from minires.printing import set_printoptions
from minires.tensor import Size, Tensor

# Functions of torch.nn.functional that torch also has at its top level.
AT_TOP_TOO = ("conv2d", "conv_transpose2d", "batch_norm", "layer_norm", "group_norm", "dropout", "relu_")
OUR_OWN = ("batch_norm_relu", "residual_relu")  # functions of minires.nn.functional that torch does not have
OUR_INITS = ("skipped",)  # and of minires.nn.init
# nn.init's functions that existed before their names ended in an underscore.
OLD_INITS = (
    "uniform", "normal", "constant", "eye", "dirac", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal",
    "orthogonal",
)  # fmt: skip
# The release whose names and numbers the tests compare with; scripts ask for "at least 1.8" and the like.
TORCH_VERSION = "2.13.0"

Contents = dict[str, Any]


def pick(module: ModuleType, names: Iterable[str]) -> Contents:
    """The given names of `module`."""
    return {name: getattr(module, name) for name in names}


def own_functions(module: ModuleType) -> Contents:
    """The functions that `module` itself defines (a module without `__all__`)."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def table() -> dict[str, Contents]:
    """Every module and what is in it; parents come before their submodules."""
    modules = {"torch": _top(), **_nn(), **_optim(), **_autograd(), **_utils(), **_machine(), **_never_scripted()}
    return dict(sorted(modules.items()))


def _top() -> Contents:
    names = {
        **pick(creation, creation.__all__),
        **pick(functions, functions.__all__),
        **pick(functional, AT_TOP_TOO),
        **pick(minires, ("save", "load")),
        **tensor_types.TENSOR_TYPES,
    }
    names |= {d.name: d for d in dtypes._DTYPES.values()}
    names |= {"float": dtypes.float32, "double": dtypes.float64, "half": dtypes.float16, "bool": dtypes.bool_}
    names |= {"int": dtypes.int32, "long": dtypes.int64, "short": dtypes.int16}
    names |= pick(
        autograd,
        (
            "no_grad",
            "enable_grad",
            "set_grad_enabled",
            "is_grad_enabled",
            "inference_mode",
            "is_inference_mode_enabled",
        ),
    )
    names |= pick(random, ("Generator", "manual_seed", "seed", "initial_seed", "get_rng_state", "set_rng_state"))
    names |= pick(tensor_types, ("finfo", "iinfo", "memory_format", "set_default_tensor_type"))
    names |= pick(
        machine,
        (
            "set_num_threads", "get_num_threads", "set_num_interop_threads", "get_num_interop_threads",
            "use_deterministic_algorithms", "are_deterministic_algorithms_enabled", "set_float32_matmul_precision",
            "get_float32_matmul_precision", "set_default_device",
        ),
    )  # fmt: skip
    formats = ("contiguous_format", "preserve_format", "channels_last")
    return names | {
        "Size": Size,
        "device": device,
        "dtype": dtype,
        "autocast": no_gpu.autocast,
        "default_generator": random.default_generator,
        "get_default_dtype": dtypes.get_default_dtype,
        "set_default_dtype": dtypes.set_default_dtype,
        "set_printoptions": set_printoptions,
        "is_anomaly_enabled": autograd.is_anomaly_enabled,
        "is_anomaly_check_nan_enabled": anomaly.is_anomaly_check_nan_enabled,
        "result_type": dtypes.result_type,
        "strided": tensor_types.memory_format("strided"),
        **{name: tensor_types.memory_format(name) for name in formats},
        "inf": math.inf,
        "nan": math.nan,
        "pi": math.pi,
        "e": math.e,
        "newaxis": None,
        "__version__": f"{TORCH_VERSION}+minires",
    }


def _nn() -> dict[str, Contents]:
    layers = pick(nn, (name for name in nn.__all__ if inspect.isclass(getattr(nn, name))))
    modules = {name: layer for name, layer in layers.items() if name not in ("Parameter", "Buffer")}
    layers["DataParallel"] = no_gpu.DataParallel
    inits = own_functions(init) | pick(init, ("_calculate_fan_in_and_fan_out", "_calculate_correct_fan"))
    inits = {name: function for name, function in inits.items() if name not in OUR_INITS}
    old = {name: _deprecated(inits[f"{name}_"]) for name in OLD_INITS}
    utilities = own_functions(nn.utils)
    private = {"_BatchNorm": norm._BatchNorm, "_ConvNd": conv._Conv2d, "_Loss": loss._Loss}

    def layers_of(*names: str) -> Contents:
        return {name: (layers | private)[name] for name in names}

    batch_norm = layers_of("BatchNorm1d", "BatchNorm2d", "_BatchNorm")
    return {
        "torch.nn": layers,
        "torch.nn.functional": pick(functional, (name for name in functional.__all__ if name not in OUR_OWN)),
        "torch.nn.init": inits | old,
        "torch.nn.parameter": layers_of("Parameter", "Buffer"),
        "torch.nn.parallel": {"DataParallel": no_gpu.DataParallel},
        "torch.nn.common_types": {"_size_2_t": int | tuple[int, int], "_size_any_t": int | tuple[int, ...]},
        "torch.nn.utils": utilities,
        "torch.nn.utils.clip_grad": {k: v for k, v in utilities.items() if k.startswith("clip_")},
        "torch.nn.modules": modules,
        "torch.nn.modules.module": layers_of("Module"),
        "torch.nn.modules.batchnorm": batch_norm,
        "torch.nn.modules.conv": layers_of("Conv2d", "ConvTranspose2d", "_ConvNd"),
        "torch.nn.modules.linear": layers_of("Linear", "Identity"),
        "torch.nn.modules.loss": {k: v for k, v in layers.items() if k.endswith("Loss")} | layers_of("_Loss"),
        "torch.nn.modules.container": layers_of("Sequential", "ModuleList", "ModuleDict", "ParameterList"),
        "torch.nn.modules.utils": {"_pair": _pair},
    }


def _optim() -> dict[str, Contents]:
    optimizers = pick(optim, (name for name in optim.__all__ if name != "lr_scheduler"))
    schedules = pick(lr_scheduler, (*lr_scheduler.__all__, "_LRScheduler"))
    return {
        "torch.optim": optimizers,
        "torch.optim.optimizer": pick(optim, ("Optimizer",)),
        "torch.optim.sgd": pick(optim, ("SGD",)),
        "torch.optim.adam": pick(optim, ("Adam",)),
        "torch.optim.adamw": pick(optim, ("AdamW",)),
        "torch.optim.lr_scheduler": schedules,
    }


def _autograd() -> dict[str, Contents]:
    names = pick(
        autograd,
        (
            "Function", "backward", "grad", "gradcheck", "gradgradcheck", "detect_anomaly", "set_detect_anomaly", "no_grad",
            "enable_grad", "set_grad_enabled", "inference_mode",
        ),
    )  # fmt: skip
    names["Variable"] = tensor_types.Variable
    return {
        "torch.autograd": names,
        "torch.autograd.variable": {"Variable": tensor_types.Variable},
        "torch.autograd.function": {"Function": autograd.Function, "FunctionCtx": Context},
        "torch.autograd.graph": {"saved_tensors_hooks": autograd.saved_tensors_hooks, "Node": autograd.node.Node},
        "torch.autograd.grad_mode": pick(autograd, ("no_grad", "enable_grad", "set_grad_enabled", "inference_mode")),
    }


def _utils() -> dict[str, Contents]:
    data = pick(utils.data, utils.data.__all__)
    datasets = (
        "Dataset",
        "IterableDataset",
        "TensorDataset",
        "ConcatDataset",
        "ChainDataset",
        "Subset",
        "random_split",
    )
    return {
        "torch.utils": {},
        "torch.utils.checkpoint": pick(utils.checkpoint, utils.checkpoint.__all__),
        "torch.utils.data": data,
        "torch.utils.data.dataset": {name: data[name] for name in datasets},
        "torch.utils.data.dataloader": {name: data[name] for name in ("DataLoader", "default_collate")},
        "torch.utils.data.sampler": {name: value for name, value in data.items() if name.endswith("Sampler")},
        # Files that define a ResNet import these and call them only for pretrained=True.
        "torch.utils.model_zoo": {"load_url": machine.load_from_url},
        "torch.hub": {"load_state_dict_from_url": machine.load_from_url},
    }


def _machine() -> dict[str, Contents]:
    """Devices, precision, processes: scripts ask whether they are there."""
    return {
        "torch.accelerator": {"is_available": machine.no, "device_count": machine.CUDA["device_count"]},
        "torch.amp": {"autocast": no_gpu.autocast, "GradScaler": no_gpu.GradScaler},
        "torch.backends": {},
        "torch.backends.cuda": {"is_built": machine.no},
        "torch.backends.cuda.matmul": dict(machine.CUDA_MATMUL),
        "torch.backends.cudnn": dict(machine.CUDNN),
        "torch.backends.mps": {"is_available": machine.no, "is_built": machine.no},
        "torch.cuda": dict(machine.CUDA),
        "torch.cuda.amp": {"autocast": no_gpu.cuda_autocast, "GradScaler": no_gpu.cuda_grad_scaler},
        "torch.distributed": {"is_available": machine.no, "is_initialized": machine.no},
        "torch.mps": {"is_available": machine.no},
        "torch.multiprocessing": {},
        "torch.random": pick(random, ("manual_seed", "seed", "initial_seed", "get_rng_state", "set_rng_state")),
        "torch.serialization": pick(archive, ("save", "load")),
        "torch.types": {"Number": int | float | bool, "Device": Any, "_size": Size | list[int] | tuple[int, ...]},
        "torch.utils.data.distributed": {},
        "torch.version": {"__version__": TORCH_VERSION, "cuda": None, "hip": None, "debug": False},
        "torch.xpu": {"is_available": machine.no, "device_count": machine.CUDA["device_count"]},
    }


def _never_scripted() -> dict[str, Contents]:
    """torch.jit's questions and marks. `script` and `trace` are refused, so nothing is ever scripted."""

    def unchanged(function: Any) -> Any:
        """What torch.jit.ignore, unused and export are outside of a script."""
        return function

    marks = dict.fromkeys(("ignore", "unused", "export"), unchanged)
    return {"torch.jit": {"is_scripting": machine.no, "is_tracing": machine.no, **marks}}


def _pair(x: Any) -> tuple[Any, ...]:
    """torch.nn.modules.utils._pair: a number twice, a sequence as a tuple."""
    return tuple(x) if hasattr(x, "__iter__") else (x, x)


def _deprecated(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """nn.init's names from before torch 0.4, without the underscore: torch still has them, and warns."""
    new = function.__name__

    def old(*args: Any, **kwargs: Any) -> Tensor:
        warnings.warn(f"nn.init.{new[:-1]} is now deprecated in favor of nn.init.{new}", FutureWarning, stacklevel=2)
        return function(*args, **kwargs)

    old.__name__, old.__doc__ = new[:-1], f"Older name of `{new}`."
    return old
