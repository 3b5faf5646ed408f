"""The Megatron-Core layout, read as if it were the release's.

    latest_checkpointed_iteration.txt                    names the iteration
    iter_0031500/mp_rank_00[_000]/model_optim_rng.pt     one file per tensor-parallel rank and pipeline stage
    config.json, vocab.json, ...                         the release's own, put beside by the user

Opening reads the ranks' pickles and none of the weights. Every rank of a stage must have every tensor that the config
asks for, in a shape that the tensor's rule allows, and no other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Place, TensorInfo
from nvlm_trt.checkpoint.fingerprint import Fingerprint
from nvlm_trt.checkpoint.layout import expected_tensors
from nvlm_trt.checkpoint.megatron.checks import check_iterations, check_names, check_tensor, layers_per_stage
from nvlm_trt.checkpoint.megatron.folder import RANK_FILE, TRACKER_FILE, find_ranks
from nvlm_trt.checkpoint.megatron.rank_file import RankFile
from nvlm_trt.checkpoint.megatron.sources import sources
from nvlm_trt.checkpoint.tensor_spec import TensorSpec
from nvlm_trt.checkpoint.untrusted import read_object, shown
from nvlm_trt.errors import CheckpointError
from nvlm_trt.model.config import NvlmConfig

__all__ = ["MegatronCheckpoint"]

CONFIG_FILE = "config.json"
_RELEASE = "https://huggingface.co/nvidia/NVLM-D-72B"
# The release's module uses torch's default of 1e-5; Megatron builds the projector with its --norm-epsilon.
_PROJECTOR_NORM_EPS = 1e-6


class MegatronCheckpoint:
    """An opened and checked checkpoint, its tensors under the release's names.

    Raises ``CheckpointError``: E-CKPT-CONFIG where config.json is missing, E-CONFIG-* (see ``NvlmConfig.from_json``),
    E-CKPT-LAYOUT for a folder that holds shards of the other layout too, E-CKPT-INDEX and E-CKPT-RANK for its folders,
    E-CKPT-SHARD, E-CKPT-HEADER, E-CKPT-PICKLE and E-CKPT-VERSION for its files, E-CKPT-TENSOR for missing and unknown
    tensors, E-CKPT-SHAPE and E-CKPT-DTYPE; E-CKPT-RANK also for ranks that contradict each other.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        if any(self._root.glob("*.safetensors")):
            raise CheckpointError(
                "E-CKPT-LAYOUT",
                f"The folder has a {TRACKER_FILE} and .safetensors files, so two checkpoints lie in it.",
                "Give each a folder of its own.",
            )
        self._config, self._config_bytes = _read_config(self._root)
        ranks = find_ranks(self._root)
        self._iteration = ranks.iteration
        self._stages = [
            [RankFile(folder / RANK_FILE, f"{folder.name}/{RANK_FILE}") for folder in stage] for stage in ranks.folders
        ]
        check_iterations(self._stages, ranks.number)
        self._sources = sources(self._config, layers_per_stage(self._stages, self._config.decoder.num_layers))
        check_names(self._stages, self._sources)
        expected = expected_tensors(self._config)
        self._specs = {
            name: TensorSpec(name, check_tensor(source, self._stages[source.stage]), expected[name].shape)
            for name, source in self._sources.items()
        }

    @staticmethod
    def recognises(root: Path) -> bool:
        return (root / TRACKER_FILE).is_file()

    @property
    def root(self) -> Path:
        return self._root

    @property
    def config(self) -> NvlmConfig:
        return self._config

    def names(self) -> Sequence[str]:
        return sorted(self._specs)

    def info(self, name: str) -> TensorInfo:
        spec = self._spec(name)
        return TensorInfo(name, spec.dtype, spec.shape, spec.nbytes, self._place(name))

    def files(self, name: str) -> Sequence[Path]:
        return tuple(rank.file.path for rank in self._ranks(name))

    def read(self, name: str) -> NDArray[Any]:
        """A mapped view where the only rank's tensor serves as it lies, else an array of its own.

        Raises ``CheckpointError`` E-CKPT-RANK where ranks should hold the same values and do not.
        """
        spec, rule = self._spec(name), self._sources[name].rule
        tensors = self._mapped(name)
        if len(tensors) == 1 and (view := rule.view(tensors[0], spec.shape)) is not None:
            return view
        if rule.split is None:
            self._check_equal(name, tensors)
            tensors = tensors[:1]
        # What was copied need not stay in memory a second time.
        array = rule.assemble(tensors, spec.shape, lambda rank: self._drop(name, rank))
        array.flags.writeable = False
        return array

    def drop_pages(self, name: str) -> None:
        for rank in range(len(self._ranks(name))):
            self._drop(name, rank)

    def fingerprint(self) -> str:
        """SHA-256 in hex of config, every rank's name, size and pickle, and samples of the weights."""
        fingerprint = Fingerprint()
        fingerprint.add(self._config_bytes)
        for rank in (rank for stage in self._stages for rank in stage):
            fingerprint.add(f"{self._iteration.name}/{rank.label}".encode())
            fingerprint.add(rank.file.size_bytes.to_bytes(8, "little"))
            fingerprint.add(rank.file.pickle_bytes)
            spans = [rank.file.span(tensor) for _, tensor in sorted(rank.tensors.items())]
            fingerprint.add_samples(rank.file.path, spans)
        return fingerprint.hexdigest()

    def _spec(self, name: str) -> TensorSpec:
        spec = self._specs.get(name)
        if spec is None:
            raise CheckpointError("E-CKPT-TENSOR", f"The checkpoint holds no tensor {shown(name)}.")
        return spec

    def _ranks(self, name: str) -> list[RankFile]:
        self._spec(name)
        return self._stages[self._sources[name].stage]

    def _mapped(self, name: str) -> list[NDArray[Any]]:
        stored = self._sources[name].name
        return [rank.file.read(rank.tensors[stored]) for rank in self._ranks(name)]

    def _drop(self, name: str, rank: int) -> None:
        file = self._ranks(name)[rank]
        file.file.drop_pages(file.tensors[self._sources[name].name])

    def _place(self, name: str) -> Place | None:
        """Nothing is pointed at in a checkpoint of several ranks: who reads has all ranks compared."""
        ranks, source = self._ranks(name), self._sources[name]
        if len(ranks) > 1:
            return None
        (stored,) = self._mapped(name)
        view = source.rule.view(stored, self._specs[name].shape)
        if view is None:
            return None
        begin, _ = ranks[0].file.span(ranks[0].tensors[source.name])
        return Place(ranks[0].file.path, begin + _address(view) - _address(stored))

    def _check_equal(self, name: str, tensors: Sequence[NDArray[Any]]) -> None:
        for rank, tensor in zip(self._ranks(name)[1:], tensors[1:], strict=True):
            if not np.array_equal(_codes(tensors[0]), _codes(tensor)):
                raise CheckpointError(
                    "E-CKPT-RANK",
                    f"{self._sources[name].name} in {rank.label} differs from the first rank's; all should be equal.",
                    "Fetch the ranks again, all of the same training run.",
                )


def _read_config(root: Path) -> tuple[NvlmConfig, bytes]:
    if not (root / CONFIG_FILE).is_file():
        raise CheckpointError(
            "E-CKPT-CONFIG",
            f"There is no {CONFIG_FILE} beside {TRACKER_FILE}: Megatron-Core checkpoints carry neither a config nor a "
            "tokenizer.",
            f"Copy config.json, vocab.json, merges.txt and tokenizer_config.json from {_RELEASE} beside it.",
        )
    data, raw = read_object(root / CONFIG_FILE, "E-CONFIG-JSON")
    config = NvlmConfig.from_json(data)
    vision = dataclasses.replace(config.vision, projector_norm_eps=_PROJECTOR_NORM_EPS)
    return dataclasses.replace(config, vision=vision), raw


def _codes(array: NDArray[Any]) -> NDArray[Any]:
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
