"""Derivatives against finite differences, the judge that needs no other library.

    (f(x + eps e_i) - f(x - eps e_i)) / (2 eps)  =  (J e_i)       for every input element i

`gradcheck` compares this with the backward pass, element by element of the Jacobian, in float64; `gradgradcheck` does the
same to the backward pass itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minires.autograd import engine, modes
from minires.autograd.variable import Variable, new_tensor
from minires.errors import GradError


class GradcheckError(GradError, AssertionError):
    """An analytical derivative that finite differences contradict."""


def gradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Whether the gradients of `fn` agree with central differences.

    Args:
        fn: a function of tensors that returns a tensor or a tuple of them; it must be deterministic.
        inputs: a tensor or a tuple; those that require grad are checked, and should be float64.
        eps: the step of the differences.
        raise_exception: raise on a difference instead of returning False.

    Raises:
        GradcheckError: names the output, the input, the first element that differs and both values.
        GradError: no input requires grad, or one is not float64.
    """
    arguments = (inputs,) if isinstance(inputs, Variable) else tuple(inputs)
    checked = [i for i, a in enumerate(arguments) if isinstance(a, Variable) and a.requires_grad]
    if not checked:
        raise GradError("gradcheck: at least one input must require grad")
    for i in checked:
        if arguments[i].array.dtype != np.float64:
            raise GradError(
                f"gradcheck: input {i} has dtype {arguments[i].array.dtype}; differences need float64 (use .double())"
            )
    outputs = _as_outputs(fn(*arguments))
    for number, output in enumerate(outputs):
        if not (isinstance(output, Variable) and output.array.dtype.kind == "f"):
            continue
        for i in checked:
            numerical = _numerical_jacobian(fn, arguments, i, number, eps)
            analytical = _analytical_jacobian(output, arguments[i])
            wrong = ~np.isclose(analytical, numerical, atol=atol, rtol=rtol, equal_nan=True)
            if wrong.any():
                if not raise_exception:
                    return False
                row, column = (int(k) for k in np.argwhere(wrong)[0])
                raise GradcheckError(
                    f"gradcheck: d output {number}[{column}] / d input {i}[{row}] is {numerical[row, column]:.9g} by finite "
                    f"differences and {analytical[row, column]:.9g} by backward ({int(wrong.sum())} of {wrong.size} elements "
                    "of the Jacobian differ)"
                )
    return True


def gradgradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Whether the *second* derivatives of `fn` agree with central differences of its first.

    Checks the function (inputs, grad_outputs) -> gradients of inputs. `grad_outputs` are random (fixed seed) if not given.
    """
    arguments = (inputs,) if isinstance(inputs, Variable) else tuple(inputs)
    checked = [i for i, a in enumerate(arguments) if isinstance(a, Variable) and a.requires_grad]
    outputs = [o for o in _as_outputs(fn(*arguments)) if isinstance(o, Variable) and o.requires_grad]
    if grad_outputs is None:
        generator = np.random.default_rng(0)
        grads = [new_tensor(generator.standard_normal(o.array.shape)) for o in outputs]
    else:
        grads = [grad_outputs] if isinstance(grad_outputs, Variable) else list(grad_outputs)
    for g in grads:
        g.requires_grad = True

    def first_derivatives(*everything: Any) -> tuple[Any, ...]:
        given, weights = everything[: len(arguments)], everything[len(arguments) :]
        results = [o for o in _as_outputs(fn(*given)) if isinstance(o, Variable) and o.requires_grad]
        found = engine.grad(results, [given[i] for i in checked], list(weights), create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None and g.requires_grad)

    return gradcheck(first_derivatives, (*arguments, *grads), eps, atol, rtol, raise_exception)


def _as_outputs(result: Any) -> Sequence[Any]:
    return result if isinstance(result, (tuple, list)) else (result,)


def _numerical_jacobian(fn: Callable[..., Any], arguments: tuple[Any, ...], which: int, number: int, eps: float) -> Any:
    """(input elements, output elements), by central differences."""
    original = arguments[which]
    rows = []
    for flat in range(original.array.size):
        sides = []
        for step in (eps, -eps):
            moved = original.array.copy()
            moved[np.unravel_index(flat, moved.shape)] += step
            tensor = new_tensor(moved)
            tensor.requires_grad = True
            # Recorded, because fn may itself call autograd.grad.
            with modes.enable_grad():
                result = _as_outputs(fn(*(tensor if i == which else a for i, a in enumerate(arguments))))
            sides.append(result[number].array.astype(np.float64).ravel())
        rows.append((sides[0] - sides[1]) / (2 * eps))
    return np.array(rows).reshape(original.array.size, -1)


def _analytical_jacobian(output: Any, tensor: Any) -> Any:
    """(input elements, output elements), a backward pass an output element."""
    columns = []
    for flat in range(output.array.size):
        if not output.requires_grad:
            columns.append(np.zeros(tensor.array.size))
            continue
        seed = np.zeros(output.array.shape, output.array.dtype)
        seed[np.unravel_index(flat, seed.shape)] = 1
        (found,) = engine.grad(output, tensor, new_tensor(seed), retain_graph=True, allow_unused=True)
        columns.append(np.zeros(tensor.array.size) if found is None else found.array.ravel())
    return np.array(columns).reshape(output.array.size, tensor.array.size).T
