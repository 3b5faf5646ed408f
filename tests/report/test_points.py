"""What belongs together, and which points no other beats."""

from __future__ import annotations

import json
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.report.configuration import deployed_configuration, studied_configuration
from nvlm_trt.report.findings import Findings
from nvlm_trt.report.points import accuracies, joined, latencies, pareto_sets
from tests.report.samples import measurement, study

FIGURE = "e2e_ms_p50"


def points_of(scored: Mapping[tuple[str, int], float], e2e_ms: Mapping[tuple[str, int], float]):
    """By (precision, tile limit)."""
    tiles = sorted({limit for _, limit in scored})
    studies = {str(limit): study(limit, {n: s for (n, t), s in scored.items() if t == limit}) for limit in tiles}
    measured = {f"{n} {t}": measurement(n, t, {4: ms}) for (n, t), ms in e2e_ms.items()}
    findings = Findings("x", measured, studies)
    return joined(accuracies(findings), latencies(findings), FIGURE)


def test_a_score_and_a_latency_meet_where_precision_and_tiles_are_the_same():
    points = points_of(
        {("bf16", 6): 80, ("fp8", 6): 81, ("fp8", 2): 60}, {("fp8", 6): 9, ("fp8", 1): 5, ("bf16", 6): 12}
    )
    assert [(point.name, point.accuracy.score.value) for point in points] == [
        ("bf16,tiles=6@4 clients", 80),
        ("fp8,tiles=6@4 clients", 81),
    ]


def test_a_deployment_and_a_study_name_the_same_configuration_alike():
    kept = "fp8+kv,exclude=*.layers.0.*,exclude=*.proj"
    deployed = measurement(kept, 2, {1: 5}).deployment
    assert deployed is not None
    made = study(2, {"bf16": 50, kept: 49})
    assert deployed_configuration(deployed) == studied_configuration(made.model, made.precisions[1])
    assert deployed_configuration(deployed).name == f"{kept},tiles=2"
    other = deployed.model_copy(update={"vision_precision": "fp8"})
    assert deployed_configuration(other).name == f"{kept},tiles=2,vision=fp8"


def test_the_pareto_set_worked_by_hand():
    """fp8 with 6 tiles is as good as bf16 and quicker; with 1 tile it is as quick as fp8+kv and better."""
    scored = {("bf16", 6): 80, ("fp8", 6): 80, ("bf16", 1): 40, ("fp8", 1): 42, ("fp8+kv", 1): 39}
    times = {("bf16", 6): 30, ("fp8", 6): 20, ("bf16", 1): 12, ("fp8", 1): 10, ("fp8+kv", 1): 10}
    best = pareto_sets(points_of(scored, times), FIGURE)
    assert [point.configuration.name for point in best] == ["fp8,tiles=1", "fp8,tiles=6"]


def test_loads_have_sets_of_their_own():
    findings = Findings("x", {"a": measurement("bf16", 6, {1: 9, 8: 5})}, {"b": study(6, {"bf16": 50, "fp8": 50})})
    points = joined(accuracies(findings), latencies(findings), FIGURE)
    assert [point.name for point in pareto_sets(points, FIGURE)] == ["bf16,tiles=6@1 client", "bf16,tiles=6@8 clients"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=6, unique=True))
def test_no_point_of_the_set_is_beaten_and_every_other_is(sizes):
    scored = {(f"fp8,exclude=*.layers.{number}.*", 6): float(score) for number, (score, _) in enumerate(sizes)}
    times = {name: float(ms) for name, (_, ms) in zip(scored, sizes, strict=True)}
    points = points_of(scored, times)
    best = {point.name for point in pareto_sets(points, FIGURE)}

    def beaten(one) -> bool:
        own = (one.accuracy.score.value, -one.latency.summary[FIGURE].median)
        others = [(other.accuracy.score.value, -other.latency.summary[FIGURE].median) for other in points]
        return any(other != own and other[0] >= own[0] and other[1] >= own[1] for other in others)

    assert best == {point.name for point in points if not beaten(point)}


def test_a_load_without_a_valid_run_is_no_point():
    measured = measurement("bf16", 6, {1: 9})
    data = json.loads(measured.dump())
    data["points"][0]["summary"] = {}
    data["points"][0]["runs"][0]["problems"] = ["the generator was late"]
    broken = type(measured).model_validate_json(json.dumps(data))
    findings = Findings("x", {"a": broken}, {"b": study(6, {"bf16": 50, "fp8": 50})})
    assert joined(accuracies(findings), latencies(findings), FIGURE) == []
    assert latencies(findings)[0].problems == ("the generator was late",)
