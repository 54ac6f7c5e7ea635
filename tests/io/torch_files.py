"""Files of torch.save for the tests: made, taken apart, put together again, and read within limits."""

from __future__ import annotations

import argparse
import io
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from minires.io.torch_file import Placeholder, read_torch_file
from tests.torch_oracle import torch

FORMS = ["zip", "legacy"]
WIDER = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
WIDER += (torch.float8_e8m0fnu,)  # NumPy lacks these: they come as float32
LATE = (
    torch.uint16,
    torch.uint32,
    torch.uint64,
    *WIDER[1:],
)  # torch writes these in the legacy form, but cannot read them
DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
]
DTYPES += [torch.uint8, torch.bool, torch.complex64, torch.complex128, *LATE]


def saved(obj: Any, form: str = "zip", **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer, _use_new_zipfile_serialization=form == "zip", **options)
    return buffer.getvalue()


def read(content: bytes, **options: Any) -> Any:
    return read_torch_file(io.BytesIO(content), **options)


def same(ours: Any, theirs: Any) -> None:
    """Assert that a tree of ours is torch's tree, in structure, dtype, strides and bits."""
    if isinstance(theirs, torch.Tensor):
        theirs = theirs.detach()
        values = (theirs.float() if theirs.dtype in WIDER else theirs).resolve_conj().resolve_neg().numpy()
        assert type(ours) is np.ndarray
        assert (ours.dtype, ours.shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(ours, values)
        if ours.dtype.kind == "f":  # -0 is not 0
            np.testing.assert_array_equal(np.signbit(ours), np.signbit(values))
        assert ours.flags.writeable
        return
    if isinstance(theirs, torch.Size):
        theirs = tuple(theirs)
    if isinstance(theirs, (dict, list, tuple)):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for a, b in zip(
            ours.items() if isinstance(ours, dict) else ours,
            theirs.items() if isinstance(theirs, dict) else theirs,
            strict=True,
        ):
            same(a, b)
    elif isinstance(theirs, argparse.Namespace):
        assert (ours.module, ours.name) == ("argparse", "Namespace")
        same(ours.state, vars(theirs))
    elif isinstance(theirs, (torch.dtype, torch.device, np.generic, np.ndarray)):
        assert type(ours) is Placeholder
    else:
        assert type(ours) is type(theirs)
        assert ours == theirs or theirs != theirs


def content_of(dtype: Any, count: int) -> Any:
    """`count` elements of any dtype, from all its bit patterns."""
    width = torch.empty(0, dtype=dtype).element_size()
    raw = np.random.default_rng(count).integers(0, 256, count * width, dtype=np.uint8)
    if dtype == torch.bool:
        raw &= 1
    return torch.frombuffer(bytearray(raw.tobytes()), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def training_checkpoint() -> dict[str, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(16, 2)
    )
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 10)
    model(torch.randn(2, 3, 4, 4)).square().sum().backward()
    for step in (sgd, adam, schedule):
        step.step()
    return {
        "state_dict": OrderedDict(("module." + k, v) for k, v in model.state_dict().items()),
        "model": model.state_dict(),
        "sgd": sgd.state_dict(),
        "adam": adam.state_dict(),
        "schedule": schedule.state_dict(),
        "args": argparse.Namespace(lr=0.1, milestones=[30, 60], name=None, data="/data"),
        "best": np.float64(93.5),
        "history": np.arange(5.0),
        "epoch": 17,
        "big": 2**80,
        "device": torch.device("cuda:0"),
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "rng": torch.get_rng_state(),
        "flags": (True, None, "é\ud800", b"\x00\xff", {1: "a", (2, 3): "b"}, float("nan")),
    }


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def changed(content: bytes, **changes: bytes | None) -> bytes:
    """A zip with members replaced or, by None, left out; CRCs are right: the forger's way. `_` stands for `/`."""
    members = members_of(content)
    for name, new in changes.items():
        members[f"archive/{name.replace('_', '/')}"] = new  # type: ignore[assignment]
    return zipped({name: new for name, new in members.items() if new is not None})


def cheaply(call: Callable[[], Any]) -> Any:
    """Runs `call`: in under a second (of this process, with the tracing that slows it), with less than 50 MB."""
    tracemalloc.start()
    start = time.process_time()
    try:
        return call()
    finally:
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seconds < 1
        assert peak < 50e6
