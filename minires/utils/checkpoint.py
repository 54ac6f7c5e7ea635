"""The names of `torch.utils.checkpoint`: less memory for more time (see `minires.autograd.checkpoint`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from minires import autograd
from minires.errors import ArgumentError, UnsupportedError

__all__ = ["checkpoint", "checkpoint_sequential"]


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    preserve_rng_state: bool = True,
    context_fn: Any = None,
    determinism_check: str = "default",
    debug: bool = False,
    **kwargs: Any,
) -> Any:
    """`function(*args, **kwargs)` without keeping what its operations save; backward runs it a second time.

    Args:
        use_reentrant: either value; the one form here does what both of torch's do.
        preserve_rng_state: the second run draws the random numbers of the first (dropout's mask).
        context_fn, determinism_check, debug: only torch's defaults. The number of saved values is always compared.

    Raises:
        UnsupportedError: another value for one of the last three.
    """
    for name, given, only in (
        ("context_fn", context_fn, None),
        ("determinism_check", determinism_check, "default"),
        ("debug", debug, False),
    ):
        if given != only:
            raise UnsupportedError(f"checkpoint: {name} = {given!r} is not supported; leave {name} out")
    return autograd.checkpoint(function, *args, preserve_rng_state=preserve_rng_state, **kwargs)


def checkpoint_sequential(
    functions: Iterable[Callable[..., Any]],
    segments: int,
    input: Any,
    use_reentrant: bool | None = None,
    preserve_rng_state: bool = True,
) -> Any:
    """Run `functions` one after the other in `segments` stretches, each but the last checkpointed, as in torch.

    Args:
        functions: a `Sequential`, or a list of modules or functions of one argument.
        segments: how many; of len(functions) // segments functions each, the last with what is left.
        input: the argument of the first function.

    Raises:
        ArgumentError: `segments` is not in 1 .. len(functions).
    """
    steps = list(functions)
    if not isinstance(segments, int) or not 1 <= segments <= len(steps):
        raise ArgumentError(
            f"checkpoint_sequential: segments must be a whole number from 1 to {len(steps)}, the number of functions, "
            f"got {segments!r}"
        )

    def stretch(begin: int, end: int) -> Callable[[Any], Any]:
        def run(x: Any) -> Any:
            for step in steps[begin:end]:
                x = step(x)
            return x

        return run

    size = len(steps) // segments
    for number in range(segments - 1):
        part = stretch(number * size, (number + 1) * size)
        input = checkpoint(part, input, preserve_rng_state=preserve_rng_state)
    return stretch((segments - 1) * size, len(steps))(input)
