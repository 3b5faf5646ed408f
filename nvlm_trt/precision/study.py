"""Compare several precisions of one checkpoint on the questions of one task.

    OUT/build/                  what all precisions share, and each one's decoder checkpoint
    OUT/prompts/                every question as the decoder reads it: the vision half runs once
    OUT/NAME-TASK-dprank=...    each precision's answers, as eval run writes them
    OUT/forced/                 each precision at every step of the reference's answers
    OUT/precisions.json         the result

What an earlier run left is kept if it was made from the same inputs, and refused if it was not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.disk import publish, write_beside
from nvlm_trt.errors import UsageError
from nvlm_trt.evaluate.data_set import DataSet
from nvlm_trt.evaluate.rules import Rules
from nvlm_trt.evaluate.task import Task
from nvlm_trt.load.circumstances import circumstances
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.report import Reporter
from nvlm_trt.precision.checkpoints import build_precisions
from nvlm_trt.precision.judging import judge_precision
from nvlm_trt.precision.options import StageReporter, StudyOptions
from nvlm_trt.precision.prompts import Prompts
from nvlm_trt.precision.result import PrecisionStudy, StudiedModel
from nvlm_trt.precision.spec import DecoderPrecision
from nvlm_trt.precision.stages import Stages

__all__ = ["RESULT_FILE", "run_study"]

RESULT_FILE = "precisions.json"


def run_study(
    checkpoint: Checkpoint,
    recipe: Recipe,
    recipe_name: str,
    precisions: Sequence[DecoderPrecision],
    task: Task,
    data: DataSet,
    out: Path,
    options: StudyOptions,
    building: Reporter,
    stage: StageReporter,
) -> PrecisionStudy:
    """Compare, write ``OUT/precisions.json``, and return what is in it.

    Raises ``UsageError``: E-EVAL-PRECISION for a recipe whose decoder the embedded engine does not run, E-EVAL-MIXED
    for another comparison's folder; and what building, the engines and writing raise.
    """
    if recipe.production:
        raise UsageError(
            "E-EVAL-PRECISION",
            f"The recipe {recipe.name} is for TensorRT-LLM; precisions are compared on the embedded engine.",
            "Use --recipe embedded or one like it; compare servers with eval run and eval compare.",
        )
    layered = options.layer_questions > 0
    folder = options.build_folder or out / "build"
    built = build_precisions(checkpoint, recipe, recipe_name, precisions, layered, folder, building)
    result = _result(Stages(checkpoint, recipe, precisions, task, data, out, options, built, stage))
    write_beside(out / RESULT_FILE, result.dump().encode())
    publish([out / RESULT_FILE])
    return result


def _result(stages: Stages) -> PrecisionStudy:
    config = stages.preprocessor.config
    stages.keep_settings()
    with closing(Prompts(stages.out / "prompts", config.decoder.hidden_size)) as prompts:
        stages.prepare(prompts)
        records = {one.name: stages.answers(one, prompts) for one in stages.precisions}
        reference = records[stages.precisions[0].name]
        forced = stages.forced(reference, prompts)
        rules = Rules(strict=stages.options.strict)
        judged = tuple(
            judge_precision(
                one,
                stages.task,
                rules,
                reference,
                records[one.name],
                forced.get(one.name, []),
                stages.built.checkpoint_bytes[one.name],
            )
            for one in stages.precisions
        )
        layers = stages.layers(reference, prompts)
    tiles = [record["tiles"] for record in reference if "error" not in record]
    vision = stages.recipe.vision
    return PrecisionStudy(
        circumstances=circumstances(),
        model=StudiedModel(
            name=stages.checkpoint.root.resolve().name,
            fingerprint=stages.checkpoint.fingerprint(),
            dtype=config.dtype,
            layers=config.decoder.num_layers,
            decoder_engine=f"{stages.recipe.decoder.engine}, {stages.recipe.decoder.runner}",
            vision_engine=vision.engine,
            vision_precision=vision.quantization if vision.quantization != "none" else vision.dtype,
            max_tiles=config.tiling.max_tiles,
            tile_size=config.tiling.tile_size,
        ),
        task=stages.task.name,
        strict=stages.options.strict,
        data_sha256=stages.data.digest(),
        questions=len(stages.samples),
        errors=dict(sorted(Counter(str(record["error"]) for record in reference if "error" in record).items())),
        max_tokens=stages.max_tokens,
        tiles=sum(tiles) / max(1, len(tiles)),
        precisions=judged,
        layers=layers,
    )
