"""A state dict that is split over several files, as Hugging Face's libraries save large ones.

    state = read_shards(Path("model.safetensors.index.json"), "load_model", read_one)

The index says where each tensor is, the files lie beside it:

    {"metadata": {"total_size": 102545704},
     "weight_map": {"classifier.1.weight": "model-00002-of-00002.safetensors", ...}}

An index is a list of file names by somebody else. So each must be the plain name of a file in the same folder, and the
files must hold what the index says: every tensor once, in its file, and none besides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minires.errors import CheckpointError
from minires.io.json_text import parse_json

__all__ = ["INDEX", "read_json_object", "read_shards"]

INDEX = ".index.json"  # how the name of an index ends
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
MAX_JSON = 10_000_000  # bytes of a configuration or an index


def read_json_object(file: Path, where: str) -> dict[str, Any]:
    """The names and values of a JSON file.

    Raises:
        CheckpointError: it is too large, no JSON, or holds something else; `where` begins the message.
    """
    size = file.stat().st_size
    if size > MAX_JSON:
        raise CheckpointError(f"{where}: {size:,} bytes, no configuration")
    try:
        tree = parse_json(file.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{where}: not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{where}: holds a {type(tree).__name__}, not the names and values of a configuration")
    return tree


def read_shards(index: Path, where: str, read: Callable[[Path], Any]) -> dict[str, Any]:
    """Join the files of an index.

    Args:
        index: the JSON file; the others lie in its folder.
        where: begins the messages.
        read: gives the names and values of one file.

    Raises:
        CheckpointError: the index is none, names a file that is not a plain name in its folder or not there, or the files do
            not hold exactly the tensors that it gives them.
    """
    files = _files(index, where)
    state: dict[str, Any] = {}
    for name, expected in files.items():
        file = index.parent / name
        if not file.is_file():
            raise CheckpointError(f"{where}: there is no file {name} beside the index; fetch all {len(files)} of them")
        content = read(file)
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{where}: {name} holds a {type(content).__name__}, not names and tensors")
        missing = [key for key in expected if key not in content]
        extra = [key for key in content if key not in expected]
        if missing or extra:
            what = "has no tensor" if missing else "has a tensor that the index does not give it,"
            raise CheckpointError(
                f"{where}: {name} {what} {str((missing or extra)[0])[:80]!r}; the files are not of one set"
            )
        state.update(content)
    return state


def _files(index: Path, where: str) -> dict[str, set[str]]:
    """File names, in the order of their first use, to the names of the tensors in them."""
    places = read_json_object(index, where).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{where}: it has no weight_map, the table that says where each tensor is")
    files: dict[str, set[str]] = {}
    for tensor, name in places.items():
        if not isinstance(name, str) or not _is_plain(name):
            raise CheckpointError(
                f"{where}: tensor {tensor[:80]!r} is said to be in {str(name)[:80]!r}; expected the plain name of a file in the "
                f"same folder that ends in {', '.join(SUFFIXES)}"
            )
        files.setdefault(name, set()).add(tensor)
    return files


def _is_plain(name: str) -> bool:
    """Whether a name can lead nowhere but into its own folder, on any system."""
    return (
        name.endswith(SUFFIXES)
        and not name.startswith(".")
        and name.isprintable()
        and not set(name) & set('/\\:*?"<>|')
    )
