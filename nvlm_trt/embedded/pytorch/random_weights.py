"""A decoder's weights without a checkpoint: random, seeded by their names, made where they are needed.

For measuring a decoder of any size. The numbers keep the residual stream near 1 and fill e4m3's range as trained
weights do.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

__all__ = ["RandomWeights"]

_CHUNK = 1 << 26
_ACTIVATION_AMAX = {"qkv": 6.0, "dense": 4.0, "fc": 6.0, "gate": 6.0, "proj": 8.0}
_STORED_DEVIATION = 96.0  # of e4m3 weights: 448 is 4.7 deviations off


class RandomWeights:
    """A ``WeightSource`` of seeded random numbers: a name gives the same values in every dtype."""

    def __init__(self, hidden_size: int) -> None:
        self._hidden_size = hidden_size

    def fill(self, name: str, target: Tensor) -> None:
        generator = torch.Generator(target.device).manual_seed(zlib.crc32(name.encode()))
        kind, flat = name.rsplit(".", 2)[1], target.view(-1)
        if name.endswith("activation_scaling_factor"):
            flat.fill_(_ACTIVATION_AMAX[kind] / 448)
        elif name.endswith("weights_scaling_factor"):
            flat.fill_(self._hidden_size**-0.5 / _STORED_DEVIATION)
        else:
            quantised = kind in _ACTIVATION_AMAX and name.endswith(".weight")
            centre = 1.0 if kind in ("input_layernorm", "post_layernorm", "ln_f") else 0.0
            spread = (
                _STORED_DEVIATION
                if quantised
                else {"vocab_embedding": 1.0, "lm_head": self._hidden_size**-0.5}.get(kind, 0.1)
            )
            for start in range(0, len(flat), _CHUNK):
                piece = flat[start : start + _CHUNK]
                values = torch.randn(len(piece), generator=generator, device=target.device) * spread + centre
                piece.copy_(values.clamp(-448, 448).to(torch.float8_e4m3fn) if quantised else values)
