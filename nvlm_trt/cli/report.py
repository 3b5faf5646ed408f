"""``nvlm-trt report``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvlm_trt.cli.output import Output, output_options
from nvlm_trt.errors import UsageError

if TYPE_CHECKING:
    from nvlm_trt.report.points import Point

__all__ = ["report"]

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("folder", type=_FILE, metavar="DIR")
@click.option("-o", "out", type=_FILE, metavar="FILE.html", help="Write the page there.")
@click.option(
    "--latency",
    "figure",
    default="e2e_ms_p50",
    show_default=True,
    metavar="FIGURE",
    help="The latency to plot accuracy against: ttft, tbt or e2e, then _ms_p50, _p90 or _p99.",
)
@click.option("--choose", "name", metavar="POINT", help="Write this point of the page back as a recipe.")
@click.option("--recipe", "recipe_file", type=_FILE, metavar="FILE.toml", help="Write the recipe of --choose there.")
@click.option("--base", metavar="NAME", help="The recipe to change; by default the one that was measured.")
@output_options
def report(
    folder: Path,
    out: Path | None,
    figure: str,
    name: str | None,
    recipe_file: Path | None,
    base: str | None,
    output: Output,
) -> None:
    """Make one HTML page of all results below DIR: accuracy against latency, the Pareto set, precisions, circumstances.

    Results are JSON files: of calibration/latency.py, of eval precisions, and what eval score --json printed. The page
    holds everything it needs. Files that cannot be read are listed with their reason, there and on stderr.
    """
    from nvlm_trt.checkpoint.disk import publish, write_beside
    from nvlm_trt.report.figures import LATENCIES
    from nvlm_trt.report.findings import find_results
    from nvlm_trt.report.page import render_page
    from nvlm_trt.report.points import accuracies, joined, latencies, pareto_sets

    if figure not in LATENCIES:
        raise UsageError("E-REPORT-FIGURE", f"There is no figure {figure!r}.", f"Use one of {', '.join(LATENCIES)}.")
    if (name is None) != (recipe_file is None):
        raise click.UsageError("--choose and --recipe belong together.")
    if out is None and name is None:
        raise click.UsageError("Nothing is asked for: give -o, or --choose and --recipe.")
    findings = find_results(folder)
    for one in findings.broken:
        output.note(f"not read: {one.file}: {one.reason}")
    points = joined(accuracies(findings), latencies(findings), figure)
    best = pareto_sets(points, figure)
    lines = [f"{len(findings)} results, {len(points)} points, {len(best)} in the Pareto sets"]
    lines += [f"  {_point_text(point, figure)}" for point in best]
    data = {
        "format": 1,
        "results": len(findings),
        "not_read": [{"file": one.file, "reason": one.reason} for one in findings.broken],
        "latency": figure,
        "points": [{**_point_json(point, figure), "pareto": point in best} for point in points],
    }
    if out is not None:
        write_beside(out, render_page(findings, figure).encode())
        publish([out])
        data["page"] = str(out)
        lines.append(f"written: {out}")
    if name is not None and recipe_file is not None:
        _write_recipe(points, name, base, figure, recipe_file)
        data["recipe"] = str(recipe_file)
        lines.append(f"written: {recipe_file}; next: nvlm-trt plan MODEL --recipe {shlex.quote(str(recipe_file))}")
    output.result(data, "\n".join(lines))


def _write_recipe(points: list[Point], name: str, base: str | None, figure: str, file: Path) -> None:
    from nvlm_trt.checkpoint.disk import publish, write_beside
    from nvlm_trt.pipeline.recipe_file import read_draft, recipe_names, write_draft
    from nvlm_trt.report.choose import chosen_point, recipe_of

    if file.suffix != ".toml":
        raise click.UsageError("--recipe wants a name that ends in .toml, as build does.")
    point = chosen_point(points, name)
    measured = point.latency.deployed
    base = base or (measured.recipe if measured is not None and measured.recipe in recipe_names() else None)
    if base is None:
        raise UsageError(
            "E-REPORT-POINT",
            f"{point.name} was measured with {measured.recipe if measured else '?'!r}, which is not a shipped recipe.",
            "Name the file it was built from, or another recipe, with --base.",
        )
    text = write_draft(recipe_of(point, read_draft(base), figure))
    write_beside(file, text.encode())
    publish([file])


def _point_text(point: Point, figure: str) -> str:
    score, spread = point.accuracy.score, point.latency.summary[figure]
    return f"{point.accuracy.task:12} {point.name:40} {score.value:8.2f} {spread.median:10.1f} ms"


def _point_json(point: Point, figure: str) -> dict[str, object]:
    return {
        "name": point.name,
        "task": point.accuracy.task,
        "score": point.accuracy.score.model_dump(),
        "latency": point.latency.summary[figure].model_dump(),
    }
