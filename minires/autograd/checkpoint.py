"""Activation checkpointing: keep the inputs of a stretch of the network, compute the rest again when backward needs it.

Source: Chen, Xu, Zhang, Guestrin (2016), "Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174

It is twenty lines over `saved_tensors_hooks`: whatever an operation inside saves is replaced by its number in the order of
saving; the first time a backward pass asks for one of them, the function runs again and its saves are taken in that order.
Everything that works on a graph works through it: hooks, `autograd.grad`, second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minires import random
from minires.autograd import modes
from minires.autograd.node import saved_tensors_hooks
from minires.errors import GradError


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool = False,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """`function(*args, **kwargs)`, without keeping what its operations save.

    Args:
        use_reentrant: accepted for torch's sake; this form serves both.
        preserve_rng_state: run the second time with the random state of the first (dropout draws the same mask).

    Raises:
        GradError: the second run saved a different number of values: `function` is not a function of its inputs.
    """
    rng_state = random.get_rng_state() if preserve_rng_state else None
    count = 0
    recomputed: dict[int, Any] = {}

    def pack(_: Any) -> int:
        nonlocal count
        count += 1
        return count - 1

    def run_again() -> None:
        produced: list[Any] = []

        def keep(tensor: Any) -> int:
            produced.append(tensor)
            return len(produced) - 1

        now = random.get_rng_state()
        if rng_state is not None:
            random.set_rng_state(rng_state)
        try:
            with modes.enable_grad(), saved_tensors_hooks(keep, produced.__getitem__):
                function(*args, **kwargs)
        finally:
            if rng_state is not None:
                random.set_rng_state(now)
        if len(produced) != count:
            raise GradError(
                f"checkpoint: the function saved {count} values the first time and {len(produced)} the second; it must do the "
                "same computation each time"
            )
        recomputed.update(enumerate(produced))

    def unpack(number: int) -> Any:
        if number not in recomputed:
            run_again()
        return recomputed.pop(number)  # each is used once a pass; a pass over a retained graph runs again

    with saved_tensors_hooks(pack, unpack):
        return function(*args, **kwargs)
