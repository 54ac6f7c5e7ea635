"""Networks as torch exports them, by both of its exporters and at several opsets: the logits are onnxruntime's."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires.errors import CheckpointError
from tests.infer.onnx_graphs import kinds, load, runtime
from tests.models.twins import Twin
from tests.tolerances import assert_close
from tests.torch_oracle import torch

tnn = torch.nn


def randomized(net: Any) -> Any:
    """In evaluation mode, with statistics of a trained network."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, tnn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return net.eval()


def exported(net: Any, shape: tuple[int, ...], dynamo: bool, opset: int, free: bool = True, **options: Any) -> bytes:
    """The file that torch writes; `free`: for any batch."""
    if dynamo:
        pytest.importorskip("onnxscript", reason="onnxscript, which torch's new exporter needs, is not installed")
    x = torch.zeros(shape)
    file = io.BytesIO()
    logging.disable(logging.CRITICAL)  # of the exporter: libraries that it does not find
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter: old and new ways to call it
            if dynamo:
                sizes = ({0: torch.export.Dim("batch")},) if free else None
                program = torch.onnx.export(
                    net, (x,), dynamo=True, opset_version=opset, dynamic_shapes=sizes, verbose=False, **options
                )
                content: bytes = program.model_proto.SerializeToString()
                return content
            axes = {"x": {0: "n"}, "y": {0: "n"}} if free else None
            torch.onnx.export(
                net,
                (x,),
                file,
                dynamo=False,
                opset_version=opset,
                input_names=["x"],
                output_names=["y"],
                dynamic_axes=axes,
                **options,
            )
            return file.getvalue()
    finally:
        logging.disable(logging.NOTSET)


def judged(content: bytes, folder: Path, shape: tuple[int, ...], length: int, batches: tuple[int, ...]) -> Any:
    import onnxruntime

    output = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).get_outputs()[0].name
    plan = load(content, folder)
    for n in batches:
        x = np.random.default_rng(n).standard_normal((n, *shape[1:])).astype(np.float32)
        assert_close(plan(x), runtime(content, x, output), "float32", length, f"batch of {n}")
    return plan


NETS = {
    "basic": (
        lambda: Twin([1, 1, 1, 1], [8, 16, 16, 24], num_classes=5, stem="imagenet", stem_width=8),
        (2, 3, 40, 40),
    ),
    "bottleneck": (
        lambda: Twin([1, 2], [8, 16], num_classes=5, bottleneck=True, stem="imagenet", stem_width=8, groups=2),
        (2, 3, 40, 40),
    ),
    "gates, means": (
        lambda: Twin([1, 1], [8, 16], num_classes=5, stem="deep", shortcut="D", se=True, bottleneck=True),
        (2, 3, 33, 33),
    ),
    "zeros": (lambda: Twin([1, 1, 1], [8, 16, 32], num_classes=5, stem_width=8, shortcut="A"), (2, 3, 16, 16)),
    "preactivation": (
        lambda: Twin([1, 1], [8, 16], num_classes=5, stem_width=8, preact=True, shortcut="bare"),
        (2, 3, 16, 16),
    ),
}
OLD = [
    ("basic", 7),
    ("basic", 9),
    ("bottleneck", 11),
    ("gates, means", 12),
    ("zeros", 13),
    ("zeros", 17),
    ("preactivation", 17),
]
# The new exporter takes seconds for any network.
NEW = [("basic", 18), ("bottleneck", 20), ("gates, means", 20), ("zeros", 18), ("preactivation", 21)]


@pytest.mark.parametrize(
    ("name", "opset", "dynamo"),
    [(*case, False) for case in OLD] + [pytest.param(*case, True, marks=pytest.mark.slow) for case in NEW],
)
def test_networks_as_torch_exports_them(name: str, opset: int, dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, shape = NETS[name]
    net = randomized(make())
    plan = judged(exported(net, shape, dynamo, opset), tmp_path, shape, 600, (1, 3))
    x = torch.randn(2, *shape[1:])
    with torch.no_grad():
        assert_close(plan(x.numpy()), net(x).numpy(), "float32", 600, "torch itself")
    assert "scale_shift" not in kinds(plan) or name == "preactivation"  # all batch norm is folded


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_fixed_batch_of_torch_is_made_free(dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, shape = NETS["zeros"]
    net = randomized(make())
    plan = judged(exported(net, (1, *shape[1:]), dynamo, 18 if dynamo else 11, free=False), tmp_path, shape, 600, (1,))
    x = torch.randn(4, *shape[1:])
    with torch.no_grad():
        assert_close(plan(x.numpy()), net(x).numpy(), "float32", 600)


def test_batch_norm_that_the_exporter_left_is_folded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, shape = NETS["basic"]
    options = {
        "training": torch.onnx.TrainingMode.PRESERVE,
        "do_constant_folding": False,
        "keep_initializers_as_inputs": True,
    }
    content = exported(randomized(make()), shape, False, 13, **options)
    plan = judged(content, tmp_path, shape, 600, (2,))
    assert set(kinds(plan)) == {"conv2d", "max_pool2d", "adaptive_avg_pool2d", "reshape", "linear"}


def test_a_network_exported_in_training_mode_is_refused(tmp_path: Path) -> None:
    make, shape = NETS["basic"]
    content = exported(make().train(), shape, False, 15, training=torch.onnx.TrainingMode.TRAINING)
    with pytest.raises(
        CheckpointError, match=r"\(BatchNormalization, opset 15\): it is in training mode; export .*eval"
    ):
        load(content, tmp_path)


class Written(tnn.Module):
    """A classifier as people write them: sizes read from the tensor, half of the channels taken apart, limits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = tnn.Conv2d(3, 8, 3, stride=2)
        self.depthwise = tnn.Conv2d(8, 8, 3, padding="same", groups=8)
        self.fc = tnn.Linear(8, 6)
        self.drop = tnn.Dropout(0.3)

    def forward(self, x: Any) -> Any:
        x = tnn.functional.pad(x, (0, 1, 0, 1))
        x = tnn.functional.relu6(self.conv((x - 0.45) / 0.22))
        a, b = x.chunk(2, dim=1)
        x = self.depthwise(torch.cat([b, a], dim=1)) * torch.sigmoid(x)
        x = tnn.functional.hardsigmoid(x) + tnn.functional.silu(x)
        x = tnn.functional.avg_pool2d(tnn.functional.max_pool2d(x, 2, ceil_mode=True), 2)
        x = x.view(x.size(0), x.size(1), -1).mean(-1)
        x = self.drop(x).reshape(x.shape[0], -1)
        return torch.softmax(self.fc(x).clamp(-2, 2), dim=-1)


@pytest.mark.parametrize(
    ("opset", "dynamo"), [(11, False), (17, False), pytest.param(20, True, marks=pytest.mark.slow)]
)
def test_a_network_as_people_write_them(opset: int, dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Written().eval()
    judged(exported(net, (2, 3, 20, 24), dynamo, opset), tmp_path, (2, 3, 20, 24), 100, (1, 3))


@pytest.mark.slow
def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    """What torch.onnx.export does by default: the message says how to write one file."""
    pytest.importorskip("onnxscript", reason="onnxscript, which torch's new exporter needs, is not installed")
    path = tmp_path / "model.onnx"
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(tnn.Conv2d(3, 64, 7), (torch.zeros(1, 3, 9, 9),), path, dynamo=True, verbose=False)
    finally:
        logging.disable(logging.NOTSET)
    assert path.with_name("model.onnx.data").exists()
    with pytest.raises(CheckpointError, match=r"its numbers lie in another file.*external_data=False"):
        minires.load_onnx(path)
