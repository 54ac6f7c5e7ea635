"""The files of an exported model: header, source, and the numbers beside them.

The source holds, in this order: types, kernels, constants, the functions that convolutions share, `run`, and, behind an
#ifdef, a program. kernels.c and program.c say what the kernels and the program do.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from minires.errors import ArgumentError
from minires.infer import cost
from minires.infer.c.order import BLOCK_BYTES, MAX_STATIC, Program, channels_last
from minires.infer.c.steps import Text, write_steps
from minires.infer.c.text import number, numbers, string, with_needs
from minires.infer.table import short
from minires.kernels.interface import Array

STATUS = ("OK", "NOT_LOADED", "CANNOT_OPEN", "CANNOT_READ", "WRONG_SIZE", "WRONG_CHECKSUM")


@dataclass(frozen=True)
class Model:
    """What is exported, and under which names.

    Attributes:
        program: the graph and its memory.
        name: what all of its identifiers begin with.
        stem: of the files' names.
        beside: whether the constants are in a file of their own.
        classes: names of the outputs, or none.
        mean, std: of each channel, for images; empty where the input is no image.
    """

    program: Program
    name: str
    stem: str
    beside: bool
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def itemsize(self) -> int:
        return self.program.graph.dtype.itemsize

    @property
    def real(self) -> str:
        return "float" if self.program.graph.dtype == np.float32 else "double"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.program.graph.shapes[self.program.graph.input]

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.program.graph.shapes[self.program.graph.output]

    def named(self, text: str) -> str:
        """`text` with the model's name for `model_` and `MODEL_`."""
        return re.sub(r"\bMODEL_", f"{self.name.upper()}_", re.sub(r"\bmodel_", f"{self.name}_", text))


@dataclass(frozen=True)
class Files:
    """Attributes:
    header: its text.
    source: its text, in pieces: with its constants inside it may have hundreds of megabytes.
    weights: the numbers beside, lowest byte first; None where they are inside.
    """

    header: str
    source: Iterator[str]
    weights: Array | None


def files(model: Model) -> Files:
    """What the files hold.

    Raises:
        ArgumentError: constants and values are too large for static data; a name that C cannot hold.
    """
    text = write_steps(model.program)
    places, numbers_beside = _places(text, model)
    static = (numbers_beside + model.program.size) * model.itemsize
    if static > MAX_STATIC:
        raise ArgumentError(
            f"export_c: weights and values need {static:,} bytes of static memory, and compilers give at most {MAX_STATIC:,}"
        )
    weights = None
    if model.beside:
        weights = np.zeros(numbers_beside, model.program.graph.dtype.newbyteorder("<"))
        for name, array in text.constants.items():
            weights[places[name] : places[name] + array.size] = array.reshape(-1)
    return Files(_header(model, weights), _source(model, text, places, weights, _classes(model)), weights)


def _places(text: Text, model: Model) -> tuple[dict[str, int], int]:
    """Where each constant begins if all lie in one array, each at the start of a cache line; and the array's size."""
    line = BLOCK_BYTES // model.itemsize
    places: dict[str, int] = {}
    size = 0
    for name, array in text.constants.items():
        places[name] = size
        size += -(-array.size // line) * line
    return places, max(size, line)  # C has no arrays of nothing


# ---------------------------------------------------------------------------------------------------------- header

_HEADER = """\
/* {real} input[{inputs}] -> {real} output[{outputs}], a network for one image at a time: call it in a loop for more.
 *
 * Inputs and outputs lie in C order{order}. All memory is static: {buffers}B for values, {weights}B for weights; nothing is
 * allocated. One thread at a time may call it. Written by minires; do not edit.
 *
 *     cc -O3 -march=native -c {stem}.c                                the functions below
 *     cc -O3 -march=native -DMINIRES_MAIN {stem}.c -lm -o {name}      a program that classifies files
 */
#ifndef MODEL_H
#define MODEL_H

#define MODEL_INPUT_SIZE {input_size}
#define MODEL_OUTPUT_SIZE {output_size}
{sizes}
#ifdef __cplusplus
extern "C" {{
#endif
{status}
/* Run the network. input and output may be the same memory. {returns} */
int model_run(const {real} *input, {real} *output);
{more}
#ifdef __cplusplus
}}
#endif

#endif
"""

_LOADING = """
/* Read the weights; model_run needs them. A {status}. */
int model_load(const char *path);

/* A status in words. */
const char *model_message(int status);
"""


def _header(model: Model, weights: Array | None) -> str:
    program = model.program
    constants = sum(cost.constant_bytes(step) for step in program.graph.steps)
    sizes, more = "", ""
    if model.mean:
        _, channels, height, width = model.input_shape
        sizes += f"#define MODEL_CHANNELS {channels}\n#define MODEL_HEIGHT {height}\n#define MODEL_WIDTH {width}\n"
    status = ""
    if weights is not None:
        sizes += f"#define MODEL_WEIGHTS_FILE {string(model.stem + '.bin', 'the name of the weights file')}\n"
        sizes += f"#define MODEL_WEIGHTS_CRC32 0x{zlib.crc32(weights.data):08x}u\n"
        status = "\nenum model_status {\n" + ",\n".join(f"    MODEL_{name}" for name in STATUS) + "\n};\n"
        more = _LOADING.format(status="model_status: MODEL_OK, or what is wrong")
    if model.classes:
        sizes += f"#define MODEL_CLASSES {len(model.classes)}\n"
        more += "\n/* The name of each output, in UTF-8. */\nextern const char *const model_classes[MODEL_CLASSES];\n"
    return model.named(
        _HEADER.format(
            real=model.real,
            inputs="][".join(map(str, model.input_shape[1:])) or "1",
            outputs="][".join(map(str, model.output_shape[1:])) or "1",
            order=", channels first" if len(model.input_shape) == 4 else "",
            buffers=short(program.size * model.itemsize),
            weights=short(constants) or 0,
            stem=model.stem,
            name=model.name,
            input_size=prod(model.input_shape),
            output_size=prod(model.output_shape),
            sizes=sizes,
            status=status,
            returns="MODEL_OK, or MODEL_NOT_LOADED." if model.beside else "Returns 0.",
            more=more,
        )
    )


# ---------------------------------------------------------------------------------------------------------- source


def _source(model: Model, text: Text, places: dict[str, int], weights: Array | None, classes: str) -> Iterator[str]:
    """The source, a piece after the other."""
    bits = 8 * model.itemsize
    system = ["math.h", "stddef.h", "stdint.h", *["stdio.h"] * model.beside, "string.h"]
    yield f'/* See {model.stem}.h. Written by minires; do not edit. */\n#include "{model.stem}.h"\n\n'
    yield "".join(f"#include <{name}>\n" for name in system)
    yield f"\ntypedef {model.real} real;\ntypedef uint{bits}_t real_bits;\n"
    yield f"typedef char real_has_{bits}_bits[sizeof(real) == sizeof(real_bits) ? 1 : -1];\n"
    yield f"#define EXP {'expf' if bits == 32 else 'exp'}\n\n"
    yield from _apart(with_needs("kernels.c", text.sections | {"reorder"}))  # of the input and the output
    yield "/* All values, each where it does not meet another that is still needed. */\n"
    yield f"static real block[{model.program.size}];\n\n"
    yield "/* The constants of each step; those of a convolution lie as its loops read them. */\n"
    if weights is not None:
        yield f"enum {{ WEIGHTS = {weights.size} }};\nstatic real weights[WEIGHTS];\n"
    for name, array in text.constants.items():
        if weights is not None:
            yield f"static const real *const {name} = weights + {places[name]};\n"
        else:
            yield f"static const real {name}[{array.size}] = {{\n"
            yield from (f"{line}\n" for line in numbers(array))
            yield "};\n"
    yield "\n"
    yield classes
    if weights is not None:
        yield from _apart(model.named(part) for part in with_needs("program.c", ["load"]))
    yield from _apart(f"NOINLINE static void {name}{body}" for body, name in text.functions.items())
    yield _run(model, text)
    yield from _main(model)


def _apart(parts: Iterable[str]) -> Iterator[str]:
    return (f"{part}\n\n" for part in parts)


def _run(model: Model, text: Text) -> str:
    """The function that runs all steps: the input is copied into the block first, the output out of it last."""
    graph, offsets = model.program.graph, model.program.offsets
    lines = ["if (!loaded)", "    return MODEL_NOT_LOADED;"] if model.beside else []

    def outside(shape: tuple[int, ...]) -> str:
        return f"{prod(shape)}, 1"

    def inside(shape: tuple[int, ...]) -> str:
        return ", ".join(map(str, channels_last(shape)))

    x, y = model.input_shape, model.output_shape
    lines.append(f"reorder(input, block + {offsets[graph.input]}, {outside(x)}, {inside(x)});")
    lines += text.calls
    lines.append(f"reorder(block + {offsets[graph.output]}, output, {inside(y)}, {outside(y)});")
    lines.append("return MODEL_OK;" if model.beside else "return 0;")
    body = "\n".join(f"    {line}" for line in lines)
    return model.named(f"int model_run(const {model.real} *input, {model.real} *output)\n{{\n{body}\n}}\n")


def _classes(model: Model) -> str:
    if not model.classes:
        return ""
    names = "".join(f"    {string(text, f'class name {i}')},\n" for i, text in enumerate(model.classes))
    return model.named(f"const char *const model_classes[MODEL_CLASSES] = {{\n{names}}};\n\n")


def _main(model: Model) -> Iterator[str]:
    """The program, which is compiled only where it is asked for."""
    graph = model.program.graph
    parts = ["raw", "numbers", "main", "image" if model.mean else "no_image"]
    parts.append("top" if len(model.output_shape) == 2 else "no_top")
    known = with_needs("program.c", parts)
    if model.beside:
        known = [part for part in known if part not in with_needs("program.c", ["load"])]  # is there already
    yield (
        "\n#if defined(MINIRES_MAIN) || defined("
        + f"{model.name.upper()}_MAIN)\n#include <errno.h>\n#include <stdio.h>\n\n"
    )
    for name in ("mean", "std"):
        values = getattr(model, name)
        if values:
            text = ", ".join(number(value, np.dtype("float64")) for value in values)
            yield f"static const double {name}[MODEL_CHANNELS] = {{{text}}};\n".replace("MODEL", model.name.upper())
    ends_in_softmax = bool(graph.steps) and graph.steps[-1].kind == "softmax"
    yield f"enum {{ ENDS_IN_SOFTMAX = {int(ends_in_softmax)} }};    /* the outputs are probabilities */\n\n"
    yield from _apart(model.named(part) for part in known)
    yield "#endif\n"
