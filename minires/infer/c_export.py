"""A plan as one C99 file and its header: `export_c(plan, "resnet18.c")`.

What the file needs is a C compiler and libm: no library, no allocation; see `minires.infer.c` for how it is made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minires.errors import ArgumentError
from minires.infer.c.order import prepare
from minires.infer.c.source import Model, files
from minires.infer.c.text import identifier
from minires.infer.plan import Plan
from minires.io.files import write_atomically

__all__ = ["export_c"]

WEIGHTS = ("inside", "beside")
Numbers = float | Sequence[float]


def export_c(
    plan: Plan,
    path: str | os.PathLike[str],
    *,
    weights: str = "inside",
    class_names: Sequence[str] | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
) -> list[Path]:
    """Write a plan as C99: NAME.c and NAME.h, where NAME.c is `path`.

    The header has `int NAME_run(const float *input, float *output)` for one image (float is double for a float64 plan), the
    sizes NAME_INPUT_SIZE and NAME_OUTPUT_SIZE, and NAME_classes where names are given. Compiled with -DMINIRES_MAIN the file
    is a program that reads images (binary PPM and PGM of the model's size) or raw numbers and prints the five most probable
    classes. `cc -O3 -march=native` is how to compile it; by itself -std=c99 keeps GCC from using fused multiply-adds,
    which -ffp-contract=fast allows again.

    Args:
        plan: what `compile` or `load_plan` gave; its batch size does not matter.
        path: the source file; `.c` is added where it is missing. Identifiers begin with its stem, cleaned.
        weights: "inside" the source, as text of about 14 bytes a number; GCC 12 took 5 s and 270 MB for a million of them.
            "beside" it, in NAME.bin, which `NAME_load(path)` reads and checks by size and checksum: better from a few
            million on.
        class_names: one for each output of a plan whose output is (n, classes).
        mean, std: of each channel, or one for all; images become (sample / largest - mean) / std, where sample / largest is
            from 0 to 1. None: 0 and 1. `NAME_run` itself takes numbers that are normalised already.

    Returns:
        The files: source, header and, for "beside", weights. Each is written aside, flushed and renamed. Weights that are not
        of this very export are refused by the program.

    Raises:
        ArgumentError: an option that does not fit the plan, a file name that C cannot include, values or weights that do not
            fit static memory (2 GB).
        OSError: a file cannot be written.

    Example:
        >>> plan = minires.compile(model, (1, 3, 224, 224))
        >>> minires.infer.c_export.export_c(plan, "resnet18.c", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    """
    if not isinstance(plan, Plan):
        raise ArgumentError(
            f"export_c: plan must be a Plan, got {type(plan).__name__}; minires.compile(model, shape) makes one"
        )
    if weights not in WEIGHTS:
        raise ArgumentError(f"export_c: weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    source = Path(path)
    if source.suffix != ".c":
        source = source.with_name(f"{source.name}.c")
    stem = source.stem
    # An #include takes a file name as it stands; ? could be part of a trigraph, and a comment names the file, too.
    bad = [character for character in stem if character in '"\\?*<>|:' or not character.isprintable()]
    if bad:
        raise ArgumentError(f"export_c: an #include cannot name a file with {bad[0]!r} in its name, got {stem!r}")
    means, stds = _normalisation(plan, mean, std)
    model = Model(
        prepare(plan.graph), identifier(stem), stem, weights == "beside", _class_names(plan, class_names), means, stds
    )
    made = files(model)
    paths = [source, source.with_suffix(".h")]
    # The source last: where it is new, so is all that belongs to it.
    if made.weights is not None:
        paths.append(source.with_suffix(".bin"))
        with write_atomically(paths[2]) as file:
            file.write(made.weights.data)
    with write_atomically(paths[1], "w") as file:
        file.write(made.header)
    with write_atomically(paths[0], "w") as file:
        file.writelines(made.source)
    return paths


def _class_names(plan: Plan, names: Sequence[str] | None) -> tuple[str, ...]:
    """Checked against the output's size.

    Raises:
        ArgumentError: names that are no strings, or too many or too few.
    """
    if names is None:
        return ()
    found = [names] if isinstance(names, str) else list(names)
    wrong = [name for name in found if not isinstance(name, str)]
    if wrong or isinstance(names, str):
        raise ArgumentError(f"export_c: class_names must be strings in a list, got {wrong[0] if wrong else names!r}")
    if len(plan.output_shape) != 2 or len(found) != plan.output_shape[1]:
        raise ArgumentError(
            f"export_c: class_names needs one name for each output, of shape {plan.output_shape[1:]}, got {len(found)} names"
        )
    return tuple(found)


def _normalisation(
    plan: Plan, mean: Numbers | None, std: Numbers | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of each channel; empty where the model's input is no image of one or three channels.

    Raises:
        ArgumentError: values for an input that is no image, a wrong number of them, or a std that is not above 0.
    """
    shape = plan.input_shape
    if len(shape) != 4 or shape[1] not in (1, 3):
        if mean is not None or std is not None:
            raise ArgumentError(f"export_c: mean and std are for images of 1 or 3 channels, and the input is {shape}")
        return (), ()
    found = []
    for name, given, default in (("mean", mean, 0.0), ("std", std, 1.0)):
        try:
            values = np.asarray(default if given is None else given, np.float64)
        except (TypeError, ValueError):
            raise ArgumentError(f"export_c: {name} must be a number or one a channel, got {given!r}") from None
        if values.shape not in ((), (1,), (shape[1],)):
            raise ArgumentError(f"export_c: {name} must be a number or {shape[1]}, one a channel, got {given!r}")
        numbers = tuple(np.broadcast_to(values, shape[1]).tolist())
        if not all(math.isfinite(number) and (name == "mean" or number > 0) for number in numbers):
            raise ArgumentError(f"export_c: {name} must be finite{', above 0' if name == 'std' else ''}, got {given!r}")
        found.append(numbers)
    return found[0], found[1]
