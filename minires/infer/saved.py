"""A plan as one safetensors file, and back: constants are the tensors, the steps are JSON in the metadata.

    metadata["minires.plan"] = {"version": 1, "dtype": "float32", "input": 0, "output": 9, "shapes": {"0": [1, 3, 32, 32], ...},
                                "steps": [{"kind": "conv2d", "inputs": [0], "output": 3, "constants": ["bias", "weight"],
                                           "attributes": {"relu": true, "geometry": {"type": "Conv2dGeometry", ...}},
                                           "name": "layer1.0.conv1"}, ...]}

The tensor `3.weight` is the constant `weight` of step 3; a step without a name has no such entry. Reading builds plain data
and holds it to the table of kernels/graph.py (see `check`); nothing is looked up by a name from the file but the three
geometries.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from minires.errors import ArgumentError, CheckpointError
from minires.infer.check import check_graph
from minires.io.messages import shorten
from minires.io.safetensors import SafetensorsFile, save_file
from minires.kernels.geometry import AdaptivePool2dGeometry, Conv2dGeometry, Pool2dGeometry
from minires.kernels.graph import Graph, Step

KEY = "minires.plan"
VERSION = 1
MAX_TEXT = (
    2_000_000  # characters of a plan; resnet1202's has 406,000. What junk of this size becomes stays below 50 MB.
)
MAX_NAME = 200  # characters of a step's name
_GEOMETRIES: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Conv2dGeometry, Pool2dGeometry, AdaptivePool2dGeometry)
}


def save_plan(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph, atomically.

    Raises:
        ArgumentError: a plan so long that `read_plan` would refuse it (some six thousand steps).
    """
    tree = {
        "version": VERSION,
        "dtype": str(graph.dtype),
        "input": graph.input,
        "output": graph.output,
        "shapes": {str(value): list(shape) for value, shape in graph.shapes.items()},
        "steps": [
            {
                "kind": step.kind,
                "inputs": list(step.inputs),
                "output": step.output,
                "constants": sorted(step.constants),
                "attributes": {name: _to_json(value) for name, value in step.attributes.items()},
                **({"name": step.name} if step.name and _is_name(step.name) else {}),
            }
            for step in graph.steps
        ],
    }
    tensors = {f"{i}.{name}": value for i, step in enumerate(graph.steps) for name, value in step.constants.items()}
    text = json.dumps(tree, separators=(",", ":"))
    if len(text) > MAX_TEXT:
        raise ArgumentError(f"save: the plan has {len(text):,} characters; {MAX_TEXT:,} are read back. Split the model")
    save_file(tensors, path, {KEY: text})


def read_plan(path: str | os.PathLike[str]) -> Graph:
    """Read a graph that `save_plan` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, holds no plan, or a plan that does not fit together.
    """
    with SafetensorsFile(path) as file:
        if KEY not in file.metadata:
            raise _bad(
                path, f"there is no plan in it (its metadata has no {KEY!r}); `minires.load_model` reads weights"
            )
        try:
            if len(file.metadata[KEY]) > MAX_TEXT:
                raise ArgumentError(
                    f"its plan has {len(file.metadata[KEY]):,} characters; at most {MAX_TEXT:,} are read"
                )
            tree = json.loads(file.metadata[KEY])
            graph = _graph(tree, file)
            check_graph(graph)
        except RecursionError:
            raise _bad(path, "its plan is nested too deeply") from None
        except (ArgumentError, ValueError) as error:
            raise _bad(path, str(error)) from None
    return graph


def _bad(path: str | os.PathLike[str], what: str) -> CheckpointError:
    return CheckpointError(f"load_plan: {os.fspath(path)}: {shorten(what)}")


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and len(name) <= MAX_NAME and name.isprintable()


def _to_json(value: Any) -> Any:
    if type(value) in _GEOMETRIES.values():
        return {"type": type(value).__name__, **asdict(value)}
    return value


def _graph(tree: Any, file: SafetensorsFile) -> Graph:
    """The graph in the JSON tree, with its constants from the file.

    Raises:
        ValueError: something is missing or of the wrong type.
    """
    _object(tree, "the plan", "version", "dtype", "input", "output", "shapes", "steps")
    if tree["version"] != VERSION:
        raise ValueError(f"its plan has version {tree['version']!r}; this minires reads version {VERSION}")
    if tree["dtype"] not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, got {tree['dtype']!r}")
    shapes = {}
    if not isinstance(tree["shapes"], dict) or not isinstance(tree["steps"], list):
        raise ValueError("shapes must be an object and steps a list")
    for name, shape in tree["shapes"].items():
        if not (name.isascii() and name.isdecimal() and len(name) < 10):
            raise ValueError(f"shapes has the key {name[:80]!r}, which is no value's number")
        shapes[int(name)] = _tuples(shape)
    names = [_step_names(position, step) for position, step in enumerate(tree["steps"])]
    expected = {name for constants in names for name in constants.values()}
    if expected != file.info.keys():
        missing, extra = sorted(expected - file.info.keys())[:3], sorted(file.info.keys() - expected)[:3]
        raise ValueError(f"its tensors do not fit its steps: missing {missing}, left over {extra}")
    steps = tuple(_step(step, constants, file) for step, constants in zip(tree["steps"], names, strict=True))
    return Graph(steps, shapes, _number(tree["input"]), _number(tree["output"]), np.dtype(tree["dtype"]))


def _step_names(position: int, step: Any) -> dict[str, str]:
    """The constants of a step and what their tensors are called."""
    named = ["name"] if isinstance(step, dict) and "name" in step else []
    _object(step, f"step {position}", "kind", "inputs", "output", "constants", "attributes", *named)
    if named and not _is_name(step["name"]):
        raise ValueError(f"step {position}: name must be a text of at most {MAX_NAME} printable characters")
    constants = step["constants"]
    if not isinstance(constants, list) or not all(isinstance(name, str) for name in constants):
        raise ValueError(f"step {position}: constants must be a list of names")
    return {name: f"{position}.{name}" for name in constants}


def _step(step: Any, constants: dict[str, str], file: SafetensorsFile) -> Step:
    kind, inputs, attributes = step["kind"], step["inputs"], step["attributes"]
    if not isinstance(kind, str) or not isinstance(inputs, list) or not isinstance(attributes, dict):
        raise ValueError("kind must be a string, inputs a list, attributes an object")
    return Step(
        kind,
        tuple(_number(value) for value in inputs),
        _number(step["output"]),
        {name: _attribute(value) for name, value in attributes.items()},
        {name: file[tensor] for name, tensor in constants.items()},
        step.get("name", ""),
    )


def _attribute(value: Any) -> Any:
    """Lists become tuples, an object one of the geometries; numbers and bools stay."""
    if isinstance(value, dict):
        kind = _GEOMETRIES.get(str(value.get("type")))
        if kind is None or value.keys() != {"type", *(field.name for field in fields(kind))}:
            raise ValueError(f"an attribute is no geometry: {str(value)[:200]}")
        return kind(**{name: given for name, given in value.items() if name != "type"})
    return _tuples(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _number(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"a value's number must be an integer, got {str(value)[:80]}")
    return value


def _object(value: Any, what: str, *names: str) -> None:
    if not isinstance(value, dict) or value.keys() != set(names):
        raise ValueError(f"{what} needs exactly the entries {', '.join(names)}")
