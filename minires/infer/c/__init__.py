"""A plan as C: which order numbers have in memory (`order`), the steps as text (`steps`), numbers, names and the C kernels as
text (`text`, kernels.c, program.c), put together into files (`source`). `minires.infer.c_export` is the door.
"""
