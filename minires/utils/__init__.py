"""The names of `torch.utils` that code for residual networks uses: `data` and `checkpoint`."""

from minires.utils import checkpoint, data

__all__ = ["checkpoint", "data"]
