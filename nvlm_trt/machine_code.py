"""LLVM's builder with the constructs our loops need, and its compiler for this processor.

Small Python functions write the code, one loop nest each. It is compiled once per process in some tenths of a second
and called through ctypes, which lets other threads run meanwhile. Nothing is kept on disk. Importing this module loads
no compiler.

Addresses in written code are pointers and byte offsets; nothing is checked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

__all__ = ["CodeWriter", "Loop", "MachineCode", "host_features"]

_KINDS = {"a": ctypes.c_void_p, "i": ctypes.c_int64}


def host_features() -> dict[str, bool]:
    """What this processor has, by LLVM's names."""
    import llvmlite.binding as llvm

    return dict(llvm.get_host_cpu_features())


class MachineCode:
    """Compiled functions. ``features`` None means all that the processor has."""

    def __init__(self, module: Any, features: Mapping[str, bool] | None = None) -> None:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        flags = ",".join(f"{'+' if has else '-'}{name}" for name, has in sorted((features or host_features()).items()))
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=flags, opt=3, jit=True
        )
        parsed = llvm.parse_assembly(str(module))
        passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
        passes.getModulePassManager().run(parsed, passes)
        self._owner = llvm.create_mcjit_compiler(parsed, machine)
        self._owner.finalize_object()

    def function(self, name: str, parameters: str) -> Callable[..., None]:
        """A written function by its name; ``parameters`` as it was written with."""
        prototype: Any = ctypes.CFUNCTYPE(None, *(_KINDS[kind] for kind in parameters))
        function: Any = prototype(self._owner.get_function_address(name))
        function.owner = self._owner  # the code lives as long as any function of it
        return cast(Callable[..., None], function)


@dataclass(slots=True)
class Loop:
    """One trip of a loop: its number, and the values carried from trip to trip; set ``carried`` before it ends."""

    index: Any
    carried: list[Any]


class CodeWriter:
    """Functions are written one after another; ``b`` is llvmlite's builder, at the end of the current one."""

    def __init__(self) -> None:
        from llvmlite import ir

        self.ir = ir
        self.byte, self.half, self.word, self.size = (ir.IntType(bits) for bits in (8, 16, 32, 64))
        self.float, self.float16 = ir.FloatType(), ir.HalfType()
        self.pointer = ir.PointerType()
        self.module = ir.Module()
        self.b: Any = None

    @contextmanager
    def function(self, name: str, parameters: str, *, exported: bool = True) -> Iterator[Sequence[Any]]:
        """A function without a result whose parameters are a(ddresses) and i(ntegers); gives them."""
        kinds = [self.pointer if kind == "a" else self.size for kind in parameters]
        function = self.ir.Function(self.module, self.ir.FunctionType(self.ir.VoidType(), kinds), name)
        if not exported:
            function.linkage = "internal"
            function.attributes.add("noinline")
        self.b = self.ir.IRBuilder(function.append_basic_block())
        yield tuple(function.args)
        self.b.ret_void()

    @contextmanager
    def loop(self, trips: Any, carried: Sequence[Any] = ()) -> Iterator[Loop]:
        b, before = self.b, self.b.block
        head, body, after = (b.function.append_basic_block(name) for name in ("head", "body", "after"))
        b.branch(head)
        b.position_at_end(head)
        names = [b.phi(value.type) for value in (self.size(0), *carried)]
        for name, value in zip(names, (self.size(0), *carried), strict=True):
            name.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", names[0], self.integer(trips)), body, after)
        b.position_at_end(body)
        loop = Loop(names[0], names[1:])
        yield loop
        for name, value in zip(names, (b.add(names[0], self.size(1)), *loop.carried), strict=True):
            name.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(after)
        loop.carried = names[1:]

    def integer(self, value: Any) -> Any:
        return self.size(value) if isinstance(value, int) else value

    def call(self, name: str, *arguments: Any) -> None:
        """Of a function written before."""
        self.b.call(self.module.get_global(name), [self.integer(argument) for argument in arguments])

    def smaller(self, one: Any, other: Any) -> Any:
        return self.b.select(self.b.icmp_signed("<", one, other), one, other)

    def pieces(self, count: Any, most: int) -> Any:
        """The number of parts of at most ``most`` that ``count`` divides into."""
        return self.b.udiv(self.b.add(count, self.size(most - 1)), self.size(most))

    def vector(self, kind: Any, length: int) -> Any:
        return self.ir.VectorType(kind, length)

    def constants(self, values: Sequence[int]) -> Any:
        return self.ir.Constant(self.vector(self.word, len(values)), [self.word(value) for value in values])

    def at(self, base: Any, *offsets: Any) -> Any:
        """``base`` plus byte offsets: integers, values, or (value, integer) for a product."""
        for offset in offsets:
            if isinstance(offset, tuple):
                offset = self.b.mul(offset[0], self.integer(offset[1]))
            base = self.b.gep(base, [self.integer(offset)], source_etype=self.byte)
        return base

    def load(self, address: Any, kind: Any) -> Any:
        return self.b.load(address, typ=kind, align=1)

    def load_size(self, address: Any) -> Any:
        """A signed integer of 32 bits."""
        return self.b.sext(self.load(address, self.word), self.size)

    def store(self, value: Any, address: Any) -> None:
        self.b.store(value, address, align=1)

    def pick(self, first: Any, second: Any, places: Sequence[int]) -> Any:
        return self.b.shuffle_vector(first, second, self.constants(places))

    def splat(self, value: Any, length: int) -> Any:
        """A value in every lane."""
        one = self.ir.Constant(self.vector(value.type, 1), self.ir.Undefined)
        one = self.b.insert_element(one, value, self.word(0))
        return self.pick(one, one, [0] * length)

    def intrinsic(self, name: str, *values: Any) -> Any:
        """One of LLVM's own, over values of one type, which is also that of its result."""
        kind = values[0].type
        suffix = f"v{kind.count}f32" if isinstance(kind, self.ir.VectorType) else "f32"
        function = self.module.declare_intrinsic(
            f"llvm.{name}.{suffix}", (), self.ir.FunctionType(kind, [value.type for value in values])
        )
        return self.b.call(function, values)

    def prefetch(self, address: Any) -> None:
        """Ask for the memory there, into the nearest cache; an address outside the process's memory does no harm."""
        kinds = [self.pointer, self.word, self.word, self.word]
        function = self.module.declare_intrinsic(
            "llvm.prefetch.p0", (), self.ir.FunctionType(self.ir.VoidType(), kinds)
        )
        self.b.call(function, [address, self.word(0), self.word(3), self.word(1)])
