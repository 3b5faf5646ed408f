"""The decoder's linears in the groups that are quantised together, and their names in TensorRT-LLM.

A layer has four groups: ``qkv`` is one fused GEMM, ``fc`` and ``gate`` share an input and are fused when the engine is
built, ``dense`` and ``proj`` stand alone. A group is FP8 or in the model's dtype as a whole. With half of a fusion
quantised the build fails, or worse, does not. So exclusions are chosen in groups and written as the names of all
modules in them.

A pattern is what ``exclude_modules`` takes: a case-sensitive glob on the full module name. Layers are counted over the
whole decoder; a pipeline stage counts its own from zero again, so names mean something else there.
"""

from __future__ import annotations

import enum
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nvlm_trt.errors import UsageError

__all__ = ["GroupKind", "LinearGroup", "all_groups", "exclude_modules", "select_groups"]

# Never quantised, so that naming it changes nothing; but it is there, so naming it is no mistake.
_ALWAYS_EXCLUDED = "lm_head"


class GroupKind(enum.Enum):
    """The value is the name of what enters the group, as ``LayerAmax`` has it."""

    QKV = "qkv"
    DENSE = "dense"
    FC = "fc"
    PROJ = "proj"


_MODULES = {
    GroupKind.QKV: ("attention.qkv",),
    GroupKind.DENSE: ("attention.dense",),
    GroupKind.FC: ("mlp.fc", "mlp.gate"),
    GroupKind.PROJ: ("mlp.proj",),
}


@dataclass(frozen=True, slots=True)
class LinearGroup:
    layer: int
    kind: GroupKind

    @property
    def modules(self) -> tuple[str, ...]:
        """Full module names, ``transformer.layers.3.mlp.fc`` for one."""
        return tuple(f"transformer.layers.{self.layer}.{name}" for name in _MODULES[self.kind])


def all_groups(num_layers: int) -> list[LinearGroup]:
    """In the order in which they compute."""
    return [LinearGroup(layer, kind) for layer in range(num_layers) for kind in GroupKind]


def exclude_modules(groups: Iterable[LinearGroup]) -> list[str]:
    """What goes into the checkpoint's ``exclude_modules``: the groups' modules in order, ``lm_head`` first."""
    kinds = list(GroupKind)
    ordered = sorted(set(groups), key=lambda group: (group.layer, kinds.index(group.kind)))
    return [_ALWAYS_EXCLUDED, *(module for group in ordered for module in group.modules)]


def select_groups(patterns: Sequence[str], num_layers: int) -> frozenset[LinearGroup]:
    """The groups that the patterns name.

    Raises ``UsageError`` E-RECIPE-EXCLUDE for a pattern that matches no linear, and for patterns that name a part of a
    group only.
    """
    groups = all_groups(num_layers)
    names = {_ALWAYS_EXCLUDED, *(module for group in groups for module in group.modules)}
    matched: set[str] = set()
    for pattern in patterns:
        hits = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
        if not hits:
            raise UsageError(
                "E-RECIPE-EXCLUDE",
                f"The pattern {pattern!r} matches none of the decoder's linears.",
                f"Names run from {groups[0].modules[0]} to {groups[-1].modules[-1]}; * and ? are wildcards.",
            )
        matched |= hits
    for group in groups:
        named = [module for module in group.modules if module in matched]
        if named and len(named) < len(group.modules):
            raise UsageError(
                "E-RECIPE-EXCLUDE",
                f"{named[0]} is excluded without {next(m for m in group.modules if m not in matched)}; "
                "the engine fuses them into one GEMM.",
                "Exclude both or neither.",
            )
    return frozenset(group for group in groups if group.modules[0] in matched)
