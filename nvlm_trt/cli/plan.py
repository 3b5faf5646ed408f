"""``nvlm-trt plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvlm_trt.cli.output import Output, output_options

if TYPE_CHECKING:
    from nvlm_trt.model.config import NvlmConfig

__all__ = ["plan"]


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--recipe", required=True, metavar="NAME", help="A shipped recipe, or a .toml file of your own.")
@click.option("--pictures", type=click.IntRange(0, 16), help="Pictures of a request. Default: the recipe's workload.")
@click.option("--text-tokens", type=click.IntRange(1), help="Tokens of text in a request's prompt.")
@click.option("--answer-tokens", type=click.IntRange(1), help="Tokens of a request's answer.")
@output_options
def plan(
    model: Path,
    recipe: str,
    pictures: int | None,
    text_tokens: int | None,
    answer_tokens: int | None,
    output: Output,
) -> None:
    """Say what a recipe would make of MODEL: what fits, how fast it runs, what the build costs, and why.

    MODEL is a checkpoint folder, or its config.json alone. Needs no GPU, reads no weights and writes nothing.
    """
    from nvlm_trt.cli.plan_text import plan_text
    from nvlm_trt.pipeline.recipe_file import read_draft
    from nvlm_trt.plan.calibration_size import calibration_size
    from nvlm_trt.plan.planner import make_plan
    from nvlm_trt.plan.resolve import workload_of
    from nvlm_trt.plan.workload import Workload

    draft = read_draft(recipe)
    config = _config(model)
    usual = workload_of(draft)
    asked = Workload(
        usual.pictures if pictures is None else pictures,
        text_tokens or usual.text_tokens,
        answer_tokens or usual.answer_tokens,
    )
    made = make_plan(config, draft, samples=calibration_size(config, draft.calibration.set), workload=asked)
    output.result(made.to_json(), plan_text(made))


def _config(model: Path) -> NvlmConfig:
    from nvlm_trt.checkpoint.registry import open_checkpoint
    from nvlm_trt.model.config import NvlmConfig
    from nvlm_trt.model.json_file import read_json_object

    file = model if model.is_file() else model / "config.json"
    if file.is_file():
        return NvlmConfig.from_json(read_json_object(file, "CONFIG"))
    return open_checkpoint(model).config  # a layout whose config lies elsewhere, or the error that says what is missing
