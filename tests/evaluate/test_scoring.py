"""Files of runs, ours and the reference scripts', as figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.cli import main
from nvlm_trt.errors import UsageError
from nvlm_trt.evaluate.bootstrap import mean_interval
from nvlm_trt.evaluate.published import published
from nvlm_trt.evaluate.rules import Rules
from nvlm_trt.evaluate.scoring import compare, read_answers, score, write_merged
from nvlm_trt.evaluate.tasks import TASKS, find_task

TEXTVQA = find_task("TextVQA")


def lines(file: Path, records: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def reference(sample_id: int, answer: str, truths: list[str]) -> dict[str, Any]:
    """A line as Megatron-LM's generation script writes it."""
    return {"sample_id": sample_id, "prompt": "<image>\nWhat?", "answer": answer, "gt_answer": truths}


def nvlm(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def test_all_ranks_and_partitions_of_a_prefix_are_read_and_duplicates_left_out(tmp_path):
    lines(tmp_path / "run-TextVQA-dprank=0-partition=0.jsonl", [reference(1, "cat", ["cat"] * 10)])
    lines(
        tmp_path / "run-TextVQA-dprank=1-partition=0.jsonl",
        [reference(1, "dog", ["cat"] * 10), reference(2, "dog", ["cat"] * 9 + ["dog"])],
    )
    lines(tmp_path / "run-VQAv2-dprank=0-partition=0.jsonl", [reference(3, "x", ["y"])])
    answers = read_answers(TEXTVQA, tmp_path / "run")
    assert [record["answer"] for record in answers.records] == ["cat", "dog"]
    assert answers.duplicates == 1
    result = score(TEXTVQA, answers, Rules())
    assert result.value == pytest.approx(100 * (1 + 1 / 3) / 2)
    assert (result.records, result.duplicates, result.expected) == (2, 1, None)


def test_an_answer_of_a_run_that_was_cut_off_counts_and_not_the_error_it_repairs(tmp_path):
    failed = {**reference(1, "", ["cat"] * 10), "error": "E-IMAGE-FILE"}
    answered = [reference(1, "cat", ["cat"] * 10), reference(1, "dog", ["cat"] * 10)]
    lines(tmp_path / "run-TextVQA-dprank=0-partition=0.jsonl", [failed, reference(2, "dog", ["dog"] * 10), *answered])
    answers = read_answers(TEXTVQA, tmp_path / "run")
    assert [record["answer"] for record in answers.records] == ["cat", "dog"]
    result = score(TEXTVQA, answers, Rules())
    assert (result.value, result.errors, result.duplicates) == (100, 0, 2)


def test_what_the_references_evaluators_read_is_left_behind(tmp_path):
    lines(tmp_path / "run-TextVQA-dprank=0-partition=0.jsonl", [reference(1, "cat", ["cat"])])
    write_merged(TEXTVQA, tmp_path / "run", read_answers(TEXTVQA, tmp_path / "run"))
    merged = json.loads((tmp_path / "run-TextVQA-merged.json").read_text())
    assert [(one["question_id"], one["answer"], one["gt_answer"]) for one in merged] == [(1, "cat", ["cat"])]
    lines(tmp_path / "single.jsonl", [{"sample_id": 42, "prompt": "p", "caption": "A dog.", "ground_truth": ["a dog"]}])
    captioning = find_task("captioning")
    file = write_merged(captioning, tmp_path / "single.jsonl", read_answers(captioning, tmp_path / "single.jsonl"))
    assert file.name == "single-merged.json"
    assert json.loads(file.read_text()) == [{"image_id": 42, "caption": "a dog"}]


def test_mmmu_of_the_reference_takes_its_truth_from_the_benchmarks_file(tmp_path):
    choice = {"question_type": "multiple-choice", "index2ans": {"A": "x", "B": "y"}, "all_choices": ["A", "B"]}
    lines(
        tmp_path / "run.jsonl",
        [
            {"sample_id": "validation_Art_1", "prompt": "p", "text": "(B)", "prediction": "B", **choice},
            {"sample_id": "validation_Art_2", "prompt": "p", "text": "hm", "prediction": "A", **choice},
            {
                "sample_id": "validation_Math_1",
                "prompt": "p",
                "text": "so 5",
                "prediction": "so 5",
                "question_type": "open",
            },
        ],
    )
    truth = {
        "validation_Art_1": {"question_type": "multiple-choice", "ground_truth": "B"},
        "validation_Art_2": {"question_type": "multiple-choice", "ground_truth": "A"},
        "validation_Math_1": {"question_type": "short-answer", "ground_truth": ["5", "five"]},
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    task = find_task("MMMU")
    with pytest.raises(UsageError, match=r'run.jsonl, line 1: "gt_answer" is missing; give --ground-truth'):
        read_answers(task, tmp_path / "run.jsonl")
    answers = read_answers(task, tmp_path / "run.jsonl", tmp_path / "truth.json")
    result = score(task, answers, Rules())
    assert result.value == 100
    assert result.groups == {"Art": (100, 2), "Math": (100, 1)}
    # The guess of the second counts as the reference recorded it; strict, an answer without a letter is wrong.
    assert score(task, answers, Rules(strict=True)).groups == {"Art": (50, 2), "Math": (100, 1)}
    with pytest.raises(UsageError, match="TextVQA reads no file of right answers"):
        read_answers(TEXTVQA, tmp_path / "run.jsonl", tmp_path / "truth.json")


def test_ocrbench_is_a_sum_by_kind(tmp_path):
    kinds = [
        ("STOP", "Digit String Recognition"),
        ("nothing", "Digit String Recognition"),
        ("Stop!", "Doc-oriented VQA"),
    ]
    lines(
        tmp_path / "run.jsonl",
        [
            {**reference(number, answer, ["stop"]), "dataset_name": "x", "data_type": kind}
            for number, (answer, kind) in enumerate(kinds)
        ],
    )
    task = find_task("OCRBench")
    result = score(task, read_answers(task, tmp_path / "run.jsonl"), Rules())
    assert result.value == 2
    assert result.groups == {"Digit String Recognition": (1, 2), "Doc-oriented VQA": (1, 1)}
    assert 0 <= result.interval.low <= 2 <= result.interval.high <= 3


def test_errors_score_nothing_even_where_silence_is_right(tmp_path):
    silent = reference(1, "", ["A"])
    task = find_task("AI2D")
    lines(tmp_path / "run.jsonl", [silent, {**silent, "sample_id": 2, "error": "E-IMAGE-FILE"}])
    result = score(task, read_answers(task, tmp_path / "run.jsonl"), Rules())
    assert (result.value, result.errors, result.empty) == (50, 1, 1)
    assert score(task, read_answers(task, tmp_path / "run.jsonl"), Rules(strict=True)).value == 0


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2: it is not JSON"),
        ("7", 'line 2: it is not a JSON object with a "sample_id"'),
        ('{"sample_id": 2, "answer": "x"}', 'line 2: "gt_answer" is missing'),
        ('{"sample_id": 2, "gt_answer": ["x"]}', 'line 2: "answer" is missing'),
        ('{"sample_id": 2, "answer": 7, "gt_answer": ["x"]}', 'line 2: "answer" is not a text'),
        ('{"sample_id": 2, "answer": "x", "gt_answer": []}', "line 2: its right answers"),
        ('{"sample_id": 2, "answer": "x", "gt_answer": [7]}', "line 2: its right answers"),
    ],
)
def test_a_line_that_cannot_be_judged_is_named(tmp_path, line, why):
    (tmp_path / "run.jsonl").write_text(json.dumps(reference(1, "x", ["x"])) + f"\n{line}\n")
    with pytest.raises(UsageError, match="E-EVAL-OUTPUT") as caught:
        read_answers(TEXTVQA, tmp_path / "run.jsonl")
    assert why in caught.value.what


def test_no_answers_are_an_error(tmp_path):
    with pytest.raises(UsageError, match="E-EVAL-MISSING"):
        read_answers(TEXTVQA, tmp_path / "run")
    (tmp_path / "run.jsonl").touch()
    with pytest.raises(UsageError, match="E-EVAL-MISSING"):
        read_answers(TEXTVQA, tmp_path / "run.jsonl")


def test_two_runs_are_compared_on_what_both_have(tmp_path):
    task = find_task("AI2D")
    lines(tmp_path / "a.jsonl", [reference(number, "b", ["b" if number < 10 else "c"]) for number in range(40)])
    lines(tmp_path / "b.jsonl", [reference(number, "c", ["b" if number < 10 else "c"]) for number in range(1, 41)])
    a, b = (read_answers(task, tmp_path / f"{name}.jsonl") for name in "ab")
    result = compare(task, a, b, Rules())
    assert (result.records, result.only_a, result.only_b) == (39, 1, 1)
    assert (result.better, result.worse) == (30, 9)
    assert result.difference == pytest.approx(100 * (30 - 9) / 39)
    assert 0 < result.interval.low < result.difference < result.interval.high
    assert compare(task, a, b, Rules()) == result
    same = compare(task, a, a, Rules())
    assert (same.difference, same.interval.low, same.interval.high) == (0, 0, 0)


def test_runs_that_cannot_be_compared(tmp_path):
    lines(tmp_path / "a.jsonl", [reference(1, "b", ["b"])])
    lines(tmp_path / "b.jsonl", [reference(2, "b", ["b"])])
    lines(tmp_path / "c.jsonl", [reference(1, "b", ["c"])])
    a, b, c = (read_answers(TEXTVQA, tmp_path / f"{name}.jsonl") for name in "abc")
    with pytest.raises(UsageError, match="no question in common"):
        compare(TEXTVQA, a, b, Rules())
    with pytest.raises(UsageError, match="different right answers under id 1"):
        compare(TEXTVQA, a, c, Rules())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_an_interval_lies_within_its_values_and_does_not_change(values):
    interval = mean_interval(values, resamples=200)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert mean_interval(values, resamples=200) == interval


def test_an_interval_is_as_wide_as_theory_has_it():
    values = [0.0, 1.0] * 200  # a standard error of 0.025, so 1.96 of them to each side
    interval = mean_interval(values, scale=100)
    assert interval.low == pytest.approx(50 - 4.9, abs=0.3)
    assert interval.high == pytest.approx(50 + 4.9, abs=0.3)


def test_published_figures_stand_under_the_tasks_columns():
    columns = {column for row in published() for column in row.scores}
    assert {task.column for task in TASKS} - columns == {"CIDEr", ""}
    by_model = {row.model: row.scores for row in published()}
    assert by_model["NVLM-D 1.0 72B (Megatron-Core)"] == {
        **{"MMMU val": 59.9, "MMMU test": 54.1, "MathVista": 67.4, "OCRBench": 851, "AI2D": 94.4, "ChartQA": 86.9},
        **{"DocVQA": 92.1, "TextVQA": 81.2, "RealWorldQA": 66.8, "VQAv2": 85.4},
    }
    assert by_model["NVLM-D 72B, legacy Megatron (= paper)"]["AI2D masked"] == 85.2
    assert "OCRBench" not in by_model["Llama 3.2 90B"]
    assert len(published()) == 16


def test_the_commands_show_a_run_beside_the_table_and_compare_two(tmp_path):
    lines(tmp_path / "a.jsonl", [reference(number, "b", ["b"] * 10) for number in range(4)])
    lines(tmp_path / "b.jsonl", [reference(number, "c", ["b"] * 10) for number in range(4)])
    told = nvlm("eval", "score", "textvqa", tmp_path / "a.jsonl")
    assert told.exit_code == 0
    assert "this run                               100.00  [100.00, 100.00]" in told.stdout
    assert "NVLM-D 1.0 72B (Megatron-Core)          81.20" in told.stdout
    data = json.loads(nvlm("eval", "score", "TextVQA", tmp_path / "a.jsonl", "--json").stdout)
    assert (data["value"], data["column"]) == (100, "TextVQA")
    told = nvlm("eval", "compare", "TextVQA", tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert "B - A -100.00  [-100.00, -100.00]: A is better" in told.stdout
    assert nvlm("eval", "score", "TextVQA", tmp_path / "nothing").exit_code == 2
