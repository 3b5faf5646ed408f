"""Where every part of every tensor goes, on layouts alone: no bytes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.tensor_stream import row_shape
from nvlm_trt.decoder.placement import Group, OutputFile, groups_in_input_order, parts_by_source
from nvlm_trt.decoder.trtllm_format import Mapping, tensor_rules
from tests.decoder.altered import Altered


def files_of(checkpoint: Checkpoint, tp: int, pp: int) -> list[OutputFile]:
    decoder = checkpoint.config.decoder
    return [
        OutputFile(Path(f"rank{stage * tp + position}"), tensor_rules(decoder, Mapping(tp, pp), stage), position, tp)
        for stage in range(pp)
        for position in range(tp)
    ]


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (1, 4), (2, 3)])
@pytest.mark.parametrize("block_rows", [7, 1000])
def test_every_output_row_is_filled_once_whatever_the_blocks(
    checkpoint: Checkpoint, tp: int, pp: int, block_rows: int
) -> None:
    files = files_of(checkpoint, tp, pp)
    filled: dict[tuple[int, str], list[Any]] = defaultdict(list)
    for source, parts in parts_by_source(checkpoint, files).items():
        rows, width = row_shape(checkpoint.info(source).shape)
        for first in range(0, rows, block_rows):
            count = min(block_rows, rows - first)
            for part in parts:
                found = part.rows_of(first, count)
                if found is not None:
                    own, columns, out_row = found
                    size = len(range(*own.indices(count))), len(range(*columns.indices(width)))
                    filled[part.file, part.name].append((out_row, *size))
    for index, file in enumerate(files):
        for rule in file.rules:
            if rule.sources:
                rows, width = row_shape(rule.shape)
                pieces = sorted(filled.pop((index, rule.name)))
                assert {piece[2] for piece in pieces} == {width}
                assert [piece[0] for piece in pieces] == np.cumsum([0, *(piece[1] for piece in pieces)])[:-1].tolist()
                assert sum(piece[1] for piece in pieces) == rows
    assert not filled


def place(checkpoint: Checkpoint, name: str) -> tuple[str, int]:
    at = checkpoint.info(name).place
    assert at is not None
    return at.file.name, at.offset


def test_every_source_is_in_one_group_and_groups_lie_in_the_inputs_order(checkpoint: Checkpoint) -> None:
    groups = groups_in_input_order(checkpoint, files_of(checkpoint, 2, 2))
    names = [name for group in groups for name in group.names]
    assert sorted(names) == [name for name in checkpoint.names() if name.startswith("language_model.")]
    last = [place(checkpoint, group.names[-1]) for group in groups]
    assert last == sorted(last)
    assert all(place(checkpoint, name) <= at for group, at in zip(groups, last, strict=True) for name in group.names)


def test_a_group_knows_every_scale_that_it_makes(checkpoint: Checkpoint) -> None:
    groups = groups_in_input_order(checkpoint, files_of(checkpoint, 2, 1))
    by_size: dict[int, list[Group]] = defaultdict(list)
    for group in groups:
        if group.scales:
            by_size[len(group.names)].append(group)
    layers = checkpoint.config.decoder.num_layers
    # dense and proj; fc with gate; qkv. Two ranks each, and two scales where two linears share one.
    assert {size: len(groups) for size, groups in by_size.items()} == {1: 2 * layers, 2: layers, 3: layers}
    assert {size: {len(group.scales) for group in groups} for size, groups in by_size.items()} == {
        1: {2},
        2: {4},
        3: {2},
    }


def test_tensors_without_a_place_come_layer_by_layer(checkpoint: Checkpoint) -> None:
    tensors = {name: checkpoint.read(name) for name in checkpoint.names()}
    groups = groups_in_input_order(Altered(checkpoint, tensors), files_of(checkpoint, 1, 1))
    layers = [int(name.split(".")[3]) for group in groups for name in group.names if ".layers." in name]
    assert layers == sorted(layers)
    assert len(layers) == 12 * checkpoint.config.decoder.num_layers
