"""Parses the header of a safetensors file as if its writer were hostile.

A file is eight bytes of little-endian header length, the header as JSON, then the tensors' bytes. The header is
believed only where the file confirms it: every byte of the data belongs to exactly one tensor, inside the file, with no
gap and no second name, and each tensor's byte count follows from its dtype and shape. So code that maps the file
afterwards can neither read outside it nor be talked into a large allocation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, BinaryIO, NoReturn

from nvlm_trt.checkpoint.tensor_spec import DTYPES, TensorSpec
from nvlm_trt.checkpoint.untrusted import parse_object, shown
from nvlm_trt.errors import CheckpointError

__all__ = ["MAX_HEADER_BYTES", "Header", "parse_header", "read_header", "render_header"]

# The safetensors library's own limit.
MAX_HEADER_BYTES = 100_000_000
# numpy 1.x knows no more axes, and no array of more bytes.
_MAX_AXES = 32
_MAX_BYTES = 2**63 - 1
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class Header:
    """``tensors`` and ``starts`` share their keys; ``starts`` counts bytes from the file's first byte."""

    tensors: Mapping[str, TensorSpec]
    starts: Mapping[str, int]
    metadata: Mapping[str, str]
    raw: bytes


def read_header(file: BinaryIO, file_size: int, file_name: str) -> Header:
    """Read and check the header of an open file.

    Raises ``CheckpointError`` E-CKPT-HEADER. ``file_name`` is for the error's text.
    """
    prefix = file.read(8)
    if len(prefix) < 8:
        _reject(file_name, f"it has {file_size} bytes; a safetensors file has at least 10")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        _reject(file_name, f"its header claims {length} bytes; at most {MAX_HEADER_BYTES} are allowed")
    if 8 + length > file_size:
        _reject(file_name, f"its header claims {length} bytes and only {file_size - 8} follow")
    raw = file.read(length)
    if len(raw) < length:
        _reject(file_name, "it ended while its header was read")
    return parse_header(raw, file_size, file_name)


def parse_header(raw: bytes, file_size: int, file_name: str) -> Header:
    """Check the JSON part of a header against the size of its file. Raises E-CKPT-HEADER."""
    try:
        entries = parse_object(raw)
    except ValueError as error:
        _reject(file_name, f"its header {error}")
    metadata = entries.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _reject(file_name, f"{_METADATA} is not an object of texts")
    data_start, data_bytes = 8 + len(raw), file_size - 8 - len(raw)
    tensors: dict[str, TensorSpec] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        spec, begin, end = _entry(name, entry, data_bytes, file_name)
        tensors[name] = spec
        spans.append((begin, end, name))
    reached = 0
    for begin, end, name in sorted(spans):
        if begin != reached:
            fault = "overlaps the tensor before it" if begin < reached else "leaves a gap before it"
            _reject(file_name, f"tensor {shown(name)} begins at byte {begin}, not at {reached}: it {fault}")
        reached = end
    if reached != data_bytes:
        _reject(file_name, f"its tensors take {reached} bytes and {data_bytes} follow the header")
    return Header(
        tensors=MappingProxyType(tensors),
        starts=MappingProxyType({name: data_start + begin for begin, _, name in spans}),
        metadata=MappingProxyType(metadata),
        raw=raw,
    )


def render_header(specs: Sequence[TensorSpec], metadata: Mapping[str, str] | None = None) -> bytes:
    """Length prefix and JSON for tensors lying one behind the other in the given order.

    Padded with blanks so that the data begins at a multiple of eight bytes, as the safetensors library pads.
    """
    entries: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    reached = 0
    for spec in specs:
        if spec.name in entries or spec.name == _METADATA:
            raise ValueError(f"tensor {spec.name!r} is given twice or has the metadata's name")
        end = reached + spec.nbytes
        entries[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [reached, end]}
        reached = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _entry(name: str, entry: Any, data_bytes: int, file_name: str) -> tuple[TensorSpec, int, int]:
    where = f"tensor {shown(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _reject(file_name, f"{where} needs dtype, shape and data_offsets and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        _reject(file_name, f"{where} has dtype {shown(dtype)}; known are {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > _MAX_AXES or not all(map(_is_count, shape)):
        _reject(file_name, f"{where} has shape {shown(shape)}; at most {_MAX_AXES} whole numbers from 0 are allowed")
    # A size of zero must not hide another one that no array can have.
    if math.prod(max(size, 1) for size in shape) * DTYPES[dtype].itemsize > _MAX_BYTES:
        _reject(file_name, f"{where} has shape {shown(shape)}, more than memory can address")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        _reject(file_name, f"{where} has data_offsets {shown(offsets)}; two whole numbers from 0 are wanted")
    begin, end = offsets
    if not begin <= end <= data_bytes:
        _reject(file_name, f"{where} lies at bytes {shown(begin)} to {shown(end)} of {data_bytes}")
    spec = TensorSpec(name, dtype, tuple(shape))
    if end - begin != spec.nbytes:
        _reject(
            file_name, f"{where} takes {end - begin} bytes; {dtype} of shape {shown(shape)} takes {shown(spec.nbytes)}"
        )
    return spec, begin, end


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_BYTES


def _reject(file_name: str, fault: str) -> NoReturn:
    raise CheckpointError(
        "E-CKPT-HEADER", f"{shown(file_name)} cannot be read: {fault}.", "Fetch the file again and compare its size."
    )
