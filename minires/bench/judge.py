"""Weights, input and expected results: the reference kernels in float64. Runs in a process of its own.

The weights are as a trained network has them, not as a new one: batch norm's running statistics are those of real
activations, its scales differ from 1 and its shifts from 0. A contender that folds batch norm wrongly is then seen, and
activations keep their size through a hundred layers.
"""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np

from minires import nn, optim
from minires.autograd import no_grad
from minires.backend import kernel_set
from minires.bench.layers import Layer
from minires.bench.structure import describe
from minires.bench.workload import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Workload
from minires.errors import UnsupportedError
from minires.io.safetensors import save_file
from minires.nn import functional as F
from minires.tensor import Tensor

CHUNK = 8  # images at once in float64: im2col of ResNet-18 at 224 pixels takes 0.4 GB for them
CALIBRATION = 4  # images whose statistics become batch norm's


def open_task(kind: str, variant: str, workload: Workload) -> None:
    """Write weights.safetensors, input.npy, labels.npy, structure.json and reference.npz.

    Args:
        kind: "infer" and "start": the outputs; "train": what one step leaves behind; "ops": reference.npz
            alone, what one layer gives.
    """
    if kind == "ops":
        layer = Layer(**workload.layer)
        x64: dict[str, Any] = {
            name: array.astype(np.float64) for name, array in layer.arrays(workload.batch, workload.seed).items()
        }
        expected: dict[str, Any] = layer.compute(kernel_set("reference"), workload.batch, x64)
        np.savez(workload.path("reference.npz"), **expected)
        return
    rng = np.random.default_rng(workload.seed)
    images = rng.standard_normal(workload.input_shape, np.float32)
    model = workload.build()
    calibrate(model, rng, workload)
    save_file(dict(model.state_dict()), workload.path("weights.safetensors"))
    np.save(workload.path("input.npy"), images)
    classes = model.fc.out_features
    labels = rng.integers(0, classes, workload.batch)
    np.save(workload.path("labels.npy"), labels)
    try:
        structure = describe(model)
    except UnsupportedError as error:  # its torch contenders will say so; minires can still be measured
        structure = {"unsupported": str(error)}
    workload.path("structure.json").write_text(json.dumps(structure), encoding="utf-8")
    model.double()
    results: dict[str, Any] = training_step(model, images, labels) if kind == "train" else outputs(model, images)
    np.savez(workload.path("reference.npz"), **results)


def calibrate(model: nn.Module, rng: np.random.Generator, workload: Workload) -> None:
    """Draw batch norm's scales and shifts, and set its running statistics to those of a few images."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            scale, shift = cast(Tensor, module.weight), cast(Tensor, module.bias)
            scale.array[...] = rng.uniform(0.5, 1.5, scale.shape)
            shift.array[...] = 0.1 * rng.standard_normal(shift.shape)
            module.momentum = 1.0  # running = the batch's
    images = rng.standard_normal((CALIBRATION, *workload.input_shape[1:]), np.float32)
    model.train()
    with no_grad():
        model(Tensor(images))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1


def outputs(model: nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """The network in evaluation mode, a few images at a time."""
    model.eval()
    with no_grad():
        chunks = [model(Tensor(images[i : i + CHUNK].astype(np.float64))).numpy() for i in range(0, len(images), CHUNK)]
    return {"output": np.concatenate(chunks)}


def training_step(model: Any, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What one step of SGD leaves behind; see step_results."""
    model.train()
    optimizer = optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    loss = F.cross_entropy(model(Tensor(images.astype(np.float64))), Tensor(labels))
    loss.backward()
    optimizer.step()
    return step_results(loss.item(), model)


def step_results(loss: float, model: Any) -> dict[str, np.ndarray]:
    """What a training step leaves behind, for models of minires and, with torch's names, of torch.

    Returns:
        loss; gradient/NAME and weight/NAME (after the step) of parameters; state/NAME of buffers.
    """
    results = {"loss": np.array(loss)}
    for name, parameter in model.named_parameters():
        results[f"gradient/{name}"] = parameter.grad.numpy()
        results[f"weight/{name}"] = parameter.detach().numpy()
    for name, value in model.named_buffers():
        results[f"state/{name}"] = value.numpy()
    return results
