"""Precisions, tile limits and loads, each with each: what accuracy costs in latency. Ends with one page.

    python calibration/study.py MODEL TASK --data DIR -o OUT --tiles 1 --tiles 6 --clients 1 --clients 8

For each tile limit `nvlm-trt eval precisions` asks the task's questions at every precision. For each precision a
deployment is built, and `calibration/latency.py` puts load on it at each tile limit. What is done is kept: the same
command goes on where it was, and measures again where a load had no valid run, is new, or was interrupted. With other
questions it ends with what `eval precisions` says of that, and needs another OUT. Every command is printed before it
runs, so that any can be run by hand, or elsewhere; the report takes whatever result files lie below OUT.

For TensorRT-LLM's engines accuracy comes from `eval run --deployment` and latency from `latency.py --deployment`, by
hand, because precisions are compared on the embedded engine (docs/report.md).
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click

from nvlm_trt.checkpoint.disk import publish, write_beside
from nvlm_trt.errors import NvlmError
from nvlm_trt.evaluate.data_set import read_data_set
from nvlm_trt.evaluate.tasks import find_task
from nvlm_trt.load.result import load_measurement
from nvlm_trt.pipeline.recipe import RecipeDraft
from nvlm_trt.pipeline.recipe_file import read_draft, write_draft
from nvlm_trt.precision.result import load_study
from nvlm_trt.precision.spec import DecoderPrecision, parse_precision

_FILE = click.Path(path_type=Path)
# Of latency.py, where runs were not valid.
_INVALID = 1
_LATENCY = Path(__file__).with_name("latency.py")


@click.command(help=__doc__)
@click.argument("model", type=_FILE)
@click.argument("task")
@click.option("--data", required=True, type=_FILE, metavar="DIR", help="The data set's folder.")
@click.option("-o", "out", required=True, type=_FILE, metavar="DIR", help="Where everything goes.")
@click.option("--recipe", default="embedded", show_default=True, help="What is varied; its decoder must be embedded.")
@click.option("--precision", "names", multiple=True, default=("bf16", "fp8", "fp8+kv"), show_default=True)
@click.option("--tiles", type=click.IntRange(1, 12), multiple=True, default=(1, 2, 4, 6), show_default=True)
@click.option("--clients", type=click.IntRange(1), multiple=True, default=(1, 4, 16), show_default=True)
@click.option("--mix", type=_FILE, help="What is asked for latency (TOML); latency.py's own unless given.")
@click.option("--requests", type=click.IntRange(1), default=100, show_default=True, help="Of each run.")
@click.option("--repetitions", type=click.IntRange(1), default=3, show_default=True, help="Runs of each load.")
@click.option("--limit", type=click.IntRange(1), help="Ask only so many of the task's questions.")
@click.option("--kl-questions", type=click.IntRange(0), default=200, show_default=True)
@click.option("--layer-questions", type=click.IntRange(0), default=32, show_default=True)
@click.option("--dry-run", is_flag=True, help="Print the commands; run nothing.")
def main(
    model: Path,
    task: str,
    data: Path,
    out: Path,
    recipe: str,
    names: tuple[str, ...],
    tiles: tuple[int, ...],
    clients: tuple[int, ...],
    mix: Path | None,
    requests: int,
    repetitions: int,
    limit: int | None,
    kl_questions: int,
    layer_questions: int,
    dry_run: bool,
) -> None:
    try:
        draft, precisions = read_draft(recipe), [parse_precision(name) for name in names]
    except NvlmError as error:
        raise click.ClickException(str(error)) from None
    for count in tiles:
        words = ["eval", "precisions", model, task, "--data", data, "-o", out / f"tiles-{count}", "--max-tiles", count]
        words += [word for precision in precisions for word in ("--precision", precision.name)]
        words += ["--recipe", recipe, "--build", out / "build"]
        words += ["--kl-questions", kl_questions, "--layer-questions", layer_questions]
        words += ["--limit", limit] if limit else []
        if not _compared(out / f"tiles-{count}" / "precisions.json", precisions, task, data, limit):
            _run(["-m", "nvlm_trt", *words], dry_run)
    for precision in precisions:
        deployment = out / "deployments" / precision.slug
        for count in tiles:
            result = out / f"tiles-{count}" / f"latency-{precision.slug}.json"
            if _measured(result, clients, repetitions):
                continue
            file = out / "recipes" / f"{precision.slug}-tiles-{count}.toml"
            if not dry_run:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_beside(file, write_draft(_varied(draft, precision, count)).encode())
                publish([file])
            _run(["-m", "nvlm_trt", "build", model, "--recipe", file, "-o", deployment], dry_run)
            words = ["run", deployment, "-o", result, "--requests", requests, "--repetitions", repetitions]
            words += [word for number in clients for word in ("--clients", number)]
            words += ["--mix", mix] if mix else []
            _run([_LATENCY, *words], dry_run, told=_INVALID)
    _run(["-m", "nvlm_trt", "report", out, "-o", out / "report.html"], dry_run)


def _varied(draft: RecipeDraft, precision: DecoderPrecision, tiles: int) -> RecipeDraft:
    """The recipe keeps its name, by which a report finds it. An FP8 cache is forced: it is what is measured. What is
    built from it besides what is served, and without FP8 cannot be, is left out.
    """
    data = draft.model_dump()
    data["decoder"] |= {
        "quantization": precision.quantization,
        "kv_cache": precision.kv_cache,
        "exclude": precision.exclude,
        "force_kv_cache": precision.kv_cache == "fp8",
        "unified_checkpoint": False,
    }
    data["calibration"]["error_bound"] = None
    data["prompt"]["max_tiles"] = tiles
    return RecipeDraft.model_validate(data)


def _compared(
    result: Path, precisions: list[DecoderPrecision], task_name: str, folder: Path, limit: int | None
) -> bool:
    """Whether the precisions are there, asked these very questions; where not, the same command tells what is wrong, or
    asks what is missing.
    """
    try:
        study, task = load_study(result), find_task(task_name)
        data = read_data_set(task, folder)
    except NvlmError:
        return False
    asked = (task.name, data.digest(), len(data.samples[:limit]))
    names = {one.name for one in precisions}
    return asked == (study.task, study.data_sha256, study.questions) and names <= {one.name for one in study.precisions}


def _measured(result: Path, clients: tuple[int, ...], repetitions: int) -> bool:
    """Whether every load is there, with all its runs and a valid one; where not, the same command measures again."""
    try:
        points = load_measurement(result).points
    except NvlmError:
        return False
    whole = [
        point.load.clients
        for point in points
        if point.summary and len(point.runs) >= repetitions and not any(run.interrupted for run in point.runs)
    ]
    return set(clients) <= set(whole)


def _run(words: list[object], dry_run: bool, told: int = 0) -> None:
    """``told`` is an exit code that goes on as well: the report will say what was wrong."""
    command = [sys.executable, *map(str, words)]
    click.echo(f"$ {shlex.join(['python', *command[1:]])}", err=True)
    if not dry_run and (code := subprocess.run(command, check=False).returncode) not in (0, told):
        raise click.ClickException(f"the last command ended with {code}; what is done is kept, run the study again")


if __name__ == "__main__":
    main()
