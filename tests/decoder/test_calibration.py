"""Amaxes against hooks in transformers' Qwen2, and the ways a calibration is stored, packed and refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.decoder import calibration as calibration_module
from nvlm_trt.decoder.calibration import Calibration, LayerAmax, calibrate, layer_by_layer
from nvlm_trt.decoder.layer import LayerWeights, decoder_layer
from nvlm_trt.errors import ArtefactError, CheckpointError, UsageError
from tests.decoder.qwen2 import build_qwen2, random_samples

LENGTHS = (1, 7, 300, 64)  # 300 is more than one block of queries

amaxes = st.floats(0, 2.0**100, width=32)
layer_amaxes = st.builds(LayerAmax, *[amaxes] * 6)
calibrations = st.builds(
    Calibration,
    layers=st.lists(layer_amaxes, max_size=4).map(tuple),
    samples_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    num_samples=st.integers(1, 1000),
    num_tokens=st.integers(1, 10**6),
)


@pytest.fixture
def checkpoint(small_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(small_checkpoint)


@pytest.fixture
def samples(checkpoint: Checkpoint) -> list[NDArray[np.float32]]:
    return random_samples(checkpoint.config.decoder.hidden_size, LENGTHS)


def hooked_amaxes(model: Any, samples: list[NDArray[np.float32]]) -> list[dict[str, float]]:
    """What enters the linears of each layer, and what lies in the cache, the largest over all samples."""
    layers = model.model.layers
    seen: list[dict[str, float]] = [{} for _ in layers]

    def note(index: int, name: str, values: torch.Tensor) -> None:
        seen[index][name] = max(seen[index].get(name, 0.0), float(values.abs().max()))

    def watch(index: int, name: str, module: Any) -> None:
        module.register_forward_pre_hook(lambda _, inputs: note(index, name, inputs[0]))

    for index, layer in enumerate(layers):
        watch(index, "qkv", layer.self_attn.q_proj)
        watch(index, "dense", layer.self_attn.o_proj)
        watch(index, "fc", layer.mlp.gate_proj)
        watch(index, "proj", layer.mlp.down_proj)
    with torch.no_grad():
        for sample in samples:
            cache = model(inputs_embeds=torch.from_numpy(sample)[None], use_cache=True).past_key_values
            for index, layer_cache in enumerate(cache.layers):
                note(index, "k_cache", layer_cache.keys)
                note(index, "v_cache", layer_cache.values)
    return seen


def test_amaxes_are_those_of_the_reference_decoder(checkpoint: Checkpoint, samples: list[NDArray[np.float32]]) -> None:
    expected = hooked_amaxes(build_qwen2(checkpoint, torch.float32), samples)
    ours = calibrate(checkpoint, samples)
    assert len(ours.layers) == len(expected) == checkpoint.config.decoder.num_layers
    for layer, reference in zip(ours.layers, expected, strict=True):
        assert dataclasses.asdict(layer) == pytest.approx(reference, rel=1e-5)


def test_streaming_by_layer_equals_running_the_whole_model_sample_by_sample(
    checkpoint: Checkpoint, samples: list[NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_module, "_BATCH_TOKENS", 1)  # so that both sides multiply the same shapes
    config = checkpoint.config.decoder
    weights = [LayerWeights.read(checkpoint, layer) for layer in range(config.num_layers)]
    whole = [dict.fromkeys(dataclasses.asdict(LayerAmax(0, 0, 0, 0, 0, 0)), 0.0) for _ in weights]
    for hidden in samples:
        for layer, largest in zip(weights, whole, strict=True):

            def observe(name: str, values: Any, largest: dict[str, float] = largest) -> None:
                largest[name] = max(largest[name], float(np.abs(values).max()))

            hidden = decoder_layer(hidden, [len(hidden)], layer, config, observe)
    assert calibrate(checkpoint, samples).layers == tuple(LayerAmax(**largest) for largest in whole)


def test_packing_samples_changes_nothing_but_rounding(
    checkpoint: Checkpoint, samples: list[NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = calibrate(checkpoint, samples)
    monkeypatch.setattr(calibration_module, "_BATCH_TOKENS", 1)
    alone = calibrate(checkpoint, samples)
    for one, other in zip(packed.layers, alone.layers, strict=True):
        assert dataclasses.asdict(one) == pytest.approx(dataclasses.asdict(other), rel=1e-5)


def test_calibrating_twice_gives_equal_results_and_counts_layers(
    checkpoint: Checkpoint, samples: list[NDArray[np.float32]]
) -> None:
    calls: list[tuple[int, int]] = []
    first = calibrate(checkpoint, samples, progress=lambda done, total: calls.append((done, total)))
    assert first == calibrate(checkpoint, samples)
    num_layers = checkpoint.config.decoder.num_layers
    assert calls == [(done, num_layers) for done in range(1, num_layers + 1)]
    assert (first.num_samples, first.num_tokens) == (len(LENGTHS), sum(LENGTHS))


def test_one_layer_is_computed_when_it_is_asked_for(checkpoint: Checkpoint, samples: list[NDArray[np.float32]]) -> None:
    assert next(layer_by_layer(checkpoint, samples)) == calibrate(checkpoint, samples).layers[0]


def test_the_digest_tells_samples_apart(checkpoint: Checkpoint, samples: list[NDArray[np.float32]]) -> None:
    digest = calibrate(checkpoint, samples).samples_sha256
    other = [samples[0] + np.float32(1e-3), *samples[1:]]
    assert calibrate(checkpoint, other).samples_sha256 != digest
    # The same rows cut differently are other samples: attention sees other neighbours.
    joined = [np.concatenate(samples)]
    assert calibrate(checkpoint, joined).samples_sha256 != digest


@given(calibration=calibrations)
@settings(max_examples=50, deadline=None)
def test_json_is_an_exact_inverse(calibration: Calibration) -> None:
    text = calibration.to_json()
    assert Calibration.from_json(text) == calibration
    assert Calibration.from_json(text).to_json() == text


def _valid() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(Calibration((LayerAmax(1, 1, 1, 1, 1, 1.5),), "00", 1, 1).to_json())
    data["layers"] = [{name: float(value) for name, value in data["layers"][0].items()}]
    return data


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        json.dumps({**_valid(), "format": 2}),
        json.dumps({**_valid(), "extra": 1}),
        json.dumps({**_valid(), "layers": [{"qkv": 1.0}]}),
        json.dumps({**_valid(), "layers": [{**_valid()["layers"][0], "qkv": "1"}]}),
        json.dumps({**_valid(), "layers": [{**_valid()["layers"][0], "qkv": -1.0}]}),
        json.dumps({**_valid(), "layers": [{**_valid()["layers"][0], "qkv": float("nan")}]}),
        json.dumps({**_valid(), "num_tokens": "many"}),
        json.dumps({**_valid(), "samples_sha256": None}),
    ],
)
def test_a_damaged_file_is_refused(text: str) -> None:
    Calibration.from_json(json.dumps(_valid()))
    with pytest.raises(ArtefactError) as caught:
        Calibration.from_json(text)
    assert caught.value.code == "E-ARTEFACT-CALIBRATION"


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_calibrate_on_is_refused(checkpoint: Checkpoint, count: int) -> None:
    with pytest.raises(UsageError) as caught:
        calibrate(checkpoint, [np.empty((0, 8), np.float32)] * count)
    assert caught.value.code == "E-USAGE-CALIBRATION"


def test_activations_that_overflow_are_refused(checkpoint: Checkpoint, samples: list[NDArray[np.float32]]) -> None:
    with pytest.raises(CheckpointError, match="Layer 0") as caught, np.errstate(all="ignore"):
        calibrate(checkpoint, [*samples, np.full((3, samples[0].shape[1]), np.nan, np.float32)])
    assert caught.value.code == "E-CKPT-NAN"
