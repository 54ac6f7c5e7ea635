"""The operations, one file a family; in each, a forward and its derivative side by side.

Public functions validate what the user gave, then pass the gate (`autograd.apply`). The formulas of whole operations
(convolution, batch norm, pooling, ...) are in `minires.kernels.reference`; one-line formulas are here.

This file imports nothing, and no file here imports `minires.tensor` at run time: the tensor's methods are these functions
(`minires/tensor_methods.py`), so it imports them. An op that must make a tensor uses `autograd.variable.new_tensor`.
"""
