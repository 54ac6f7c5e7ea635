"""The torch twins: the same names, the same numbers; what has no twin says so."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import minires
from minires import models
from minires.bench.judge import calibrate
from minires.bench.structure import describe
from minires.bench.workload import Workload
from minires.errors import UnsupportedError
from minires.tensor import Tensor
from tests.tolerances import assert_close
from tests.torch_oracle import torch

TWINS: list[tuple[str, dict[str, Any]]] = [
    ("resnet18", {"widths": (8, 16, 24, 32), "stem_width": 8, "small_input": False}),
    ("resnet18", {"widths": (8, 16, 24, 32), "stem_width": 8}),
    ("resnet50", {"widths": (8, 16, 24, 32), "stem_width": 8}),
    ("resnext50_32x4d", {}),
    ("wide_resnet50_2", {"widths": (8, 8, 8, 8), "stem_width": 8}),
    ("resnet8", {}),
    ("resnet8", {"shortcut": "B", "width": 8}),
    ("plain_resnet8", {}),
    ("preact_resnet20", {}),
    ("wrn_16_4", {}),
    ("resnet9", {"width": 8}),
    ("resnet9", {"width": 8, "plain": True}),
]


@pytest.mark.parametrize(("name", "options"), TWINS, ids=lambda v: v if isinstance(v, str) else ",".join(v))
def test_twin_has_the_same_names_and_outputs(name: str, options: dict[str, Any]) -> None:
    from minires.bench.torch_models import build

    workload = Workload(name, 2, 32, num_classes=5, options=options)
    model: Any = workload.build()
    calibrate(model, np.random.default_rng(0), workload)
    twin = build(json.loads(json.dumps(describe(model))))
    state = model.state_dict()
    assert list(twin.state_dict()) == list(state)
    twin.load_state_dict({key: torch.from_numpy(value.numpy()) for key, value in state.items()})
    x = np.random.default_rng(1).standard_normal(workload.input_shape)
    with torch.no_grad(), minires.no_grad():
        theirs = twin.double().eval()(torch.from_numpy(x)).numpy()
        ours = model.double().eval()(Tensor(x)).numpy()
    assert_close(ours, theirs, "float64", n=1000)


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("resnet18d", {}, "ResNet-D"),
        ("seresnet18", {}, "squeeze-excitation"),
        ("resnet50", {"stride_on_1x1": True}, "their stride on the first 1x1"),
        ("preact_resnet164", {}, "pre-activation bottlenecks"),
        ("wrn_16_4", {"dropout": 0.3}, "dropout"),
    ],
)
def test_no_twin_is_an_error_that_names_the_reason(name: str, options: dict[str, Any], what: str) -> None:
    with pytest.raises(UnsupportedError, match=f"bench: torch_models.py has no .*{what}"):
        describe(models.build(name, **options))
