"""The kernels package as a whole: its one name, and that the reference keeps the interface's contract."""

import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest

import minires.kernels
from minires.kernels import reference
from minires.kernels.interface import KernelSet
from minires.kernels.reference.windows import pad_planes

OPERATIONS = [name for name, _ in inspect.getmembers(KernelSet, inspect.isfunction) if not name.startswith("_")]


def test_kernels_refuse_another_name():
    init = Path(minires.kernels.__file__)
    spec = importlib.util.spec_from_file_location("kernels", init)
    with pytest.raises(ImportError, match=r"must be imported as minires\.kernels, got 'kernels'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_interface_lists_operations():
    assert {"conv2d_forward", "max_pool2d_gather", "interpolate_bilinear_backward"} <= set(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_reference_has_the_interfaces_signature(name):
    wanted = inspect.signature(getattr(KernelSet, name))
    got = inspect.signature(getattr(reference, name))
    assert list(got.parameters) == list(wanted.parameters)[1:]  # without self


@pytest.mark.parametrize("name", OPERATIONS)
def test_interface_documents_every_operation(name):
    assert "Returns:" in getattr(KernelSet, name).__doc__ or "for i:" in getattr(KernelSet, name).__doc__


def test_reference_exports_only_the_interface():
    assert set(reference.__all__) == set(OPERATIONS)


def test_pad_planes_negative_padding_cuts():
    x = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    padded = pad_planes(x, -1, 2, 1, -2, value=7.0)
    assert padded.shape == (2, 3, 5, 4)
    np.testing.assert_array_equal(padded[:, :, :3, 1:], x[:, :, 1:, :3])
    assert (padded[:, :, 3:] == 7).all() and (padded[:, :, :, 0] == 7).all()
