"""Writes the FP8 TensorRT-LLM checkpoint folder: ``config.json`` and one ``rank{R}.safetensors`` per GPU.

Streams. A tensor is read from the mapped checkpoint when its turn in the output comes, split, quantised and written;
what is held is one rank's part of one source tensor. A weight is looked at twice, for its amax and for its bytes,
because the scale must be known first; fused weights are quantised part by part under their shared scale.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.disk import sync_folder, writing
from nvlm_trt.checkpoint.safetensors_writer import write_safetensors
from nvlm_trt.checkpoint.tensor_spec import DTYPES, TensorSpec
from nvlm_trt.decoder import fp8
from nvlm_trt.decoder.calibration import Calibration
from nvlm_trt.decoder.trtllm_format import (
    Kind,
    Mapping,
    Split,
    TensorRule,
    checkpoint_json,
    rank_file_name,
    tensor_rules,
)
from nvlm_trt.errors import ArtefactError, CheckpointError

__all__ = ["ConversionReport", "write_trtllm_checkpoint"]

_MODEL_TAGS = {"bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """``bytes_written`` counts tensor bytes; ``notes`` are sentences on anything that was not as expected."""

    bytes_written: int
    notes: tuple[str, ...]


def write_trtllm_checkpoint(
    checkpoint: Checkpoint,
    calibration: Calibration,
    out_folder: Path,
    *,
    tp: int = 1,
    pp: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert the checkpoint's decoder for ``tp`` times ``pp`` GPUs.

    ``config.json`` is removed first and written last: a folder that has one is complete. ``progress`` is called with
    bytes done and bytes in all.

    Raises ``UsageError`` E-RECIPE-TP or E-RECIPE-PP for a split the decoder does not allow, ``CheckpointError``
    E-CKPT-NAN for a weight that is not finite, ``ArtefactError`` E-ARTEFACT-CALIBRATION when the calibration is another
    model's.
    """
    config, mapping = checkpoint.config, Mapping(tp, pp)
    mapping.check(config.decoder)
    if len(calibration.layers) != config.decoder.num_layers:
        raise ArtefactError(
            "E-ARTEFACT-CALIBRATION",
            f"The calibration has {len(calibration.layers)} layers, the decoder {config.decoder.num_layers}.",
            "Calibrate this checkpoint anew.",
        )
    with writing(out_folder.name):
        out_folder.mkdir(parents=True, exist_ok=True)
    (out_folder / "config.json").unlink(missing_ok=True)
    maker = _TensorMaker(checkpoint, calibration)
    stages = [tensor_rules(config.decoder, mapping, stage) for stage in range(pp)]
    total = tp * sum(maker.spec(rule).nbytes for rules in stages for rule in rules)
    done = 0
    for rank in range(mapping.world_size):
        stage, position = divmod(rank, tp)
        rules = {rule.name: rule for rule in stages[stage]}

        def produce(
            name: str, rules: dict[str, TensorRule] = rules, position: int = position
        ) -> Iterator[NDArray[Any]]:
            nonlocal done
            for piece in maker.make(rules[name], position, tp):
                yield piece
                done += piece.nbytes
                if progress:
                    progress(done, total)

        entries = [maker.spec(rule) for rule in rules.values()]
        write_safetensors(out_folder / rank_file_name(rank), entries, produce)
    with writing("config.json"):
        _write_json(out_folder / "config.json", checkpoint_json(config, mapping))
    return ConversionReport(done, tuple(sorted(maker.notes)))


class _TensorMaker:
    """Turns rules into arrays; remembers the scales it has computed, a few bytes per weight."""

    def __init__(self, checkpoint: Checkpoint, calibration: Calibration) -> None:
        self._checkpoint = checkpoint
        self._calibration = calibration
        self._dtype_name = checkpoint.config.dtype
        self._amax: dict[str, np.float32] = {}
        self.notes: set[str] = set()

    def spec(self, rule: TensorRule) -> TensorSpec:
        tags = {Kind.PLAIN: _MODEL_TAGS[self._dtype_name], Kind.WEIGHT: "F8_E4M3"}
        return TensorSpec(rule.name, tags.get(rule.kind, "F32"), rule.shape)

    def make(self, rule: TensorRule, position: int, tp: int) -> Iterator[NDArray[Any]]:
        """One rank's tensor, in pieces that follow each other: one per source."""
        if rule.activation is not None:
            layer, entering = rule.activation
            amax = np.float32(getattr(self._calibration.layers[layer], entering))
            yield np.array([self._scale(rule.name, amax)], np.float32)
        elif rule.kind is Kind.WEIGHT_SCALE:
            yield np.array([self._weight_scale(rule)], np.float32)
        for source in rule.sources:
            part = _part(self._checkpoint.read(source), rule.split, position, tp)
            if rule.kind is Kind.WEIGHT:
                yield fp8.quantize(part, self._weight_scale(rule))
            else:
                yield self._in_model_dtype(source, part)

    def _weight_scale(self, rule: TensorRule) -> np.float32:
        for source in rule.scale_sources:
            if source not in self._amax:
                self._amax[source] = _finite_amax(source, self._checkpoint.read(source))
        return self._scale(rule.name, max(self._amax[source] for source in rule.scale_sources))

    def _scale(self, name: str, amax: np.float32) -> np.float32:
        if amax == 0:
            owner = name.rpartition(".")[0]
            self.notes.add(f"{owner}: weights or inputs are all zero; their scale is 1.")
        return fp8.scale_for(amax)

    def _in_model_dtype(self, source: str, part: NDArray[Any]) -> NDArray[Any]:
        """The release stores some bfloat16 values as float32; casting those loses nothing, anything else is noted."""
        _finite_amax(source, part)
        dtype = DTYPES[_MODEL_TAGS[self._dtype_name]]
        if part.dtype == dtype:
            return part
        with np.errstate(over="ignore"):
            cast = part.astype(dtype)
        if not np.array_equal(cast.astype(np.float32), part.astype(np.float32)):
            self.notes.add(f"{source}: some values were rounded to {self._dtype_name}.")
        return cast


def _part(tensor: NDArray[Any], split: Split, position: int, tp: int) -> NDArray[Any]:
    if split is Split.WHOLE:
        return tensor
    axis = 0 if split is Split.ROWS else 1
    size = tensor.shape[axis] // tp
    own = slice(position * size, (position + 1) * size)
    return tensor[own] if axis == 0 else tensor[:, own]


def _finite_amax(name: str, tensor: NDArray[Any]) -> np.float32:
    amax = fp8.amax(tensor)
    if not np.isfinite(amax):
        raise CheckpointError(
            "E-CKPT-NAN",
            f"The tensor {name} holds a value that is not a finite number.",
            "Fetch the checkpoint again, or ask whoever trained it.",
        )
    return amax


def _write_json(path: Path, data: dict[str, Any]) -> None:
    beside = path.with_name(path.name + ".partial")
    with beside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(data, indent=2, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)
