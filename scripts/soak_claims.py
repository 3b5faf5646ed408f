"""The claims of a soak, and whether they hold. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scripts.soak_load import BUSY, Outcome, Run
from scripts.soak_memory import Growth

__all__ = ["Claim", "judge", "quantile"]

_WINDOWS = 20
_KEPT = 0.9
_AT_ONCE_S = 0.25


@dataclass(frozen=True, slots=True)
class Claim:
    """``held`` is None for what was too short to be judged."""

    what: str
    held: bool | None
    found: str


def judge(
    run: Run, peaks: tuple[float, float], growths: Mapping[str, Growth | None], left: Sequence[str], long: bool
) -> list[Claim]:
    """``peaks``, good answers a second, were seen in closed loops before and after; ``left`` names what was there that
    should not be.

    Figures of a run that is not ``long`` are told and not judged.
    """
    good, refused = run.good, [outcome for outcome in run.outcomes if outcome.code in BUSY]
    answered = [outcome for outcome in run.outcomes if not outcome.code]
    failed = Counter(outcome.code for outcome in run.outcomes if outcome.code and outcome.code not in BUSY)
    rates = goodput(good, run.seconds)
    least, middle = min(rates), statistics.median(rates)
    waits = [outcome.end_s - outcome.sent_s for outcome in refused]
    at_once = quantile(waits, 0.99) if waits else 0.0
    by_token = sum(outcome.by_token for outcome in good)
    claims = [
        Claim(
            "every answer is the one given alone",
            len(good) == len(answered) > 0,
            f"{len(good)} of {len(answered)}, {by_token} of them token by token, {sum(o.tokens for o in good)} tokens",
        ),
        Claim("nothing fails except by refusal", not failed, str(dict(failed)) if failed else "nothing"),
        Claim(
            f"goodput stays within {1 - _KEPT:.0%} of its peak",
            least >= _KEPT * peaks[0] if long else None,
            f"{middle:.1f} a second, least {least:.1f} of {len(rates)} windows; peak {peaks[0]:.1f} before, "
            f"{peaks[1]:.1f} after",
        ),
        Claim(
            f"a refusal arrives within {_AT_ONCE_S:g} s",
            at_once <= _AT_ONCE_S if long else None,
            f"{len(refused)} of {len(run.outcomes)}"
            + (f", p50 {quantile(waits, 0.5) * 1e3:.1f} ms, p99 {at_once * 1e3:.1f} ms" if waits else ""),
        ),
    ]
    for name, grown in growths.items():
        claims.append(Claim(f"memory of {name} is flat", grown.flat if grown and long else None, _told(grown)))
    claims.append(Claim("everything is given back", not left, "; ".join(left) or "nothing left"))
    return claims


def goodput(good: Sequence[Outcome], seconds: float) -> list[float]:
    """Good answers a second in equal windows over the time in which requests came. Its first tenth is left out: there
    is nothing under way then."""
    counts = Counter(int(outcome.end_s / seconds * _WINDOWS) for outcome in good if outcome.end_s < seconds)
    return [counts[window] * _WINDOWS / seconds for window in range(_WINDOWS // 10, _WINDOWS)]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def _told(grown: Growth | None) -> str:
    if grown is None:
        return "too few samples"
    return (
        f"{grown.first / 1e6:.1f} to {grown.last / 1e6:.1f} MB, {grown.slope / 1e3:+.1f} kB a minute "
        f"({grown.least / 1e3:+.1f} to {grown.most / 1e3:+.1f})"
    )
