"""The few things Numba's Python cannot say: addresses, words of a frame, an atomic counter, a call through an address.

Kernels work on addresses (64-bit integers, in bytes), not on arrays: one compiled function then serves every shape.
"""

from __future__ import annotations

from typing import Any

from minires.kernels.cpu.emit import I64, Vector, emitted
from minires.kernels.cpu.lazy import ir, types


@emitted
def address_of(typing_context: Any, array: Any) -> Any:
    """The address of an array's first element. The array must outlive the address's use."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(context.make_array(signature.args[0])(context, builder, arguments[0]).data, I64)

    return types.int64(array), generate


@emitted
def load_word(typing_context: Any, address: Any, number: Any) -> Any:
    """The `number`-th 64-bit integer behind `address`: how a task reads its frame and its tables."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], I64.as_pointer())
        return builder.load(builder.gep(pointer, [arguments[1]]))

    return types.int64(types.int64, types.int64), generate


@emitted
def store_word(typing_context: Any, address: Any, number: Any, value: Any) -> Any:
    """Write the `number`-th 64-bit integer behind `address`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], I64.as_pointer())
        builder.store(arguments[2], builder.gep(pointer, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def _scalar_access(llvm_type: str, numba_type: str) -> tuple[Any, Any]:
    @emitted
    def load(typing_context: Any, address: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], getattr(ir, llvm_type)().as_pointer())
            return builder.load(builder.gep(pointer, [arguments[1]]))

        return getattr(types, numba_type)(types.int64, types.int64), generate

    @emitted
    def store(typing_context: Any, address: Any, number: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], getattr(ir, llvm_type)().as_pointer())
            builder.store(arguments[2], builder.gep(pointer, [arguments[1]]))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, getattr(types, numba_type)), generate

    return load, store


load_f32, store_f32 = _scalar_access("FloatType", "float32")
load_f64, store_f64 = _scalar_access("DoubleType", "float64")


@emitted
def store_zero(typing_context: Any, address: Any) -> Any:
    """Write 16 float32 zeros: the channels of a pixel."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        v = Vector(builder)
        v.store(v.constant(0.0), arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@emitted
def copy_vector(typing_context: Any, target: Any, source: Any) -> Any:
    """Copy 16 float32: the channels of a pixel."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        v = Vector(builder)
        v.store(v.load(arguments[1]), arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@emitted
def take_next(typing_context: Any, address: Any) -> Any:
    """The 64-bit counter at `address`, which is then one more; each caller of any thread gets another number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], I64.as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(I64, 1), "monotonic")

    return types.int64(types.int64), generate


@emitted
def call_task(typing_context: Any, function: Any, index: Any, worker: Any, frame: Any) -> Any:
    """Call the task at address `function`: see tasks.py."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64, I64, I64])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate
