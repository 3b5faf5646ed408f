"""The decoder checkpoint of each precision, built side by side in one folder that shares everything before them.

    inspect ──► vision.* ──► decoder.calibration ──► decoder.checkpoint.bf16
                                                ├──► decoder.checkpoint.fp8
                                                └──► ...

It is an ordinary build with different last steps, so it is locked and resumed like any other. The check that an FP8
cache has to pass elsewhere is left out, because what it predicts is measured here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.errors import MissingToolError
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.decoder_work import CALIBRATION_FILE
from nvlm_trt.pipeline.manifest import FileEntry, load_manifest
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.report import Reporter
from nvlm_trt.pipeline.step import Step, StepContext
from nvlm_trt.pipeline.steps import steps_for
from nvlm_trt.precision.spec import DecoderPrecision

__all__ = ["Built", "build_precisions"]

_CALIBRATION = "decoder.calibration"


@dataclass(frozen=True, slots=True)
class Built:
    """What was built. ``identity`` has the hash of each precision's decoder checkpoint, ``vision`` is that of the
    vision half's files.
    """

    folder: Path
    vision: str
    checkpoint_bytes: dict[str, int]
    identity: dict[str, str]

    def decoder(self, precision: DecoderPrecision) -> Path:
        return self.folder / _place(precision)

    @property
    def calibration(self) -> Path:
        return self.folder / CALIBRATION_FILE


def build_precisions(
    checkpoint: Checkpoint,
    recipe: Recipe,
    recipe_name: str,
    precisions: Sequence[DecoderPrecision],
    calibrated: bool,
    folder: Path,
    reporter: Reporter,
) -> Built:
    """``calibrated`` asks for a calibration even if no precision needs one. Checkpoints of precisions that an earlier
    call named and this one does not are removed.

    Raises what ``build`` does, and ``MissingToolError`` E-TOOL-STEP for a vision engine that cannot be built here.
    """
    plain = recipe.model_copy(
        update={
            "decoder": DecoderPrecision("fp8", "bf16").of(recipe.decoder),
            "calibration": recipe.calibration.model_copy(update={"error_bound": None}),
        }
    )
    calibrated = calibrated or any(precision.calibrated for precision in precisions)
    shared = [
        _run_with(step, plain)
        for step in steps_for(plain)
        if step.name == "inspect" or step.name.startswith("vision.") or (step.name == _CALIBRATION and calibrated)
    ]
    steps = [*shared, *(_checkpoint_step(precision) for precision in precisions)]
    result = build(checkpoint.root, recipe_name, folder, reporter=reporter, steps=steps)
    if result.left:
        left = result.left[0]
        raise MissingToolError("E-TOOL-STEP", f"{left.step} cannot be done here: {left.reason}.", "Use another recipe.")
    manifest = load_manifest(folder)
    assert manifest is not None
    files = {precision.name: manifest.files(_place(precision)) for precision in precisions}
    return Built(
        folder,
        _identity(manifest.files("vision")),
        {name: sum(entry.size for entry in entries.values()) for name, entries in files.items()},
        {name: _identity(entries) for name, entries in files.items()},
    )


def _run_with(step: Step, recipe: Recipe) -> Step:
    """The build reads the user's recipe anew, and one with an FP8 cache has calibration check the keys first."""
    return dataclasses.replace(step, run=lambda context: step.run(dataclasses.replace(context, recipe=recipe)))


def _identity(files: Mapping[str, FileEntry]) -> str:
    hashes = {name.rpartition("/")[2]: entry.sha256 for name, entry in files.items()}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _place(precision: DecoderPrecision) -> str:
    return f"decoder/checkpoint.{precision.slug}"


def _checkpoint_step(precision: DecoderPrecision) -> Step:
    def run(context: StepContext) -> None:
        from nvlm_trt.decoder.calibration import Calibration
        from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint

        file = context.out / CALIBRATION_FILE
        write_trtllm_checkpoint(
            context.checkpoint,
            Calibration.from_json(file.read_text(encoding="utf-8")) if precision.calibrated else None,
            context.into / _place(precision),
            quantization=precision.quantization,
            kv_cache=precision.kv_cache,
            exclude=precision.exclude,
            progress=lambda done, total: context.advance(done, total, "B"),
        )

    return Step(
        name=f"decoder.checkpoint.{precision.slug}",
        run=run,
        tensors=("language_model.",),
        artefacts=(*((CALIBRATION_FILE,) if precision.calibrated else ()), "model/config.json"),
        outputs=(_place(precision),),
        code=("checkpoint.registry", "decoder.trtllm_checkpoint"),
        libraries=("ml_dtypes", "numpy"),
    )
