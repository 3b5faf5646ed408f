"""The page: one file, no script, nothing fetched.

Its content security policy allows one style sheet, by hash, and nothing else. Even if a name in a result became markup,
it could neither run, nor load, nor send anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from nvlm_trt.load.provenance import Circumstances
from nvlm_trt.report.figures import FIGURES
from nvlm_trt.report.findings import Findings, PassedOver
from nvlm_trt.report.markup import Markup, join, tag, trusted
from nvlm_trt.report.palette import Palette, palette_for, shown_tiles
from nvlm_trt.report.points import Accuracy, Latency, Point, accuracies, joined, latencies
from nvlm_trt.report.precision_part import score_section, study_section
from nvlm_trt.report.table import Row, table
from nvlm_trt.report.tradeoff import load_section, tradeoff_sections

__all__ = ["render_page"]


def render_page(findings: Findings, figure: str) -> str:
    """``figure`` is the latency that accuracy is shown against, one of ``figures.LATENCIES``."""
    scores, measured = accuracies(findings), latencies(findings)
    points = joined(scores, measured, figure)
    known = [one.configuration for one in scores] + [one.configuration for one in measured]
    palette = palette_for((one.precision, one.max_tiles) for one in known if one is not None)
    sections = list(_sections(findings, scores, measured, points, figure, palette))
    title = f"Accuracy and latency: {findings.folder}"
    style = trusted(_style())
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", style),
    )
    links = [tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name, _ in sections]
    body = tag(
        "body",
        tag(
            "header",
            tag("h1", title),
            _lead(findings, points, figure),
            tag("nav", tag("ul", links), aria_label="Parts"),
        ),
        tag("main", [section for _, _, section in sections]),
        tag(
            "footer", tag("p", "Made by nvlm-trt report. Every figure is in a table; nothing is loaded from elsewhere.")
        ),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


@cache
def _style() -> str:
    return Path(__file__).with_name("style.css").read_text(encoding="utf-8")


def _sections(
    findings: Findings,
    scores: list[Accuracy],
    measured: list[Latency],
    points: list[Point],
    figure: str,
    palette: Palette,
) -> Iterator[tuple[str, str, Markup]]:
    """Anchor, name and content."""
    tasks = dict.fromkeys(point.accuracy.task for point in points)
    for number, (task, section) in enumerate(zip(tasks, tradeoff_sections(points, figure, palette), strict=True)):
        yield f"task-{number}", f"Accuracy against latency: {task}", section
    if not points:
        yield "missing", "Accuracy against latency", _missing(scores, measured, figure)
    if measured:
        yield "load", "Latency under load", load_section(measured, figure, palette)
    for number, (file, study) in enumerate(findings.studies.items()):
        name = f"Precisions, {shown_tiles(study.model.max_tiles)}" if len(findings.studies) > 1 else "Precisions"
        yield f"study-{number}", name, study_section(number, file, study, palette)
    if scores:
        yield "scores", "Scores", score_section(scores, findings.scores)
    yield "circumstances", "Circumstances", _circumstances(findings)
    yield "files", "Files", _files(findings)


def _lead(findings: Findings, points: list[Point], figure: str) -> Markup:
    counts = (
        (len(findings.measurements), "measurement", "of latency"),
        (len(findings.studies), "comparison", "of precisions"),
        (len(findings.scores), "score", "of runs"),
    )
    told = ", ".join(f"{count} {what}{'' if count == 1 else 's'} {of}" for count, what, of in counts if count)
    broken = len(findings.broken)
    return join(
        [
            tag("p", f"{told}. {len(points):,} points join a score with a latency ({FIGURES[figure]}).", cls="lead"),
            tag(
                "p",
                f"{broken} file{' was' if broken == 1 else 's were'} not read: ",
                tag("a", "which, and why", href="#files"),
                ".",
                cls="warning",
            )
            if broken
            else None,
        ]
    )


def _missing(scores: list[Accuracy], measured: list[Latency], figure: str) -> Markup:
    have = {one.configuration.name for one in scores if one.configuration}
    want = {one.configuration.name for one in measured if one.configuration}
    reasons = [
        "There is no latency measurement: python calibration/latency.py run DIR -o latency.json"
        if not measured
        else "",
        "There is no score: nvlm-trt eval precisions, or eval run and eval score --json" if not scores else "",
        f"Scores are of {', '.join(sorted(have)) or 'runs that did not say what answered'}; latencies of "
        f"{', '.join(sorted(want)) or 'servers that did not say what they are'}, with {FIGURES[figure]}."
        if scores and measured
        else "",
    ]
    return tag(
        "section",
        tag("h2", "Accuracy against latency"),
        tag("p", "No score and latency belong to the same precision and tile limit, so there is nothing to plot."),
        [tag("p", reason) for reason in reasons if reason],
        id="missing",
    )


def _circumstances(findings: Findings) -> Markup:
    told = [(file, one.circumstances) for file, one in findings.measurements.items()]
    told += [(file, one.circumstances) for file, one in findings.studies.items()]
    machines: dict[str, list[tuple[str, Circumstances]]] = {}
    for file, own in told:
        machine = f"{own.cpu}, {own.cores} cores, {own.memory_bytes / 2**30:.1f} GiB, {own.system}, Python {own.python}"
        machines.setdefault(machine, []).append((file, own))
    parts = []
    for machine, files in machines.items():
        packages = sorted({f"{name} {version}" for _, own in files for name, version in own.packages.items()})
        rows = [Row([file, own.date, own.server or "", tag("code", own.command)]) for file, own in files]
        parts += [
            tag("dl", tag("dt", "machine"), tag("dd", machine), tag("dt", "packages"), tag("dd", ", ".join(packages))),
            table("What was measured there.", ["file", "date", "server", "command"], rows, wrap=(3,)),
        ]
    return tag("section", tag("h2", "Circumstances"), parts or tag("p", "No file tells any."), id="circumstances")


def _files(findings: Findings) -> Markup:
    broken = [one for one in findings.passed_over if one.broken]
    others = [one for one in findings.passed_over if not one.broken]
    read = [
        *((file, "latency") for file in findings.measurements),
        *((file, "precisions") for file in findings.studies),
        *((file, "score") for file in findings.scores),
    ]
    return tag(
        "section",
        tag("h2", "Files"),
        _reasons("Not read.", broken) if broken else tag("p", "Every result that was found could be read."),
        table("Read.", ["file", "holds"], [Row([file, kind]) for file, kind in read]),
        tag("details", tag("summary", f"{len(others)} others, no results"), _reasons("Passed over.", others))
        if others
        else None,
        id="files",
    )


def _reasons(caption: str, files: list[PassedOver]) -> Markup:
    return table(caption, ["file", "why"], [Row([one.file, one.reason]) for one in files], wrap=(1,))
