"""The soak on a real server for some seconds, and its judgement on runs that were not well."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nvlm_trt.deploy.server import TritonServer
from scripts.soak import main
from scripts.soak_claims import judge
from scripts.soak_load import Outcome, Pool, Run, closed_loop
from scripts.soak_memory import Growth, growth
from scripts.soak_questions import Answer, Question, draw_questions

_FLAT = growth([(second, 10**8) for second in range(100)])


def test_a_short_soak_holds_what_it_claims(deployment: Path, server: TritonServer, tmp_path: Path) -> None:
    options = ["--minutes", "0.06", "--questions", "12", "--clients", "3", "--alone", server.grpc_url]
    result = CliRunner().invoke(main, [str(deployment), *options, "--json", str(tmp_path / "soak.json")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "soak.json").read_bytes())
    held = {claim["what"]: claim["held"] for claim in found["claims"]}
    assert held["every answer is the one given alone"] is True
    assert held["nothing fails except by refusal"] is True
    assert held["everything is given back"] is True
    assert held["memory of gateway is flat"] is None  # too short to be judged
    assert set(found["memory"]) >= {"server", "gateway", "preprocessing", "tensorrt_llm", "postprocessing"}


def test_questions_come_from_the_seed_alone() -> None:
    assert draw_questions(3, 5, 5) == draw_questions(3, 5, 5)
    assert draw_questions(3, 5, 5) != draw_questions(4, 5, 5)
    assert {bool(question.picture) for question in draw_questions(3, 5, 5)} == {True, False}


def test_an_answer_other_than_alone_is_found() -> None:
    questions = draw_questions(0, 4, 1)
    pool = Pool(questions[:4], questions[4:], {question.number: ("so", (-1.0, -2.0), 2) for question in questions})

    async def exchanges_two_tokens(question: Question, answer: Answer) -> None:
        await asyncio.sleep(0.01)
        answer.text, answer.log_probs, answer.tokens = "so", [-2.0, -1.0], 2

    run = asyncio.run(closed_loop(exchanges_two_tokens, "gRPC", pool, 2, 0.2, random.Random(0)))
    assert run.outcomes
    assert not run.good
    assert "(-2.0, -1.0)" in run.wrong[0]


def test_a_good_run_is_judged_so() -> None:
    assert _failed(_run()) == []


@pytest.mark.parametrize(
    ("run", "what"),
    [
        ({"right": False}, ["every answer is the one given alone", "goodput stays within 10% of its peak"]),
        ({"code": "lost"}, ["nothing fails except by refusal", "goodput"]),
        ({"code": "E-BUSY-DOOR", "end_s": 200.0}, ["goodput", "a refusal arrives within 0.25 s"]),
    ],
)
def test_what_is_not_well_is_named(run: dict[str, Any], what: list[str]) -> None:
    failed = _failed(_run(**run))
    assert len(failed) == len(what)
    assert all(found.startswith(named) for found, named in zip(failed, what, strict=True))


def test_speed_of_a_short_run_is_told_and_not_judged() -> None:
    claims = judge(_run(), (1000.0, 1000.0), {"gateway": _growing(5.0)}, [], long=False)
    assert [claim.held for claim in claims] == [True, True, None, None, None, True]


def test_what_is_left_and_what_grows_is_named() -> None:
    claims = judge(_run(), (10.0, 10.0), {"server": _growing(5.0), "gateway": _FLAT}, ["process 7"], long=True)
    assert [claim.what for claim in claims if claim.held is False] == [
        "memory of server is flat",
        "everything is given back",
    ]


@pytest.mark.parametrize(("percent", "flat"), [(0.0, True), (0.5, True), (-9.0, True), (5.0, False), (50.0, False)])
def test_growth_is_told_from_noise(percent: float, flat: bool) -> None:
    assert _growing(percent).flat is flat


def test_the_interval_holds_the_truth_nineteen_times_of_twenty() -> None:
    grown = [_growing(5.0, seed) for seed in range(100)]
    assert 90 <= sum(one.least <= 5e6 <= one.most for one in grown) <= 99  # 5 % of 100 MB in a minute


def test_too_few_samples_say_nothing() -> None:
    assert growth([]) is None
    assert growth([(0.0, 1), (1.0, 1), (2.0, 1)]) is None


def _growing(percent: float, seed: int = 0) -> Growth:
    draw = random.Random(seed)
    sizes = [int(1e8 * (1 + percent / 100 * at / 600) + draw.gauss(0, 1e5)) for at in range(601)]
    grown = growth([(at / 10, size) for at, size in enumerate(sizes)])
    assert grown
    return grown


def _run(**changes: Any) -> Run:
    """Ten answers a second for 100 s; with ``changes``, the second half is so."""
    run = Run(seconds=100.0)
    for number in range(1000):
        at_s = number / 10
        outcome = Outcome("gateway", at_s, at_s, at_s, "", True, 5, True)
        run.outcomes.append(replace(outcome, **changes) if number >= 500 and changes else outcome)
    return run


def _failed(run: Run) -> list[str]:
    return [claim.what for claim in judge(run, (10.0, 10.0), {"gateway": _FLAT}, [], long=True) if claim.held is False]
