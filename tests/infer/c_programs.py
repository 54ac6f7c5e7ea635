"""Exported models compiled and run by the tests: as a program over several graphs, or as the program of one model."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

import minires
from minires import nn
from minires.infer import Plan
from minires.infer.c_export import export_c
from minires.kernels import reference
from minires.kernels.graph import Graph

CC = shutil.which("cc") or shutil.which("gcc")

STRICT = ["-std=c99", "-pedantic", "-Werror"]
STRICT += [
    f"-W{name}" for name in ("all", "extra", "conversion", "sign-conversion", "shadow", "double-promotion", "vla")
]
STRICT += [
    f"-W{name}" for name in ("strict-prototypes", "missing-prototypes", "cast-qual", "write-strings", "trigraphs")
]
FAST = ["-O3", "-march=native"]
FOUND = 99  # exit status of a program in which a sanitizer found something

# The small classifier of these tests: awkward class names, images of 6 x 5 pixels.
NAMES = ['say "hi"', "back\\slash??/", "naïve 猫", "two\nlines", "a tab\tand \x01123", "%s %n", "7"]
H, W = 6, 5

needs_cc = pytest.mark.skipif(CC is None, reason="there is no C compiler (cc)")


@cache
def sanitized() -> list[str]:
    """Flags for the address and undefined-behaviour sanitizers; the test is skipped where they are not installed.

    Without -O and -g, which make compiling ten times slower under them.
    """
    flags = ["-O0", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    with TemporaryDirectory() as folder:
        source = Path(folder) / "empty.c"
        source.write_text("int main(void) { return 0; }\n")
        made = subprocess.run([str(CC), *flags, source, "-o", source.with_suffix("")], capture_output=True)
        if made.returncode or subprocess.run([source.with_suffix("")], capture_output=True).returncode:
            pytest.skip("the C compiler has no address and undefined-behaviour sanitizers")
    return flags


def cc(*arguments: str | Path, compiler: str | None = None) -> None:
    """Compile; a warning is an error where STRICT is among the arguments."""
    done = subprocess.run([compiler or str(CC), *map(str, arguments), "-lm"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    assert not done.stderr, done.stderr[:4000]


def run(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    """Run a program; what a sanitizer finds fails the test."""
    environment = {
        "PATH": os.environ["PATH"],
        "ASAN_OPTIONS": f"exitcode={FOUND}",
        "UBSAN_OPTIONS": f"exitcode={FOUND}",
    }
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, env=environment, **options)
    assert done.returncode >= 0 and done.returncode != FOUND, done.stderr[:4000]
    return done


def as_dtype(graph: Graph, dtype: str) -> Graph:
    """The graph with its constants, and all values, in another dtype."""
    steps = tuple(
        replace(step, constants={name: array.astype(dtype) for name, array in step.constants.items()})
        for step in graph.steps
    )
    return replace(graph, steps=steps, dtype=np.dtype(dtype))


# Each model runs twice, on NaN first: whatever a run reads before it has written it is then NaN. Input and output are of
# exactly their sizes, so that the address sanitizer sees a step beyond them.
DRIVER = """
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
{includes}
#define CHECK(good) if (!(good)) {{ fprintf(stderr, "failed: %s\\n", #good); return 3; }}
int main(int argc, char **argv)
{{
    FILE *from = fopen(argv[1], "rb"), *to = fopen(argv[2], "wb");
    CHECK(argc == 3 && from && to)
    {runs}
    CHECK(getc(from) == EOF && !fclose(to))
    fclose(from);
    return 0;
}}
"""
A_RUN = """{{
        {real} *x = malloc({name}_INPUT_SIZE * sizeof *x), *y = malloc({name}_OUTPUT_SIZE * sizeof *y);
        CHECK(x && y){load}
        for (size_t i = 0; i < {name}_INPUT_SIZE; i++) x[i] = NAN;
        CHECK({lower}_run(x, y) == 0)
        CHECK(fread(x, sizeof *x, {name}_INPUT_SIZE, from) == {name}_INPUT_SIZE)
        CHECK({lower}_run(x, y) == 0)
        CHECK(fwrite(y, sizeof *y, {name}_OUTPUT_SIZE, to) == {name}_OUTPUT_SIZE)
        free(x);
        free(y);
    }}
"""


def run_graphs(
    folder: Path,
    graphs: Sequence[Graph],
    inputs: Sequence[np.ndarray],
    flags: Sequence[str],
    compiler: str | None = None,
    weights: str = "inside",
) -> list[np.ndarray]:
    """Each graph's output for one image, from one program of all of them."""
    sources, runs, names = [], "", [f"net{i}" for i in range(len(graphs))]
    for name, graph in zip(names, graphs, strict=True):
        sources.append(export_c(Plan(graph, reference), folder / name, weights=weights)[0])
        real = "float" if graph.dtype == np.float32 else "double"
        load = f"\n        CHECK({name}_load({name.upper()}_WEIGHTS_FILE) == 0)" if weights == "beside" else ""
        runs += A_RUN.format(name=name.upper(), lower=name, real=real, load=load)
    includes = "\n".join(f'#include "{name}.h"' for name in names)
    (folder / "driver.c").write_text(DRIVER.format(includes=includes, runs=runs))
    strict = STRICT if compiler is None else ["-w"]
    cc(*strict, *flags, *sources, folder / "driver.c", "-o", folder / "driver", compiler=compiler)
    (folder / "in").write_bytes(b"".join(x.tobytes() for x in inputs))
    done = run(folder / "driver", "in", "out", cwd=folder)
    assert done.returncode == 0 and not done.stderr, done.stderr
    data, outputs = (folder / "out").read_bytes(), []
    for graph in graphs:
        shape = (1, *graph.shapes[graph.output][1:])
        size = int(np.prod(shape)) * graph.dtype.itemsize
        outputs.append(np.frombuffer(data[:size], graph.dtype).reshape(shape))
        data = data[size:]
    assert not data
    return outputs


def plan_of(net: nn.Module, *shape: int) -> Plan:
    return minires.compile(net, (1, *shape), kernels="reference")


def classifier(channels: int = 3, softmax: bool = False) -> Plan:
    """A few layers that tell pixels and channels apart."""
    layers: list[nn.Module] = [nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(8 * H * W, len(NAMES)), *[nn.Softmax(1)] * softmax]
    return plan_of(nn.Sequential(*layers), channels, H, W)
