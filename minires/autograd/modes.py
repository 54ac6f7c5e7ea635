"""Whether operations record: `no_grad`, `enable_grad`, `inference_mode`.

The state belongs to a thread, so a loader's worker cannot switch recording off under a training loop.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class _State(threading.local):
    grad = True
    inference = False


state = _State()


def is_grad_enabled() -> bool:
    """True where operations on tensors that require grad are recorded."""
    return state.grad


def is_inference_mode_enabled() -> bool:
    return state.inference


class _Mode:
    """A context manager that is also a decorator of functions and generators."""

    def __enter__(self) -> Any:
        raise NotImplementedError

    def __exit__(self, *exc: object) -> None:
        raise NotImplementedError

    def clone(self) -> _Mode:
        return self.__class__()

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def generate(*args: Any, **kwargs: Any) -> Iterator[Any]:
                iterator = function(*args, **kwargs)
                while True:
                    try:
                        with self.clone():  # the mode holds while the generator runs, not while its caller does
                            item = next(iterator)
                    except StopIteration as stop:
                        return stop.value
                    yield item

            return generate  # type: ignore[return-value]  # the wrapper has the wrapped function's signature

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.clone():
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]  # as above


class set_grad_enabled(_Mode):
    """Record or not: as a function from now on, as a context manager inside it, as a decorator inside the function."""

    def __init__(self, mode: bool) -> None:
        self.mode = bool(mode)
        self._before = state.grad
        state.grad = self.mode

    def __enter__(self) -> set_grad_enabled:
        state.grad = self.mode
        return self

    def __exit__(self, *exc: object) -> None:
        state.grad = self._before

    def clone(self) -> set_grad_enabled:
        return self.__class__(self.mode)

    def __call__(self, function: F) -> F:
        state.grad = self._before  # used as a decorator: the mode is for the function alone
        return super().__call__(function)


class _Fixed(_Mode):
    mode: bool

    def __enter__(self) -> Any:
        self._before = state.grad
        state.grad = self.mode
        return self

    def __exit__(self, *exc: object) -> None:
        state.grad = self._before

    def __new__(cls, function: Any = None) -> Any:
        """`@no_grad` without brackets decorates as `@no_grad()` does."""
        mode = super().__new__(cls)
        return mode(function) if callable(function) else mode


class no_grad(_Fixed):
    """Operations inside are not recorded: their results do not require grad."""

    mode = False


class enable_grad(_Fixed):
    """Operations inside are recorded, also within `no_grad`."""

    mode = True


class inference_mode(_Mode):
    """`no_grad` whose results can never enter a graph: no version is kept of them, and using one there is an error."""

    def __new__(cls, mode: Any = True) -> Any:
        instance = super().__new__(cls)
        instance.mode = True if callable(mode) else bool(mode)
        return instance(mode) if callable(mode) else instance

    mode: bool

    def clone(self) -> inference_mode:
        return inference_mode(self.mode)

    def __enter__(self) -> inference_mode:
        self._before = state.grad, state.inference
        if self.mode:
            state.grad = False
        state.inference = self.mode
        return self

    def __exit__(self, *exc: object) -> None:
        state.grad, state.inference = self._before
