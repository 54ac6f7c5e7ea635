"""Networks from ONNX files and as ONNX files, with NumPy alone.

In: `load`, with a rule for each operation in `layers`, `elementwise`, `shapes` and `constants`, all over `rules`. Out:
`export`, over `nodes`. The files themselves are read and written by `minires.io.onnx_file` and `minires.io.onnx_write`.
"""
