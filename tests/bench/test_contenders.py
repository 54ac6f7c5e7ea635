"""Who may be measured."""

from __future__ import annotations

import importlib.util

import pytest

from minires.bench import contenders
from minires.bench.contenders import CONTENDERS, Contender, default_peers, select
from minires.errors import ArgumentError, UnknownNameError


def test_select_puts_minires_first_and_each_once() -> None:
    chosen = select(["torch", "minires", "torch", "openvino"], "infer")
    assert [c.name for c in chosen] == ["minires", "torch", "openvino"]


def test_select_unknown_name_lists_all() -> None:
    with pytest.raises(UnknownNameError) as error:
        select(["torch-compiled"], "infer")
    text = str(error.value)
    assert "unknown contender 'torch-compiled': did you mean torch-compile" in text
    assert all(c.name in text for c in CONTENDERS)


def test_select_refuses_what_a_contender_cannot_do() -> None:
    with pytest.raises(ArgumentError, match="bench train: onnxruntime does not do this; choose from minires, "):
        select(["onnxruntime"], "train")


def test_default_peers_are_others_and_able() -> None:
    assert default_peers("train") == ["torch", "torch-channels-last", "torch-compile", "torch-compile-channels-last"]
    assert {"onnxruntime", "openvino"} < set(default_peers("infer"))
    assert not any(
        name.startswith("minires") for kind in ("infer", "train", "ops", "start") for name in default_peers(kind)
    )


def test_missing_packages_are_named_as_pip_knows_them() -> None:
    contender = Contender("x", "x", packages=(("scikit-nothing", "sknothing_at_all"), ("numpy", "numpy")))
    assert contender.missing() == ["scikit-nothing"]


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda c: c.name)
def test_every_contender_names_a_module_that_is_there(contender: Contender) -> None:
    assert importlib.util.find_spec(contender.module) is not None
    assert contenders.find(contender.name) is contender
