"""Hugging Face's transformers, a judge where it is installed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The library, quietly; a test that asks for it is skipped where it is missing."""
    monkeypatch.setitem(sys.modules, "kernels", None)  # it looks for a package of this name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("transformers", reason="transformers, the judge, is not installed")
        module.utils.logging.disable_progress_bar()
        module.utils.logging.set_verbosity_error()
        yield module
