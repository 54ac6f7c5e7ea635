"""A small emitter of vector code: what a compiler's back end would be told, written in Python.

Numba compiles Python loops, but it does not keep a tile of twelve accumulators in registers across a loop. LLVM does, if it
is handed the loop in its own form. So the innermost code of every kernel here is *emitted*: inside a Numba `@intrinsic` we
append instructions to the function under construction. Two ideas suffice.

**Single assignment.** Every value is computed once and has a type; `+` of two vectors is one instruction with a new value.
There are no variables, hence no aliasing and no spills to memory unless registers run out:

    v = Vector(builder, lanes=16)
    y = v.fma(v.load(a), v.splat(s), v.load(b))        # y[l] = a[l] * s + b[l], l = 0 .. 15

**Phi nodes.** A loop-carried value cannot be assigned to, so the loop's head *chooses*: on entry the initial value, after an
iteration the new one. `Loop` hides that choice:

    with-out:  acc = 0; for i in range(n): acc = acc + x[i]
    with:      loop = Loop(builder, n, [v.constant(0.0)])
               (acc,) = loop.values                    # the phi node: what acc is at the top of this iteration
               (acc,) = loop.end([v.add(acc, v.load_at(x, loop.index, 64))])

Addresses are plain 64-bit integers in bytes. A vector of 16 float32 is one register on AVX-512, two on AVX2, four on NEON
and SSE: LLVM splits it, the code here is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minires.kernels.cpu.lazy import cgutils, ir

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


class Emitted:
    """An intrinsic of Numba, made when Numba first asks what it is, which is when a task that calls it is compiled."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self._type: Any = None

    @property
    def _numba_type_(self) -> Any:
        if self._type is None:
            from numba.core import registry
            from numba.extending import intrinsic

            made = intrinsic(prefer_literal=True)(self.function)
            context = registry.cpu_target.typing_context
            context.refresh()
            self._type = context.resolve_value_type(made)
        return self._type

    def __call__(self, *arguments: Any) -> Any:
        raise NotImplementedError(f"{self.function.__name__}: code for a task, not for Python")


def emitted(function: Callable[..., Any]) -> Any:
    """An intrinsic: `function(typing_context, *types)` returns its signature and a generator of its code.

    Integer arguments that are compile-time constants arrive as such (IntegerLiteral): one intrinsic serves many shapes.
    """
    return Emitted(function)


def word(value: int) -> Any:
    """A 64-bit integer constant."""
    return ir.Constant(I64, value)


class Vector:
    """Instructions on <lanes x float>.

    Args:
        builder: where instructions are appended.
        lanes: numbers in a vector.
        bits: of a number: 32 or 64.
    """

    def __init__(self, builder: Any, lanes: int = 16, bits: int = 32) -> None:
        self.builder = builder
        self.lanes = lanes
        self.size = bits // 8  # bytes of a number
        self.bytes = lanes * self.size
        self.scalar = ir.FloatType() if bits == 32 else ir.DoubleType()
        self.type = ir.VectorType(self.scalar, lanes)
        self._suffix = f"v{lanes}f{bits}"

    # --- memory ------------------------------------------------------------------------------------------------------

    def _pointer(self, address: Any, offset: int, of: Any) -> Any:
        if offset:
            address = self.builder.add(address, word(offset))
        return self.builder.inttoptr(address, of.as_pointer())

    def load(self, address: Any, offset: int = 0) -> Any:
        """The vector at `address + offset` bytes; any alignment."""
        return self.builder.load(self._pointer(address, offset, self.type), align=self.size)

    def store(self, value: Any, address: Any, offset: int = 0) -> None:
        self.builder.store(value, self._pointer(address, offset, self.type), align=self.size)

    def broadcast(self, address: Any, offset: int = 0) -> Any:
        """The number at `address + offset` in every lane."""
        return self.splat(self.builder.load(self._pointer(address, offset, self.scalar), align=self.size))

    # --- values ------------------------------------------------------------------------------------------------------

    def constant(self, value: float) -> Any:
        """`value`, rounded to the vector's precision, in every lane."""
        rounded = float(np.float32(value)) if self.size == 4 else float(value)
        return ir.Constant(self.type, [rounded] * self.lanes)

    def splat(self, number: Any) -> Any:
        nothing = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(nothing, number, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(
            first, nothing, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        )

    # --- arithmetic --------------------------------------------------------------------------------------------------

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b)

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b)

    def div(self, a: Any, b: Any) -> Any:
        return self.builder.fdiv(a, b)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c, rounded once where the machine can (all but the oldest), else twice, and not a call of the C library."""
        return self.call("llvm.fmuladd", a, b, c)

    def sqrt(self, a: Any) -> Any:
        return self.call("llvm.sqrt", a)

    def call(self, name: str, *values: Any) -> Any:
        """One of LLVM's vector intrinsics."""
        kind = ir.FunctionType(self.type, [self.type] * len(values))
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"{name}.{self._suffix}")
        return self.builder.call(function, values)

    def larger(self, a: Any, b: Any) -> Any:
        """b if b > a or b is NaN, else a: a running maximum that a NaN wins, the later of two, as in torch."""
        above, is_nan = self.builder.fcmp_ordered(">", b, a), self.builder.fcmp_unordered("uno", b, b)
        return self.builder.select(self.builder.or_(above, is_nan), b, a)

    def at_least(self, a: Any, floor: Any) -> Any:
        """floor where a <= floor, else a: NaN stays NaN (a maximum instruction would make it `floor`)."""
        return self.builder.select(self.builder.fcmp_ordered("<=", a, floor), floor, a)

    def relu(self, a: Any) -> Any:
        """max(a, 0); NaN stays NaN."""
        return self.at_least(a, self.constant(0.0))

    def where_positive(self, condition: Any, a: Any) -> Any:
        """a where not (condition <= 0), else 0: the ReLU's backward pass, by its output."""
        zero = self.constant(0.0)
        return self.builder.select(self.builder.fcmp_ordered("<=", condition, zero), zero, a)


class Loop:
    """`for index in range(count)` with values carried from one iteration to the next; `count` must be at least 1.

    Attributes:
        index: the iteration, a 64-bit integer.
        values: the carried values at the top of the iteration.
    """

    def __init__(self, builder: Any, count: Any, initial: Sequence[Any]) -> None:
        self.builder, self.count = builder, count
        before = builder.block
        self._head = builder.append_basic_block("loop")
        builder.branch(self._head)
        builder.position_at_end(self._head)
        self.index = builder.phi(I64)
        self.index.add_incoming(word(0), before)
        self.values = []
        for value in initial:
            phi = builder.phi(value.type)
            phi.add_incoming(value, before)
            self.values.append(phi)

    def end(self, new: Sequence[Any]) -> list[Any]:
        """Close the loop: `new` are the carried values after this iteration. Returns them as they are after the last."""
        builder = self.builder
        following = builder.add(self.index, word(1))
        last = builder.block
        self.index.add_incoming(following, last)
        for phi, value in zip(self.values, new, strict=True):
            phi.add_incoming(value, last)
        exit_block = builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed("<", following, self.count), self._head, exit_block)
        builder.position_at_end(exit_block)
        return list(new)
