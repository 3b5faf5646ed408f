"""From answers and forced answers to the figures of a result: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nvlm_trt.evaluate.bootstrap import Interval, ratio_interval
from nvlm_trt.evaluate.rules import Rules
from nvlm_trt.evaluate.scoring import Answers, compare, score
from nvlm_trt.evaluate.task import Record, Task
from nvlm_trt.precision.divergence import first_difference
from nvlm_trt.precision.forcing import ForcedAnswer, ForcedQuestion
from nvlm_trt.precision.layers import LayerDivergences
from nvlm_trt.precision.result import Agreement, Difference, Figure, LayerCost, Layers, PrecisionResult
from nvlm_trt.precision.spec import DecoderPrecision

__all__ = ["judge_layers", "judge_precision"]


def judge_precision(
    precision: DecoderPrecision,
    task: Task,
    rules: Rules,
    reference: Sequence[Record],
    own: Sequence[Record],
    forced: Sequence[ForcedQuestion],
    checkpoint_bytes: int,
) -> PrecisionResult:
    """For the reference, ``own`` is the same object as ``reference``."""
    before, after = (Answers(tuple(records), 0, len(records)) for records in (reference, own))
    scored = score(task, after, rules)
    difference = None
    if own is not reference:
        compared = compare(task, before, after, rules)
        difference = Difference(
            **_figure(compared.difference, compared.interval).model_dump(),
            better=compared.better,
            worse=compared.worse,
        )
    return PrecisionResult(
        name=precision.name,
        quantization=precision.quantization,
        kv_cache=precision.kv_cache,
        exclude=precision.exclude,
        checkpoint_bytes=checkpoint_bytes,
        score=_figure(scored.value, scored.interval),
        groups=dict(scored.groups),
        difference=difference,
        agreement=_agreement(reference, own, forced) if difference and forced else None,
    )


def _agreement(reference: Sequence[Record], own: Sequence[Record], forced: Sequence[ForcedQuestion]) -> Agreement:
    pairs = [(one, other) for one, other in zip(reference, own, strict=True) if "error" not in one]
    parted = [first_difference(one["tokens"], other["tokens"]) for one, other in pairs]
    counts = Counter(place for place in parted if place is not None)
    positions = [len(question.kl) for question in forced]
    largest = max(forced, key=lambda question: max(question.kl))
    return Agreement(
        questions=len(pairs),
        equal=parted.count(None),
        first_difference=dict(sorted(counts.items())),
        forced_questions=len(forced),
        positions=sum(positions),
        same=_ratio([sum(question.same) for question in forced], positions, 100),
        kl=_ratio([sum(question.kl) for question in forced], positions),
        largest_kl=max(largest.kl),
        largest_kl_of=largest.sample_id,
    )


def judge_layers(found: LayerDivergences, answers: Sequence[ForcedAnswer]) -> Layers:
    positions = [answer.positions for answer in answers]
    return Layers(
        questions=len(answers),
        positions=sum(positions),
        everything=_ratio(found.everything, positions),
        layers=tuple(
            LayerCost(alone=_ratio(alone, positions), without=_ratio(without, positions))
            for alone, without in zip(found.alone, found.without, strict=True)
        ),
    )


def _ratio(totals: Sequence[float], counts: Sequence[int], scale: float = 1.0) -> Figure:
    return _figure(scale * sum(totals) / sum(counts), ratio_interval(totals, counts, scale=scale))


def _figure(value: float, interval: Interval) -> Figure:
    return Figure(value=value, low=interval.low, high=interval.high)
