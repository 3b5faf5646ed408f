from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import struct
import time
import tracemalloc
from collections import OrderedDict, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nvlm_trt.checkpoint.torch_file.pickle_machine import read_pickle
from nvlm_trt.checkpoint.torch_file.values import OPAQUE, StorageRef, TensorRef
from nvlm_trt.errors import CheckpointError

PROTO = b"\x80\x02"
RUN_ME = "echo run >"


def read(data: bytes) -> Any:
    return read_pickle(data, "data.pkl")


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def tensor(storage: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """A tensor as torch writes it, on a storage given by its persistent id."""

    def number(value: int) -> bytes:
        raw = value.to_bytes(9, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    call = named("torch._utils", "_rebuild_tensor_v2")
    rest = b"\x89" + named("collections", "OrderedDict") + b")R"
    return call + b"(" + storage + b"Q" + number(offset) + numbers(shape) + numbers(strides) + rest + b"tR"


def storage(kind: str = "FloatStorage", count: int = 12) -> bytes:
    return (
        b"(" + text("storage") + named("torch", kind) + text("7") + text("cpu") + b"J" + struct.pack("<i", count) + b"t"
    )


# ---- what training leaves -------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=30,
)


@settings(deadline=None)
@given(values, st.sampled_from([2, 3]))
@example(list(range(70000)), 2)
@example(2**2000, 2)
def test_plain_values_come_back(value: Any, protocol: int):
    assert read(pickle.dumps(value, protocol)) == value


def test_shared_and_recursive_values_are_shared():
    shared = [1]
    read_back = read(pickle.dumps({"a": shared, "b": shared}, 2))
    assert read_back["a"] is read_back["b"]
    circle: list[Any] = []
    circle.append(circle)
    read_back = read(pickle.dumps(circle, 2))
    assert read_back[0] is read_back


@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(lr=1.0, nested=argparse.Namespace(x={1, 2})),
        defaultdict(int, a=1),
        Path("checkpoints"),
        {1, 2},
        frozenset({1}),
        1 + 2j,
        b"\xff\x00bytes",
        bytearray(b"x"),
        io.BytesIO(b"state"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_beside_the_weights_are_not_built(value: Any):
    read_back = read(pickle.dumps({"before": 1, "value": value, "after": 2}, 2))
    assert read_back == {"before": 1, "value": OPAQUE, "after": 2}


@pytest.mark.parametrize("module", ["builtins", "__builtin__"])
def test_a_member_of_an_enum_is_not_built_however_python_wrote_it(module: str):
    """By its value, by its name in its module, or, from Python 3.11.0 to 3.11.3, as an attribute of its class."""
    by_value = named("signal", "Signals") + b"(K\x0ftR"
    by_attribute = named(module, "getattr") + named("megatron.core.enums", "AttnBackend") + text("auto") + b"\x86R"
    assert read(PROTO + by_value + b".") is OPAQUE
    assert read(PROTO + by_attribute + b".") is OPAQUE
    read_back = read(PROTO + b"}" + text("seen") + named("signal", "SIGTERM") + b"s.")
    assert list(read_back) == ["seen"]
    with pytest.raises(CheckpointError, match="not a class"):
        read(PROTO + named(module, "getattr") + text("x") + text("__class__") + b"\x86R.")


def test_an_ordered_dict_is_a_dict_whatever_its_attributes():
    ordered = OrderedDict(b=1, a=2)
    ordered._metadata = {"version": 1}  # type: ignore[attr-defined]
    assert list(read(pickle.dumps(ordered, 2)).items()) == [("b", 1), ("a", 2)]


def test_random_states_are_plain_numbers():
    state = random.Random(0).getstate()
    assert read(pickle.dumps(state, 2)) == state


def test_a_tensor_is_a_reference_to_its_storage():
    data = PROTO + tensor(storage("BFloat16Storage", 12), 2, (2, 3), (5, 1)) + b"."
    assert read(data) == TensorRef(StorageRef("BF16", "7", 12), 2, (2, 3), (5, 1))


def test_a_tensor_of_a_dtype_that_no_weight_has_is_opaque():
    assert read(PROTO + tensor(storage("ComplexFloatStorage", 12), 0, (2,), (1,)) + b".") is OPAQUE


# ---- what nobody trains ---------------------------------------------------------------------------------------------


class Evil:
    """Runs a command when it is unpickled by Python."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"{RUN_ME} {self.marker}",)


class EvilState:
    """Asks for an evaluation in its state, deep inside a harmless object."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return argparse.Namespace, (), {"x": [{"y": (Evil(self.marker),)}]}


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("evil", [Evil, EvilState])
def test_nothing_is_run(tmp_path: Path, protocol: int, evil: type[Evil]):
    marker = tmp_path / "marker"
    data = pickle.dumps({"model": {"weight": evil(marker)}}, protocol)
    with pytest.raises(CheckpointError, match=r"E-CKPT-PICKLE: data.pkl .* it asks for (posix|nt)\.system") as caught:
        read(data)
    assert "nothing was run" in caught.value.what
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists(), "the attack works on Python's own machine"


def call(module: str, name: str, argument: str) -> bytes:
    return named(module, name) + b"(" + text(argument) + b"tR"


# Each as a whole pickle, with what must be said about it.
ATTACKS: dict[str, tuple[bytes, str]] = {
    "eval": (call("builtins", "eval", "1/0"), "asks for builtins.eval"),
    "eval, as protocol 2 calls it": (call("__builtin__", "eval", "1/0"), "asks for __builtin__.eval"),
    "exec": (call("builtins", "exec", "1/0"), "asks for builtins.exec"),
    "getattr": (call("builtins", "getattr", "x"), "asks for an attribute of something that is not a class"),
    "import": (call("builtins", "__import__", "os"), "asks for builtins.__import__"),
    "subprocess": (call("subprocess", "Popen", "true"), "asks for subprocess.Popen"),
    "pickle in a pickle": (call("pickle", "loads", "x"), "asks for pickle.loads"),
    "a function of ours": (call("nvlm_trt.cli", "main", "x"), "asks for nvlm_trt.cli.main"),
    "a package by its beginning": (call("torch_evil", "load", "x"), "asks for torch_evil.load"),
    "a dotted name": (call("os", "path.join", "x"), "asks for os.path.join"),
    "a name of newlines and control codes": (named("o\rs", "\x1b[31m"), "asks for o?s.?[31m"),
    "a long name": (named("o" * 5000, "s"), "asks for " + "o" * 100),
    "a call of a result": (call("numpy", "f", "x") + b")R", "calls something that is not named"),
    "a call of a text": (text("os.system") + b")R", "calls something that is not named"),
    "a call without arguments": (named("numpy", "f") + b"NR", "calls something that is not named"),
    "state of a function": (named("torch._utils", "_rebuild_tensor_v2") + b"}b", "sets the state of something"),
    "state of a class": (named("argparse", "Namespace") + b"}b", "sets the state of something"),
    "items of a function": (named("collections", "OrderedDict") + b"K\x01K\x01s", "sets items of something"),
    "items of a list": (b"]K\x00K\x00s", "sets items of something that is not a dict"),
    "an odd number of items": (b"}(K\x00u", "sets items of something that is not a dict"),
    "appending to a dict": (b"}K\x00a", "appends to something that is not a list"),
    "old instance": (b"(" + b"ios\nsystem\n", "instruction 0x69"),
    "old object": (b"(" + named("argparse", "Namespace") + b"o", "instruction 0x6f"),
    "a name from the stack": (text("os") + text("system") + b"\x93", "instruction 0x93"),
    "a text persistent id": (b"Pstorage\n", "instruction 0x50"),
    "an extension": (b"\x82\x01", "instruction 0x82"),
    "an array to be allocated": (b"\x96" + struct.pack("<Q", 2**40), "instruction 0x96"),
    "protocol 4": (b"\x80\x04", "not of protocol 2 or 3"),
    "protocol 5": (pickle.dumps([1], 5), "not of protocol 2 or 3"),
    "no end": (b"]", "broken or cut short"),
    "nothing": (b"", "broken or cut short"),
    "an empty stack": (b".", "broken or cut short"),
    "no mark": (b"t.", "broken or cut short"),
    "below a mark": (b"K\x01(R.", "broken or cut short"),
    "an unknown memo": (b"h\x05.", "broken or cut short"),
    "a text beyond the end": (b"X\xff\xff\xff\x7fx.", "broken or cut short"),
    "a number beyond the end": (b"J\x00.", "broken or cut short"),
    "a name without an end": (b"cos", "broken or cut short"),
    "bytes that are no text": (b"X\x01\x00\x00\x00\xff.", "broken or cut short"),
    "a name that is not a text": (b"c\xff\nx\n.", "broken or cut short"),
    "another persistent id": (text("x") + b"Q", "refers to something that is not a storage"),
    "a persistent id of a module": (
        b"(" + text("module") + named("torch", "FloatStorage") + text("7") + text("cpu") + b"K\x01tQ",
        "refers to something that is not a storage",
    ),
    "a storage of no size": (storage(count=-1) + b"Q", "refers to something that is not a storage"),
    "a tensor beyond its storage": (tensor(storage(), 1, (3, 4), (4, 1)), "reaches beyond its storage"),
    "an offset beyond its storage": (tensor(storage(), 13, (1,), (1,)), "reaches beyond its storage"),
    "an empty tensor beyond its storage": (tensor(storage(), 13, (0,), (1,)), "reaches beyond its storage"),
    "a stride beyond its storage": (tensor(storage(), 0, (2, 1), (12, 1)), "reaches beyond its storage"),
    "a negative offset": (tensor(storage(), -1, (1,), (1,)), "not whole numbers from 0"),
    "a negative size": (tensor(storage(), 0, (-1,), (1,)), "not whole numbers from 0"),
    "a negative stride": (tensor(storage(), 11, (12,), (-1,)), "not whole numbers from 0"),
    "a size beyond all memory": (tensor(storage(), 0, (2**64,), (0,)), "not whole numbers from 0"),
    "fewer strides than sizes": (tensor(storage(), 0, (1, 1), (1,)), "2 sizes and 1 strides"),
    "too many axes": (tensor(storage(), 0, (1,) * 33, (1,) * 33), "33 sizes and 33 strides"),
    "a tensor of nothing": (named("torch._utils", "_rebuild_tensor_v2") + b")R", "not described as torch.save"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_in_our_words(attack: str):
    data, said = ATTACKS[attack]
    with pytest.raises(CheckpointError) as caught:
        read(PROTO + data + (b"" if said.startswith("broken") else b"."))
    assert caught.value.code == "E-CKPT-PICKLE"
    assert said in caught.value.what
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


BOMBS = {
    "a memo index that a table would have to reach": PROTO + b"Nr\xff\xff\xff\x7f.",
    "texts that refer to each other": PROTO + b"]q\x00" + b"(h\x00h\x00tq\x00" * 100 + b".",
    "a key whose hash would take for ever": PROTO + b"()q\x00" + b"h\x00h\x00\x86q\x00" * 100 + b"t}h\x00K\x01s.",
    "a tensor of one element repeated": PROTO + tensor(storage(), 0, (2**20,) * 3, (0,) * 3) + b".",
    "lists in each other by the thousand": PROTO + b"]" * 30_000 + b"a" * 29_999 + b".",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_costs_no_memory_and_no_time(bomb: str):
    tracemalloc.start()
    start = time.process_time()
    try:
        read(BOMBS[bomb])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64_000_000
    assert time.process_time() - start < 10


def test_a_pickle_of_millions_of_instructions_is_refused():
    with pytest.raises(CheckpointError, match="more than 4000000 instructions"):
        read(PROTO + b"N" + b"q\x00" * 4_000_001 + b".")


whole = pickle.dumps(
    {"model": OrderedDict(a=1.5, b=(1, 2, [3])), "args": argparse.Namespace(x=1), "text": "ä", "big": 2**70}, 2
)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(whole) - 1), st.binary(max_size=4))
def test_damage_is_read_or_refused_and_nothing_else(at: int, put: bytes):
    data = whole[:at] + put + whole[at + len(put) :]
    # Whatever else is raised would fail the test.
    with suppress(CheckpointError):
        read(data)
