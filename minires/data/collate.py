"""Make one batch out of a list of samples, as `torch.utils.data.default_collate` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minires.errors import DataError, DTypeError
from minires.tensor import Tensor


def default_collate(batch: Sequence[Any]) -> Any:
    """Stack what can be stacked, and keep the structure around it.

    | samples               | batch                                              |
    |-----------------------|----------------------------------------------------|
    | tensors, arrays       | a tensor with a new first axis                     |
    | NumPy scalars         | a tensor (N,) of their dtype                       |
    | float; int; bool      | a tensor (N,) of float64; int64; bool              |
    | str, bytes            | the list of them                                   |
    | mapping               | the mapping of its values' batches                 |
    | named tuple           | the named tuple of its fields' batches             |
    | tuple, list           | the list of their items' batches                   |

    Raises:
        DataError: samples of different shapes or lengths, or an empty batch.
        DTypeError: a type that is not in the table.
    """
    if not batch:
        raise DataError("default_collate: the batch is empty")
    first = batch[0]
    if isinstance(first, Tensor):
        if any(sample.requires_grad for sample in batch):
            raise DataError("default_collate: a sample requires grad; detach it, or give the loader a collate_fn")
        return Tensor(_stack([sample.array for sample in batch]))
    if isinstance(first, (np.ndarray, np.generic)):
        if first.dtype.kind not in "biufc":
            raise DTypeError(f"default_collate: an array needs a numeric dtype, got {first.dtype}")
        return Tensor(_stack([np.asarray(sample) for sample in batch]))
    for kind, dtype in ((bool, np.bool_), (float, np.float64), (int, np.int64)):  # a bool is an int: it comes first
        if isinstance(first, kind):
            return Tensor(np.asarray(batch, dtype=dtype))
    if isinstance(first, (str, bytes)):
        return list(batch)
    if isinstance(first, Mapping):
        fields = {key: default_collate([sample[key] for sample in batch]) for key in first}
        return fields if type(first) is dict else type(first)(fields)  # type: ignore[call-arg]
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(default_collate(column) for column in _columns(batch)))
    if isinstance(first, Sequence):
        return [default_collate(column) for column in _columns(batch)]
    raise DTypeError(
        "default_collate: samples must be tensors, arrays, numbers, strings, mappings or sequences of them, "
        f"got {type(first).__name__}; give the loader a collate_fn"
    )


def default_convert(data: Any) -> Any:
    """Arrays into tensors, inside mappings and sequences too; the rest as it is (the loader's batch_size=None)."""
    if isinstance(data, (np.ndarray, np.generic)):
        return Tensor(np.asarray(data)) if data.dtype.kind in "biufc" else data
    if isinstance(data, Mapping):
        return {key: default_convert(value) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(default_convert(value) for value in data))
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return [default_convert(value) for value in data]
    return data


def _stack(arrays: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    for place, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise DataError(
                f"default_collate: samples must have one shape, got {arrays[0].shape} at 0 and {array.shape} at {place}"
            )
    return np.stack(arrays)


def _columns(batch: Sequence[Any]) -> list[tuple[Any, ...]]:
    if len({len(sample) for sample in batch}) != 1:
        lengths = [len(sample) for sample in batch]
        raise DataError(f"default_collate: samples must have the same number of fields, got lengths {lengths}")
    return list(zip(*batch, strict=True))
