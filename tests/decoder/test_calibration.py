"""Amaxes against hooks in transformers' Qwen2, and the ways a calibration is stored, packed and refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import threadpoolctl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder import layer_stream
from nvlm_trt.decoder.calibration import Calibration, LayerAmax, calibrate, calibrate_with
from nvlm_trt.decoder.layer import DecoderLayer, LayerWeights
from nvlm_trt.decoder.numpy_ops import NumpyOps
from nvlm_trt.decoder.range_method import RangeMethod
from nvlm_trt.decoder.sample_source import ArraySamples
from nvlm_trt.errors import ArtefactError, CheckpointError, MissingToolError, UsageError
from nvlm_trt.reference.layer_ops import TorchOps
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
    method=st.one_of(
        st.sampled_from(["amax", "mse"]), st.floats(50, 100).map(lambda percentile: f"percentile:{percentile!r}")
    ),
)


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


def test_streaming_by_layer_equals_running_the_whole_model_in_memory(
    checkpoint: Checkpoint, samples: list[NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_stream, "_BATCH_TOKENS", 310)
    config = checkpoint.config.decoder
    largest = [dict.fromkeys(dataclasses.asdict(LayerAmax(0, 0, 0, 0, 0, 0)), 0.0) for _ in range(config.num_layers)]
    with NumpyOps() as ops:
        weights = (LayerWeights.read(checkpoint, number, ops.put) for number in range(config.num_layers))
        layers = [DecoderLayer(ops, config, own) for own in weights]
        for batch in (samples[:3], samples[3:]):
            hidden = np.concatenate(batch)
            for layer, own in zip(layers, largest, strict=True):

                def observe(name: str, values: Any, own: dict[str, float] = own) -> None:
                    own[name] = max(own.get(name, 0.0), float(np.abs(values).max()))

                hidden = layer.run(hidden, [len(sample) for sample in batch], observe)
    for own in largest:
        del own["query"]
    assert calibrate(checkpoint, samples).layers == tuple(LayerAmax(**own) for own in largest)


def test_packing_samples_changes_nothing_but_rounding(
    checkpoint: Checkpoint, samples: list[NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = calibrate(checkpoint, samples)
    monkeypatch.setattr(layer_stream, "_BATCH_TOKENS", 1)
    alone = calibrate(checkpoint, samples)
    for one, other in zip(packed.layers, alone.layers, strict=True):
        assert dataclasses.asdict(one) == pytest.approx(dataclasses.asdict(other), rel=1e-5)


@pytest.mark.parametrize("method", ["amax", "percentile", "mse"])
def test_the_number_of_threads_changes_no_bit(
    checkpoint: Checkpoint, samples: list[NDArray[np.float32]], method: str
) -> None:
    results = []
    for threads in (1, 2, 5):
        with NumpyOps(threads) as ops:
            results.append(calibrate_with(ops, checkpoint, ArraySamples(samples), RangeMethod.parse(method)))
    assert results[0] == results[1] == results[2]


def test_whatever_blas_is_told_outside_changes_no_bit(
    checkpoint: Checkpoint, samples: list[NDArray[np.float32]]
) -> None:
    results = []
    for threads in (1, 2):
        with threadpoolctl.threadpool_limits(threads, "blas"):
            results.append(calibrate(checkpoint, samples))
    assert results[0] == results[1]


def test_torch_finds_the_same_up_to_rounding(checkpoint: Checkpoint, samples: list[NDArray[np.float32]]) -> None:
    for method in ("amax", "percentile", "mse"):
        ours = calibrate(checkpoint, samples, method=method)
        with TorchOps("cpu") as ops:
            theirs = calibrate_with(ops, checkpoint, ArraySamples(samples), RangeMethod.parse(method))
        for one, other in zip(ours.layers, theirs.layers, strict=True):
            # A histogram's code is 1/128 wide: a value on its border may fall to either side.
            tolerance = 2e-5 if method == "amax" else 0.05
            assert dataclasses.asdict(one) == pytest.approx(dataclasses.asdict(other), rel=tolerance)


def test_methods_choose_smaller_ranges_for_inputs_and_leave_the_cache_alone(
    checkpoint: Checkpoint, samples: list[NDArray[np.float32]]
) -> None:
    amax = calibrate(checkpoint, samples)
    percentile = calibrate(checkpoint, samples, method="percentile:99")
    mse = calibrate(checkpoint, samples, method="mse")
    assert (amax.method, percentile.method, mse.method) == ("amax", "percentile:99.0", "mse")
    for own, clipped, least in zip(amax.layers, percentile.layers, mse.layers, strict=True):
        assert (own.k_cache, own.v_cache) == (clipped.k_cache, clipped.v_cache) == (least.k_cache, least.v_cache)
        for name in ("qkv", "dense", "fc", "proj"):
            assert 0 < getattr(clipped, name) < getattr(own, name)
            assert 0 < getattr(least, name) <= getattr(own, name)


@pytest.mark.parametrize(("largest", "scale"), [(0.0, 1.0), (100.0, 1.0), (448.0, 1.0), (896.0, 2.0)])
@pytest.mark.parametrize("of_keys", [True, False])
def test_the_cache_scale_never_falls_below_one(largest: float, scale: float, of_keys: bool) -> None:
    cached = (largest, 1.0) if of_keys else (1.0, largest)
    found = Calibration((LayerAmax(1.0, 1.0, 1.0, 1.0, *cached),), "00", 1, 1).kv_scale(0)
    assert found == np.float32(scale)
    assert found.dtype == np.float32


def test_calibrating_twice_gives_equal_results_and_counts_layers(
    checkpoint: Checkpoint, samples: list[NDArray[np.float32]]
) -> None:
    calls: list[tuple[int, int]] = []
    first = calibrate(checkpoint, samples, progress=lambda done, total: calls.append((done, total)))
    assert first == calibrate(checkpoint, samples)
    num_layers = checkpoint.config.decoder.num_layers
    assert calls == [(done, num_layers) for done in range(1, num_layers + 1)]
    assert (first.num_samples, first.num_tokens) == (len(LENGTHS), sum(LENGTHS))


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
        json.dumps({**_valid(), "format": 1}),
        json.dumps({**_valid(), "extra": 1}),
        json.dumps({**_valid(), "layers": [{"qkv": 1.0}]}),
        json.dumps({**_valid(), "layers": [{**_valid()["layers"][0], "qkv": "1"}]}),
        json.dumps({**_valid(), "layers": [{**_valid()["layers"][0], "qkv": -1.0}]}),
        json.dumps({**_valid(), "layers": [{**_valid()["layers"][0], "qkv": float("nan")}]}),
        json.dumps({**_valid(), "num_tokens": "many"}),
        json.dumps({**_valid(), "samples_sha256": None}),
        json.dumps({**_valid(), "method": "entropy"}),
        json.dumps({**_valid(), "method": None}),
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
    with pytest.raises(CheckpointError, match="Layer 0") as caught:
        calibrate(checkpoint, [*samples, np.full((3, samples[0].shape[1]), np.nan, np.float32)])
    assert caught.value.code == "E-CKPT-NAN"


@pytest.mark.parametrize("method", ["", "max", "amax:1", "percentile:", "percentile:x", "percentile:101", "mse:2"])
def test_an_unknown_method_is_refused(checkpoint: Checkpoint, method: str) -> None:
    with pytest.raises(UsageError) as caught:
        calibrate(checkpoint, [np.ones((1, 256), np.float32)], method=method)
    assert caught.value.code == "E-USAGE-METHOD"


def test_an_unknown_device_and_one_that_is_not_there_are_refused(
    checkpoint: Checkpoint, samples: list[NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError) as unknown:
        calibrate(checkpoint, samples, device="tpu")
    assert unknown.value.code == "E-USAGE-DEVICE"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingToolError) as missing:
        calibrate(checkpoint, samples, device="cuda")
    assert missing.value.code == "E-TOOL-CUDA"
