"""Converts a checkpoint to files described by rules: one pass over the input, all files filled as it goes.

    read ahead ─► amax of each block ─► (group complete: scale) ─► cast ─► every file that wants a part ─► write behind

The output's headers are fixed beforehand, so the input decides the order (``placement``). A group's blocks are held
until its last one has been seen; everything without a scale passes through block by block. So memory depends on the
largest group, not on the number of layers, ranks or stages.

Three threads share the work. Reading and writing bypass the page cache and mostly wait, so the arithmetic between them
has a core to itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.buffers import BufferPool
from nvlm_trt.checkpoint.direct_io import PAGE_BYTES, staging_buffer
from nvlm_trt.checkpoint.disk import partial_path, publish, write_beside, writing
from nvlm_trt.checkpoint.safetensors_draft import SafetensorsDraft
from nvlm_trt.checkpoint.tensor_spec import DTYPES
from nvlm_trt.checkpoint.tensor_stream import BLOCK_BYTES, Block, row_shape, stream_tensors
from nvlm_trt.checkpoint.write_behind import WriteBehind, write_behind
from nvlm_trt.decoder import fp8
from nvlm_trt.decoder.calibration import Calibration
from nvlm_trt.decoder.model_dtype import MODEL_TAGS, cast_to_model
from nvlm_trt.decoder.placement import Group, OutputFile, groups_in_input_order, output_spec, parts_by_source
from nvlm_trt.decoder.tensor_rule import Kind, TensorRule
from nvlm_trt.errors import ArtefactError, CheckpointError

__all__ = ["ConversionReport", "convert"]

# Draft, tensor, first element, values.
_Piece = tuple[SafetensorsDraft, str, int, NDArray[Any]]

# Results that wait for the disk.
_WRITE_BLOCKS = 6


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """Bytes are those of tensors; ``notes`` are sentences on anything that was not as expected."""

    bytes_read: int
    bytes_written: int
    notes: tuple[str, ...]


def convert(
    checkpoint: Checkpoint,
    calibration: Calibration | None,
    files: Sequence[OutputFile],
    documents: Mapping[Path, bytes],
    *,
    quotient_dtype: np.dtype[Any] = fp8.FLOAT32,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Write ``files`` and then ``documents``, all into one folder.

    Everything is written beside its place, synced and renamed at the end. The last document comes last: it says that
    all are there. If anything fails before, the folder is as it was. ``progress`` is called with bytes handed over for
    writing and bytes in all.

    Raises ``CheckpointError`` E-CKPT-NAN for a tensor that is not finite, E-CKPT-RANGE for one that is not in the
    model's dtype, E-CKPT-SHARD for a file that cannot be read any more, ``ArtefactError`` E-ARTEFACT-CALIBRATION when
    the calibration is another model's, ``BuildError`` E-BUILD-SPACE and E-BUILD-WRITE.
    """
    _check_calibration(checkpoint, calibration, files)
    folder = files[0].path.parent
    with writing(folder.name):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as undo:
        drafts = []
        staging = staging_buffer()  # one thread writes them all
        for file in files:
            entries = [output_spec(checkpoint, rule) for rule in file.rules]
            draft = SafetensorsDraft(file.path, entries, file.metadata, staging)
            undo.callback(draft.discard)
            drafts.append(draft)
        for path, data in documents.items():
            undo.callback(partial_path(path).unlink, missing_ok=True)
            write_beside(path, data)
        converter = _Converter(checkpoint, calibration, files, drafts, quotient_dtype, progress)
        converter.run()
        for draft in drafts:
            draft.finish()
        publish([*(file.path for file in files), *documents])
        undo.pop_all()
    return ConversionReport(converter.bytes_read, converter.bytes_written, tuple(sorted(converter.notes)))


class _Converter:
    def __init__(
        self,
        checkpoint: Checkpoint,
        calibration: Calibration | None,
        files: Sequence[OutputFile],
        drafts: Sequence[SafetensorsDraft],
        quotient_dtype: np.dtype[Any],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._calibration = calibration
        self._files = files
        self._drafts = drafts
        self._parts = parts_by_source(checkpoint, files)
        self._quotient_dtype = quotient_dtype
        self._model_dtype = DTYPES[MODEL_TAGS[checkpoint.config.dtype]]
        self._progress = progress
        self._total_bytes = sum(output_spec(checkpoint, rule).nbytes for file in files for rule in file.rules)
        self.bytes_read = self.bytes_written = 0
        self.notes: set[str] = set()

    def run(self) -> None:
        groups = groups_in_input_order(self._checkpoint, self._files)
        names = [name for group in groups for name in group.names]
        held = [group.names for group in groups if group.scales]
        widest = max(row_shape(self._checkpoint.info(name).shape)[1] for name in names)
        results = BufferPool(_WRITE_BLOCKS, max(BLOCK_BYTES, 2 * widest) + PAGE_BYTES)
        with stream_tensors(self._checkpoint, names, held) as blocks, write_behind() as writer:
            self._hand_over(list(self._calibrated_scales()), writer)
            for group in groups:
                self._convert(group, blocks, results, writer)

    def _calibrated_scales(self) -> Iterator[_Piece]:
        for file, draft in zip(self._files, self._drafts, strict=True):
            for rule in file.rules:
                if rule.activation is not None and self._calibration is not None:
                    layer, amaxes = rule.activation
                    amax = max(getattr(self._calibration.layers[layer], name) for name in amaxes)
                    yield self._scale(draft, rule, np.float32(amax))

    def _scale(self, draft: SafetensorsDraft, rule: TensorRule, amax: np.float32) -> _Piece:
        if amax == 0:
            owner = rule.name.rpartition(".")[0]
            self.notes.add(f"{owner}: weights or inputs are all zero; their scale is 1.")
        scale = fp8.scale_for(amax)
        if rule.kind is Kind.CACHE_SCALE:
            scale = max(scale, np.float32(1))
        return draft, rule.name, 0, np.full(rule.shape, scale, np.float32)

    def _convert(self, group: Group, blocks: Iterator[Block], results: BufferPool, writer: WriteBehind) -> None:
        held: list[Block] = []
        amax = np.float32(0)
        for _ in group.names:
            for block in blocks:
                self.bytes_read += block.values.nbytes
                amax = max(amax, _finite_amax(block))
                if group.scales:
                    held.append(block)
                else:
                    self._pass_on(block, None, results, writer)
                if block.last:
                    break
        if group.scales:
            self._hand_over([self._scale(self._drafts[file], rule, amax) for file, rule in group.scales], writer)
            quantizer = fp8.Quantizer(fp8.scale_for(amax), self._quotient_dtype)
            for block in held:
                self._pass_on(block, quantizer, results, writer)

    def _pass_on(self, block: Block, quantizer: fp8.Quantizer | None, results: BufferPool, writer: WriteBehind) -> None:
        """Cast a block, if it is to be quantised, and give it to every file that needs some of it."""
        parts = self._parts[block.name]
        values, release = block.values, block.release
        to_model = parts[0].kind is Kind.PLAIN and values.dtype != self._model_dtype
        if quantizer is not None or to_model:
            dtype = self._model_dtype if quantizer is None else DTYPES["F8_E4M3"]
            buffer = results.take()
            values = buffer[: block.values.size * dtype.itemsize].view(dtype).reshape(block.values.shape)
            if quantizer is not None:
                quantizer(block.values, values)
            elif not cast_to_model(block.values, values):
                _check_range(block.name, values, self._checkpoint.config.dtype)
                self.notes.add(f"{block.name}: some values were rounded to {self._checkpoint.config.dtype}.")
            block.release()
            release = functools.partial(results.give, buffer)
        pieces: list[_Piece] = []
        for part in parts:
            if found := part.rows_of(block.first_row, len(values)):
                rows, columns, first_row = found
                piece = values[rows, columns]
                pieces.append((self._drafts[part.file], part.name, first_row * piece.shape[1], piece))
        self._hand_over(pieces, writer, release)

    def _hand_over(
        self, pieces: Sequence[_Piece], writer: WriteBehind, release: Callable[[], None] = lambda: None
    ) -> None:
        writer.submit(functools.partial(_write, pieces), release)
        self.bytes_written += sum(values.nbytes for _, _, _, values in pieces)
        if self._progress:
            self._progress(self.bytes_written, self._total_bytes)


def _check_calibration(checkpoint: Checkpoint, calibration: Calibration | None, files: Sequence[OutputFile]) -> None:
    num_layers = checkpoint.config.decoder.num_layers
    wanted = any(rule.activation for file in files for rule in file.rules)
    if wanted and (calibration is None or len(calibration.layers) != num_layers):
        seen = "is missing" if calibration is None else f"has {len(calibration.layers)} layers"
        raise ArtefactError(
            "E-ARTEFACT-CALIBRATION",
            f"The calibration {seen}; the decoder has {num_layers} layers.",
            "Calibrate this checkpoint again.",
        )


def _write(pieces: Sequence[_Piece]) -> None:
    for draft, name, first_element, values in pieces:
        draft.write(name, first_element, values)


def _finite_amax(block: Block) -> np.float32:
    amax = fp8.amax(block.values)
    if not np.isfinite(amax):
        raise CheckpointError(
            "E-CKPT-NAN",
            f"The tensor {block.name} holds a value that is not a finite number.",
            "Fetch the checkpoint again, or ask whoever trained it.",
        )
    return amax


def _check_range(name: str, values: NDArray[Any], dtype: str) -> None:
    if not np.isfinite(fp8.amax(values)):
        raise CheckpointError(
            "E-CKPT-RANGE",
            f"{name} holds values that {dtype} cannot represent.",
            "Use the config.json that belongs to the weights: its torch_dtype is the decoder's.",
        )
