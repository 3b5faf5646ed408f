"""The part of the page that shows comparisons of precisions, and every score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nvlm_trt.evaluate.score_file import ScoreFile
from nvlm_trt.precision.result import Agreement, Layers, PrecisionStudy
from nvlm_trt.report.markup import Markup, join, tag
from nvlm_trt.report.palette import Palette, shown_tiles
from nvlm_trt.report.plots import Whisker, layer_bars, whiskers
from nvlm_trt.report.points import Accuracy
from nvlm_trt.report.scale import shown
from nvlm_trt.report.table import Row, figure_cell, table

__all__ = ["score_section", "study_section"]


def study_section(number: int, file: str, study: PrecisionStudy, palette: Palette) -> Markup:
    others = study.precisions[1:]
    agreements = [(one.name, one.agreement) for one in others if one.agreement]
    differences = [
        Whisker(one.name, one.difference, palette.colour(one.name)) for one in others if one.difference is not None
    ]
    kls = [Whisker(name, agreement.kl, palette.colour(name)) for name, agreement in agreements]
    reference = study.precisions[0].name
    figures = []
    if differences:
        said = f"Score less that of {reference}, with paired 95 % intervals."
        plot = whiskers("Difference in score", said, differences, "points", zero=True)
        figures.append(tag("figure", tag("figcaption", f"Score less that of {reference}"), plot))
    if kls:
        said = f"Mean over the answers of {reference}, with 95 % intervals."
        plot = whiskers("Divergence of the next token's distribution", said, kls, "nats a token", zero=True)
        figures.append(tag("figure", tag("figcaption", "KL of the next token"), plot))
    if study.layers:
        plot = layer_bars("Part of each layer in the divergence", "Two bars a layer.", study.layers)
        figures.append(tag("figure", tag("figcaption", "KL of FP8, by layer"), plot, _layer_key()))
    errors = "".join(f", {count:,} could not be asked ({code})" for code, count in study.errors.items())
    return tag(
        "section",
        tag("h2", f"Precisions of {study.model.name}: {study.task}, {shown_tiles(study.model.max_tiles)}"),
        tag(
            "p",
            f"{study.questions:,} questions{errors}, {study.tiles:.1f} tiles each on average; the limit is "
            f"{shown_tiles(study.model.max_tiles)}, thumbnails not counted. bf16 stands for the model's "
            f"own {study.model.dtype}.",
        ),
        tag("div", figures, cls="figures"),
        table(
            f"Precisions; differences are paired, and from {reference}.",
            [
                "precision",
                "score",
                "difference",
                "better, worse",
                "equal answers",
                "same tokens, %",
                "KL, nats",
                "bytes",
            ],
            _precision_rows(study),
        ),
        _layer_details(study.layers) if study.layers else None,
        tag("p", file, cls="quiet"),
        id=f"study-{number}",
    )


def _precision_rows(study: PrecisionStudy) -> Iterator[Row]:
    for one in study.precisions:
        cells: list[object] = [one.name, figure_cell(one.score, ".2f")]
        if one.difference is None:
            cells += ["reference", "", "", "", ""]
        else:
            cells += [figure_cell(one.difference, "+.2f"), f"{one.difference.better:,}, {one.difference.worse:,}"]
            cells += _agreement_cells(one.agreement)
        yield Row([*cells, f"{one.checkpoint_bytes:,}"])


def _agreement_cells(agreement: Agreement | None) -> list[object]:
    if agreement is None:
        return ["–", "–", "–"]
    shared = agreement.shared_tokens
    parted = () if shared is None else (" ", tag("small", f"others part after {shared:.1f}"))
    equal = join([f"{agreement.equal:,} of {agreement.questions:,}", parted])
    return [equal, figure_cell(agreement.same, ".2f"), figure_cell(agreement.kl)]


def _layer_key() -> Markup:
    return tag(
        "ul",
        tag("li", tag("span", "■", cls="s0"), "the layer alone in FP8"),
        tag("li", tag("span", "■", cls="s1"), "gained by keeping it, all others in FP8"),
        cls="key",
    )


def _layer_details(layers: Layers) -> Markup:
    rows = [
        Row([str(number), figure_cell(layer.alone), figure_cell(layer.without)])
        for number, layer in enumerate(layers.layers)
    ]
    rows.append(Row(["all", figure_cell(layers.everything), "0"]))
    caption = f"KL in nats a token over {layers.positions:,} positions of {layers.questions:,} answers."
    head = ["layer", "it alone in FP8", "all others in FP8"]
    return tag("details", tag("summary", "Every layer's figures"), table(caption, head, rows))


def score_section(accuracies: Sequence[Accuracy], scores: dict[str, ScoreFile]) -> Markup:
    """Every score, and the published ones beside those of ``eval score``."""
    rows = [
        Row(
            [
                one.task,
                one.configuration.name if one.configuration else "not told",
                figure_cell(one.score, ".2f"),
                f"{one.questions:,}",
                one.file,
            ]
        )
        for one in sorted(accuracies, key=lambda one: (one.task, -one.score.value))
    ]
    published = {(score.task, one.model, one.source): one.score for score in scores.values() for one in score.published}
    return tag(
        "section",
        tag("h2", "Scores"),
        table("Every score that was read, with its 95 % interval.", ["task", "of", "score", "questions", "file"], rows),
        tag(
            "details",
            tag("summary", "Published scores on the same tasks"),
            table(
                "From NVLM's model cards and paper.",
                ["task", "model", "source", "score"],
                [Row([task, model, source, shown(value)]) for (task, model, source), value in published.items()],
                wrap=(2,),
            ),
        )
        if published
        else None,
        id="scores",
    )
