"""What `minires export` writes: one function a format, which writes, reads back what it wrote, and says what is in it."""

from __future__ import annotations

from minires.cli.formats.c_file import write_c
from minires.cli.formats.job import Format, Job, Written
from minires.cli.formats.networks import write_onnx, write_plan
from minires.cli.formats.weights import write_huggingface, write_npz, write_safetensors

__all__ = ["FORMATS", "Format", "Job", "Written"]

FORMATS = {
    "onnx": Format("ONNX", ".onnx", False, write_onnx),
    "safetensors": Format("safetensors", ".safetensors", True, write_safetensors),
    "plan": Format("a plan", ".plan.safetensors", False, write_plan),
    "c": Format("C", ".c", False, write_c),
    "npz": Format("npz", ".npz", True, write_npz),
    "hf": Format("Hugging Face's layout", "", True, write_huggingface),
}
