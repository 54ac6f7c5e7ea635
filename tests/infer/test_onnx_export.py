"""ONNX export: what the checker, onnxruntime, OpenVINO and ONNX's own reference say of the files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minires
from minires import models, nn
from minires.errors import ArgumentError
from minires.infer.onnx.nodes import RULES
from minires.io import onnx_write
from minires.kernels.graph import KINDS, Graph, Step
from minires.nn import functional as F
from tests.infer.nets import Lambda, eager, images, randomize, small
from tests.tolerances import assert_close

onnx = pytest.importorskip("onnx", reason="the onnx package, which checks the files, is not installed")

FAMILIES: dict[str, tuple[str, dict[str, Any], int]] = {  # a label: model, options, pixels
    "resnet18": ("resnet18", {}, 32),
    "resnet18, small images": ("resnet18", {"small_input": True}, 16),
    "resnet50": ("resnet50", {}, 32),
    "resnet50, stride on the 1x1": ("resnet50", {"stride_on_1x1": True}, 32),
    "plain": ("plain_resnet18", {}, 32),
    "resnext": ("resnext50_32x4d", {}, 32),
    "wide": ("wide_resnet50_2", {}, 32),
    "squeeze-excitation": ("seresnet18", {}, 32),
    "squeeze-excitation, bottlenecks": ("seresnet50", {}, 32),
    "D": ("resnet18d", {}, 33),  # an odd map: the mean of the shortcut meets half a window
    "D, bottlenecks": ("resnet50d", {}, 32),
    "timm's t stem": ("resnet18d", {"deep_stem": (12, 16)}, 32),
    "cifar, option A": ("resnet20", {"shortcut": "A"}, 16),
    "cifar, option B": ("resnet20", {"shortcut": "B"}, 16),
    "wrn": ("wrn_16_4", {}, 8),
    "preact": ("preact_resnet18", {}, 32),
    "preact, cifar": ("preact_resnet20", {}, 16),
}


def export(model: Any, path: Path, *args: Any, **options: Any) -> Any:
    """Write the file, hold it to the full checker, and give back the model as the onnx package reads it."""
    minires.export_onnx(model, path, *args, **options)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.SerializeToString() == path.read_bytes()  # the very bytes that the package would write
    return proto


def onnxruntime_answers(path: Path, x: np.ndarray) -> np.ndarray:
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime, the judge, is not installed")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def openvino_answers(path: Path, *batches: np.ndarray) -> list[np.ndarray]:
    openvino = pytest.importorskip("openvino", reason="OpenVINO, the judge, is not installed")
    network = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [network(x)[0] for x in batches]


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_export_of_a_family_gives_the_same_logits_everywhere(family: str, tmp_path: Path) -> None:
    name, options, pixels = FAMILIES[family]
    plan = minires.compile(small(name, **options), (1, 3, pixels, pixels), kernels="reference")
    path = tmp_path / "net.onnx"
    export(plan, path)
    batches = [images(n, 3, pixels, pixels, dtype="float32", seed=n) for n in (1, 3)]
    for x, in_openvino in zip(batches, openvino_answers(path, *batches), strict=True):
        y = plan(x)
        assert np.ptp(y) > 1e-3  # equal numbers would hide a lost layer
        assert_close(onnxruntime_answers(path, x), y, "float32", n=512, what=f"onnxruntime, {len(x)} images")
        assert_close(in_openvino, y, "float32", n=512, what=f"OpenVINO, {len(x)} images")


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_export_comes_back_as_the_same_steps(family: str, tmp_path: Path) -> None:
    """What load_onnx reads from the file is the plan again: the same kinds in the same order, the same numbers."""
    name, options, pixels = FAMILIES[family]
    plan = minires.compile(small(name, **options), (1, 3, pixels, pixels), kernels="reference")
    minires.export_onnx(plan, tmp_path / "net.onnx")
    back = minires.load_onnx(tmp_path / "net.onnx", kernels="reference")
    assert [step.kind for step in back.graph.steps] == [step.kind for step in plan.graph.steps]
    x = images(2, 3, pixels, pixels, dtype="float32")
    np.testing.assert_array_equal(back(x), plan(x))


def function(f: Any, **layers: nn.Module) -> nn.Module:
    return randomize(Lambda(f, **layers)).eval()


# Operations that networks of the zoo have not, or not in this form.
OPERATIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "convolution without a bias": (nn.Conv2d(3, 4, (2, 3), (1, 2), (1, 2), (2, 1), bias=False), (3, 9, 8)),
    "padding 'same' of an even window": (nn.Conv2d(3, 4, 4, padding="same"), (3, 7, 6)),
    "batch norm in front": (randomize(nn.BatchNorm2d(3)), (3, 4, 5)),
    "batch norm of features": (randomize(nn.BatchNorm1d(6)), (6,)),
    "linear without a bias": (nn.Linear(6, 4, bias=False), (6,)),
    "relu": (nn.ReLU(), (3, 4)),
    "clamp below": (function(lambda x: x.clamp(min=-0.5)), (3, 4)),
    "clamp above": (function(lambda x: x.clamp(max=0.25)), (3, 4)),
    "relu6": (function(lambda x: F.hardtanh(3 * x, 0.0, 2.0)), (3, 4)),
    "sigmoid, multiply": (function(lambda x: x * x.sigmoid()), (3, 4, 4)),
    "softmax": (nn.Softmax(dim=1), (5, 3)),
    "max-pool": (nn.MaxPool2d(3, 2, 1), (3, 8, 9)),
    "max-pool, ceil": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (3, 8, 9)),
    "max-pool, ceil, last window dropped": (nn.MaxPool2d(2, 3, 1, ceil_mode=True), (3, 7, 7)),
    "max-pool, rows left over": (nn.MaxPool2d(2, 5, ceil_mode=True), (3, 9, 10)),
    "max-pool, far beyond the edge": (nn.MaxPool2d(2, 4, 1, dilation=5, ceil_mode=True), (3, 10, 11)),
    "max-pool, far below the edge": (nn.MaxPool2d(2, (4, 2), 1, dilation=(5, 1), ceil_mode=True), (3, 10, 11)),
    "max-pool, dilated": (nn.MaxPool2d((3, 2), 1, (1, 0), dilation=(2, 3)), (3, 8, 9)),
    "mean-pool": (nn.AvgPool2d(3, 2), (3, 8, 9)),
    "mean-pool with padding": (nn.AvgPool2d(3, 2, 1), (3, 8, 9)),
    "mean-pool without padding": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (3, 8, 9)),
    "mean-pool, ceil": (nn.AvgPool2d(2, 2, ceil_mode=True), (3, 7, 9)),
    "mean-pool, ceil, with padding": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (3, 8, 7)),
    "mean-pool, ceil, without padding": (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (3, 8, 7)),
    "mean-pool, divisor": (nn.AvgPool2d(2, 2, divisor_override=3), (3, 6, 8)),
    "adaptive mean, 1": (nn.AdaptiveAvgPool2d(1), (3, 5, 7)),
    "adaptive mean, regions of one size": (nn.AdaptiveAvgPool2d((3, 2)), (3, 9, 4)),
    "adaptive mean, regions that overlap": (nn.AdaptiveAvgPool2d((3, 5)), (3, 7, 11)),
    "adaptive mean, larger than the map": (nn.AdaptiveAvgPool2d((7, 2)), (3, 3, 5)),
    "adaptive maximum, 1": (nn.AdaptiveMaxPool2d(1), (3, 5, 7)),
    "adaptive maximum, regions of one size": (nn.AdaptiveMaxPool2d((3, 2)), (3, 9, 4)),
    "adaptive maximum, regions that overlap": (nn.AdaptiveMaxPool2d((3, 5)), (3, 7, 11)),
    "reshape to features": (nn.Flatten(), (3, 4, 2)),
    "reshape to a map": (function(lambda x: x.reshape(x.shape[0], 2, 3, 4)), (24,)),
    "reshape to numbers": (function(lambda x, fc: fc(x).reshape(-1), fc=nn.Linear(3, 1)), (3,)),
    "slice": (function(lambda x: x[:, 1:3, ::2, 2:]), (4, 7, 5)),
    "slice, and a dimension less": (function(lambda x: x[:, 1, :, 0]), (4, 7, 5)),
    "pad": (function(lambda x: F.pad(x, (1, 2, 0, 3), value=-0.5)), (2, 4, 5)),
    "concat": (function(lambda x: minires.cat([x, x.sigmoid(), x.relu()], 2)), (2, 4, 5)),
    "add": (function(lambda x: x.sigmoid() + x), (2, 4, 5)),
    "a layer that is called twice": (function(lambda x, fc: fc(fc(x).relu()), fc=nn.Linear(4, 4)), (4,)),
    "nothing": (nn.Identity(), (2, 3)),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_onnx_export_of_an_operation_gives_the_same_numbers(operation: str, tmp_path: Path) -> None:
    net, shape = OPERATIONS[operation]
    net.eval()
    path = tmp_path / "net.onnx"
    export(net, path, (1, *shape))
    for n in (1, 3):
        x = images(n, *shape, dtype="float32", seed=n)
        assert_close(onnxruntime_answers(path, x), eager(net, x), "float32", n=32, what=operation)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_onnx_export_in_float64_gives_the_same_numbers(operation: str, tmp_path: Path) -> None:
    """Judged by ONNX's reference: onnxruntime has no convolution in float64."""
    net, shape = copy.deepcopy(OPERATIONS[operation])
    from onnx.reference import ReferenceEvaluator

    x = images(2, *shape)
    if not list(net.parameters()):  # the plan's dtype is that of the parameters
        net = function(lambda x, net, scale: net(scale(x)), net=net, scale=Scale(shape[0]))
    net = net.double().eval()
    proto = export(net, tmp_path / "net.onnx", (1, *shape))
    assert {tensor.data_type for tensor in proto.graph.initializer} <= {7, 11}  # int64, double
    (y,) = ReferenceEvaluator(proto).run(None, {"input": x})
    assert_close(y, eager(net, x), "float64", what=operation)


class Scale(nn.Module):
    """A number a channel, so that a network has a parameter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(minires.Tensor(np.linspace(0.5, 1.5, channels, dtype=np.float32)))

    def forward(self, x: Any) -> Any:
        return x * self.factor.reshape(1, -1, *[1] * (x.ndim - 2))


def test_onnx_export_knows_every_kind_of_step() -> None:
    assert set(RULES) == set(KINDS)


def test_onnx_export_names_things_after_layers_and_tells_who_made_it(tmp_path: Path) -> None:
    proto = export(small("resnet18"), tmp_path / "net.onnx", (1, 3, 32, 32), metadata={"classes": '["a", "ä"]'})
    assert (proto.producer_name, proto.producer_version) == ("minires", minires.__version__)
    assert proto.ir_version == 8
    assert [(one.domain, one.version) for one in proto.opset_import] == [("", 17)]
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"classes": '["a", "ä"]'}
    names = [node.name for node in proto.graph.node]
    assert names[:4] == ["conv1", "conv1.relu", "max_pool2d_1", "layer1.0.conv1"]
    assert {"layer1.0.conv2", "layer1.0.conv2.add", "layer1.0.conv2.relu", "layer2.0.downsample.0", "fc"} <= set(names)
    assert len(set(names)) == len(names)
    tensors = {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    assert tensors["layer2.0.downsample.0.weight"] == [32, 16, 1, 1]
    assert tensors["fc.bias"] == [5]
    ends = [[(v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]) for v in values]
            for values in (proto.graph.input, proto.graph.output)]  # fmt: skip
    assert ends == [[("input", ["batch", 3, 32, 32])], [("output", ["batch", 5])]]


def test_onnx_export_names_what_has_no_layer_by_kind_and_number(tmp_path: Path) -> None:
    """A plan from a file of another make, whose steps have no names."""
    plan = minires.compile(small("resnet20"), (1, 3, 8, 8), kernels="reference")
    bare = Graph(
        tuple(Step(s.kind, s.inputs, s.output, s.attributes, s.constants) for s in plan.graph.steps),
        plan.graph.shapes,
        plan.graph.input,
        plan.graph.output,
        plan.graph.dtype,
    )
    proto = export(type(plan)(bare, plan.kernels), tmp_path / "net.onnx")
    assert [node.name for node in proto.graph.node][:3] == ["conv2d_0", "conv2d_0.relu", "conv2d_1"]


def test_onnx_export_of_a_slice_and_a_padding_that_change_nothing(tmp_path: Path) -> None:
    """`compile` drops such steps; a plan from a file may have them."""
    shapes = {0: (1, 2, 3), 1: (1, 2, 3), 2: (1, 2, 3)}
    steps = (
        Step("slice", (0,), 1, {"index": ((0, 2, 1), (0, 3, 1))}),
        Step("clamp", (1,), 2, {"low": -np.inf, "high": np.inf}),
    )
    plan = minires.compile(nn.ReLU(), (1, 2, 3))
    export(type(plan)(Graph(steps, shapes, 0, 2, np.dtype("float32")), plan.kernels), tmp_path / "net.onnx")
    x = images(2, 2, 3, dtype="float32")
    np.testing.assert_array_equal(onnxruntime_answers(tmp_path / "net.onnx", x), x)


def test_onnx_export_takes_names_for_both_ends(tmp_path: Path) -> None:
    """Also where a layer has that name already."""
    net = function(lambda x, logits: logits(x).relu(), logits=nn.Linear(3, 2))
    proto = export(net, tmp_path / "net.onnx", (1, 3), input_name="pixels", output_name="logits")
    assert [node.name for node in proto.graph.node] == ["logits_2", "logits.relu"]
    assert list(proto.graph.node[1].output) == ["logits"]
    x = images(2, 3, dtype="float32")
    assert_close(onnxruntime_answers(tmp_path / "net.onnx", x), eager(net, x), "float32")


def test_onnx_export_leaves_an_older_file_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"before")
    monkeypatch.setattr(onnx_write, "MAX_BYTES", 10_000)
    with pytest.raises(ArgumentError, match=r"the model takes [0-9,]+ bytes; an ONNX file holds 10,000 \(2 GiB\)"):
        minires.export_onnx(models.resnet20(), path, (1, 3, 8, 8))
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.ReLU(), {}, r"a module needs input_shape, for example \(1, 3, 224, 224\)"),
        (np.zeros(3), {}, "model must be a Module or a Plan, got ndarray"),
        (
            nn.ReLU(),
            {"input_shape": (1, 2), "input_name": "output"},
            "two different names are needed, got 'output' and",
        ),
        (nn.ReLU(), {"input_shape": (1, 2), "output_name": ""}, "two different names are needed, got 'input' and ''"),
        (
            minires.compile(nn.ReLU(), (1, 2)),
            {"input_shape": (1, 3)},
            r"the plan has input_shape \(1, 2\), got \(1, 3\)",
        ),
    ],
)
def test_onnx_export_refuses_what_it_cannot_write(model: Any, options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=f"export_onnx: {message}"):
        minires.export_onnx(model, tmp_path / "net.onnx", **options)
    assert not list(tmp_path.iterdir())
