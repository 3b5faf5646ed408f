"""A comparison of precisions, and what it costs, as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nvlm_trt.cli.output import shown_bytes

if TYPE_CHECKING:
    from nvlm_trt.precision.cost import StudyCost
    from nvlm_trt.precision.result import Agreement, Figure, Layers, PrecisionResult, PrecisionStudy

__all__ = ["cost_text", "study_text"]

_WIDTH = 28


def cost_text(cost: StudyCost) -> str:
    sizes = ", ".join(f"{name} {shown_bytes(size)}" for name, size in cost.checkpoint_bytes.items())
    lines = [
        f"{cost.questions:,} questions; on disk at most {shown_bytes(cost.disk_bytes)}: decoder checkpoints ({sizes}), "
        f"pictures' rows {shown_bytes(cost.row_bytes)}, the reference's logits {shown_bytes(cost.logit_bytes)}, "
        f"hidden states {shown_bytes(cost.hidden_bytes)}",
        f"in memory one decoder at a time, the largest {shown_bytes(cost.memory_bytes)}",
    ]
    if cost.layer_passes:
        lines.append(
            f"layers: {cost.layer_variants} variants of the model on {cost.layer_questions} questions, in "
            f"{cost.layer_passes} passes over the weights"
        )
    return "\n".join(lines)


def study_text(study: PrecisionStudy) -> str:
    errors = "".join(f", {count:,} errors {code}" for code, count in study.errors.items())
    head = (
        f"{study.task}: {study.questions:,} questions{errors}; {study.model.name}, {study.tiles:.1f} tiles a question, "
        f"at most {study.model.max_tiles} and a thumbnail; {'strict' if study.strict else 'as the reference scripts'}"
    )
    lines = [head, "", f"{'precision':{_WIDTH}} {'score':22} {'difference':22} better, worse"]
    lines += map(_score_line, study.precisions)
    against = f"against {study.precisions[0].name}"
    lines += ["", f"{against:{_WIDTH}} equal, else tokens shared  same tokens, forced       KL in nats"]
    lines += [f"{one.name:{_WIDTH}} {_agreement_text(one.agreement)}" for one in study.precisions[1:] if one.agreement]
    if study.layers is not None:
        lines += ["", *_layer_lines(study.layers)]
    return "\n".join([*lines, "", "In brackets: 95 % bootstrap intervals over questions; differences are paired."])


def _score_line(one: PrecisionResult) -> str:
    line = f"{one.name:{_WIDTH}} {_shown(one.score, '.2f'):22}"
    if one.difference is None:
        return f"{line} {'the reference':22}".rstrip()
    return f"{line} {_shown(one.difference, '+.2f'):22} {one.difference.better:,}, {one.difference.worse:,}"


def _agreement_text(agreement: Agreement) -> str:
    shared = agreement.shared_tokens
    equal = f"{agreement.equal:,} of {agreement.questions:,}" + ("" if shared is None else f", {shared:.1f}")
    return f"{equal:26} {_shown(agreement.same, '.2f') + ' %':25} {_shown(agreement.kl, '.2g')}"


def _layer_lines(layers: Layers) -> Iterator[str]:
    yield f"KL of FP8 by layer, nats, over {layers.positions:,} positions of {layers.questions:,} answers"
    yield f"{'layer':{_WIDTH}} {'it alone in FP8':26} all others in FP8"
    for number, layer in enumerate(layers.layers):
        yield f"{number:<{_WIDTH}} {_shown(layer.alone, '.2g'):26} {_shown(layer.without, '.2g')}"
    yield f"{'all':{_WIDTH}} {_shown(layers.everything, '.2g')}"


def _shown(figure: Figure, form: str) -> str:
    return f"{figure.value:{form}} [{figure.low:{form}}, {figure.high:{form}}]"
