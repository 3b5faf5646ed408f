"""Reads the pickle of a ``torch.save`` file as data.

A pickle is a program for a small stack machine, and Python's own machine will call whatever the program names. Hooking
its look-ups is not enough: a length prefix or a memo index of a few bytes makes it allocate gigabytes, state can be set
on objects after they were checked, and a dict keyed by nested tuples takes for ever to hash. So this is another
machine. It knows the instructions that ``torch.save`` writes (protocols 2 and 3) and no others. Names are compared,
never looked up. Three of them give a dict or a reference to a tensor. Those that weights come with (the training
arguments, counters, random states) give ``OPAQUE`` whatever they are called with. Any other name ends the reading. The
results are plain values, and no more of them than the file has instructions.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, NoReturn

from nvlm_trt.checkpoint.torch_file.values import OPAQUE, STORAGE_DTYPES, Global, StorageRef, TensorRef
from nvlm_trt.checkpoint.untrusted import shown
from nvlm_trt.errors import CheckpointError

__all__ = ["MAX_PICKLE_BYTES", "read_pickle"]

# A rank of NVLM-D-72B has under a megabyte, a few with an optimizer's state.
MAX_PICKLE_BYTES = 1 << 24
_MAX_STEPS = 4_000_000
_MAX_AXES = 32  # numpy 1.x knows no more
_MAX_COUNT = 2**62

_ORDERED_DICT = Global("collections", "OrderedDict")
_TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = Global("torch._utils", "_rebuild_parameter")
# How Python 3.11.0 to 3.11.3 write a member of an enum: as an attribute of its class.
_GETATTR = frozenset({Global("builtins", "getattr"), Global("__builtin__", "getattr")})

# What a rank's file holds beside its weights may be of these packages' classes, or of the classes below.
_OPAQUE_PACKAGES = frozenset(
    {"apex", "megatron", "numpy", "signal", "torch", "transformer_engine", "transformer_engine_torch"}
)
_BUILTINS = (
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set"),
    *("slice", "str", "tuple"),
    *("long", "unicode"),  # what protocol 2 calls int and str
)
_OPAQUE_NAMES = frozenset(
    {
        *(Global(module, name) for module in ("builtins", "__builtin__") for name in _BUILTINS),
        *(Global("pathlib", name) for name in ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")),
        *(Global(module, "_reconstructor") for module in ("copyreg", "copy_reg")),
        *(Global(module, "BytesIO") for module in ("io", "_io")),
        Global("_codecs", "encode"),  # how protocol 2 writes bytes
        Global("argparse", "Namespace"),
        Global("collections", "defaultdict"),
        Global("collections", "deque"),
        Global("datetime", "timedelta"),
        Global("types", "SimpleNamespace"),
    }
)


def read_pickle(data: bytes, file_name: str) -> Any:
    """What the pickle describes: plain values, ``TensorRef``, and ``OPAQUE`` for everything else.

    Raises ``CheckpointError`` E-CKPT-PICKLE. ``file_name`` is for the error's text.
    """
    try:
        return _Machine(data, file_name).run()
    except (IndexError, KeyError, UnicodeDecodeError, struct.error):
        # An empty stack, an unknown memo index, bytes that are no text, the end inside a number.
        _reject(file_name, "it is broken or cut short")


class _Machine:
    def __init__(self, data: bytes, file_name: str) -> None:
        self._data = data
        self._file_name = file_name
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MAX_STEPS):
            instruction = self._take(1)
            if instruction == pickle.STOP:
                return self._stack.pop()
            self._step(instruction)
        self._reject(f"it has more than {_MAX_STEPS} instructions")

    def _step(self, instruction: bytes) -> None:
        """One instruction; those that occur most come first."""
        stack = self._stack
        match instruction:
            case pickle.BINPUT:
                self._memo[self._take(1)[0]] = stack[-1]
            case pickle.LONG_BINPUT:
                self._memo[self._number("<I")] = stack[-1]
            case pickle.BINGET:
                stack.append(self._memo[self._take(1)[0]])
            case pickle.LONG_BINGET:
                stack.append(self._memo[self._number("<I")])
            case pickle.BININT1:
                stack.append(self._take(1)[0])
            case pickle.BININT2:
                stack.append(self._number("<H"))
            case pickle.BININT:
                stack.append(self._number("<i"))
            case pickle.LONG1:
                stack.append(int.from_bytes(self._take(self._take(1)[0]), "little", signed=True))
            case pickle.BINFLOAT:
                stack.append(struct.unpack(">d", self._take(8))[0])
            case pickle.NONE:
                stack.append(None)
            case pickle.NEWTRUE:
                stack.append(True)
            case pickle.NEWFALSE:
                stack.append(False)
            case pickle.BINUNICODE:
                stack.append(self._take(self._number("<I")).decode("utf-8", "surrogatepass"))
            case pickle.BINBYTES:
                stack.append(self._take(self._number("<I")))
            case pickle.SHORT_BINBYTES:
                stack.append(self._take(self._take(1)[0]))
            case pickle.MARK:
                self._marks.append(len(stack))
            case pickle.EMPTY_TUPLE:
                stack.append(())
            case pickle.TUPLE1 | pickle.TUPLE2 | pickle.TUPLE3:
                count = 1 + (pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3).index(instruction)
                stack.append(tuple([self._pop() for _ in range(count)][::-1]))
            case pickle.TUPLE:
                stack.append(tuple(self._pop_to_mark()))
            case pickle.EMPTY_LIST:
                stack.append([])
            case pickle.APPEND:
                self._extend([self._pop()])
            case pickle.APPENDS:
                self._extend(self._pop_to_mark())
            case pickle.EMPTY_DICT:
                stack.append({})
            case pickle.SETITEM:
                value, key = self._pop(), self._pop()
                self._update([key, value])
            case pickle.SETITEMS:
                self._update(self._pop_to_mark())
            case pickle.GLOBAL:
                stack.append(self._known(Global(self._line(), self._line())))
            case pickle.BINPERSID:
                stack.append(self._storage(self._pop()))
            case pickle.REDUCE | pickle.NEWOBJ:
                arguments, named = self._pop(), self._pop()
                stack.append(self._made(named, arguments))
            case pickle.BUILD:
                self._pop()
                if stack[-1] is not OPAQUE and not isinstance(stack[-1], (dict, TensorRef)):
                    self._reject("it sets the state of something that has none")
            case pickle.PROTO:
                if self._take(1)[0] not in (2, 3):
                    self._reject("it is not of protocol 2 or 3, which torch.save writes")
            case _:
                self._reject(f"it has the instruction 0x{instruction.hex()}, which torch.save does not write")

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise IndexError
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at)
        if end < 0:
            raise IndexError
        line = self._take(end - self._at).decode()
        self._at += 1
        return line

    def _pop(self) -> Any:
        if self._marks and self._marks[-1] == len(self._stack):
            raise IndexError
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _extend(self, items: list[Any]) -> None:
        match self._stack[-1]:
            case list() as target:
                target.extend(items)
            case target if target is not OPAQUE:
                self._reject("it appends to something that is not a list")

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if target is OPAQUE:
            return
        if not isinstance(target, dict) or len(items) % 2:
            self._reject("it sets items of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys may be costly to hash, and no key of weights is of another kind.
            target[key if isinstance(key, (str, int, float, type(None))) else OPAQUE] = value

    def _known(self, named: Global) -> Global:
        if named in (_ORDERED_DICT, _TENSOR, _PARAMETER) or named in _OPAQUE_NAMES or named in _GETATTR:
            return named
        if named.module.partition(".")[0] in _OPAQUE_PACKAGES:
            return named
        self._reject(f"it asks for {shown(str(named))}, which weights have no use for; nothing was run")

    def _made(self, named: Any, arguments: Any) -> Any:
        if not isinstance(named, Global) or not isinstance(arguments, tuple):
            self._reject("it calls something that is not named")
        if named == _ORDERED_DICT and not arguments:
            return {}
        if named == _TENSOR:
            return self._tensor(arguments)
        if named == _PARAMETER and arguments and isinstance(arguments[0], TensorRef):
            return arguments[0]
        if named in _GETATTR and [type(argument) for argument in arguments] != [Global, str]:
            self._reject("it asks for an attribute of something that is not a class")
        return OPAQUE

    def _storage(self, reference: Any) -> Any:
        match reference:
            case ("storage", Global("torch", kind), str(key), str(), int(count)) if 0 <= count < _MAX_COUNT:
                return StorageRef(STORAGE_DTYPES[kind], key, count) if kind in STORAGE_DTYPES else OPAQUE
        self._reject("it refers to something that is not a storage")

    def _tensor(self, arguments: tuple[Any, ...]) -> Any:
        match arguments[:4]:
            case (StorageRef() as storage, int(offset), tuple(shape), tuple(strides)):
                if not (_are_counts((offset,)) and _are_counts(shape) and _are_counts(strides)):
                    self._reject("a tensor's sizes are not whole numbers from 0")
                if len(shape) != len(strides) or len(shape) > _MAX_AXES:
                    self._reject(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
                tensor = TensorRef(storage, offset, shape, strides)
                if offset + tensor.extent > storage.num_elements:
                    self._reject("a tensor reaches beyond its storage")
                return tensor
            case (storage, *_) if storage is OPAQUE:  # of a dtype that no weight has
                return OPAQUE
        self._reject("a tensor is not described as torch.save describes it")

    def _reject(self, fault: str) -> NoReturn:
        _reject(self._file_name, fault)


def _are_counts(values: tuple[Any, ...]) -> bool:
    return all(type(value) is int and 0 <= value < _MAX_COUNT for value in values)


def _reject(file_name: str, fault: str) -> NoReturn:
    raise CheckpointError(
        "E-CKPT-PICKLE",
        f"{shown(file_name)} cannot be read: in its pickle, {fault}.",
        "Fetch the file again from a source that you trust.",
    )
