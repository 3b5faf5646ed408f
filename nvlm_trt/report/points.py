"""The accuracy and the latency of one configuration, joined.

A point is one load on one configuration, with that configuration's score on one task. The points of a load that no
other point beats in both figures are its Pareto set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from nvlm_trt.load.provenance import Deployed
from nvlm_trt.load.result import PointLoad, Spread
from nvlm_trt.precision.result import Figure
from nvlm_trt.report.configuration import Configuration, deployed_configuration, studied_configuration
from nvlm_trt.report.findings import Findings

__all__ = [
    "Accuracy",
    "Latency",
    "Point",
    "accuracies",
    "by_task_and_load",
    "joined",
    "latencies",
    "load_order",
    "pareto_sets",
]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """``configuration`` is None for a score whose run was not told which deployment answered."""

    configuration: Configuration | None
    task: str
    score: Figure
    questions: int
    file: str


@dataclass(frozen=True, slots=True)
class Latency:
    """``summary`` is empty where no run was valid; ``problems`` says why runs were not."""

    configuration: Configuration | None
    load: PointLoad
    summary: dict[str, Spread]
    problems: tuple[str, ...]
    deployed: Deployed | None
    door: str
    file: str


@dataclass(frozen=True, slots=True)
class Point:
    configuration: Configuration
    accuracy: Accuracy
    latency: Latency

    @property
    def name(self) -> str:
        """What ``--choose`` takes."""
        return f"{self.configuration.name}@{self.latency.load.shown}"


def accuracies(findings: Findings) -> list[Accuracy]:
    found = [
        Accuracy(studied_configuration(study.model, one), study.task, one.score, study.questions, file)
        for file, study in findings.studies.items()
        for one in study.precisions
    ]
    for file, score in findings.scores.items():
        configuration = deployed_configuration(score.deployment) if score.deployment else None
        figure = Figure(value=score.value, low=score.interval.low, high=score.interval.high)
        found.append(Accuracy(configuration, score.task, figure, score.records, file))
    return found


def latencies(findings: Findings) -> list[Latency]:
    return [
        Latency(
            deployed_configuration(measured.deployment) if measured.deployment else None,
            point.load,
            dict(point.summary),
            tuple(dict.fromkeys(problem for run in point.runs for problem in run.problems)),
            measured.deployment,
            measured.experiment.door,
            file,
        )
        for file, measured in findings.measurements.items()
        for point in measured.points
    ]


def joined(accuracies: Sequence[Accuracy], latencies: Sequence[Latency], figure: str) -> list[Point]:
    """Of those whose latency has ``figure``, in order of task, load and configuration."""
    points = [
        Point(latency.configuration, accuracy, latency)
        for accuracy in accuracies
        for latency in latencies
        if latency.configuration is not None
        and latency.configuration == accuracy.configuration
        and figure in latency.summary
    ]
    return sorted(points, key=lambda point: (point.accuracy.task, load_order(point.latency.load), point.configuration))


def load_order(load: PointLoad) -> tuple[str, float]:
    return load.kind, load.clients if load.clients is not None else load.rate_per_s or 0.0


def by_task_and_load(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Of points in order."""
    for _, group in groupby(points, key=lambda point: (point.accuracy.task, load_order(point.latency.load))):
        yield list(group)


def pareto_sets(points: Sequence[Point], figure: str) -> list[Point]:
    """Of each task and load."""
    return [point for group in by_task_and_load(points) for point in _pareto(group, figure)]


def _pareto(points: Sequence[Point], figure: str) -> list[Point]:
    """Those that none other equals or beats in both score and ``figure``, and beats in one; quickest first."""

    def sizes(point: Point) -> tuple[float, float]:
        return point.latency.summary[figure].median, -point.accuracy.score.value

    kept, best = [], float("inf")
    for point in sorted(points, key=sizes):
        if sizes(point)[1] < best:
            kept.append(point)
            best = sizes(point)[1]
    return kept
