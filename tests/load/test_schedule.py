"""Schedules: what is due when, from a seed."""

from __future__ import annotations

import json
import math
import random
from itertools import islice
from pathlib import Path

import pytest

from nvlm_trt.errors import UsageError
from nvlm_trt.load.mix import read_mix
from nvlm_trt.load.request import Planned
from nvlm_trt.load.schedule import ClosedLoad, PoissonLoad, TraceLoad, UniformLoad, poisson_arrivals, schedule_digest
from nvlm_trt.load.trace import read_trace

MIX = """
[[request]]
share = 3
pictures = ["64x48", "48x48"]
prompt_tokens = [2, 5]
answer_tokens = 4

[[request]]
prompt_tokens = 3
answer_tokens = [1, 9]
"""


@pytest.fixture
def mix(tmp_path: Path):
    (tmp_path / "mix.toml").write_text(MIX)
    return read_mix(tmp_path / "mix.toml")


class Fixed(random.Random):
    """Draws what it is given."""

    def __init__(self, *values: float) -> None:
        self._left = iter(values)

    def random(self) -> float:
        return next(self._left)


def test_poisson_arrivals_are_sums_of_minus_log_of_what_was_drawn() -> None:
    arrivals = islice(poisson_arrivals(2.0, Fixed(0.5, 0.75, 0.0)), 3)
    first, second = math.log(2) / 2, math.log(2) / 2 + math.log(4) / 2
    assert list(arrivals) == pytest.approx([first, second, second], rel=1e-12)


def test_gaps_of_poisson_arrivals_are_exponential() -> None:
    """Kolmogorov's distance to 1 - exp(-rate t), below its 0.1 % bound of 1.95 / sqrt(n)."""
    arrivals = list(islice(poisson_arrivals(5.0, random.Random(1)), 4000))
    gaps = sorted(later - earlier for earlier, later in zip([0.0, *arrivals], arrivals, strict=False))
    distance = max(abs(1 - math.exp(-5 * gap) - number / len(gaps)) for number, gap in enumerate(gaps))
    assert distance < 1.95 / math.sqrt(len(gaps))


def test_uniform_arrivals_are_a_rate_apart(mix) -> None:
    assert [one.due_s for one in UniformLoad(mix, 4.0).plan(0, "a", 4)] == [0.0, 0.25, 0.5, 0.75]


def test_a_schedule_is_the_same_for_the_same_seed_and_label_alone(mix) -> None:
    load = PoissonLoad(mix, 3.0)
    digests = [schedule_digest(load.plan(seed, label, 50)) for seed, label in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert digests[0] == "ed320dbc962d5fdc3ee7205020d065d0b685708ba54cfcfe73dba747e4eb80df"


def test_a_longer_schedule_begins_with_the_shorter(mix) -> None:
    load = PoissonLoad(mix, 3.0)
    assert load.plan(0, "a", 20)[:10] == load.plan(0, "a", 10)


def test_kinds_lengths_and_pictures_come_as_often_as_the_mix_says(mix) -> None:
    requests = [one.request for one in ClosedLoad(mix, 1).plan(0, "a", 4000)]
    seen = [request for request in requests if request.kind == 0]
    assert len(seen) / 4000 == pytest.approx(0.75, abs=0.03)
    assert {request.pictures for request in seen} == {("64x48",), ("48x48",)}
    assert sum(request.pictures == ("64x48",) for request in seen) / len(seen) == pytest.approx(0.5, abs=0.04)
    for length in (2, 3, 4, 5):
        share = sum(request.prompt_tokens == length for request in seen) / len(seen)
        assert share == pytest.approx(0.25, abs=0.04)
    assert {request.answer_tokens for request in seen} == {4}
    assert {request.answer_tokens for request in requests if request.kind == 1} == set(range(1, 10))
    assert all(len(request.prompt.split()) == request.prompt_tokens for request in requests)
    assert len(set(requests)) == 4000


def test_a_mix_of_few_distinct_requests_asks_them_again(tmp_path: Path) -> None:
    (tmp_path / "few.toml").write_text("distinct = 3\n" + MIX)
    load = ClosedLoad(read_mix(tmp_path / "few.toml"), 1)
    first, second = ({one.request for one in load.plan(0, label, 50)} for label in ("a", "b"))
    assert first == second
    assert len(first) == 3


def test_a_trace_is_replayed_in_order_and_faster(tmp_path: Path) -> None:
    lines = [
        {"at_s": 2.0, "prompt_tokens": 3, "answer_tokens": 5, "pictures": ["64x48", "own.jpg"]},
        {"at_s": 0.5, "prompt_tokens": 4, "answer_tokens": 6},
    ]
    (tmp_path / "own.jpg").write_bytes(b"any")
    (tmp_path / "trace.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    trace = read_trace(tmp_path / "trace.jsonl", 0)
    assert read_trace(tmp_path / "trace.jsonl", 0) == trace
    load = TraceLoad(trace, tmp_path, 2.0)
    planned = load.plan(7, "any", 100)
    assert [(one.due_s, one.request.prompt_tokens, one.request.answer_tokens) for one in planned] == [
        (0.25, 4, 6),
        (1.0, 3, 5),
    ]
    assert planned[1].request.pictures == ("64x48", "own.jpg")
    assert load.form().rate_per_s == pytest.approx(1 / 0.75)  # what comes before the first arrival is no load


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"at_s": 1}', "line 2: prompt_tokens"),
        ('{"at_s": -1, "prompt_tokens": 1, "answer_tokens": 1}', "line 2: at_s"),
        ('{"at_s": 1, "prompt_tokens": 0, "answer_tokens": 1}', "line 2: prompt_tokens"),
        ('{"at_s": 1, "prompt_tokens": 1, "answer_tokens": 1, "pictures": ["none.jpg"]}', "line 2: The picture"),
        ('{"at_s": 1, "prompt_tokens": 1, "answer_tokens": 1, "other": 1}', "line 2: other"),
        ("{", "line 2"),
    ],
)
def test_a_bad_line_of_a_trace_is_named(line: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"at_s": 0, "prompt_tokens": 1, "answer_tokens": 1}\n' + line)
    with pytest.raises(UsageError, match=f"E-LOAD-TRACE: t.jsonl, {named}"):
        read_trace(tmp_path / "t.jsonl", 0)


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_an_empty_trace_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(UsageError, match="E-LOAD-TRACE"):
        read_trace(tmp_path / "t.jsonl", 0)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "request: Field required"),
        ("request = []", "request"),
        ("[[request]]\nprompt_tokens = 1", "request.0.answer_tokens"),
        ("[[request]]\nprompt_tokens = [5, 2]\nanswer_tokens = 1", r"request.0: prompt_tokens = \[5, 2\]"),
        ("[[request]]\nprompt_tokens = 0\nanswer_tokens = 1", "request.0.prompt_tokens"),
        ("[[request]]\nshare = 0\nprompt_tokens = 1\nanswer_tokens = 1", "request.0.share"),
        ("[[request]]\nshare = inf\nprompt_tokens = 1\nanswer_tokens = 1", "request.0.share"),
        ("[[request]]\npicture_count = 2\nprompt_tokens = 1\nanswer_tokens = 1", "request.0: picture_count"),
        ("[[request]]\npitcures = []\nprompt_tokens = 1\nanswer_tokens = 1", "request.0.pitcures"),
        ("distinct = 0\n" + MIX, "distinct"),
        ("[[request", "not TOML"),
    ],
)
def test_a_bad_mix_is_refused_by_its_key(content: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(content)
    with pytest.raises(UsageError, match=f"E-LOAD-MIX: m.toml .*{named}"):
        read_mix(tmp_path / "m.toml")


@pytest.mark.parametrize("picture", ["none.jpg", "0x5", "99999x99999", "-3x4", "folder"])
def test_a_picture_that_cannot_be_is_refused(picture: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    text = f'[[request]]\npictures = ["{picture}"]\nprompt_tokens = 1\nanswer_tokens = 1'
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(UsageError, match="E-LOAD-PICTURE"):
        read_mix(tmp_path / "m.toml")


def test_a_digest_sees_every_change(mix) -> None:
    planned = ClosedLoad(mix, 1).plan(0, "a", 3)
    others = (planned[:2], planned[::-1], tuple(Planned(one.request, 0.0) for one in planned))
    assert len({schedule_digest(one) for one in (planned, *others)}) == 4
