"""What FP8 costs, linear group by linear group, as data; and which groups to keep in BF16 for a wanted error.

The model of how errors add up has two assumptions.

* Errors of different groups are independent, so their squares add.
* Later layers pass a relative error on at its size, times one factor for the whole model. The factor is the measured
  error of the final hidden state, with every group rounded, over what the sum says.

    error(kept) = factor * sqrt(sum of layer_error^2 over the groups that are not kept)

Under this model the smallest set is the one that takes the largest errors first.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from nvlm_trt.decoder.linear_groups import GroupKind, LinearGroup
from nvlm_trt.errors import ArtefactError, UsageError

__all__ = ["GroupError", "SensitivityReport"]

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class GroupError:
    """``own_error`` is that of the group's output, biases included; ``layer_error`` that of the layer's output."""

    layer: int
    kind: GroupKind
    own_error: float
    layer_error: float

    @property
    def group(self) -> LinearGroup:
        return LinearGroup(self.layer, self.kind)


@dataclass(frozen=True, slots=True)
class SensitivityReport:
    """Every group's error in computing order, and the final hidden state's, measured with all groups rounded."""

    groups: tuple[GroupError, ...]
    final_error: float

    @property
    def factor(self) -> float:
        """The later layers' factor, see above."""
        total = math.sqrt(sum(error.layer_error**2 for error in self.groups))
        return self.final_error / total if total else 1.0

    def predicted_error(self, kept: Iterable[LinearGroup]) -> float:
        """Of the final hidden state, with these groups in BF16."""
        kept = set(kept)
        return self.factor * math.sqrt(sum(error.layer_error**2 for error in self.groups if error.group not in kept))

    def smallest_exclusion(self, bound: float) -> tuple[LinearGroup, ...]:
        """The fewest groups to keep in BF16 so that the predicted error is at most ``bound``, in computing order.

        ``linear_groups.exclude_modules`` turns them into names. Raises ``UsageError`` E-USAGE-BOUND for a bound that is
        no error.
        """
        if not bound >= 0:
            raise UsageError("E-USAGE-BOUND", f"The bound is {bound:g}; at least 0 is wanted.", "Use 0.05 for 5 %.")
        ranked = [error.group for error in sorted(self.groups, key=lambda error: -error.layer_error)]
        count = next(count for count in range(len(ranked) + 1) if self.predicted_error(ranked[:count]) <= bound)
        kept = set(ranked[:count])
        return tuple(error.group for error in self.groups if error.group in kept)

    def to_json(self) -> str:
        groups = [{**dataclasses.asdict(error), "kind": error.kind.value} for error in self.groups]
        data = {"format": _FORMAT, "groups": groups, "final_error": self.final_error}
        return json.dumps(data, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> SensitivityReport:
        """Inverse of ``to_json``. Raises ``ArtefactError`` E-ARTEFACT-SENSITIVITY."""
        try:
            data = json.loads(text)
            if data.pop("format") != _FORMAT:
                raise ValueError
            groups = tuple(GroupError(**{**entry, "kind": GroupKind(entry["kind"])}) for entry in data.pop("groups"))
            report = cls(groups, **data)
            errors = [report.final_error, *(value for one in groups for value in (one.own_error, one.layer_error))]
            if not all(isinstance(error, float) and math.isfinite(error) and error >= 0 for error in errors):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ArtefactError(
                "E-ARTEFACT-SENSITIVITY", "The sensitivity report is damaged or of another version.", "Measure again."
            ) from None
        return report
