"""The arithmetic that a decoder layer is written in, so that the same code of the layer runs on a CPU and on a GPU.

``decoder/layer.py`` says what a layer computes, and an implementation of ``LayerOps`` says how: numpy on the CPU, torch
on a CUDA device. Arrays are the implementation's own and opaque to the layer; ``put`` and ``get`` are the only ways in
and out. What an observer needs of an activation (amax, histogram, energy) is computed where the activation lies.

Everything is float32. Weights keep their stored dtype and are widened in blocks, so a layer is never held twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.errors import MissingToolError, UsageError
from nvlm_trt.model.config import DecoderConfig

__all__ = ["DEVICES", "HISTOGRAM_CODES", "AttentionError", "LayerOps", "open_ops"]

# A magnitude's histogram code is its float32's upper 16 bits without the sign: exponent and seven mantissa bits.
HISTOGRAM_CODES = 1 << 15


@dataclass(frozen=True, slots=True)
class AttentionError:
    """What other keys and values change in an attention, as sums of squares over heads and queries.

    ``logits`` is over the ``num_logits`` visible query-key pairs after subtracting each query's mean, which a softmax
    ignores; ``output`` is over the attention's output, ``output_energy`` the exact output's own.
    """

    logits: float = 0.0
    num_logits: int = 0
    output: float = 0.0
    output_energy: float = 0.0

    def __add__(self, other: AttentionError) -> AttentionError:
        return AttentionError(
            self.logits + other.logits,
            self.num_logits + other.num_logits,
            self.output + other.output,
            self.output_energy + other.output_energy,
        )


class LayerOps(Protocol):
    """``Any`` stands for the implementation's array; [tokens, width] unless said otherwise."""

    def put(self, values: NDArray[Any]) -> Any:
        """A host array, bfloat16, float16 or float32, to where the work is done."""

    def get(self, values: Any) -> NDArray[np.float32]: ...

    def amax(self, values: Any) -> float:
        """The largest magnitude; not finite if any value is not."""

    def histogram(self, values: Any) -> NDArray[np.int64]:
        """How many magnitudes have each of the ``HISTOGRAM_CODES`` codes."""

    def energy(self, values: Any) -> float:
        """The sum of squares, accumulated in float64."""

    def fake_fp8(self, values: Any, scale: np.float32) -> Any:
        """Rounded to e4m3 under ``scale`` and restored."""

    def rms_norm(self, values: Any, weight: Any, eps: float) -> Any: ...

    def linear(self, values: Any, weight: Any, bias: Any = None, weight_scale: np.float32 | None = None) -> Any:
        """Values times weight [out, in] transposed; with ``weight_scale`` the weight is rounded as by ``fake_fp8``."""

    def rotate(self, heads: Any, lengths: Sequence[int], config: DecoderConfig) -> Any:
        """Rotary embedding of [tokens, heads, head_dim]; positions start anew with each of the packed sequences."""

    def attend(self, q: Any, k: Any, v: Any, lengths: Sequence[int]) -> Any:
        """Causal attention within each sequence: q [tokens, heads, head_dim], k and v [tokens, kv heads, head_dim]."""

    def attention_error(
        self, q: Any, k: Any, v: Any, other_k: Any, other_v: Any, lengths: Sequence[int]
    ) -> AttentionError:
        """How attention with the other keys and values differs."""

    def silu_product(self, gate: Any, up: Any) -> Any:
        """``silu(gate) * up``; may overwrite ``gate``."""


def _open_cpu() -> AbstractContextManager[LayerOps]:
    from nvlm_trt.decoder.numpy_ops import NumpyOps

    return NumpyOps()


def _open_cuda() -> AbstractContextManager[LayerOps]:
    try:
        import torch
    except ImportError:
        raise MissingToolError(
            "E-TOOL-TORCH", "Calibrating on a CUDA device needs torch.", "Run: pip install 'nvlm-trt[torch]'."
        ) from None
    if not torch.cuda.is_available():
        raise MissingToolError("E-TOOL-CUDA", "torch finds no CUDA device on this machine.", "Use the device cpu.")
    from nvlm_trt.reference.layer_ops import TorchOps

    return TorchOps("cuda")


DEVICES = {"cpu": _open_cpu, "cuda": _open_cuda}


def open_ops(device: str) -> AbstractContextManager[LayerOps]:
    """The arithmetic of a device, one of ``DEVICES``; it holds threads or a device while it is entered.

    Raises ``UsageError`` E-USAGE-DEVICE, ``MissingToolError`` E-TOOL-TORCH and E-TOOL-CUDA.
    """
    if device not in DEVICES:
        raise UsageError("E-USAGE-DEVICE", f"There is no device {device!r}.", f"Use one of {', '.join(DEVICES)}.")
    return DEVICES[device]()
