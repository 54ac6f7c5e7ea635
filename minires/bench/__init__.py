"""Measured comparisons with peers: the command that every claim of speed comes from.

    minires bench infer --model resnet18 --batch 1,8,32       compare.py, through workload.py and judge.py
    minires bench train --model resnet20 --batch 128          the same, a whole training step, with its memory
    minires bench ops --model resnet18 --batch 32             ops.py: single convolutions and batch norms
    minires bench start --model resnet18                      start.py: from nothing to a first prediction
    minires bench grow --model resnet18 --vary batch          grow.py: time against work
    minires bench suite                                       suite.py: the project's goals, reached or not

How a figure is made. A *judge* process makes weights and input and runs them in float64 on the reference kernels. Then every
*contender* (contenders.py: minires, torch, onnxruntime, ...) gets a process of its own (process.py, worker.py), with its
number of threads pinned, and shows its output; one whose output is wrong (verify.py) is not timed. The others take turns:
in each round each runs for a moment while all others sleep on a pipe, and the order rotates (rounds.py). What slows the
machine for a second slows all; a median over rounds does not see it.

`peers/` holds what runs in a contender's process, and is imported nowhere else.
"""
