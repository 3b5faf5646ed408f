"""Puts steps in order: each after those whose outputs it reads."""

from __future__ import annotations

from collections.abc import Sequence

from nvlm_trt.pipeline.step import Step

__all__ = ["in_order", "needed_for"]


def in_order(steps: Sequence[Step]) -> list[Step]:
    """Keeps the given order where nothing is read. Steps that wait for each other are a bug: ``ValueError``."""
    ordered: list[Step] = []
    waiting = list(steps)
    while waiting:
        ready = next((s for s in waiting if not any(_reads(s, other) for other in waiting if other is not s)), None)
        if ready is None:
            raise ValueError(f"steps wait for each other: {', '.join(step.name for step in waiting)}")
        ordered.append(ready)
        waiting.remove(ready)
    return ordered


def needed_for(last: Step, ordered: Sequence[Step]) -> list[Step]:
    """The step and those whose outputs it reads, directly or through others, in their order."""
    needed = [last]
    for step in reversed(ordered):
        if step not in needed and any(_reads(other, step) for other in needed):
            needed.append(step)
    return [step for step in ordered if step in needed]


def _reads(step: Step, other: Step) -> bool:
    """Whether the step reads an output of the other, or something in or around one."""
    return any(
        artefact == output or artefact.startswith(f"{output}/") or output.startswith(f"{artefact}/")
        for artefact in step.artefacts
        for output in other.outputs
    )
