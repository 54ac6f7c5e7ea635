"""Models made ready to run: traced once, simplified, planned, run without tensors; saved and loaded as one file.

Read in this order: `trace` (what the model does), `rules` and `convert` (as steps), `rewrite` (as fewer steps), `memory`
(where values lie), `executor` (how NumPy runs them), `plan` (what a user holds). The steps themselves are described in
`minires.kernels.graph`.

Networks also come from ONNX files and go to them (`onnx`), and become C programs (`c_export`, `c`).
"""

from minires.infer.plan import Plan, compile, load_plan

__all__ = ["Plan", "compile", "load_plan"]
