"""Compares the decoder's FP8 arithmetic with a device's own, layer by layer.

    python scripts/compare_fp8_hardware.py DIR/decoder/checkpoint [--device cuda] [--tokens 256]

The embedded engine, the reference and TensorRT-LLM compute a linear as

    (e4m3(x / x_scale) @ stored.T) * x_scale * w_scale

Quantising is the same everywhere, and a product of two e4m3 numbers is exact in float32. Only the sum may differ:
Hopper's FP8 tensor cores align the products of a block to its largest and keep about 14 bits below it before they add
into float32 (several people measured this; it is not specified). So the error of one output is bounded by the size of
what was summed, not by the output, which may have cancelled:

    |device - exact| <= 2^-12 * sum(|x| * |w|)        exact: the same sum in float64

2^-12 leaves a factor of four over one truncation at 14 bits; a wrong scale, layout or rounding exceeds it at once. The
inputs are what a prompt of random ids gives each layer when the layers before it were exact, so errors do not
accumulate.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from torch import Tensor

from nvlm_trt.reference.decoder import ReferenceDecoder

TOLERANCE = 2.0**-12


@dataclass(frozen=True, slots=True)
class LinearError:
    """``worst`` is the largest error over its sum of magnitudes; ``relative`` the errors' rms over the outputs'."""

    layer: int
    linear: str
    worst: float
    relative: float


class ComparedDecoder(ReferenceDecoder):
    """The reference in float64, with each linear also done by the device's FP8 matrix product."""

    def __init__(self, folder: Path, device: str) -> None:
        super().__init__(folder, quantize_activations=True, dtype=torch.float64)
        self._device = device
        self.errors: list[LinearError] = []

    def _linear(self, hidden: Tensor, index: int, name: str) -> Tensor:
        prefix = f"transformer.layers.{index}.{name}."
        x_scale = self._tensors[f"{prefix}activation_scaling_factor"]
        w_scale = self._tensors[f"{prefix}weights_scaling_factor"]
        x = (hidden / x_scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        w = self._tensors[f"{prefix}weight"].to(torch.float8_e4m3fn)
        exact = x.double() @ w.double().T * (x_scale * w_scale)
        magnitude = x.double().abs() @ w.double().abs().T * (x_scale * w_scale)
        product = torch._scaled_mm(
            x.to(self._device),
            w.to(self._device).T,
            scale_a=x_scale.float().to(self._device),
            scale_b=w_scale.float().to(self._device),
            out_dtype=torch.float32,
            use_fast_accum=False,
        )
        error = (product.cpu().double() - exact).abs()
        self.errors.append(
            LinearError(
                layer=index,
                linear=name,
                worst=float((error / magnitude.clamp(min=1e-300)).max()),
                relative=float(error.square().mean().sqrt() / exact.square().mean().sqrt()),
            )
        )
        return exact


def compare(folder: Path, device: str, num_tokens: int) -> list[LinearError]:
    """One row for each linear of each layer, over a fixed prompt of ``num_tokens`` ids."""
    decoder = ComparedDecoder(folder, device)
    generator = torch.Generator().manual_seed(0)
    decoder.logits(torch.randint(0, decoder.vocab_size, (num_tokens,), generator=generator).tolist())
    return decoder.errors


def circumstances(device: str) -> dict[str, str]:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda or "none"}


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--tokens", type=click.IntRange(1, 32768), default=256, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(folder: Path, device: str, tokens: int, as_json: bool) -> None:
    """Compare the FP8 arithmetic of the decoder checkpoint in FOLDER with a device's; exit 1 beyond the tolerance."""
    errors = compare(folder, device, tokens)
    worst = max(error.worst for error in errors)
    if as_json:
        rows = [asdict(error) for error in errors]
        click.echo(json.dumps({**circumstances(device), "tolerance": TOLERANCE, "tokens": tokens, "linears": rows}))
    else:
        click.echo(" ".join(f"{key}={value}" for key, value in circumstances(device).items()))
        for error in errors:
            click.echo(
                f"layer {error.layer:3} {error.linear:16} worst {error.worst:.1e}  relative rms {error.relative:.1e}"
            )
        click.echo(f"worst {worst:.2e}, allowed {TOLERANCE:.2e}: {'within' if worst <= TOLERANCE else 'BEYOND'}")
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
