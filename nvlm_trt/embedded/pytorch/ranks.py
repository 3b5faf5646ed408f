"""What the ranks of a tensor-parallel decoder exchange in a step: sums, and parts put side by side.

On the CPU a sum gathers and then adds in the order of the ranks: the same bits on every rank, in every run, for every
number of rows. The order of NCCL's own sum depends on the size of what is summed but not on timing.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["OneRank", "RankGroup", "Ranks"]


class Ranks(Protocol):
    rank: int

    def sum(self, part: Tensor) -> Tensor:
        """The sum over all ranks; ``part`` may be overwritten."""

    def concat(self, part: Tensor) -> Tensor:
        """The ranks' parts along the last axis, in their order."""

    def least(self, number: int) -> int: ...


class OneRank:
    rank = 0

    def sum(self, part: Tensor) -> Tensor:
        return part

    def concat(self, part: Tensor) -> Tensor:
        return part

    def least(self, number: int) -> int:
        return number


class RankGroup:
    """Over ``torch.distributed``'s default group, which must be there."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self._size = dist.get_rank(), dist.get_world_size()
        self._device = device

    def sum(self, part: Tensor) -> Tensor:
        if part.is_cuda:
            dist.all_reduce(part)
            return part
        first, *others = self._gathered(part)
        for other in others:
            first += other
        return first

    def concat(self, part: Tensor) -> Tensor:
        return torch.cat(self._gathered(part), dim=-1)

    def least(self, number: int) -> int:
        held = torch.tensor([number], device=self._device)
        dist.all_reduce(held, dist.ReduceOp.MIN)
        return int(held)

    def _gathered(self, part: Tensor) -> list[Tensor]:
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(self._size)]
        dist.all_gather(parts, part)
        return parts
