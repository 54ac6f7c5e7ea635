"""Weights in, weights out, with NumPy alone.

files                    written whole or not at all
archive                  minires' own container for nested values; `load`, which reads the others too
safetensors npz          readers (and a writer)
onnx_file                ONNX models as plain data, over protobuf, onnx_node, onnx_tensor
torch_file               .pth, over pickle_reader, pickle_values, torch_tensors
load_model               a network from a file or folder of another library, over names, structure, architectures, shards
json_text zip_directory  what others wrote, opened within limits; messages: and quoted within limits
"""
