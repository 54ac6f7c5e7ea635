"""The peak of training, predicted, and then measured."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import minires
from minires import models, nn, optim
from minires.backend import current_kernels, kernel_set, use_kernels
from minires.errors import ArgumentError
from minires.nn import functional as F
from minires.tensor import Tensor
from minires.train import memory
from minires.train.evaluate import images_at_once
from minires.train.forecast import StepForecast
from minires.train.memory import MemoryEstimate, memory_line, predict_training_memory, size_text
from minires.train.rehearsal import rehearse_step, sample_sizes

FLOAT = 4
SPARE = 1 << 16  # bytes of Python's own objects, of tables
HERE = Path(__file__).parent


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


# ------------------------------------------------------------------------------------------- predicted and measured

CASES = [
    pytest.param("resnet8", 32, 64, "reference", id="reference resnet8 32x32 batch 64"),
    pytest.param("resnet20", 32, 128, "reference", marks=pytest.mark.slow),
    pytest.param("resnet18", 64, 16, "reference", marks=pytest.mark.slow),
    pytest.param("wrn_16_4", 32, 16, "reference", marks=pytest.mark.slow),
    pytest.param("resnet20", 28, 128, "cpu", marks=pytest.mark.slow),
    pytest.param("resnet20", 32, 128, "cpu", marks=pytest.mark.slow),
    pytest.param("resnet18", 64, 16, "cpu", marks=pytest.mark.slow),
    pytest.param("wrn_16_4", 32, 32, "cpu", marks=pytest.mark.slow),
    pytest.param("resnet18", 224, 32, "cpu", marks=pytest.mark.slow),
]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a stage is read from Linux's /proc")
@pytest.mark.parametrize(("name", "size", "batch", "kernels"), CASES)
def test_the_prediction_is_within_a_tenth_of_what_is_measured(name, size, batch, kernels):
    if kernels == "cpu":
        pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")
    environment = {**os.environ, "MINIRES_KERNELS": kernels, "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / "measured_step.py"), name, str(size), str(batch)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    model = models.build(name, num_classes=10, in_channels=3, image_size=size)
    with use_kernels(kernels):
        predicted = predict_training_memory(model, (3, size, size), batch)
    measured = int(done.stdout) + predicted.weights  # which were there before the steps
    print(f"{name} {size}x{size} batch {batch} {kernels}: {predicted.growth / measured:.3f} of {size_text(measured)}")
    assert abs(predicted.growth / measured - 1) < 0.1


def test_the_pool_is_predicted_as_it_then_is():
    pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")
    from minires.kernels.cpu.memory import pool as real

    model, batch = models.build("resnet8", num_classes=10, in_channels=3, image_size=16), 12
    with use_kernels("cpu"):
        predicted = max(moment.pooled for moment in StepForecast(model, (3, 16, 16), batch).moments())
        gc.collect()
        real.clear()
        real.reset_peak()
        others = real.used_bytes  # what earlier tests of this process still hold
        images = Tensor(np.zeros((batch, 3, 16, 16), np.float32))
        for _ in range(2):
            F.cross_entropy(model(images), Tensor(np.zeros(batch, np.int64))).backward()
            model.zero_grad()
    # Of scratch memory, which the pool rounds up, the prediction is what is touched; and it knows of memory of the set that is
    # no pool's.
    rounding = sum(4 * key[1] for key in real._free if key[0] == "scratch")
    peak = real.peak_bytes - others
    assert peak - rounding < predicted < 1.1 * peak
    assert rounding < peak / 3


# ------------------------------------------------------------------------------------------------------- the rehearsal


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_the_line_through_two_and_three_images_meets_what_more_images_take(kernels, monkeypatch):
    if kernels == "cpu":
        pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")
    model = small_net()
    with use_kernels(kernels):
        # Large enough for NumPy to save temporaries (from 256 KiB on it computes in their memory), with two images too.
        line = StepForecast(model, (3, 72, 72), 12).moments()
        monkeypatch.setattr("minires.train.rehearsal.sample_sizes", lambda batch: (batch,))
        step = StepForecast(model, (3, 72, 72), 12).moments()
    assert len(line) == len(step)
    for predicted, seen in zip(line, step, strict=True):
        assert predicted.saved == seen.saved
        assert abs(predicted.mark.plain_peak - seen.mark.plain_peak) < SPARE
        assert abs(predicted.pooled - seen.pooled) < SPARE


def test_what_is_kept_for_backward_is_counted_once(reference_kernels):
    """The batch norm's output is kept by it, by its ReLU's mask (fused: one array), and by the next convolution."""
    images, size = 10, 12
    forecast = StepForecast(small_net(), (3, size, size), images)
    saved = dict(zip((row.name for row in forecast.rows), forecast.saved(), strict=True))
    plane = FLOAT * images * size * size
    statistics = 2 * 8 * 8  # mean and variance of 8 channels, float64
    assert saved["0"] == 3 * plane  # the images
    assert saved["1"] == 2 * 8 * plane + statistics  # the convolution's output and its own
    assert saved["3"] == 0  # its input is the batch norm's output
    assert saved["6"] == FLOAT * images * 4
    kinds = {row.name: row.kind for row in forecast.rows}
    assert kinds["1"] == "BatchNorm2d + ReLU" and "2" not in kinds


def test_a_frozen_network_keeps_less(reference_kernels):
    model = small_net()
    every = sum(StepForecast(model, (3, 12, 12), 8).saved())
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    assert sum(StepForecast(model, (3, 12, 12), 8, frozen=[model[0], model[1]]).saved()) < every / 2


def test_a_rehearsal_leaves_the_model_as_it_was(reference_kernels):
    model = nn.Sequential(small_net(), nn.Dropout(0.5))
    model[0][1].eval()
    model(Tensor(np.ones((2, 3, 12, 12), np.float32))).sum().backward()
    grads = [p.grad for p in model.parameters()]
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    drawn = minires.random.get_rng_state()
    rehearse_step(model, (3, 12, 12), 7)
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))
    assert all(np.array_equal(tensor.numpy(), before[name]) for name, tensor in model.state_dict().items())
    assert minires.random.get_rng_state() == drawn
    assert model.training and not model[0][1].training
    assert minires.autograd.function.listeners == [] and nn.module_hooks.call_listeners == []


def test_few_images_are_rehearsed():
    assert [sample_sizes(batch) for batch in (1, 2, 3, 4, 1000)] == [(1,), (2,), (3,), (2, 3), (2, 3)]


class Fickle(nn.Module):
    """Does something else with three images than with two."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.fc(x if len(x) == 2 else x * 2)


def test_a_model_that_depends_on_the_batch_is_refused(reference_kernels):
    with pytest.raises(ArgumentError, match="other operations with 2 and 3 images, so no line can be drawn to batch 9"):
        predict_training_memory(Fickle(), (1, 2, 2), 9)
    assert predict_training_memory(Fickle(), (1, 2, 2), 3).batch == 3


def test_the_indices_of_a_max_pool_get_no_gradient(reference_kernels):
    """They are int64: zeros in their place would be twice as large as the gradient of the values."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 64 * 64, 2))
    moments = StepForecast(model, (1, 128, 128), 2).moments()
    (backward,) = [m for m in moments if m.mark.row == 1 and m.mark.phase == "backward"]
    # The reference's scratch memory is 0.6 of grad_x; zeros for the indices would add 0.5.
    assert backward.scratch < 0.9 * FLOAT * 2 * 4 * 128 * 128


@pytest.mark.parametrize("batch", [0, -1, 2.5, True])
def test_a_batch_that_is_none_is_refused(reference_kernels, batch):
    with pytest.raises(ArgumentError, match=f"batch must be an integer >= 1, got {batch!r}"):
        predict_training_memory(small_net(), (3, 12, 12), batch)


def test_an_unknown_optimiser_is_refused():
    with pytest.raises(ArgumentError, match="optimizer must be one of sgd, adam, adamw, got 'lion'"):
        predict_training_memory(small_net(), (3, 12, 12), 2, "lion")


# -------------------------------------------------------------------------------------------------------- the estimate


def test_the_parts_of_an_estimate(reference_kernels):
    model = small_net()
    count = sum(p.array.size for p in model.parameters())
    sgd = predict_training_memory(model, (3, 12, 12), 16)
    assert sgd.weights == FLOAT * count + sum(b.array.nbytes for b in model.buffers())
    assert sgd.optimizer_state == FLOAT * count
    assert predict_training_memory(model, (3, 12, 12), 16, "adam").optimizer_state == 2 * FLOAT * count
    plain = optim.SGD(model.parameters(), lr=0.1)
    assert predict_training_memory(model, (3, 12, 12), 16, plain).optimizer_state == 0
    assert (
        predict_training_memory(model, (3, 12, 12), 16, optim.AdamW(model.parameters())).optimizer_state
        == 2 * FLOAT * count
    )
    image = FLOAT * 3 * 12 * 12 * 16
    assert sgd.input == image
    assert predict_training_memory(model, (3, 12, 12), 16, batches_ahead=2).input == 3 * image
    assert sgd.total == sum(sgd.as_dict()[part] for part in memory.PARTS)
    assert set(memory.PARTS) == {
        "baseline", "weights", "gradients", "optimizer_state", "input", "saved", "workspace",
    }  # fmt: skip
    assert "peak memory of training, batch 16" in str(sgd) and "optimizer state" in str(sgd)


class Images(list):
    """So many, of one shape."""

    def __init__(self, count: int) -> None:
        super().__init__(range(count))
        self.image_shape = (3, 12, 12)


def parts_of_a_run(batch_size: int, accumulate: int = 1) -> SimpleNamespace:
    model = small_net()
    return SimpleNamespace(
        model=model,
        optimizer=optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        frozen=[],
        config=SimpleNamespace(batch_size=batch_size, accumulate=accumulate),
        loader=SimpleNamespace(dataset=Images(1000), workers=1, prefetch=2, ranks=1),
    )


def test_the_line_of_a_run_that_fits(reference_kernels, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 50)
    assert memory_line(parts_of_a_run(16)).startswith("memory  about ")
    assert memory_line(parts_of_a_run(16)).endswith(" at the peak")
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert memory_line(parts_of_a_run(16)).endswith(" at the peak")


def test_the_line_of_a_run_that_does_not_fit_names_a_batch_that_does(reference_kernels, monkeypatch):
    monkeypatch.setattr(memory, "resident_memory", lambda: 100 << 20)
    parts = parts_of_a_run(800)

    def needed(batch: int) -> int:
        return predict_training_memory(parts.model, (3, 12, 12), batch, parts.optimizer, batches_ahead=2).total - (
            100 << 20
        )

    monkeypatch.setattr(memory, "available_memory", lambda: needed(300))
    line = memory_line(parts)
    fits = int(line.split("about ")[2].split(" images")[0])
    assert "are free on this machine" in line and f"batch_size = {fits}, or accumulate = 3" in line
    assert abs(fits - 300) <= 15  # a step of so small a network is half Python's own objects
    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    assert "not even one image at once would fit" in memory_line(parts)


def test_the_line_counts_the_pieces_of_a_step(reference_kernels, monkeypatch):
    asked = []
    forecast = memory.StepForecast
    monkeypatch.setattr(
        memory,
        "StepForecast",
        lambda model, shape, batch, **more: asked.append(batch) or forecast(model, shape, batch, **more),
    )
    memory_line(parts_of_a_run(64, accumulate=4))
    memory_line(parts_of_a_run(5000))  # of 1000 images
    assert asked == [16, 1000]


def test_no_line_where_nothing_can_be_told(reference_kernels):
    parts = parts_of_a_run(8)
    parts.model = Fickle()
    parts.loader.dataset.image_shape = (1, 2, 2)
    assert memory_line(parts) == ""


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"/proc/meminfo": ["MemTotal: 9 kB", "MemAvailable: 7 kB"]}, 7168),
        ({"/proc/meminfo": ["MemAvailable: 7 kB"], "/sys/fs/cgroup/memory.max": ["max"]}, 7168),
        (
            {
                "/proc/meminfo": ["MemAvailable: 7 kB"],
                "/sys/fs/cgroup/memory.max": ["5000"],
                "/sys/fs/cgroup/memory.current": ["2000"],
            },
            3000,
        ),
        ({"/sys/fs/cgroup/memory.max": ["5"], "/sys/fs/cgroup/memory.current": ["9"]}, 0),
        ({}, None),
    ],
)
def test_available_memory_is_what_the_machine_and_the_container_leave(monkeypatch, files, free):
    monkeypatch.setattr(memory, "_lines", lambda path: files.get(path, []))
    assert memory.available_memory() == free


def test_sizes_as_text():
    sizes = [0, 1023, 1 << 10, 1536 << 10, 300 << 20, 1 << 30, 20 << 30]
    assert [size_text(size) for size in sizes] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "300 MiB",
        "1.0 GiB",
        "20 GiB",
    ]


def test_the_kernel_set_in_use_is_the_one_rehearsed(monkeypatch):
    """Also under MINIRES_CHECK, where the set stands behind another object."""
    with use_kernels("reference", check=True):
        assert current_kernels() is not kernel_set("reference")
        assert isinstance(predict_training_memory(small_net(), (3, 12, 12), 4), MemoryEstimate)


def test_an_evaluation_shares_no_memory_with_steps(monkeypatch):
    """Its batch is larger: were the buffers of both kept, a run would take more than its steps do."""
    pytest.importorskip("numba", reason="the cpu kernel set is compiled by numba, which is not installed")
    from minires.data import load
    from minires.kernels.cpu.memory import pool
    from minires.train.evaluate import evaluate

    model = models.build("resnet8", num_classes=10, in_channels=1, image_size=8)
    waiting = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda x: waiting.append(pool.free_bytes) or forward(x))
    with use_kernels("cpu"):
        model(Tensor(np.zeros((5, 1, 8, 8), np.float32))).sum().backward()
        assert pool.free_bytes > 0
        evaluate(model, load("digits")[1].subset(range(20)), workers=0)
        assert waiting[1] == pool.free_bytes == 0


def test_fewer_large_images_are_evaluated_at_once():
    sizes = [8, 32, 64, 96, 224, 5000]
    assert [images_at_once((3, size, size)) for size in sizes] == [256, 256, 256, 113, 20, 1]
