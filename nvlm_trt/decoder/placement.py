"""Where each part of each input tensor goes: the rules of all output files, inverted and put in input order.

Tensors that share a scale form a group, because the scale must be known before the first byte is cast. A group is read
where its last member lies; otherwise the order is that of the shards, and within a shard of the bytes. So every tensor
is read once, the disk sees one pass, and no more than one group is ever waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.tensor_spec import TensorSpec
from nvlm_trt.checkpoint.tensor_stream import row_shape
from nvlm_trt.decoder.model_dtype import MODEL_TAGS
from nvlm_trt.decoder.tensor_rule import Kind, Split, TensorRule

__all__ = ["Group", "OutputFile", "Part", "groups_in_input_order", "output_spec", "parts_by_source"]


@dataclass(frozen=True, slots=True)
class OutputFile:
    """``position`` is the file's rank in a tensor group of ``tp``: which part it gets of what rules split."""

    path: Path
    rules: Sequence[TensorRule]
    position: int = 0
    tp: int = 1
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What one output tensor takes of one source: rows, or columns, from ``begin`` to ``end``.

    They lie in the output behind ``first_row`` rows of other sources. ``file`` counts the output files.
    """

    file: int
    name: str
    kind: Kind
    split: Split
    begin: int
    end: int
    first_row: int

    def rows_of(self, first_row: int, num_rows: int) -> tuple[slice, slice, int] | None:
        """Of a block of the source's rows: the rows and columns that belong here, and the output row of the first.

        None where there are none.
        """
        if self.split is Split.COLUMNS:
            return slice(None), slice(self.begin, self.end), self.first_row + first_row
        begin, end = max(self.begin, first_row), min(self.end, first_row + num_rows)
        if begin >= end:
            return None
        return slice(begin - first_row, end - first_row), slice(None), self.first_row + begin - self.begin


@dataclass(frozen=True, slots=True)
class Group:
    """Sources under one scale, and the (file, rule) pairs of that scale. Without a scale, one source."""

    names: tuple[str, ...]
    scales: tuple[tuple[int, TensorRule], ...] = ()


def output_spec(checkpoint: Checkpoint, rule: TensorRule) -> TensorSpec:
    """The tensor that a rule makes of this checkpoint."""
    if rule.kind is Kind.STORED:
        dtype = checkpoint.info(rule.sources[0]).dtype
    else:
        dtype = {Kind.PLAIN: MODEL_TAGS[checkpoint.config.dtype], Kind.WEIGHT: "F8_E4M3"}.get(rule.kind, "F32")
    return TensorSpec(rule.name, dtype, rule.shape)


def parts_by_source(checkpoint: Checkpoint, files: Sequence[OutputFile]) -> dict[str, list[Part]]:
    parts: dict[str, list[Part]] = {}
    for index, file in enumerate(files):
        for rule in file.rules:
            first_row = 0
            for name in rule.sources:
                rows, width = row_shape(checkpoint.info(name).shape)
                begin, end = 0, rows
                if rule.split is not Split.WHOLE:
                    size = (rows if rule.split is Split.ROWS else width) // file.tp
                    begin, end = file.position * size, (file.position + 1) * size
                part = Part(index, rule.name, rule.kind, rule.split, begin, end, first_row)
                parts.setdefault(name, []).append(part)
                first_row += rows if rule.split is Split.COLUMNS else end - begin
    return parts


def groups_in_input_order(checkpoint: Checkpoint, files: Sequence[OutputFile]) -> list[Group]:
    """Every source of every rule is in exactly one group."""
    sources = dict.fromkeys(name for file in files for rule in file.rules for name in rule.sources)
    scales: dict[tuple[str, ...], list[tuple[int, TensorRule]]] = {}
    for index, file in enumerate(files):
        for rule in file.rules:
            if rule.kind is Kind.WEIGHT_SCALE:
                scales.setdefault(rule.scale_sources, []).append((index, rule))

    def place_of(name: str) -> tuple[str, int]:
        place = checkpoint.info(name).place
        return (place.file.name, place.offset) if place else ("", 0)

    # Sorting is stable: tensors without a place keep the order of the rules, layer by layer.
    turn = {name: index for index, name in enumerate(sorted(sources, key=place_of))}
    groups = [Group(tuple(sorted(names, key=turn.__getitem__)), tuple(of)) for names, of in scales.items()]
    scaled = {name for group in groups for name in group.names}
    groups += [Group((name,)) for name in sources if name not in scaled]
    return sorted(groups, key=lambda group: turn[group.names[-1]])
