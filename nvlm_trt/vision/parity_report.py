"""What a parity check found: data first, then JSON and a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

__all__ = ["LinkReport", "ParityReport", "StageDifference"]

_VERSION = 1


@dataclass(frozen=True, slots=True)
class StageDifference:
    """One stage of one link, for one kind of tiles."""

    stage: str
    tiles: str
    relative_error: float
    cosine: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.relative_error <= self.tolerance


@dataclass(frozen=True, slots=True)
class LinkReport:
    """``seen`` compared with ``wanted``; ``reason`` is the tolerance's. ``not_run`` says why there are no stages."""

    seen: str
    wanted: str
    reason: str
    stages: tuple[StageDifference, ...]
    not_run: str = ""

    @property
    def passed(self) -> bool:
        return all(stage.passed for stage in self.stages)

    @property
    def first_failure(self) -> StageDifference | None:
        return next((stage for stage in self.stages if not stage.passed), None)


@dataclass(frozen=True, slots=True)
class ParityReport:
    links: tuple[LinkReport, ...]
    circumstances: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every link that was run holds, and one was: nothing run is nothing proven."""
        return any(link.stages for link in self.links) and all(link.passed for link in self.links)

    def to_json(self) -> str:
        links = [{**asdict(link), "passed": link.passed if link.stages else None} for link in self.links]
        data = {"version": _VERSION, "passed": self.passed, "circumstances": self.circumstances, "links": links}
        # Infinity is no JSON; what it stands for is that nothing can be said.
        return json.dumps(_finite(data), indent=1, sort_keys=True) + "\n"

    def to_text(self, every: int = 8) -> str:
        """A table per link: every ``every``-th layer and all other stages, and any that failed."""
        return "\n\n".join("\n".join(_lines(link, every)) for link in self.links) + "\n"


def _lines(link: LinkReport, every: int) -> Iterator[str]:
    verdict = ("holds" if link.passed else "FAILS") if link.stages else "not run"
    yield f"{link.seen} against {link.wanted}: {verdict}"
    if not link.stages:
        yield f"  {link.not_run}"
        return
    yield f"  {link.reason}"
    kinds = list(dict.fromkeys(stage.tiles for stage in link.stages))
    yield f"  {'stage':<14}{'tolerance':>11}" + "".join(f"{kind:>14}{'1 - cosine':>12}" for kind in kinds)
    for name, group in groupby(link.stages, key=lambda stage: stage.stage):
        stages = list(group)
        number = name.removeprefix("layers.")
        if number.isdecimal() and (int(number) + 1) % every and all(stage.passed for stage in stages):
            continue
        cells = "".join(
            f"{stage.relative_error:>13.2e}{' ' if stage.passed else '!'}{max(0.0, 1 - stage.cosine):>12.1e}"
            for stage in stages
        )
        yield f"  {name:<14}{stages[0].tolerance:>11.2e}{cells}"


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if data == float("inf") else data
