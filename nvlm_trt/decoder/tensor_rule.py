"""A rule for one tensor of an output file: what it is made of, without any bytes.

An output form is a list of rules for each of its files. Reading, splitting, scaling and casting follow from them and
are the same for every form (``conversion``).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Kind", "Split", "TensorRule"]


class Kind(enum.Enum):
    PLAIN = "plain"  # in the model's dtype
    STORED = "stored"  # as it lies in the input
    WEIGHT = "weight"  # e4m3
    WEIGHT_SCALE = "weight_scale"  # float32, restores the weight
    INPUT_SCALE = "input_scale"  # float32, restores the activation that enters the linear
    CACHE_SCALE = "cache_scale"  # float32, restores cached keys and values; never below 1


class Split(enum.Enum):
    WHOLE = "whole"
    ROWS = "rows"
    COLUMNS = "columns"


@dataclass(frozen=True, slots=True)
class TensorRule:
    """One tensor of a rank's file.

    ``shape`` is the rank's. ``sources`` are release names, stacked on the first axis after each is split.
    ``scale_sources`` are the tensors whose common amax gives the weight scale; ``activation`` is a layer and the names
    of those of its calibrated amaxes whose largest gives the scale.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    sources: tuple[str, ...] = ()
    split: Split = Split.WHOLE
    scale_sources: tuple[str, ...] = ()
    activation: tuple[int, tuple[str, ...]] | None = None
