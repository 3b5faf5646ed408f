"""The Hugging Face layout: ``config.json``, safetensors shards and their index.

Opening reads every header and none of the weights: names, shapes and dtypes must be exactly those that the config asks
for, and index and shards must agree about where each tensor lies. After that reading cannot fail because of what a file
says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import TensorInfo
from nvlm_trt.checkpoint.fingerprint import Fingerprint
from nvlm_trt.checkpoint.layout import expected_tensors
from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.checkpoint.tensor_spec import TensorSpec
from nvlm_trt.checkpoint.untrusted import read_object, shown
from nvlm_trt.checkpoint.weight_index import SINGLE_FILE, WeightIndex, read_index
from nvlm_trt.errors import CheckpointError
from nvlm_trt.model.config import NvlmConfig

__all__ = ["HuggingFaceCheckpoint"]

CONFIG_FILE = "config.json"
_FLOATS = ("BF16", "F32", "F16")


class HuggingFaceCheckpoint:
    """An opened and checked checkpoint.

    Raises ``CheckpointError``: E-CONFIG-JSON, E-CONFIG-* (see ``NvlmConfig.from_json``), E-CKPT-INDEX for an index that
    cannot be followed, E-CKPT-SHARD for a missing file, E-CKPT-HEADER for a file that is not what it says,
    E-CKPT-TENSOR for missing, unknown and doubled tensors, E-CKPT-SHAPE and E-CKPT-DTYPE.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        data, self._config_bytes = read_object(self._root / CONFIG_FILE, "E-CONFIG-JSON")
        self._config = NvlmConfig.from_json(data)
        expected = expected_tensors(self._config)
        self._index = read_index(self._root)
        if self._index is None:
            self._files = {SINGLE_FILE: SafetensorsFile(self._root / SINGLE_FILE)}
            shard_of: Mapping[str, str] = dict.fromkeys(self._files[SINGLE_FILE].names(), SINGLE_FILE)
            _check_names(expected, shard_of)
        else:
            shard_of = self._index.shard_of
            # Names first: an index for another model is a clearer message than its first missing shard.
            _check_names(expected, shard_of)
            self._files = {name: SafetensorsFile(self._root / name) for name in sorted(set(shard_of.values()))}
            _check_shards(self._files, self._index)
        self._file_of = {name: self._files[file_name] for name, file_name in shard_of.items()}
        for name, spec in expected.items():
            _check_tensor(spec, self.info(name))

    @staticmethod
    def recognises(root: Path) -> bool:
        return (root / CONFIG_FILE).is_file()

    @property
    def root(self) -> Path:
        return self._root

    @property
    def config(self) -> NvlmConfig:
        return self._config

    def names(self) -> Sequence[str]:
        return sorted(self._file_of)

    def info(self, name: str) -> TensorInfo:
        return self._holder(name).info(name)

    def files(self, name: str) -> Sequence[Path]:
        return (self._holder(name).path,)

    def read(self, name: str) -> NDArray[Any]:
        return self._holder(name).read(name)

    def drop_pages(self, name: str) -> None:
        self._holder(name).drop_pages(name)

    def fingerprint(self) -> str:
        """SHA-256 in hex of config, index, every shard's name, size and header, and samples of the weights."""
        fingerprint = Fingerprint()
        fingerprint.add(self._config_bytes)
        fingerprint.add(self._index.raw if self._index else b"")
        for file_name, file in sorted(self._files.items()):
            fingerprint.add(file_name.encode())
            fingerprint.add(file.size_bytes.to_bytes(8, "little"))
            fingerprint.add(file.header_bytes)
            fingerprint.add_samples(file.path, map(file.span, file.names()))
        return fingerprint.hexdigest()

    def _holder(self, name: str) -> SafetensorsFile:
        file = self._file_of.get(name)
        if file is None:
            raise CheckpointError("E-CKPT-TENSOR", f"The checkpoint holds no tensor {shown(name)}.")
        return file


def _check_names(expected: Mapping[str, TensorSpec], found: Mapping[str, str]) -> None:
    if missing := [name for name in expected if name not in found]:
        raise CheckpointError(
            "E-CKPT-TENSOR",
            f"{len(missing)} of {len(expected)} tensors are missing, the first is {missing[0]}.",
            "Fetch the whole model, and the config.json that belongs to it.",
        )
    if unknown := sorted(name for name in found if name not in expected):
        raise CheckpointError(
            "E-CKPT-TENSOR",
            f"{len(unknown)} tensors have no place in this model, the first is {shown(unknown[0])}.",
            "Use the config.json that belongs to the weights; nothing is left out silently.",
        )


def _check_shards(files: Mapping[str, SafetensorsFile], index: WeightIndex) -> None:
    """Every tensor lies in the shard the index names, and in no other."""
    holders = Counter(name for file in files.values() for name in file.names())
    for file_name, file in files.items():
        for name in file.names():
            if name not in index.shard_of:
                raise _misplaced(f"{shown(file_name)} holds {shown(name)}, which the index does not name")
            if holders[name] > 1:
                raise _misplaced(f"{shown(name)} lies in {holders[name]} shards")
            if index.shard_of[name] != file_name:
                raise _misplaced(
                    f"{shown(name)} lies in {shown(file_name)}; the index says {shown(index.shard_of[name])}"
                )
    for name, file_name in index.shard_of.items():
        if name not in holders:
            raise _misplaced(f"{shown(file_name)} does not hold {shown(name)}, which the index promises")
    total_bytes = _total_bytes(files.values())
    if index.total_bytes not in (None, total_bytes):
        raise CheckpointError(
            "E-CKPT-INDEX",
            f"The index promises {shown(index.total_bytes)} bytes of weights, the shards hold {total_bytes}.",
            "Fetch index and shards from the same source.",
        )


def _check_tensor(spec: TensorSpec, info: TensorInfo) -> None:
    if info.shape != spec.shape:
        raise CheckpointError(
            "E-CKPT-SHAPE",
            f"{spec.name} has shape {list(info.shape)}; config.json asks for {list(spec.shape)}.",
            "Use the config.json that belongs to the weights.",
        )
    if info.dtype not in _FLOATS:
        raise CheckpointError(
            "E-CKPT-DTYPE",
            f"{spec.name} has dtype {info.dtype}; {', '.join(_FLOATS)} can be read.",
            "Use the model as released, not a quantised copy.",
        )


def _total_bytes(files: Iterable[SafetensorsFile]) -> int:
    return sum(file.info(name).nbytes for file in files for name in file.names())


def _misplaced(fault: str) -> CheckpointError:
    return CheckpointError("E-CKPT-TENSOR", f"{fault}.", "Fetch index and shards from the same source.")
