"""One checkpoint at several precisions, on the questions of one task: built, asked, followed, judged.

    OUT/build/                  what all precisions share, and each one's decoder checkpoint
    OUT/prompts/                every question as the decoder reads it: the vision half runs once
    OUT/NAME-TASK-dprank=...    each precision's answers, as eval run writes them
    OUT/forced/                 each precision at every step of the reference's answers
    OUT/precisions.json         the result

Whatever is there from before is kept if it was made from the same things, and refused if it was not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.disk import publish, write_beside
from nvlm_trt.decoder.calibration import Calibration
from nvlm_trt.errors import UsageError
from nvlm_trt.evaluate.data_set import DataSet
from nvlm_trt.evaluate.output_file import output_file
from nvlm_trt.evaluate.rules import Rules
from nvlm_trt.evaluate.run import Reporter
from nvlm_trt.evaluate.settings import RunSettings, keep_settings, keep_values
from nvlm_trt.evaluate.task import Record, Task
from nvlm_trt.load.circumstances import circumstances
from nvlm_trt.model.prompt import PromptStyle
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.report import Reporter as BuildReporter
from nvlm_trt.precision.answers import answer_all
from nvlm_trt.precision.checkpoints import Built, build_precisions
from nvlm_trt.precision.forcing import ForcedAnswer, compare_forced, forced_answers
from nvlm_trt.precision.judging import judge_layers, judge_precision
from nvlm_trt.precision.layers import AnswerSamples, layer_divergences
from nvlm_trt.precision.prompts import Prompts, prepare_all
from nvlm_trt.precision.result import Layers, PrecisionStudy, StudiedModel
from nvlm_trt.precision.spec import DecoderPrecision
from nvlm_trt.serving.preprocess import Preprocessor
from nvlm_trt.vision.engine import VisionEngine
from nvlm_trt.vision.registry import load_engine

__all__ = ["RESULT_FILE", "StageReporter", "StudyOptions", "run_study"]

RESULT_FILE = "precisions.json"

StageReporter = Callable[[str], AbstractContextManager[Reporter]]
"""Opens the progress of a stage, by its name."""


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """``limit`` takes only the first questions, ``max_tokens`` None is the task's own. The first ``kl_questions`` and
    ``layer_questions`` answers of the reference are followed; 0 leaves that part out. ``build_folder`` None is
    ``OUT/build``."""

    limit: int | None = None
    max_tokens: int | None = None
    strict: bool = False
    kl_questions: int = 200
    layer_questions: int = 32
    build_folder: Path | None = None
    threads: int | None = None


def run_study(
    checkpoint: Checkpoint,
    recipe: Recipe,
    recipe_name: str,
    precisions: Sequence[DecoderPrecision],
    task: Task,
    data: DataSet,
    out: Path,
    options: StudyOptions,
    building: BuildReporter,
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
    study = _Study(checkpoint, recipe, precisions, task, data, out, options, built, stage)
    result = study.result()
    write_beside(out / RESULT_FILE, result.dump().encode())
    publish([out / RESULT_FILE])
    return result


class _Study:
    def __init__(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe,
        precisions: Sequence[DecoderPrecision],
        task: Task,
        data: DataSet,
        out: Path,
        options: StudyOptions,
        built: Built,
        stage: StageReporter,
    ) -> None:
        self._checkpoint, self._recipe, self._precisions = checkpoint, recipe, precisions
        self._task, self._data, self._out, self._options = task, data, out, options
        self._built, self._stage = built, stage
        self._samples = data.samples[: options.limit]
        self._max_tokens = options.max_tokens or task.max_tokens
        self._preprocessor = Preprocessor.from_folder(
            built.folder / "model",
            style=PromptStyle(recipe.prompt.style),
            system=recipe.prompt.system,
            max_images=recipe.prompt.max_images,
            max_seq_len=recipe.decoder.max_seq_len,
            max_tiles=recipe.prompt.max_tiles,
        )

    def result(self) -> PrecisionStudy:
        config = self._preprocessor.config
        self._keep_settings()
        with closing(Prompts(self._out / "prompts", config.decoder.hidden_size)) as prompts:
            self._prepare(prompts)
            records = {one.name: self._answers(one, prompts) for one in self._precisions}
            reference = records[self._precisions[0].name]
            forced = self._forced(reference, prompts)
            rules = Rules(strict=self._options.strict)
            judged = tuple(
                judge_precision(
                    one,
                    self._task,
                    rules,
                    reference,
                    records[one.name],
                    forced.get(one.name, []),
                    self._built.checkpoint_bytes[one.name],
                )
                for one in self._precisions
            )
            layers = self._layers(reference, prompts)
        tiles = [record["tiles"] for record in reference if "error" not in record]
        vision = self._recipe.vision
        return PrecisionStudy(
            circumstances=circumstances(),
            model=StudiedModel(
                name=self._checkpoint.root.resolve().name,
                fingerprint=self._checkpoint.fingerprint(),
                dtype=config.dtype,
                layers=config.decoder.num_layers,
                decoder_engine=f"{self._recipe.decoder.engine}, {self._recipe.decoder.runner}",
                vision_engine=vision.engine,
                vision_precision=vision.quantization if vision.quantization != "none" else vision.dtype,
                max_tiles=config.tiling.max_tiles,
                tile_size=config.tiling.tile_size,
            ),
            task=self._task.name,
            strict=self._options.strict,
            data_sha256=self._data.digest(),
            questions=len(self._samples),
            errors=dict(sorted(Counter(str(record["error"]) for record in reference if "error" in record).items())),
            max_tokens=self._max_tokens,
            tiles=sum(tiles) / max(1, len(tiles)),
            precisions=judged,
            layers=layers,
        )

    def _keep_settings(self) -> None:
        prompt, decoder = self._recipe.prompt, self._recipe.decoder
        asked = {
            "task": self._task.name,
            "questions": len(self._samples),
            "data_sha256": self._data.digest(),
            "model": self._checkpoint.fingerprint(),
            "vision": self._built.vision,
            "prompt": prompt.model_dump(mode="json"),
            "max_tokens": self._max_tokens,
            "max_seq_len": decoder.max_seq_len,
            "runner": decoder.runner,
            "quantize_activations": decoder.quantize_activations,
        }
        keep_values(self._out / "settings.json", asked)

    def _prepare(self, prompts: Prompts) -> None:
        vision, built = self._recipe.vision, self._built.folder / "vision"
        most = self._preprocessor.config.tiling.most_tiles_per_image

        def engine() -> VisionEngine:
            return load_engine(vision.engine, built, self._checkpoint.root, most, threads=self._options.threads)

        with self._stage("pictures") as reporter:
            reporter.started(len(self._samples), len(prompts))
            prepare_all(
                prompts, self._samples, self._data, self._preprocessor, engine, self._max_tokens, reporter.advanced
            )

    def _answers(self, precision: DecoderPrecision, prompts: Prompts) -> list[Record]:
        place = self._out / precision.slug
        settings = RunSettings(
            task=self._task.name,
            num_samples=len(self._samples),
            data_sha256=self._data.digest(),
            max_tokens=self._max_tokens,
            first_line=False,
            no_answer="first",
            seed=0,
            num_partitions=1,
            answered_by=self._built.identity[precision.name],
        )
        keep_settings(place, settings)
        with self._stage(f"{precision.name}, answers") as reporter:
            return answer_all(
                self._built.decoder(precision),
                self._recipe.decoder,
                self._task,
                self._samples,
                prompts,
                self._preprocessor.tokenizer,
                self._max_tokens,
                output_file(place, self._task.name, 0),
                reporter,
                self._options.threads,
            )

    def _forced(self, reference: Sequence[Record], prompts: Prompts) -> Mapping[str, Any]:
        answers = forced_answers(reference, self._options.kl_questions)
        if not answers:
            return {}
        identity, found = self._built.identity, {}
        for precision in self._precisions:
            key = {"reference": identity[self._precisions[0].name], "own": identity[precision.name]}
            with self._stage(f"{precision.name}, followed") as reporter:
                found[precision.name] = compare_forced(
                    self._out / "forced",
                    precision.slug,
                    key,
                    self._built.decoder(precision),
                    self._recipe.decoder,
                    prompts,
                    answers,
                    self._preprocessor.tokenizer.eos_id,
                    reporter,
                    self._options.threads,
                )
        return found

    def _layers(self, reference: Sequence[Record], prompts: Prompts) -> Layers | None:
        answers: list[ForcedAnswer] = forced_answers(reference, self._options.layer_questions)
        if not answers:
            return None
        calibration = Calibration.from_json(self._built.calibration.read_text(encoding="utf-8"))
        with self._stage("layers") as reporter:
            begun = False

            def advanced(done: int, total: int) -> None:
                nonlocal begun
                if not begun:
                    reporter.started(total, done - 1)
                    begun = True
                reporter.advanced(done, 0)

            found = layer_divergences(
                self._checkpoint,
                AnswerSamples(self._checkpoint, prompts, answers),
                calibration,
                device=self._recipe.calibration.device,
                scratch=self._out / "layers.scratch",
                progress=advanced,
            )
        return judge_layers(found, answers)
