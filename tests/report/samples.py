"""Made-up results of the real forms: three precisions, three tile limits, two loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvlm_trt.load.result import Measurement
from nvlm_trt.precision.result import (
    Agreement,
    Difference,
    Figure,
    LayerCost,
    Layers,
    PrecisionResult,
    PrecisionStudy,
    StudiedModel,
)
from nvlm_trt.precision.spec import parse_precision

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "latency-result.json").read_text(encoding="utf-8"))
PRECISIONS = ("bf16", "fp8", "fp8+kv")
TILES = (1, 2, 6)
CLIENTS = (1, 8)


def figure(value: float, about: float) -> Figure:
    return Figure(value=value, low=value - about, high=value + about)


def measurement(name: str, tiles: int, e2e_ms: dict[int, float], **changes: Any) -> Measurement:
    """Of a closed loop of so many clients each; ``changes`` are the deployment's."""
    precision = parse_precision(name)
    data = json.loads(json.dumps(GOLDEN))
    data["deployment"] |= {
        "decoder_precision": "fp8" if precision.quantization == "fp8" else "bfloat16",
        "kv_cache": precision.kv_cache,
        "decoder_exclude": list(precision.exclude),
        "max_tiles": tiles,
        **changes,
    }
    first = data["points"][0]
    data["points"] = []
    for clients, median in e2e_ms.items():
        point = json.loads(json.dumps(first))
        point["load"]["clients"] = clients
        for key, spread in point["summary"].items():
            if key.startswith(("e2e", "ttft")):
                factor = {"p50": 1.0, "p90": 1.3, "p99": 1.6}[key[-3:]] * (1 if key.startswith("e2e") else 0.3)
                middle = median * factor
                spread |= {"median": middle, "least": 0.95 * middle, "most": 1.08 * middle}
        rate = 1000 * clients / median
        point["summary"]["completed_per_s"] = {"runs": 3, "median": rate, "least": rate * 0.97, "most": rate * 1.02}
        data["points"].append(point)
    return Measurement.model_validate_json(json.dumps(data))


def study(tiles: int, scores: dict[str, float], **changes: Any) -> PrecisionStudy:
    """The first of ``scores`` is the reference."""
    reference = next(iter(scores.values()))
    results = []
    for number, (name, score) in enumerate(scores.items()):
        precision = parse_precision(name)
        others = number > 0
        agreement = Agreement(
            questions=1000,
            equal=1000 - 30 * number,
            first_difference={0: 10 * number, 1: 20 * number},
            forced_questions=200,
            positions=640,
            same=figure(99 - number, 0.4),
            kl=figure(0.01 * number + 0.001, 0.001),
            largest_kl=1.5,
            largest_kl_of=17,
        )
        away = figure(score - reference, 0.9)
        results.append(
            PrecisionResult(
                name=name,
                quantization=precision.quantization,
                kv_cache=precision.kv_cache,
                exclude=precision.exclude,
                checkpoint_bytes=2_000_000 - 200_000 * number,
                score=figure(score, 2.4),
                groups={},
                difference=Difference(**away.model_dump(), better=12, worse=11) if others else None,
                agreement=agreement if others else None,
            )
        )
    alone, without = (0.002, 0.001, 0.0007), (0.008, 0.006, 0.004)
    pairs = zip(alone, without, strict=True)
    costs = [LayerCost(alone=figure(one, 0.0005), without=figure(other, 0.001)) for one, other in pairs]
    made = PrecisionStudy(
        circumstances=Measurement.model_validate_json(json.dumps(GOLDEN)).circumstances,
        model=StudiedModel(
            name="mini",
            fingerprint="0" * 64,
            dtype="bfloat16",
            layers=3,
            decoder_engine="embedded, onnxruntime",
            vision_engine="onnxruntime",
            vision_precision="bfloat16",
            max_tiles=tiles,
            tile_size=112,
        ),
        task="own",
        strict=False,
        data_sha256="0" * 64,
        questions=1000,
        errors={},
        max_tokens=64,
        tiles=1 + 0.6 * tiles,
        precisions=tuple(results),
        layers=Layers(questions=32, positions=102, everything=figure(0.009, 0.002), layers=tuple(costs)),
    )
    return made.model_copy(update=changes)


def write_results(folder: Path) -> Path:
    """A file of each kind for every tile limit."""
    for tiles in TILES:
        score = {1: 40.0, 2: 61.0, 6: 82.0}[tiles]
        named = {"bf16": score, "fp8": score + 0.3, "fp8+kv": score - 0.6}
        put(folder / f"tiles-{tiles}" / "precisions.json", study(tiles, named).dump())
        for number, name in enumerate(PRECISIONS):
            alone = (18 + 7 * tiles) * (1 - 0.12 * number)
            measured = measurement(name, tiles, {clients: alone * clients**0.8 for clients in CLIENTS})
            put(folder / f"tiles-{tiles}" / f"latency-{name}.json", measured.dump())
    return folder


def put(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file
