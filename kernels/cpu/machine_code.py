"""From a Python function, or from LLVM's form, to bytes of machine code, and from those bytes to an address.

The two halves are apart because their costs are. Compiling needs Numba, whose import and first steps take the better part
of a second, and tenths of a second a kernel. Loading needs a linker alone (elf.py, or where that cannot, LLVM's): 0.1 ms a
kernel. So what is compiled is a plain object file with one function and no trace of Numba's run-time in it, and a process
that finds its kernels in the cache imports neither Numba nor LLVM.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from minires.kernels.cpu.elf import NotLinkableError, link
from minires.kernels.cpu.lazy import ir, types
from minires.kernels.cpu.machine import machine

_lock = threading.RLock()


# ----------------------------------------------------------------------------------------------------------- loading


@cache
def _target_machine() -> Any:
    """LLVM's idea of the machine, with the options of code that is linked in memory."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    static = target.name.startswith("x86")
    here = machine()
    return target.create_target_machine(
        cpu=here.cpu,
        features=here.features,
        opt=3,
        reloc="static" if static else "default",
        codemodel="jitdefault",
        jit=True,
    )


_engines: list[Any] = []  # code lives as long as its engine


def load(code: bytes, symbol: str) -> int:
    """The address of the function `symbol` of an object file; it stays valid.

    Each file gets a linker of its own: a function that two kernels call has the same name in both files, and need not be
    the same.

    Raises:
        RuntimeError: `code` is not an object file of this machine, or has no such function.
    """
    with contextlib.suppress(NotLinkableError):
        return link(code, symbol)
    import llvmlite.binding as llvm

    with _lock:
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        address = int(engine.get_function_address(symbol))
        if not address:
            raise RuntimeError(f"kernel cache: the object file has no function {symbol}")
        _engines.append(engine)
        return address


# --------------------------------------------------------------------------------------------------------- compiling


def assemble(module: Any) -> bytes:
    """The object file of an llvmlite.ir.Module."""
    import llvmlite.binding as llvm

    with _lock:
        target = _target_machine()
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        return bytes(target.emit_object(parsed))


def new_module(name: str) -> Any:
    """An empty llvmlite.ir.Module for this machine."""
    import llvmlite.binding as llvm

    module = ir.Module(name)
    module.triple = llvm.get_process_triple()
    module.data_layout = str(_target_machine().target_data)
    return module


def compile_function(function: Callable[[int, int, int], None], symbol: str) -> bytes:
    """Compile `function(int64, int64, int64) -> None` with Numba.

    Numba's functions return a status and take two pointers more, for a result and for an exception. The symbol we export
    is a wrapper without these: tasks return nothing and raise nothing.

    Returns:
        An object file with the function `symbol`.
    """
    from numba.core import compiler, registry
    from numba.core.compiler_lock import global_compiler_lock

    integers = (types.int64,) * 3
    target = registry.cpu_target
    with global_compiler_lock:
        target.typing_context.refresh()
        target.target_context.refresh()
        flags: Any = compiler.Flags()  # its options are made at run time
        flags.error_model = "numpy"  # x // 0 = 0: no code for exceptions
        flags.enable_pyobject = False
        flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        flags.no_compile = True  # not yet: the wrapper goes into the same library, and the function into the wrapper
        result = compiler.compile_extra(
            target.typing_context, target.target_context, function, integers, types.void, flags, {}
        )
        module = ir.Module(symbol)
        word = ir.IntType(64)
        wrapper = ir.Function(module, ir.FunctionType(ir.VoidType(), [word] * 3), symbol)
        kind = target.target_context.call_conv.get_function_type(types.void, integers)
        inner = ir.Function(module, kind, result.fndesc.llvm_func_name)
        builder = ir.IRBuilder(wrapper.append_basic_block())
        nowhere = [builder.alloca(argument.pointee) for argument in kind.args[:2]]
        builder.call(inner, [*nowhere, *wrapper.args])
        builder.ret_void()
        result.library.add_ir_module(module)
        result.library.enable_object_caching()
        result.library.finalize()
        _, _, (code, _) = result.library.serialize_using_object_code()
        return bytes(code)
