"""What every test has: reproducible hypothesis runs, a fixed seed, one thread under NumPy."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import minires
from minires.backend import use_kernels

# A run must say the same thing twice; TEST_EXAMPLES=1000 asks for a longer search, e.g. overnight.
settings.register_profile(
    "minires",
    max_examples=int(os.environ.get("TEST_EXAMPLES", "25")),
    deadline=None,
    derandomize="TEST_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)
settings.load_profile("minires")

# A shell that starts the tests in the background has them ignore Ctrl-C, and every process that a test starts would too: the
# tests that interrupt one would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test draws the same random numbers, whatever ran before it."""
    minires.manual_seed(0)


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Hugging Face's library, quietly; a test that asks for it is skipped where it is missing."""
    from tests.io import judges

    monkeypatch.setitem(sys.modules, "kernels", None)  # it looks for a package of this name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("torchvision") is not None:
            judges.torchvision()  # which it imports, and which may not load without help
        module = pytest.importorskip("transformers", reason="transformers, the judge, is not installed")
        module.utils.logging.disable_progress_bar()
        module.utils.logging.set_verbosity_error()
        yield module


@pytest.fixture
def reference_kernels():
    """The test runs on the reference set, whose functions it replaces or whose bits it compares."""
    with use_kernels("reference"):
        yield
