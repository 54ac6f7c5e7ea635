"""`minires export RUN_OR_WEIGHTS --output net.onnx`: a network for other programs, read back and compared before it is there.

| format      | what                                                    | who reads it                          |
|-------------|---------------------------------------------------------|---------------------------------------|
| onnx        | the whole network, batch norm folded, any batch         | onnxruntime, OpenVINO, minires        |
| safetensors | weights under torchvision's names                       | torch, timm, minires                  |
| hf          | a folder: weights, config.json, how images are prepared | transformers, minires                 |
| npz         | weights under torchvision's names                       | NumPy                                 |
| c           | C99 source and header, weights inside or beside         | any C compiler                        |
| plan        | the whole network, as minires runs it                   | minires, with NumPy alone             |
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minires.cli.output import FirstLineHelp, print_json, print_next, print_table

if TYPE_CHECKING:
    import numpy as np

    from minires.cli.formats import Written
    from minires.cli.model_source import ModelSource

NAMES = ("export",)
TOLERANCE = {
    "float32": 1e-4,
    "float64": 1e-10,
}  # of the largest logit: folding and other orders of sums change last bits


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "export",
        help="write a model for other programs: ONNX, safetensors, C, ...",
        description=__doc__,
        formatter_class=FirstLineHelp,
    )
    parser.add_argument(
        "source", metavar="SOURCE", nargs="?", help="a run, a file or folder of weights, a plan, an ONNX file"
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        choices=("onnx", "safetensors", "hf", "npz", "c", "plan"),
        help="see above (default: what the name after --output says)",
    )
    parser.add_argument("--output", metavar="FILE", help="the file, or hf's folder (default: the model's name)")
    parser.add_argument(
        "--model", metavar="NAME", help="which network the weights are of; without SOURCE: fresh weights"
    )
    parser.add_argument("--input", metavar="C,H,W", help="size of one image (default: what the source says)")
    parser.add_argument("--classes", metavar="N", type=int, help="another number of classes, with a fresh classifier")
    parser.add_argument(
        "--weights", choices=("inside", "beside"), help="c: where the numbers are (default: inside up to five million)"
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write, read back, compare, move to its place, tell."""
    import numpy as np

    from minires.cli.formats import FORMATS, Job
    from minires.cli.model_source import open_model
    from minires.errors import ArgumentError

    name = args.format or _format_of(args.output)
    if args.weights and name != "c":
        raise ArgumentError(f"export: --weights says where a C file has its weights; the format is {name}")
    chosen = FORMATS[name]
    source = open_model("export", args.source, args.model, args.input, args.classes)
    if chosen.needs_module and source.module is None:
        raise ArgumentError(
            f"export: {source.what} has no weights by name any more (batch norm is folded), which {name} needs; it can "
            "become onnx, c or plan. Take the weights it was made of"
        )
    target = Path(args.output) if args.output else Path(source.stem + chosen.suffix)
    if name == "c" and target.suffix != ".c":
        target = target.with_name(f"{target.name}.c")
    _refuse_overwriting(target, name, args.force)
    dtype = source.plan.graph.dtype if source.plan is not None else _dtype(source)
    x = np.random.default_rng(0).standard_normal((2, *source.shape)).astype(dtype)
    with staging(target) as folder:
        job = Job(source, Path(folder, target.name), x, lambda: _plan(source), args.weights)
        expected = _logits(source, x)
        written = chosen.write(job)
        verified = _compare(written, expected, source)
        written.files = _move(job.target, target, written.files)
    if args.json:
        print_json(_document(source, name, written, verified, expected))
    else:
        _tell(source, chosen.title, target, written, verified, expected)
    return 0


def _format_of(output: str | None) -> str:
    from minires.errors import ArgumentError

    suffixes = {".onnx": "onnx", ".safetensors": "safetensors", ".npz": "npz", ".c": "c"}
    found = suffixes.get(Path(output).suffix) if output else None
    if found is None:
        raise ArgumentError(
            "export: which format? Say --format onnx, safetensors, hf, npz, c or plan, or an --output that ends in "
            f"{', '.join(suffixes)}" + (f"; got {output!r}" if output else "")
        )
    return found


def _refuse_overwriting(target: Path, name: str, force: bool) -> None:
    from minires.errors import ArgumentError

    if not target.parent.is_dir():
        raise ArgumentError(f"export: there is no folder {target.parent} to write {target.name} into")
    if target.is_dir() != (name == "hf") and target.exists():
        raise ArgumentError(f"export: {target} is a {'folder' if target.is_dir() else 'file'}; give another --output")
    files = [target.with_suffix(suffix) for suffix in (".c", ".h", ".bin")] if name == "c" else [target]
    there = [str(file) for file in files if file.exists() and not (name == "hf" and not any(file.iterdir()))]
    if there and not force:
        raise ArgumentError(f"export: {', '.join(there)} exists already; --force replaces it, --output names another")


def staging(target: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder beside the target: what is not right is never seen under its name."""
    return tempfile.TemporaryDirectory(prefix=".minires-export-", dir=target.parent)


def _move(made: Path, target: Path, files: list[Path]) -> list[Path]:
    """From the staging folder to their place, the main file last; gives back where they are."""
    root = target.parent
    if made.is_dir():
        target.mkdir(exist_ok=True)
        root = target
    moved = [root / file.name for file in files]
    for file, place in reversed(list(zip(files, moved, strict=True))):
        os.replace(file, place)
    return moved


def _dtype(source: ModelSource) -> Any:
    assert source.module is not None
    return next(iter(source.module.parameters())).array.dtype


def _logits(source: ModelSource, x: np.ndarray) -> np.ndarray:
    """Of the network itself."""
    from minires.cli.formats.job import eager
    from minires.errors import ArgumentError, ShapeError

    if source.plan is not None:
        return source.plan(x)
    assert source.module is not None
    try:
        return eager(source.module, x)
    except ShapeError as error:
        raise ArgumentError(f"export: images of {source.shape} do not fit the model: {error}") from None


def _plan(source: ModelSource) -> Any:
    import minires

    if source.plan is not None:
        return source.plan
    assert source.module is not None
    return minires.compile(source.module, (1, *source.shape), kernels="reference")


def _compare(written: Written, expected: np.ndarray, source: ModelSource) -> float | None:
    """The largest difference between the logits of what was written and the model's own; None where it was not run.

    Raises:
        RuntimeError: they are not the same. That would be a fault of minires.
    """
    import numpy as np

    if written.logits is None:
        return None
    got = written.logits.reshape(expected.shape)
    finite = np.isfinite(expected)
    if not finite.all():
        source.notes.append("the model's own logits are not finite for random images")
    if not np.array_equal(np.isfinite(got), finite):
        raise RuntimeError("what was written gives other logits than the model; nothing was kept")
    difference = float(np.abs(got - expected, where=finite, out=np.zeros_like(expected)).max(initial=0))
    scale = float(np.abs(expected[finite]).max(initial=0))
    if difference > TOLERANCE[str(expected.dtype)] * max(scale, 1e-6):
        raise RuntimeError(
            f"what was written gives other logits than the model (they differ by {difference:.3g}, the largest is "
            f"{scale:.3g}); nothing was kept"
        )
    return difference


def _verdict(written: Written, difference: float | None, expected: np.ndarray) -> str:
    import numpy as np

    if difference is None:
        return written.reader
    how = written.reader if "ran it" in written.reader else f"read back by {written.reader}"
    if difference == 0:
        return f"{how}: the logits of {len(expected)} random images are the model's, bit for bit"
    scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0))
    return (
        f"{how}: the logits of {len(expected)} random images differ from the model's by at most {difference:.1e} "
        f"(the largest is {scale:.3g})"
    )


def _document(
    source: ModelSource, name: str, written: Written, difference: float | None, expected: np.ndarray
) -> dict[str, Any]:
    return {
        "source": source.what,
        "format": name,
        "files": [{"path": str(file), "bytes": file.stat().st_size} for file in written.files],
        "architecture": source.architecture,
        "input": list(source.shape),
        "classes": None if source.class_names is None else list(source.class_names),
        "verified": {
            "how": _verdict(written, difference, expected),
            "images": len(expected) if difference is not None else 0,
            "largest_difference": difference,
        },
        "notes": source.notes + written.notes,
    }


def _tell(
    source: ModelSource, title: str, target: Path, written: Written, difference: float | None, expected: np.ndarray
) -> None:
    from minires.cli.formats.job import size_text

    total = sum(file.stat().st_size for file in written.files)
    facts = [("written", f"{', '.join(map(str, written.files))} ({size_text(total)})"), *written.facts]
    if source.class_names is not None:
        shown = ", ".join(source.class_names[:5])
        facts.append(("classes", f"{len(source.class_names)}: {shown}{', ...' if len(source.class_names) > 5 else ''}"))
    if source.transform is not None and not any(what == "images" for what, _ in facts):
        facts.append(("images", str(source.transform)))
    facts.append(("verified" if difference is not None else "unverified", _verdict(written, difference, expected)))
    print(f"{source.what} -> {title}")
    for what, text in facts:
        print(f"  {what:<10}  {text}")
    print()
    left = tuple(i for i, column in enumerate(written.columns) if i == 0 or column == "what")
    print_table(written.columns, written.rows, left=left)
    for note in source.notes + written.notes:
        print(f"note: {note}", file=sys.stderr)
    commands = written.next
    if target.parent != Path("."):
        commands = [(f"cd {shlex.quote(str(target.parent))}", "where it lies"), *commands]
    print_next(*commands)
