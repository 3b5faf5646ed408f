"""``nvlm-trt eval precisions``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from nvlm_trt.cli.output import Output, dry_run_option, output_options

__all__ = ["precisions"]

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("model", type=_FILE)
@click.argument("task_name", metavar="TASK")
@click.option("--data", "folder", required=True, type=_FILE, metavar="DIR", help="The data set's folder.")
@click.option("-o", "out", required=True, type=_FILE, metavar="DIR", help="The folder for all results.")
@click.option(
    "--precision",
    "names",
    multiple=True,
    default=("bf16", "fp8", "fp8+kv"),
    show_default=True,
    metavar="P",
    help="bf16, fp8, fp8+kv, or with linears kept: fp8,exclude=PATTERN. The first is the reference.",
)
@click.option(
    "--recipe", default="embedded", show_default=True, metavar="NAME", help="Sets the prompt, calibration and sizes."
)
@click.option("--max-tiles", type=click.IntRange(1, 12), help="The most tiles of a picture; by default the recipe's.")
@click.option(
    "--annotations", type=_FILE, metavar="FILE", help="The data set's records, if not under their usual name."
)
@click.option("--pictures", type=_FILE, metavar="DIR", help="Where the pictures are, if not below --data.")
@click.option("--limit", type=click.IntRange(1), help="Ask only this many questions, the first ones.")
@click.option(
    "--max-tokens", type=click.IntRange(1), help="The most tokens of an answer; each task has its own default."
)
@click.option("--strict", is_flag=True, help="Judge as the metric is defined, not as the reference scripts do.")
@click.option(
    "--kl-questions",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Lead every precision through this many of the reference's answers; 0 for none.",
)
@click.option(
    "--layer-questions",
    type=click.IntRange(0),
    default=32,
    show_default=True,
    help="Answers that the layers are compared on; 0 leaves the layers out.",
)
@click.option(
    "--build", "build_folder", type=_FILE, metavar="DIR", help="Build in this folder, to share it; by default below -o."
)
@click.option("--threads", type=click.IntRange(1), help="Threads of the engines; by default all cores.")
@dry_run_option
@output_options
def precisions(
    model: Path,
    task_name: str,
    folder: Path,
    out: Path,
    names: tuple[str, ...],
    recipe: str,
    max_tiles: int | None,
    annotations: Path | None,
    pictures: Path | None,
    dry_run: bool,
    output: Output,
    **options: Any,
) -> None:
    """Compare precisions of the checkpoint MODEL on TASK: score, equal tokens, divergence, and the part of each layer.

    Every precision is built, asked the same questions on the same embedded engine, and compared with the first. An
    interrupted comparison resumes when it is run again. Needs no server.
    """
    from nvlm_trt.checkpoint.registry import open_checkpoint
    from nvlm_trt.cli.eval_precisions_text import cost_text, study_text
    from nvlm_trt.cli.eval_progress import eval_reporter
    from nvlm_trt.cli.progress import build_reporter
    from nvlm_trt.evaluate.data_set import read_data_set
    from nvlm_trt.evaluate.tasks import find_task
    from nvlm_trt.plan.resolve import load_recipe
    from nvlm_trt.precision.cost import study_cost
    from nvlm_trt.precision.options import StudyOptions
    from nvlm_trt.precision.spec import parse_precisions
    from nvlm_trt.precision.study import RESULT_FILE, run_study

    task, chosen = find_task(task_name), StudyOptions(**options)
    checkpoint = open_checkpoint(model)
    read = load_recipe(recipe, checkpoint.config)
    if max_tiles is not None:
        read = read.model_copy(update={"prompt": read.prompt.model_copy(update={"max_tiles": max_tiles})})
    compared = parse_precisions(names, checkpoint.config)
    data = read_data_set(task, folder, annotations=annotations, pictures=pictures)
    asked = data.samples[: chosen.limit]
    cost = study_cost(
        checkpoint.config.limited(read.prompt.max_tiles),
        read,
        compared,
        sum(len(sample.pictures) for sample in asked),
        len(asked),
        chosen.max_tokens or task.max_tokens,
        chosen.kl_questions,
        chosen.layer_questions,
    )
    if dry_run:
        output.result(cost.to_json(), cost_text(cost))
        return
    output.note(cost_text(cost))
    for double in data.duplicates:
        output.note(f"record {double.record} has the id {double.sample_id} of record {double.first_record}; left out")
    cost.require_room(out)
    with build_reporter(quiet=output.quiet) as building:
        study = run_study(
            checkpoint,
            read,
            recipe,
            compared,
            task,
            data,
            out,
            chosen,
            building,
            lambda name: eval_reporter(name, quiet=output.quiet),
        )
    report = shlex.join(["nvlm-trt", "report", str(out), "-o", str(out / "report.html")])
    last = f"written to {shlex.quote(str(out / RESULT_FILE))}; next: {report}"
    output.result(study.model_dump(mode="json"), f"{study_text(study)}\n\n{last}")
