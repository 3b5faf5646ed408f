"""The parity chain on the small checkpoint: every link holds for our graph, and the second fails for a wrong one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.reference.vision import VisionReference
from nvlm_trt.reference.vision_stages import reference_stages
from nvlm_trt.vision.artefact import read_graph, write_artefact
from nvlm_trt.vision.dtype import ONNX_DTYPE, GraphDtype
from nvlm_trt.vision.export import export_vision
from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine
from nvlm_trt.vision.parity import (
    ENGINE,
    GRAPH_FLOAT32,
    TORCH_FLOAT32,
    TORCH_FLOAT64,
    Chain,
    compare_chains,
    difference,
    links_for,
)
from nvlm_trt.vision.parity_report import ParityReport
from nvlm_trt.vision.stages import run_stages
from tests.vision.mistakes import MISTAKES

KINDS = {"pictures": slice(0, 2), "noise": slice(2, 3)}
BFLOAT16 = "torch bfloat16"
NO_ENGINE = {ENGINE: "This machine has no GPU."}

Values = list[tuple[str, NDArray[Any]]]


@pytest.fixture(scope="session")
def tiles(real_tiles: NDArray[np.uint8], random_tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([real_tiles[:2], random_tiles[:1]])


@pytest.fixture(scope="session")
def oracle(checkpoint: Checkpoint, tiles: NDArray[np.uint8]) -> Values:
    return list(reference_stages(checkpoint, tiles))


@pytest.fixture(scope="session")
def report(checkpoint: Checkpoint, exported: Path, tiles: NDArray[np.uint8], oracle: Values) -> ParityReport:
    chains: dict[str, Chain] = {
        TORCH_FLOAT64: reference_stages(checkpoint, tiles, "float64"),
        TORCH_FLOAT32: iter(oracle),
        GRAPH_FLOAT32: run_stages(exported, checkpoint.root, tiles, threads=1),
        BFLOAT16: reference_stages(checkpoint, tiles, "bfloat16"),
    }
    return compare_chains(links_for("bfloat16"), chains, KINDS, NO_ENGINE)


def test_every_link_holds_at_every_stage(report: ParityReport, checkpoint: Checkpoint):
    layers = [f"layers.{index}" for index in range(checkpoint.config.vision.num_layers)]
    stages = ["embeddings", *layers, "pixel_shuffle", "projector"]
    assert report.passed
    assert [(link.seen, link.wanted) for link in report.links] == [
        (TORCH_FLOAT32, TORCH_FLOAT64),
        (GRAPH_FLOAT32, TORCH_FLOAT32),
        (BFLOAT16, TORCH_FLOAT32),
        (ENGINE, TORCH_FLOAT32),
    ]
    for link in report.links[:3]:
        assert [(found.stage, found.tiles) for found in link.stages] == [
            (stage, kind) for stage in stages for kind in KINDS
        ]
    assert report.links[3].stages == ()
    assert report.links[3].not_run == "This machine has no GPU."


def test_what_bfloat16_costs_is_neither_nothing_nor_at_the_tolerance(report: ParityReport):
    """A tolerance far above what bfloat16 costs would let anything pass; one just above it would fail by luck."""
    for found in report.links[2].stages:
        assert found.tolerance / 10 < found.relative_error < found.tolerance / 2
        assert 0 < 1 - found.cosine < found.relative_error**2


def test_float32_chains_leave_room_too(report: ParityReport):
    for link in report.links[:2]:
        assert all(1e-8 < found.relative_error < found.tolerance / 4 for found in link.stages)


@pytest.mark.parametrize("dtype", sorted(set(ONNX_DTYPE) - {"bfloat16"}))
def test_the_graph_holds_in_other_dtypes(
    checkpoint: Checkpoint, oracle: Values, tiles: NDArray[np.uint8], dtype: GraphDtype, tmp_path: Path
):
    export_vision(checkpoint, tmp_path, dtype)
    chains: dict[str, Chain] = {
        TORCH_FLOAT32: iter(oracle),
        GRAPH_FLOAT32: run_stages(tmp_path, checkpoint.root, tiles, threads=1),
    }
    assert compare_chains(links_for(dtype)[1:2], chains, KINDS).passed


@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_a_wrong_graph_is_found_out(
    vision_folder: Path, checkpoint: Checkpoint, oracle: Values, tiles: NDArray[np.uint8], name: str
):
    model = read_graph(vision_folder)
    MISTAKES[name](model)
    write_artefact(vision_folder, "vision.onnx", model.SerializeToString())
    chains: dict[str, Chain] = {
        TORCH_FLOAT32: iter(oracle),
        GRAPH_FLOAT32: run_stages(vision_folder, checkpoint.root, tiles, threads=1),
    }
    report = compare_chains(links_for("bfloat16"), chains, KINDS)
    link = report.links[1]
    assert not report.passed
    assert not link.passed
    wrong_at = link.first_failure
    assert wrong_at is not None
    assert wrong_at.relative_error > 5 * wrong_at.tolerance
    expected = {
        "patches_channel_last": "embeddings",
        "transpose_tokens": "pixel_shuffle",
        "swap_quarters": "pixel_shuffle",
        "keep_class_token": "pixel_shuffle",
    }
    assert wrong_at.stage == expected.get(name, "layers.0")
    assert "FAILS" in report.to_text()


@pytest.mark.parametrize("num_tiles", [1, 7])
def test_the_whole_graph_gives_what_its_stages_give(
    engine: OnnxRuntimeEngine, exported: Path, checkpoint: Checkpoint, real_tiles: NDArray[np.uint8], num_tiles: int
):
    chosen = real_tiles[:num_tiles]
    *_, (_, rows) = run_stages(exported, checkpoint.root, chosen, threads=1)
    assert difference(engine.encode(chosen), rows)[0] < 1e-5


def test_the_whole_reference_gives_what_its_stages_give(
    reference: VisionReference, oracle: Values, tiles: NDArray[np.uint8]
):
    np.testing.assert_allclose(reference(tiles).numpy(), oracle[-1][1], rtol=0, atol=1e-5)


def test_a_narrow_engine_is_judged_by_its_rows_alone(oracle: Values, checkpoint: Checkpoint):
    def run(rows: NDArray[Any]) -> ParityReport:
        return compare_chains(links_for("bfloat16"), {TORCH_FLOAT32: iter(oracle), ENGINE: iter([(last, rows)])}, KINDS)

    last, right = oracle[-1]
    assert [found.stage for found in run(right).links[3].stages] == [last] * len(KINDS)
    assert run(right * np.float32(1.01)).passed
    assert not run(right * np.float32(1.1)).passed
    assert not run(np.full_like(right, np.nan)).passed


@pytest.mark.parametrize("wrong", [["no such stage"], ["layers.1", "layers.0"], ["projector", "projector"]])
def test_a_chain_that_is_another_model_is_a_bug(oracle: Values, wrong: Sequence[str]):
    chain: Iterator[tuple[str, NDArray[Any]]] = ((name, dict(oracle).get(name, oracle[0][1])) for name in wrong)
    with pytest.raises(ValueError, match="out of order"):
        compare_chains(links_for("float32"), {TORCH_FLOAT32: iter(oracle), GRAPH_FLOAT32: chain}, KINDS)


def test_other_shapes_are_a_bug(oracle: Values):
    name, values = oracle[0]
    with pytest.raises(ValueError, match="embeddings is"):
        compare_chains(
            links_for("float32"),
            {TORCH_FLOAT32: iter(oracle), GRAPH_FLOAT32: iter([(name, values[:, 1:])])},
            KINDS,
        )


def test_nothing_run_is_nothing_proven(oracle: Values):
    report = compare_chains(links_for("bfloat16"), {TORCH_FLOAT32: iter(oracle)}, KINDS)
    assert not report.passed
    assert all(link.not_run.endswith("was not asked for") for link in report.links)


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, 8, elements=st.floats(0.5, 4) | st.floats(-4, -0.5)),
    st.floats(-0.5, 0.5),
)
def test_difference_of_a_multiple(values: NDArray[np.float64], more: float):
    error, cosine = difference(values * (1 + more), values)
    assert math.isclose(error, abs(more), rel_tol=1e-6, abs_tol=1e-9)
    assert math.isclose(cosine, 1)


@pytest.mark.parametrize(
    ("seen", "wanted", "expected"),
    [
        ([1.0, 0.0], [1.0, 0.0], (0.0, 1.0)),
        ([0.0, 0.0], [0.0, 0.0], (0.0, 1.0)),
        ([0.0, 0.0], [1.0, 0.0], (math.inf, 0.0)),
        ([1.0, 0.0], [0.0, 0.0], (math.inf, 0.0)),
        ([math.nan, 0.0], [1.0, 0.0], (math.inf, 0.0)),
        ([1.0, 0.0], [math.inf, 0.0], (math.inf, 0.0)),
        ([-1.0, 0.0], [1.0, 0.0], (2.0, -1.0)),
    ],
)
def test_difference_at_the_edges(seen: list[float], wanted: list[float], expected: tuple[float, float]):
    assert difference(np.array(seen), np.array(wanted)) == expected
