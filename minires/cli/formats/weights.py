"""`minires export --format safetensors`, `npz` and `hf`: weights under the names that other libraries know."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from minires.cli.formats.job import Job, Written, eager, parts_table, state_arrays, strides_on_1x1, wiped

if TYPE_CHECKING:
    from minires.nn import Module

__all__ = ["write_huggingface", "write_npz", "write_safetensors"]

# Networks that timm has under the same name with the same tensors.
_TIMM = {
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet18d", "resnet50d", "resnext50_32x4d",
    "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2", "seresnet18", "seresnet50",
}  # fmt: skip


def write_safetensors(job: Job) -> Written:
    from minires.io.safetensors import save_file
    from minires.train.checkpoint import save_weights

    source, module = job.source, _module(job)
    checkpoint = source.checkpoint
    state = state_arrays(module)
    notes: list[str] = []
    architecture = source.architecture
    if checkpoint is not None:
        save_weights(
            job.target,
            config=checkpoint.config,
            model=module,
            data=checkpoint.data,
            progress=checkpoint.progress,
        )
        metadata = "format = pt, architecture, settings and classes of the run"
    else:
        named = {} if architecture is None else {"architecture": architecture}
        save_file(state, job.target, {"format": "pt", **named})
        metadata = ", ".join(f"{key} = {value}" for key, value in {"format": "pt", **named}.items())
    if strides_on_1x1(module):
        notes.append("no file of weights says that bottlenecks stride on the 1x1: load it with stride_on_1x1=True")
    elif architecture is None:
        notes.append("the file does not say which network it is of, since nothing beside its source did")
    name = job.target.name
    follow = [(f'python -c "import safetensors.torch as s; print(s.load_file({name!r}).keys())"', "read it with torch")]
    if architecture in _TIMM:
        classes = state["fc.weight"].shape[0]
        call = f"timm.create_model({architecture!r}, num_classes={classes}, checkpoint_path={name!r})"
        follow = [(f'python -c "import timm; {call}"', "the same network in timm")]
    return Written(
        [job.target],
        [("format", "safetensors, torchvision's names"), ("metadata", metadata)],
        *parts_table(state),
        _logits_of_file(job, module),
        "minires.load_model",
        [*follow, (f"minires import {name}", "what is in it")],
        notes,
    )


def write_npz(job: Job) -> Written:
    from minires.io.files import write_atomically

    module = _module(job)
    state = state_arrays(module)
    with write_atomically(job.target) as file:
        np.savez(file, allow_pickle=False, **state)
    call = f"import numpy; print(numpy.load({job.target.name!r}).files)"
    return Written(
        [job.target],
        [("format", "npz, an array a tensor, torchvision's names")],
        *parts_table(state),
        _logits_of_file(job, module),
        "minires.load_model",
        [(f'python -c "{call}"', "read it with NumPy"), (f"minires import {job.target.name}", "what is in it")],
        [
            "an npz file does not say which network it is of; "
            + (f"load it with model={job.source.architecture!r}" if job.source.architecture else "say it when loading")
        ],
    )


def write_huggingface(job: Job) -> Written:
    import minires
    from minires.cli.model_source import announcements
    from minires.io.huggingface import save_huggingface

    module = _module(job)
    files = save_huggingface(module, job.target, class_names=job.source.class_names, transform=job.source.transform)
    with announcements():
        back = minires.load_model(job.target)
    call = f"transformers.pipeline('image-classification', {job.target.name!r})('cat.jpg')"
    notes = (
        []
        if len(files) == 3
        else ["no preprocessor_config.json: it is not known, or not theirs, how images are prepared"]
    )
    if len(files) == 3:
        notes.append("their processors round the crop's place down, others to even: it may lie a pixel beside")
    return Written(
        files,
        [("format", "a folder as transformers' ResNetForImageClassification.save_pretrained lays it out")],
        *parts_table(state_arrays(module)),
        eager(back, job.x),
        "minires.load_model",
        [(f'python -c "import transformers; print({call})"', "classify an image with transformers")],
        notes,
    )


def _module(job: Job) -> Module:
    assert job.source.module is not None  # the caller has refused a plan where weights are needed
    return job.source.module


def _logits_of_file(job: Job, module: Module) -> np.ndarray:
    """Of the file's weights, in a network of the same form whose own weights were wiped out."""
    import minires

    return eager(minires.load_model(job.target, model=wiped(copy.deepcopy(module))), job.x)
