"""`minires export --format c`: compiled and run here, where there is a compiler, before it is handed out."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from minires.cli.formats.job import Job, Written

__all__ = ["write_c"]

MAX_COMPILED = 5_000_000  # weights inside a C file that is compiled to see whether it is right; more take minutes
COMPILE_SECONDS = 300


def write_c(job: Job) -> Written:
    from minires.infer.c_export import export_c

    plan, source = job.plan(), job.source
    count = sum(constant.size for step in plan.graph.steps for constant in step.constants.values())
    weights = job.c_weights or ("inside" if count <= MAX_COMPILED else "beside")
    given: dict[str, Any] = {}
    transform = source.transform
    if transform is not None and transform.channels == source.shape[0]:
        # C divides bytes by 255; what a configuration's other factor means is put into mean and std.
        factor = 255 * transform.rescale
        given = {"mean": [m / factor for m in transform.mean], "std": [s / factor for s in transform.std]}
    files = export_c(plan, job.target, weights=weights, class_names=source.class_names, **given)
    logits, reader = _run_c(job, files[0], weights, count, plan.graph.dtype)
    name = files[0].stem
    channels = source.shape[0]
    image = f"image.{'ppm' if channels == 3 else 'pgm'}"
    return Written(
        files,
        [
            ("format", f"C99, weights {weights} the source, one image {'x'.join(map(str, source.shape))} at a time"),
            ("images", "normalised as in training" if given else "not normalised: mean 0 and std 1"),
        ],
        ("file", "bytes", "what"),
        [
            [path.name, f"{path.stat().st_size:,}", what]
            for path, what in zip(files, ("functions", "their declarations", "weights"), strict=False)
        ],
        logits,
        reader,
        [
            (f"cc -O3 -march=native -DMINIRES_MAIN {files[0].name} -lm -o {name}", "a program that classifies files"),
            (f"./{name} {image}", "use it: binary PPM or PGM of the model's size, or raw numbers"),
        ],
    )


_DRIVER = """\
#include <stdio.h>
#include "{header}"

int main(int count, char **arguments)
{{
    static {real} input[{macro}_INPUT_SIZE], output[{macro}_OUTPUT_SIZE];
    (void)count;
    (void)arguments;
{load}    while (fread(input, sizeof input, 1, stdin) == 1) {{
        {name}_run(input, output);
        fwrite(output, sizeof output, 1, stdout);
    }}
    return 0;
}}
"""


def _run_c(job: Job, file: Path, weights: str, count: int, dtype: np.dtype[Any]) -> tuple[np.ndarray | None, str]:
    """(logits of the compiled file, who compiled it or why nobody did)."""
    from minires.infer.c.text import identifier

    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        return None, "not run: there is no C compiler here"
    if weights == "inside" and count > MAX_COMPILED:
        return (
            None,
            f"not run: compiling {count:,} weights inside the source takes minutes; --weights beside is checked",
        )
    name = identifier(file.stem)
    load = f"    if ({name}_load(arguments[1]) != 0) return 1;\n" if weights == "beside" else ""
    real = "float" if dtype == np.float32 else "double"
    driver = _DRIVER.format(header=file.with_suffix(".h").name, real=real, name=name, macro=name.upper(), load=load)
    with tempfile.TemporaryDirectory() as folder:
        main, program = Path(folder, "main.c"), Path(folder, "program")
        main.write_text(driver, encoding="utf-8")
        command = [
            compiler,
            "-O1",
            "-std=c99",
            f"-I{file.parent.resolve()}",
            str(main),
            str(file),
            "-lm",
            "-o",
            str(program),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)
            arguments = [str(file.with_suffix(".bin"))] if weights == "beside" else []
            done = subprocess.run(
                [program, *arguments], input=job.x.tobytes(), capture_output=True, check=True, timeout=COMPILE_SECONDS
            )
        except subprocess.TimeoutExpired:
            return None, f"not run: {Path(compiler).name} and the program took more than {COMPILE_SECONDS} s"
        except subprocess.CalledProcessError as error:
            text = error.stderr.decode(errors="replace").strip() or f"exit code {error.returncode}"
            raise RuntimeError(f"the C file does not compile or run: {text[:2000]}") from None
    return np.frombuffer(done.stdout, dtype).reshape(len(job.x), -1), f"{Path(compiler).name} compiled and ran it"
