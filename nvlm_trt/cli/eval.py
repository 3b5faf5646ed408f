"""``nvlm-trt eval``: ask a server a benchmark's questions, judge the answers, compare two runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from nvlm_trt.cli.eval_precisions import precisions
from nvlm_trt.cli.output import Output, output_options, timeout_option

__all__ = ["evaluate"]

_FILE = click.Path(path_type=Path)
_TOLD = 10
_STRICT = click.option(
    "--strict", is_flag=True, help="Judge as the metric is defined, not as the reference scripts do."
)
_TRUTH = click.option(
    "--ground-truth",
    "truth_file",
    type=_FILE,
    metavar="FILE",
    help="For files of the reference scripts: MMMU, captioning.",
)


@click.group(name="eval")
def evaluate() -> None:
    """Measure accuracy on MMMU, MathVista, OCRBench, AI2D, ChartQA, DocVQA, TextVQA, RealWorldQA, VQAv2, captioning, or
    questions of your own."""


@evaluate.command()
@click.argument("task_name", metavar="TASK")
@click.option("--data", "folder", required=True, type=_FILE, metavar="DIR", help="The data set's folder.")
@click.option("--server", "url", required=True, metavar="URL", help="grpc://HOST:PORT or http://HOST:PORT.")
@click.option(
    "-o", "out", required=True, type=_FILE, metavar="PREFIX", help="What the names of the answer files begin with."
)
@click.option(
    "--annotations", type=_FILE, metavar="FILE", help="The data set's records, if not under their usual name."
)
@click.option("--pictures", type=_FILE, metavar="DIR", help="Where the pictures are, if not below --data.")
@click.option(
    "--concurrency", type=click.IntRange(1, 256), default=8, show_default=True, help="Questions asked at once."
)
@click.option(
    "--max-tokens", type=click.IntRange(1), help="The most tokens of an answer; each task has its own default."
)
@click.option("--first-line", is_flag=True, help="Keep only an answer's first line, as the first reference script did.")
@click.option(
    "--no-answer",
    type=click.Choice(["first", "random"]),
    default="first",
    show_default=True,
    help="What a choice without a letter counts as (MMMU).",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of --no-answer random.")
@click.option(
    "--partitions",
    "num_partitions",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many parts the data are cut into.",
)
@click.option("--partition", type=click.IntRange(0), default=0, show_default=True, help="The part to ask, from 0.")
@click.option("--limit", type=click.IntRange(1), help="Ask only this many questions, the first ones.")
@timeout_option(300.0)
@click.option(
    "--deployment", "served", type=_FILE, metavar="DIR", help="The deployment that the server serves, for the report."
)
@output_options
def run(
    task_name: str,
    folder: Path,
    url: str,
    out: Path,
    annotations: Path | None,
    pictures: Path | None,
    served: Path | None,
    output: Output,
    **options: Any,
) -> None:
    """Ask the server all questions of TASK.

    Answers are appended to PREFIX-TASK-dprank=0-partition=P.jsonl as they arrive; after an interruption the same
    command resumes. Missing pictures and refused requests are recorded as errors, counted, and asked again next time.
    """
    from nvlm_trt.cli.eval_progress import eval_reporter
    from nvlm_trt.errors import UsageError
    from nvlm_trt.evaluate.data_set import read_data_set
    from nvlm_trt.evaluate.run import RunOptions
    from nvlm_trt.evaluate.run import run as ask_all
    from nvlm_trt.evaluate.tasks import find_task

    chosen = RunOptions(**options, deployment=_deployed(served))
    if chosen.partition >= chosen.num_partitions:
        raise UsageError(
            "E-EVAL-PARTITION", f"There is no part {chosen.partition} of {chosen.num_partitions}.", "Count from 0."
        )
    task = find_task(task_name)
    data = read_data_set(task, folder, annotations=annotations, pictures=pictures)
    output.note(f"{task.name}: {len(data.samples):,} questions in {data.annotations}")
    for double in data.duplicates:
        output.note(f"record {double.record} has the id {double.sample_id} of record {double.first_record}; left out")
    missing = list(data.missing_pictures())
    for sample, name in missing[:_TOLD]:
        output.note(f"question {sample.sample_id}: the picture {name} is missing")
    if len(missing) > _TOLD:
        output.note(f"and {len(missing) - _TOLD:,} more pictures are missing; name their folder with --pictures")
    with eval_reporter(task.name, quiet=output.quiet) as reporter:
        result = ask_all(task, data, url, out, chosen, reporter)
    lines = [f"{result.questions:,} questions, {result.questions - result.kept:,} asked now in {result.asked_s:.1f} s"]
    if result.repaired:
        lines.append("a torn last line of the earlier run was cut off and its question asked again")
    lines += [f"{count:,} errors {code}" for code, count in result.errors.items()]
    if result.empty:
        lines.append(f"{result.empty:,} answers without text")
    if result.duplicates:
        lines.append(f"{len(result.duplicates):,} records left out for their id")
    lines.append(f"next: nvlm-trt eval score {task.name} {shlex.quote(str(out))}")
    output.result({**result.to_json(), "task": task.name}, "\n".join(lines))


@evaluate.command()
@click.argument("task_name", metavar="TASK")
@click.argument("out", type=_FILE, metavar="PREFIX-or-FILE")
@_TRUTH
@_STRICT
@output_options
def score(task_name: str, out: Path, truth_file: Path | None, strict: bool, output: Output) -> None:
    """Judge a run's answers, and show the score beside the published ones.

    Reads what eval run or the reference's generation script wrote, and leaves PREFIX-TASK-merged.json, which the
    reference's evaluators read.
    """
    from nvlm_trt.cli.eval_text import score_text
    from nvlm_trt.evaluate.published import published
    from nvlm_trt.evaluate.rules import Rules
    from nvlm_trt.evaluate.scoring import read_answers, write_merged
    from nvlm_trt.evaluate.scoring import score as judge
    from nvlm_trt.evaluate.tasks import find_task

    task = find_task(task_name)
    answers = read_answers(task, out, truth_file)
    result = judge(task, answers, Rules(strict=strict))
    merged = write_merged(task, out, answers)
    rows = [row for row in published() if task.column in row.scores]
    beside = [{"model": row.model, "source": row.source, "score": row.scores[task.column]} for row in rows]
    data = {**result.to_json(), "column": task.column, "published": beside, "merged": merged.name}
    if answers.deployment is not None:
        data["deployment"] = answers.deployment
    output.result(data, score_text(result, task.column, rows))


@evaluate.command()
@click.argument("task_name", metavar="TASK")
@click.argument("run_a", type=_FILE, metavar="A")
@click.argument("run_b", type=_FILE, metavar="B")
@_TRUTH
@_STRICT
@output_options
def compare(task_name: str, run_a: Path, run_b: Path, truth_file: Path | None, strict: bool, output: Output) -> None:
    """Say how much better run B is than run A on the same questions of TASK, with a paired bootstrap interval."""
    from nvlm_trt.cli.eval_text import comparison_text
    from nvlm_trt.evaluate.rules import Rules
    from nvlm_trt.evaluate.scoring import compare as judge
    from nvlm_trt.evaluate.scoring import read_answers
    from nvlm_trt.evaluate.tasks import find_task

    task = find_task(task_name)
    a, b = (read_answers(task, out, truth_file) for out in (run_a, run_b))
    result = judge(task, a, b, Rules(strict=strict))
    output.result(result.to_json(), comparison_text(result))


def _deployed(folder: Path | None) -> dict[str, Any] | None:
    if folder is None:
        return None
    from nvlm_trt.load.circumstances import deployed

    return deployed(folder).model_dump(mode="json")


evaluate.add_command(precisions)
