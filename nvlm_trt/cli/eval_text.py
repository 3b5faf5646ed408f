"""Scores and comparisons as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nvlm_trt.evaluate.published import PublishedRow
    from nvlm_trt.evaluate.scoring import Comparison, Score

__all__ = ["comparison_text", "score_text"]

_WIDTH = 36


def score_text(score: Score, column: str, rows: Sequence[PublishedRow]) -> str:
    of = f" of {score.expected:,}" if score.expected not in (None, score.records) else ""
    kind = "strict" if score.strict else "as the reference scripts judge"
    counts = ((score.errors, "errors"), (score.empty, "without text"), (score.duplicates, "duplicates left out"))
    told = "".join(f", {count:,} {what}" for count, what in counts if count)
    lines = [f"{score.task}: {score.records:,}{of} answers{told}; {kind}", ""]
    lines += [f"  {name:{_WIDTH}} {value:8.2f}  ({count:,})" for name, (value, count) in score.groups.items()]
    interval = f"  [{score.interval.low:.2f}, {score.interval.high:.2f}]"
    lines.append(f"  {'this run':{_WIDTH}} {score.value:8.2f}{interval}")
    lines += [f"  {row.model:{_WIDTH}} {row.scores[column]:8.2f}" for row in rows]
    lines += ["", "In brackets: 95 % bootstrap interval over questions."]
    return "\n".join(lines)


def comparison_text(comparison: Comparison) -> str:
    low, high = comparison.interval.low, comparison.interval.high
    verdict = "no difference is shown" if low <= 0 <= high else "B is better" if low > 0 else "A is better"
    alone = [
        f"{count:,} questions only in {name}"
        for name, count in (("A", comparison.only_a), ("B", comparison.only_b))
        if count
    ]
    return "\n".join(
        [
            f"{comparison.task}: {comparison.records:,} questions in both" + "".join(f"; {one}" for one in alone),
            f"  A {comparison.a:.2f}   B {comparison.b:.2f}",
            f"  B - A {comparison.difference:+.2f}  [{low:+.2f}, {high:+.2f}]: {verdict}",
            f"  B better on {comparison.better:,}, worse on {comparison.worse:,}",
            "In brackets: 95 % paired bootstrap interval over questions.",
        ]
    )
