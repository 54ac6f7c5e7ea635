"""`minires import FILE`: what a file of weights or an ONNX file is; with --output, a clean file of it.

Reads torch.save's files (both forms), safetensors, npz, minires' own, folders of timm and Hugging Face, also split ones, and
ONNX. Weights are written as safetensors under torchvision's names, without what a training script kept beside them; a
network of an ONNX file as a plan.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minires.cli.output import FirstLineHelp, print_json, print_next, print_table

if TYPE_CHECKING:
    from minires.io.weights_report import WeightsReport
    from minires.nn import Module

NAMES = ("import",)
SHOWN = 6  # of what is left out, or of classes


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = verbs.add_parser(
        "import",
        help="what a file of weights is; write it clean",
        description=__doc__,
        formatter_class=FirstLineHelp,
    )
    parser.add_argument("source", metavar="FILE", help="a file or folder of weights, or an ONNX file")
    parser.add_argument("--output", metavar="OUT", help="write weights as safetensors, an ONNX network as a plan")
    parser.add_argument("--model", metavar="NAME", help="which network it is, where nothing beside the weights says it")
    parser.add_argument("--input", metavar="C,H,W", help="ONNX: size of one image, where the file leaves it open")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look at it, write it if asked, tell."""
    from minires.cli.import_network import import_network
    from minires.cli.model_source import kind_of_file
    from minires.errors import ArgumentError, CheckpointError

    path = Path(args.source)
    if not path.exists():
        raise CheckpointError(f"import: there is no file or folder {path}")
    if args.output is not None:
        _check_output(Path(args.output), path, args.force)
    kind = "weights" if path.is_dir() else kind_of_file(path)
    if kind in ("plan", "onnx"):
        if args.model is not None:
            raise ArgumentError(f"import: --model goes with weights; {path} is a whole network already")
        return import_network(args, path, kind)
    if args.input is not None:
        raise ArgumentError(f"import: --input goes with ONNX files; {path} holds weights")
    return _import_weights(args, path)


def _check_output(output: Path, source: Path, force: bool) -> None:
    from minires.errors import ArgumentError

    if not output.parent.is_dir():
        raise ArgumentError(f"import: there is no folder {output.parent} to write {output.name} into")
    if output.is_dir():
        raise ArgumentError(f"import: --output {output} is a folder; name a file in it")
    if output.exists() and output.samefile(source):
        raise ArgumentError(f"import: --output {output} is the file that is read; give another name")
    if output.exists() and not force:
        raise ArgumentError(f"import: {output} exists already; --force replaces it, --output names another")
    if output.suffix != ".safetensors":
        raise ArgumentError(f"import: --output must end in .safetensors, got {output}; other formats: minires export")


def _import_weights(args: argparse.Namespace, path: Path) -> int:
    from minires.cli.formats.job import parts_table, size_text, strides_on_1x1
    from minires.cli.model_source import likely_name
    from minires.io.weights_report import LIBRARIES, examine
    from minires.train.run_folder import find_checkpoint

    if path.is_dir() and any((path / name).is_file() for name in ("last.ckpt", "best.ckpt", "best.safetensors")):
        path = find_checkpoint(path)
    report = examine(path)
    module, network, said, why_not = _network(path, args.model, report)
    likely = likely_name(report.state)
    facts = [("format", f"{report.format}, {size_text(report.bytes)}")]
    if report.path or report.prefix:
        taken = [f"what is under {'.'.join(report.path)}"] if report.path else []
        taken += [f"the prefix {report.prefix} taken off"] if report.prefix else []
        facts.append(("weights", ", ".join(taken)))
    known = module is not None or report.naming != "torchvision"
    facts.append(("names", LIBRARIES[report.naming] if known else "of no library that minires knows: they stay"))
    facts.append(("network", network))
    count = sum(array.size for array in report.state.values())
    parameters = f", {sum(p.array.size for p in module.parameters()):,} of them parameters" if module else ""
    kinds = ", ".join(f"{number} {dtype}" for dtype, number in report.dtypes.items())
    facts.append(("tensors", f"{len(report.state)} of {count:,} numbers{parameters}; {kinds}"))
    if report.left_out:
        items = [f"{key} = {value}" for key, value in report.left_out.items()]
        more = f", and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
        facts.append(("left out", ", ".join(items[:SHOWN]) + more))
    images = _images(module)
    if images is not None:
        facts.append(("images", str(images)))
        if images.class_names:
            names = images.class_names
            facts.append(
                ("classes", f"{len(names)}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}")
            )
    notes = [note for note in said if "took " not in note or report.chosen is None]
    if report.chosen is not None:
        notes.insert(0, f"the file has several sets of weights: took {report.chosen}")
    if why_not is not None:
        notes.append(f"not a network that minires can build: {why_not}")
    elif module is not None and strides_on_1x1(module):
        notes.append("bottlenecks stride on the 1x1, which weights alone do not say: load with stride_on_1x1=True")
    if any(dtype in ("BF16", "F8_E4M3", "F8_E5M2") for dtype in report.dtypes):
        notes.append("NumPy has no such dtype: the tensors are float32 here, exactly")
    guessed = any("Guessed from" in note for note in said)
    verified = None
    if args.output is not None:
        architecture = None if module is None else args.model or _name(module, report)
        verified = _write(report, module, Path(args.output), architecture)
        whose = "torchvision's names" if known else "the names as they were"
        facts.append(("written", f"{args.output} ({size_text(Path(args.output).stat().st_size)}), {whose}"))
        if images is not None:
            notes.append("what lies beside the weights about images and classes is not in the file that was written")
        facts.append(("verified", verified))
    if args.json:
        print_json(
            {
                "source": str(report.file),
                "format": report.format,
                "bytes": report.bytes,
                "weights_under": list(report.path),
                "prefix": report.prefix,
                "names": report.naming,
                "network": network if module is not None else None,
                "guessed": guessed,
                "tensors": len(report.state),
                "numbers": count,
                "parameters": None if module is None else sum(p.array.size for p in module.parameters()),
                "dtypes": report.dtypes,
                "left_out": report.left_out,
                "metadata": report.metadata,
                "written": args.output,
                "verified": verified,
                "notes": notes,
            }
        )
        return 0
    order = [*(module.state_dict() if module is not None else ()), *report.state]
    state = {name: report.state[name] for name in dict.fromkeys(order) if name in report.state}
    tell(str(report.file), facts, parts_table(state), notes)
    shown = shlex.quote(args.output or str(path))
    named = f" --model {args.model or likely or 'NAME'}" if guessed or args.model else ""
    commands = []
    if args.output is None:
        clean = shlex.quote(f"{report.file.name.split('.')[0]}.clean.safetensors")
        commands.append((f"minires import {shown}{named} --output {clean}", "write it clean"))
    if module is not None:
        commands.append((f"minires export {shown}{named} --format onnx", "the whole network for other programs"))
    if commands:
        print_next(*commands)
    return 0


def _network(path: Path, name: str | None, report: WeightsReport) -> tuple[Module | None, str, list[str], str | None]:
    """(the network with its weights, what it is, what was announced, why it could not be built)."""
    import minires
    from minires.cli.model_source import announcements, likely_name
    from minires.errors import CheckpointError
    from minires.io.structure import read_structure

    with announcements() as said:
        try:
            module = minires.load_model(path, model=name)
        except CheckpointError as error:
            if name is not None:
                raise  # the user has said what it is, and it is not
            return None, "unknown", said, _shorter(str(error), path)
    from minires.cli.formats.job import state_arrays

    state = state_arrays(module)
    try:
        structure = read_structure(state)
        shown, channels, classes = str(structure), structure.in_channels, structure.num_classes
    except ValueError:  # pre-activation and wide networks
        channels, classes = state["conv1.weight"].shape[1], state["fc.weight"].shape[0]
        shown = type(module).__name__
    shown += f"; {channels} channel{'s' if channels > 1 else ''}, {classes} classes"
    if any("Guessed from" in note for note in said):
        said[:] = [_shorter(note, path) for note in said]
        likely = likely_name(report.state)
        return module, f"{shown} (guessed from names and shapes{f': those of {likely}' if likely else ''})", said, None
    config = module.pretrained_config or {}
    theirs = (config.get("architectures") or [None])[0]
    declared = name or theirs or _name(module, report)
    return module, f"{declared}: {shown}" if declared else shown, said, None


def _name(module: Module, report: WeightsReport) -> str | None:
    """What the file or its neighbours call the network, if `load_model` takes it again."""
    from minires.cli.formats.job import comes_back
    from minires.cli.model_source import declared_name

    name = declared_name(module) or report.architecture
    return name if name is not None and comes_back(report.state, name) else None


def _shorter(text: str, path: Path) -> str:
    """A message of `load_model` where the file is named already and options are words of a command."""
    _, _, rest = text.partition(": ") if text.startswith("load_model: ") else ("", "", text)
    return rest.partition(": ")[2].replace("model=NAME", "--model NAME") if rest.startswith(str(path)) else rest


def _images(module: Module | None) -> Any:
    """The transform, where something beside the weights says it; assumed ones are of no interest here."""
    from minires.cli.model_source import announcements
    from minires.data.preprocess import transform_for
    from minires.errors import ArgumentError, CheckpointError

    if module is None:
        return None
    with announcements() as said:
        try:
            transform = transform_for(module)
        except (ArgumentError, CheckpointError):
            return None
    return None if said else transform


def _write(report: WeightsReport, module: Module | None, output: Path, architecture: str | None) -> str:
    """Write the tensors, read them back, compare; says what was found.

    Raises:
        RuntimeError: the file has other numbers. That would be a fault of minires.
    """
    from minires.cli.export import staging
    from minires.io.safetensors import save_file

    metadata = {"format": "pt"} if architecture is None else {"format": "pt", "architecture": architecture}
    with staging(output) as folder:
        made = Path(folder, output.name)
        save_file(report.state, made, metadata)
        verdict = _check(made, report, module)
        os.replace(made, output)
    return verdict


def _check(output: Path, report: WeightsReport, module: Module | None) -> str:
    """Read the file back and compare; says what was found."""
    import copy

    import numpy as np

    import minires
    from minires.cli.formats.job import eager, wiped
    from minires.cli.model_source import side_of
    from minires.io.safetensors import load_file

    back = load_file(output)
    same = back.keys() == report.state.keys() and all(
        np.array_equal(back[name], array, equal_nan=array.dtype.kind in "fc") for name, array in report.state.items()
    )
    if not same:
        raise RuntimeError(f"{output} does not hold what was written")
    if module is None:
        return "read back: every tensor equal bit for bit"
    channels, side = side_of(module)
    x = np.random.default_rng(0).standard_normal((2, channels, side, side)).astype(np.float32)
    blank = wiped(copy.deepcopy(module))
    if not np.array_equal(eager(minires.load_model(output, model=blank), x), eager(module, x), equal_nan=True):
        raise RuntimeError(f"{output} gives other logits than {report.file}")
    return "read back: every tensor, and the logits of 2 random images, equal bit for bit"


def tell(
    title: str, facts: list[tuple[str, str]], table: tuple[tuple[str, ...], list[list[str]]], notes: list[str]
) -> None:
    print(title)
    for what, text in facts:
        print(f"  {what:<8}  {text}")
    print()
    print_table(*table)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
