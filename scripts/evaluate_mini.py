"""How well the mini model reads: exact answers on the held-out set, through the embedded engines.

    python scripts/evaluate_mini.py OUT/checkpoint                    # what train_mini.py wrote, 1000 pictures
    python scripts/evaluate_mini.py OUT/checkpoint --pictures 200 --stage questions
    python scripts/evaluate_mini.py OUT/checkpoint --view "no tags"   # of a model that was trained with that view

It builds a deployment of the embedded engines and asks the same questions of its FP8 decoder and of the checkpoint's
own bfloat16 values; of FP8 also without tile tags and with only the thumbnail. Intervals are 95 % of 2,000 bootstrap
samples of the pictures; that of FP8's cost is paired.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.errors import NvlmError
from nvlm_trt.mini.curriculum import STAGES
from nvlm_trt.mini.exam import ExamQuestion, draw_exam
from nvlm_trt.mini.reader import Asked, Decode, Reader, embedded_decoder, plain_decoder
from nvlm_trt.mini.views import FULL, VIEWS
from nvlm_trt.pipeline.builder import build

_GROUPS: Mapping[str, Callable[[ExamQuestion], str]] = {
    "all": lambda question: "all",
    "task": lambda question: question.example.task,
    "grid": lambda question: str(question.grid),
    "characters, of read and colour": lambda question: (
        _length_band(question) if question.example.task in ("read", "colour") else ""
    ),
    "pixels per em of the smallest word": lambda question: _size_band(question.pixels_per_em),
    "read, up to 8 characters, only legible in tiles": lambda question: (
        "yes" if question.example.task == "read" and len(question.example.answer) <= 8 and question.needs_tiles else ""
    ),
}


def _length_band(question: ExamQuestion) -> str:
    length = len(question.example.answer)
    return next(f"{low:2}-{high}" for low, high in ((1, 2), (3, 4), (5, 8), (9, 16), (17, 99)) if length <= high)


def _size_band(pixels: int) -> str:
    return next(f"{low:2}-{high}" for low, high in ((0, 13), (14, 17), (18, 23), (24, 40)) if pixels <= high)


def interval(right: NDArray[Any]) -> tuple[float, float]:
    """The middle 95 % of means of resampled pictures."""
    rng = np.random.default_rng(0)
    means = right[rng.integers(len(right), size=(2000, len(right)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def grouped(questions: Sequence[ExamQuestion], right: NDArray[Any]) -> list[dict[str, Any]]:
    rows = []
    for title, name_of in _GROUPS.items():
        names = [name_of(question) for question in questions]
        for name in sorted(set(names) - {""}):
            part = right[[index for index, own in enumerate(names) if own == name]]
            rows.append(
                {"group": title, "value": name, "n": len(part), "exact": part.mean(), "interval": interval(part)}
            )
    return rows


@click.command(help=__doc__)
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--pictures", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option(
    "--stage",
    type=click.Choice([stage.name for stage in STAGES if stage.tasks]),
    default="numbers",
    show_default=True,
    help="The curriculum's stage whose questions are asked, in all grids.",
)
@click.option(
    "--view", "views", type=click.Choice(VIEWS), multiple=True, default=VIEWS, help="What is shown; all if not given."
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--threads", type=int, help="ONNX Runtime's threads; all cores if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def main(
    checkpoint: Path, pictures: int, stage: str, views: tuple[str, ...], seed: int, threads: int | None, as_json: bool
) -> None:
    questions = list(draw_exam(seed, pictures, next(one for one in STAGES if one.name == stage)))
    start_s = time.monotonic()
    try:
        with TemporaryDirectory() as work:
            right, answers = examine(checkpoint, Path(work), questions, views, threads)
    except NvlmError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    report: dict[str, Any] = {
        "command": " ".join(["python", "scripts/evaluate_mini.py", *sys.argv[1:]]),
        "seconds": round(time.monotonic() - start_s, 1),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "exact": {name: grouped(questions, part) for name, part in right.items()},
    }
    if FULL in views:
        cost = right["FP8, full"] - right["BF16, full"]
        pairs = zip(answers["FP8, full"], answers["BF16, full"], strict=True)
        report["fp8_less_bf16"] = {
            "points": 100 * float(cost.mean()),
            "interval": [100 * end for end in interval(cost)],
            "answers_that_differ": sum(fp8 != bf16 for fp8, bf16 in pairs),
        }
    click.echo(json.dumps(report, indent=2) if as_json else as_text(report))


def examine(
    checkpoint: Path, work: Path, questions: Sequence[ExamQuestion], views: Sequence[str], threads: int | None
) -> tuple[dict[str, NDArray[np.float64]], dict[str, list[str]]]:
    """Per precision and view: 1 for each right answer, and the answers."""
    build(checkpoint, "embedded", work / "deployment")
    reader = Reader(work / "deployment", threads)
    end_id = reader.preprocessor.tokenizer.eos_id
    asked = [Asked(question.png, question.example.question) for question in questions]
    right, answers = {}, {}

    def ask(name: str, decode: Decode, view: str) -> None:
        click.echo(f"asking: {name}", err=True)
        answers[name] = reader.answers(asked, decode, view)
        wanted = [question.example.answer for question in questions]
        right[name] = np.array([float(pair[0] == pair[1]) for pair in zip(answers[name], wanted, strict=True)])

    with embedded_decoder(work / "deployment", end_id, threads) as decode:
        for view in views:
            ask(f"FP8, {view}", decode, view)
    if FULL in views:
        ask("BF16, full", plain_decoder(open_checkpoint(checkpoint), end_id), "full")
    return right, answers


def as_text(report: Mapping[str, Any]) -> str:
    lines = [f"{report['command']}: {report['seconds']} s on {report['cores']} cores"]
    for name, rows in report["exact"].items():
        lines += ["", name]
        lines += [
            f"  {row['group']:48} {row['value']:8} {row['n']:5} {row['exact']:7.1%}"
            f"  {row['interval'][0]:.1%} to {row['interval'][1]:.1%}"
            for row in rows
        ]
    if "fp8_less_bf16" in report:
        cost = report["fp8_less_bf16"]
        lines += [
            "",
            f"FP8 less BF16: {cost['points']:+.2f} points, {cost['interval'][0]:+.2f} to {cost['interval'][1]:+.2f}; "
            f"{cost['answers_that_differ']} answers differ",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
