"""The vision tower of random weights on a GPU: is the exported graph's arithmetic right there, and how fast can it go.

    python scripts/measure_vision_gpu.py                 # full size: 12.3 GB in BF16, some 45 GB while it is checked
    python scripts/measure_vision_gpu.py --device cpu --size small --tiles 1

Needs torch and no checkpoint. Three things, in one run:

* Parity. The graph as it is exported, run operator by operator in torch on the device: in float32 against the reference
  module, which states the same model in other operators, and in bfloat16 against float32. The tolerances are those of
  ``vision/parity.py``; exit 1 beyond them, and no figures.
* Milliseconds per tile of the reference module in bfloat16 (its attention is torch's fused one), eager and compiled:
  what an engine has to beat. The share is of the GPU's dense BF16 peak.
* What TensorRT-RTX says on this GPU to the small graph: built for it, loaded, run and compared, or its refusal.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.synthetic import SIZES, write_checkpoint
from nvlm_trt.checkpoint.synthetic.config_json import config_json
from nvlm_trt.errors import NvlmError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.plan.gpu import GPUS
from nvlm_trt.plan.roofline import vision_flops
from nvlm_trt.reference.graph_torch import TorchGraph
from nvlm_trt.reference.vision import VisionReference
from nvlm_trt.vision.dtype import GraphDtype
from nvlm_trt.vision.export import export_vision
from nvlm_trt.vision.graph import vision_graph
from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine
from nvlm_trt.vision.parity import links_for
from nvlm_trt.vision.registry import build_engine, load_engine
from nvlm_trt.vision.tensorrt_module import gpu_compute_capability

_PARITY_TILES = 2
_WARM_UP = 2

Run = Callable[[Tensor], Tensor]


def random_weights(config: NvlmConfig, device: str) -> dict[str, Tensor]:
    """For each tensor of the reference, in bfloat16. Activations keep their size through the layers: matrices have rows
    of about unit length, norms are near 1, branches enter the residual stream at a tenth."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in VisionReference(config.vision).state_dict().items()}
    torch.manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, device=device)
        if name.endswith(("ls1", "ls2")):
            values = 0.1 + 0.01 * values
        elif len(shape) == 1:
            values = 0.02 * values + float("norm" in name or name == "mlp1.0.weight")
        else:
            values *= shape[1:].numel() ** -0.5
        weights[name] = values.to(torch.bfloat16)
    return weights


def reference(config: NvlmConfig, weights: dict[str, Tensor]) -> VisionReference:
    with torch.device("meta"):
        module = VisionReference(config.vision)
    module.load_state_dict(weights, strict=True, assign=True)
    module.eval().requires_grad_(False)
    return module


def exported(config: NvlmConfig, weights: dict[str, Tensor], dtype: GraphDtype) -> TorchGraph:
    return TorchGraph(vision_graph(config.vision, dtype), weights)


def parity(config: NvlmConfig, weights: dict[str, Tensor], tiles: Tensor) -> dict[str, dict[str, float]]:
    """Relative error and tolerance of each comparison."""
    _, graph, narrow, engine = links_for("bfloat16")
    layers = config.vision.num_layers
    narrow_rows = {
        "torch bfloat16 : float32": (_rows(reference(config, weights), tiles), narrow.tolerance(layers)),
        "graph bfloat16 : float32": (_rows(exported(config, weights, "bfloat16"), tiles), engine.tolerance(layers)),
    }
    wide = {name: tensor.float() for name, tensor in weights.items()}
    wanted = _rows(reference(config, wide), tiles)
    narrow_rows["graph float32 : torch float32"] = (
        _rows(exported(config, wide, "float32"), tiles),
        graph.tolerance(layers),
    )
    return {
        name: {"relative_error": float((rows - wanted).norm() / wanted.norm()), "tolerance": tolerance}
        for name, (rows, tolerance) in narrow_rows.items()
    }


def _rows(run: Run, tiles: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([run(tile[None]).double() for tile in tiles])


def measure(run: Run, tiles: Tensor, runs: int) -> list[float]:
    """Milliseconds of each run."""
    times = []
    with torch.inference_mode():
        for number in range(_WARM_UP + runs):
            _wait(tiles)
            began = time.perf_counter()
            run(tiles)
            _wait(tiles)
            if number >= _WARM_UP:
                times.append(1e3 * (time.perf_counter() - began))
    return times


def _wait(tiles: Tensor) -> None:
    if tiles.is_cuda:
        torch.cuda.synchronize()


def try_tensorrt_rtx() -> dict[str, Any]:
    """Build the small graph for this GPU, load it, run it, compare it; or the code and words of what refused."""
    try:
        capability = gpu_compute_capability()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_checkpoint(folder / "checkpoint", SIZES["small"])
            export_vision(open_checkpoint(folder / "checkpoint"), folder / "vision")
            places, profile = (folder / "vision", folder / "checkpoint"), (1, 2, 4)
            build_engine("tensorrt_rtx", *places, profile, None, compute_capabilities=[capability])
            engine = load_engine("tensorrt_rtx", *places, profile[2])
            shape = (profile[2], *engine.tile_shape)
            tiles = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            rows = engine.encode(tiles).float().cpu().numpy()
            wanted = OnnxRuntimeEngine(*places, profile[2]).encode(tiles)
            error = float(np.linalg.norm(rows - wanted) / np.linalg.norm(wanted))
            return {"ran": True, "compute_capability": capability, "relative_error": error}
    except NvlmError as error:
        return {"ran": False, "code": error.code, "what": error.what}


def _peak_flops(device: str, given: float | None) -> float | None:
    if given is not None:
        return given * 1e12
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((gpu.bf16_flops for key, gpu in GPUS.items() if key.split("-")[0] in name), None)


@click.command(help=__doc__)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--size", type=click.Choice(sorted(SIZES)), default="full", show_default=True)
@click.option("--layers", type=click.IntRange(min=1), help="Other than the size's own.")
@click.option("--tiles", "sizes", type=click.IntRange(1, 256), multiple=True, default=(1, 7, 28, 56), show_default=True)
@click.option("--runs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--compiled/--eager-only", default=True, show_default=True)
@click.option("--peak-tflops", type=float, help="Dense BF16 peak, for a GPU that no recipe names.")
@click.option("--rtx/--no-rtx", default=True, show_default=True, help="Try TensorRT-RTX.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(
    device: str,
    size: str,
    layers: int | None,
    sizes: tuple[int, ...],
    runs: int,
    compiled: bool,
    peak_tflops: float | None,
    rtx: bool,
    as_json: bool,
) -> None:
    # Dummy heads add nothing, and the graph has none: without them both sides hold the same tensors.
    shape = replace(SIZES[size], vision_dummy_heads=0, vision_layers=layers or SIZES[size].vision_layers)
    config = NvlmConfig.from_json(config_json(shape))
    side = config.vision.image_size
    noise = np.random.default_rng(0).integers(0, 256, (max(*sizes, _PARITY_TILES), side, side, 3), dtype=np.uint8)
    tiles = torch.from_numpy(noise).to(device)
    torch.backends.cudnn.allow_tf32 = False  # float32 is to mean float32; for matrix products it does by default
    weights = random_weights(config, device)
    report: dict[str, Any] = {
        "command": " ".join(["python", "scripts/measure_vision_gpu.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "tower": f"{config.vision.num_layers} layers, hidden {config.vision.hidden_size}, {side} pixels",
        "parity": parity(config, weights, tiles[:_PARITY_TILES]),
    }
    if any(link["relative_error"] > link["tolerance"] for link in report["parity"].values()):
        click.echo(json.dumps(report, indent=2))
        sys.exit("the graph's arithmetic is beyond its tolerance: nothing was measured")
    module = reference(config, weights)
    runners: dict[str, Run] = {
        "torch bfloat16": module,
        "graph, operator by operator": exported(config, weights, "bfloat16"),
    }
    if compiled:
        runners["torch bfloat16, compiled"] = torch.compile(module, dynamic=True)
    peak = _peak_flops(device, peak_tflops)
    report["speed"] = [
        _point(name, run, tiles[:count], runs, vision_flops(config, count), peak)
        for count in sizes
        for name, run in runners.items()
    ]
    if device == "cuda":
        report["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    if rtx:
        report["tensorrt_rtx"] = try_tensorrt_rtx()
    click.echo(json.dumps(report, indent=2) if as_json else _text(report), nl=as_json)


def _point(name: str, run: Run, tiles: Tensor, runs: int, flops: float, peak: float | None) -> dict[str, Any]:
    times = measure(run, tiles, runs)
    median = statistics.median(times)
    return {
        "runner": name,
        "tiles": len(tiles),
        "ms_per_tile": median / len(tiles),
        "least_ms": min(times) / len(tiles),
        "most_ms": max(times) / len(tiles),
        "tflops": flops / median / 1e9,
        "share_of_peak": flops / median * 1e3 / peak if peak else None,
    }


def _text(report: dict[str, Any]) -> str:
    lines = [f"{key:>8}  {report[key]}" for key in ("command", "device", "torch", "cuda", "tower")]
    for name, link in report["parity"].items():
        lines.append(f"{name:>30}  error {link['relative_error']:.1e}, allowed {link['tolerance']:.1e}")
    for point in report["speed"]:
        share = "" if point["share_of_peak"] is None else f"  {100 * point['share_of_peak']:.0f} % of peak"
        spread = f"({point['least_ms']:.2f}-{point['most_ms']:.2f})"
        lines.append(
            f"{point['runner']:>30}  {point['tiles']:3} tiles  {point['ms_per_tile']:8.2f} ms a tile {spread:>18}"
            f"  {point['tflops']:7.2f} TFLOP/s{share}"
        )
    if "tensorrt_rtx" in report:
        lines.append(f"TensorRT-RTX: {report['tensorrt_rtx']}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
