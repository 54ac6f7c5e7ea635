"""Settings from the environment, devices, kernel sets, dtypes and the errors' own rules."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import minires
from minires import backend, dtypes, errors
from minires.config import read_settings
from minires.errors import ConfigError, DeviceError, DTypeError, UnknownNameError


def test_settings_are_read() -> None:
    found = read_settings(
        {
            "MINIRES_DEBUG": "2",
            "MINIRES_KERNELS": "reference",
            "MINIRES_CHECK": "1",
            "MINIRES_THREADS": "4",
            "MINIRES_DATA": "x",
            "HOME": "y",
        }
    )
    assert (found.debug, found.kernels, found.check, found.threads, found.data_dir) == (2, "reference", True, 4, "x")
    assert not read_settings({}).check
    assert read_settings({"MINIRES_DEBUG": ""}) == read_settings({})


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"MINIRES_DEBUG": "5"}, r"MINIRES_DEBUG must be a whole number from 0 to 4, got '5'"),
        ({"MINIRES_THREADS": "two"}, r"MINIRES_THREADS must be a whole number from 1 to 1024, got 'two'"),
        ({"MINIRES_KERNELS": "gpu"}, r"MINIRES_KERNELS must be one of auto, cpu, reference, got 'gpu'"),
        ({"MINIRES_CHECK": "yes"}, r"MINIRES_CHECK must be a whole number from 0 to 1, got 'yes'"),
        ({"MINIRES_DEBUGG": "1"}, r"MINIRES_DEBUGG is not a setting of minires. Known: MINIRES_CHECK, MINIRES_DATA"),
    ],
)
def test_bad_settings_are_errors(environ, text) -> None:
    with pytest.raises(ConfigError, match=text):
        read_settings(environ)


def test_kernel_sets_are_chosen_by_name() -> None:
    reference = backend.kernel_set("reference")
    with backend.use_kernels("reference", check=False):
        assert backend.current_kernels() is reference
    with pytest.raises(ConfigError, match="kernel_set: name must be one of auto, cpu, reference, got 'cpu2'"):
        backend.use_kernels("cpu2")


def test_a_kernel_set_may_be_any_object() -> None:
    class Mine:
        def relu_forward(self, x: np.ndarray) -> np.ndarray:
            return x + 100

    mine, before = Mine(), backend.current_kernels()
    with backend.use_kernels(mine, check=False):
        assert backend.current_kernels() is mine
        assert minires.relu(minires.tensor([-1.0])).tolist() == [99.0]
    assert backend.current_kernels() is before


@pytest.fixture
def hide_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "numba" else find(name, *rest))
    backend.kernel_set.cache_clear()
    yield
    backend.kernel_set.cache_clear()


def test_the_cpu_set_without_numba_is_an_error_with_the_way_out(hide_numba: None, monkeypatch) -> None:
    text = r"the cpu set needs the package numba, .* pip install minires\[cpu\], or use the reference set"
    with pytest.raises(ConfigError, match=text):
        backend.use_kernels("cpu")
    monkeypatch.setattr(backend, "AUTO_TAKES_CPU", True)
    assert backend.kernel_set("auto") is backend.kernel_set("reference")


def test_auto_takes_the_cpu_set_where_it_may(monkeypatch) -> None:
    pytest.importorskip("numba", reason="the cpu set needs numba")
    backend.kernel_set.cache_clear()
    monkeypatch.setattr(backend, "AUTO_TAKES_CPU", True)
    assert backend.kernel_set("auto").__name__ == "minires.kernels.cpu"
    monkeypatch.setattr(backend, "AUTO_TAKES_CPU", False)
    backend.kernel_set.cache_clear()
    assert backend.kernel_set("auto").__name__ == "minires.kernels.reference"


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environ}, check=True
    )


def test_threads_are_limited_before_numpy_loads() -> None:
    code = "import minires, os; print(os.environ['OPENBLAS_NUM_THREADS'])"
    environ = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**environ, "MINIRES_THREADS": "1"},
        check=True,
    )
    assert done.stdout.strip() == "1"


def test_threads_that_cannot_be_limited_are_a_warning() -> None:
    hide = "import sys; sys.modules['threadpoolctl'] = None; import importlib.util as u; f = u.find_spec;"
    hide += "u.find_spec = lambda n, *a: None if n == 'threadpoolctl' else f(n, *a);"
    done = run(hide + "import numpy, minires", MINIRES_THREADS="3")
    assert "MINIRES_THREADS=3 has no effect" in done.stderr


def test_debug_1_says_which_kernel_set_serves_an_op() -> None:
    done = run(
        "import minires; F = minires.nn.functional; F.relu(F.conv2d(*[minires.ones(1, 1, 1, 1)] * 2))",
        MINIRES_DEBUG="1",
        MINIRES_KERNELS="reference",
    )
    assert "minires conv2d is served by minires.kernels.reference" in done.stderr


def test_devices() -> None:
    assert str(minires.device("cuda:1")) == "cuda:1"
    assert repr(minires.device("cuda", 1)) == "device(type='cuda', index=1)"
    assert minires.device("cpu") == minires.device(minires.device("cpu"))
    assert minires.device(0).type == "cuda"
    assert len({minires.device("cpu"), minires.device("cpu")}) == 1
    for bad in ("gpu", "cuda:x", 1.5):
        with pytest.raises(DeviceError):
            minires.device(bad)


def test_dtypes_are_single_objects() -> None:
    assert minires.float is minires.float32
    assert dtypes.as_dtype("float64") is minires.float64
    assert dtypes.as_dtype(np.dtype(">f4")) is minires.float32
    assert dtypes.as_dtype(int) is minires.int64
    assert pickle.loads(pickle.dumps(minires.int8)) is minires.int8
    assert repr(minires.uint8) == "minires.uint8"
    assert minires.float16.is_floating_point
    assert not minires.int32.is_floating_point
    for bad in ("complex64", "text", object):
        with pytest.raises(DTypeError, match="dtype: expected one of"):
            dtypes.as_dtype(bad)
    with pytest.raises(DTypeError, match="must be a floating dtype"):
        minires.set_default_dtype(minires.int64)
    with pytest.raises(DTypeError, match="at least one operand"):
        dtypes.result_type()


def test_unknown_names_bring_the_nearest() -> None:
    error = UnknownNameError.for_name("model", "resnet19", ["resnet18", "resnet20", "vgg"])
    assert "unknown model 'resnet19': did you mean resnet" in str(error)
    assert "Known: resnet18, resnet20, vgg" in str(error)


def test_every_error_is_a_minires_error_and_a_builtin_one() -> None:
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(kinds) > 10
    for kind in kinds:
        assert issubclass(kind, errors.MiniresError)
        if kind is not errors.MiniresError:
            assert issubclass(kind, (ValueError, TypeError, RuntimeError, IndexError, NotImplementedError))


def test_unknown_names_of_the_package_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match=r"minires.fft: there is no such name"):
        _ = minires.fft
