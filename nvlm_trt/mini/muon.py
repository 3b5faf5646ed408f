"""Muon (Keller Jordan, 2024): momentum whose matrix is made orthogonal before it is applied.

All directions of a weight matrix then move alike, not only those that the gradient is loudest about. This one is in
float32 and for matrices of a hundred rows, where it costs a quarter of a step. The polynomial is the published quintic.
"""

# torch is not type-checked here, so its Optimizer is Any:
# mypy: disallow-subclassing-any=False

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon"]

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For matrices; more axes are flattened to the second. Fused q, k and v are taken apart by ``blocks`` of rows."""

    def __init__(self, params: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95, decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay, "blocks": 1})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:  # a batch of pages teaches the tower alone
                    continue
                state = self.state[parameter]
                mean = state.setdefault("mean", torch.zeros_like(parameter))
                mean.mul_(group["momentum"]).add_(parameter.grad)
                ahead = parameter.grad + group["momentum"] * mean
                blocks = ahead.reshape(group["blocks"], len(ahead) // group["blocks"], -1)
                scale = max(1.0, blocks.shape[1] / blocks.shape[2]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["decay"])
                parameter.add_(_orthogonal(blocks).reshape(parameter.shape), alpha=-group["lr"] * scale)


def _orthogonal(matrices: Tensor) -> Tensor:
    """[n, rows, columns], each nearly the orthogonal factor of its polar decomposition, by Newton and Schulz."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    first, third, fifth = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = first * x + (third * gram + fifth * gram @ gram) @ x
    return x.mT if tall else x
