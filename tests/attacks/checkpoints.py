"""Hostile model folders: each spoils a good one."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["CHECKPOINTS", "Spoiled", "fill_tensor"]

INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00005.safetensors"


@dataclass(frozen=True)
class Spoiled:
    name: str
    tried: str
    spoil: Callable[[Path], object] = field(repr=False)
    code: str


def _read_header(shard: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors begin."""
    with shard.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)), 8 + length


def fill_tensor(folder: Path, name: str, byte: bytes) -> None:
    shard = folder / json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"][name]
    header, start = _read_header(shard)
    begin, end = header[name]["data_offsets"]
    with shard.open("r+b") as file:
        file.seek(start + begin)
        file.write(byte * (end - begin))


def _json(file: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = json.loads((folder / file).read_text(encoding="utf-8"))
        change(data)
        (folder / file).write_text(json.dumps(data), encoding="utf-8")

    return spoil


def _text(file: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(text, encoding="utf-8")


def _header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Another header before the same tensors."""

    def spoil(folder: Path) -> None:
        header, start = _read_header(folder / SHARD)
        tensors = (folder / SHARD).read_bytes()[start:]
        change(header)
        text = json.dumps(header).encode()
        (folder / SHARD).write_bytes(struct.pack("<Q", len(text)) + text + tensors)

    return spoil


def _header_bytes(text: bytes, length: int | None = None) -> Callable[[Path], object]:
    return lambda folder: (folder / SHARD).write_bytes(
        struct.pack("<Q", len(text) if length is None else length) + text
    )


def _first(header: dict[str, Any]) -> dict[str, Any]:
    name = min(name for name in header if name != "__metadata__")
    entry: dict[str, Any] = header[name]
    return entry


def _point_at(target: str) -> Callable[[Path], None]:
    return _json(INDEX, lambda index: index["weight_map"].update({"mlp1.0.bias": target}))


def _link_out(folder: Path) -> None:
    target = folder.parent / "elsewhere.safetensors"
    (folder / SHARD).rename(target)
    (folder / SHARD).symlink_to(target)


def _folder_for_shard(folder: Path) -> None:
    (folder / SHARD).unlink()
    (folder / SHARD).mkdir()


def _truncate(folder: Path) -> None:
    os.truncate(folder / SHARD, (folder / SHARD).stat().st_size // 2)


def _llm(**values: Any) -> Callable[[Path], None]:
    return _json("config.json", lambda config: config["llm_config"].update(values))


_DEEP = "[" * 100_000

CHECKPOINTS = [
    Spoiled(
        "missing shard",
        "a file that the index names is not there",
        lambda folder: (folder / SHARD).unlink(),
        "E-CKPT-SHARD",
    ),
    Spoiled("cut shard", "a download that broke off", _truncate, "E-CKPT-HEADER"),
    Spoiled("empty shard", "a file of no bytes", lambda folder: (folder / SHARD).write_bytes(b""), "E-CKPT-HEADER"),
    Spoiled(
        "folder as shard",
        "a folder in a file's place",
        _folder_for_shard,
        "E-CKPT-SHARD",
    ),
    Spoiled("header beyond the file", "a header of 2^63 bytes", _header_bytes(b"{}", 2**63), "E-CKPT-HEADER"),
    Spoiled("header that is no JSON", "a header of other bytes", _header_bytes(b"\x80\x04pickle"), "E-CKPT-HEADER"),
    Spoiled("deep header", "a header nested until the parser gives up", _header_bytes(_DEEP.encode()), "E-CKPT-HEADER"),
    Spoiled(
        "tensor beyond the file",
        "offsets that end behind the last byte",
        _header(lambda h: _first(h)["data_offsets"].__setitem__(1, 2**60)),
        "E-CKPT-HEADER",
    ),
    Spoiled(
        "tensor before the file",
        "a negative offset",
        _header(lambda h: _first(h)["data_offsets"].__setitem__(0, -8)),
        "E-CKPT-HEADER",
    ),
    Spoiled(
        "shape that lies",
        "a shape of more bytes than the offsets hold",
        _header(lambda h: _first(h)["shape"].append(1000)),
        "E-CKPT-HEADER",
    ),
    Spoiled(
        "shape that overflows",
        "dimensions whose product wraps to the right size",
        _header(lambda h: _first(h).update(shape=[2**32, 2**32])),
        "E-CKPT-HEADER",
    ),
    Spoiled(
        "unknown dtype",
        "a type that does not exist",
        _header(lambda h: _first(h).update(dtype="F128")),
        "E-CKPT-HEADER",
    ),
    Spoiled("index to the parent", "a shard outside the folder", _point_at("../elsewhere.safetensors"), "E-CKPT-INDEX"),
    Spoiled("index to a root path", "a shard by an absolute path", _point_at("/etc/passwd"), "E-CKPT-INDEX"),
    Spoiled("link out", "a shard that is a link out of the folder", _link_out, "E-CKPT-INDEX"),
    Spoiled("index that is a list", "JSON of another form", _text(INDEX, "[]"), "E-CKPT-INDEX"),
    Spoiled("deep index", "an index nested until the parser gives up", _text(INDEX, _DEEP), "E-CKPT-INDEX"),
    Spoiled(
        "wrong shape", "a config that wants other shapes than there are", _llm(intermediate_size=1024), "E-CKPT-SHAPE"
    ),
    Spoiled(
        "unknown architecture",
        "another model",
        _json("config.json", lambda c: c.update(architectures=["LlamaForCausalLM"])),
        "E-CONFIG-ARCH",
    ),
    Spoiled(
        "config that is cut",
        "JSON that ends early",
        _text("config.json", '{"architectures": ["NVLM_D'),
        "E-CONFIG-JSON",
    ),
    Spoiled("deep config", "a config nested until the parser gives up", _text("config.json", _DEEP), "E-CONFIG-JSON"),
    Spoiled("huge width", "a width that no memory holds", _llm(hidden_size=10**30), "E-CONFIG-VALUE"),
    Spoiled("negative layers", "a count below zero", _llm(num_hidden_layers=-1), "E-CONFIG-VALUE"),
    Spoiled("text as number", "a text where a number belongs", _llm(vocab_size="2048"), "E-CONFIG-KEY"),
    Spoiled(
        "missing key",
        "a config without a size",
        _json("config.json", lambda c: c["llm_config"].pop("hidden_size")),
        "E-CONFIG-KEY",
    ),
    Spoiled("no tokenizer", "no vocabulary", lambda folder: (folder / "vocab.json").unlink(), "E-TOKENIZER-MISSING"),
    Spoiled(
        "tokenizer of another model",
        "merges that name unknown tokens",
        _text("merges.txt", "#version: 0.2\nzqx xqz\n"),
        "E-TOKENIZER-MERGES",
    ),
    Spoiled(
        "not a folder",
        "a path that is not there",
        lambda folder: folder.rename(folder.parent / "moved"),
        "E-CKPT-FOLDER",
    ),
]
