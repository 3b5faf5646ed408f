"""The stages of a comparison: pictures, answers, the reference's answers followed by every precision, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder.calibration import Calibration
from nvlm_trt.evaluate.data_set import DataSet
from nvlm_trt.evaluate.output_file import output_file
from nvlm_trt.evaluate.settings import RunSettings, keep_settings, keep_values
from nvlm_trt.evaluate.task import Record, Sample, Task
from nvlm_trt.model.prompt import PromptStyle
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.precision.answer_samples import AnswerSamples
from nvlm_trt.precision.answers import answer_all
from nvlm_trt.precision.checkpoints import Built
from nvlm_trt.precision.decoder import StudiedDecoder
from nvlm_trt.precision.forcing import ForcedQuestion, compare_forced, forced_answers
from nvlm_trt.precision.judging import judge_layers
from nvlm_trt.precision.layers import layer_divergences
from nvlm_trt.precision.options import StageReporter, StudyOptions
from nvlm_trt.precision.prompts import Prompts, prepare_all
from nvlm_trt.precision.result import Layers
from nvlm_trt.precision.spec import DecoderPrecision
from nvlm_trt.serving.preprocess import Preprocessor
from nvlm_trt.vision.engine import VisionEngine
from nvlm_trt.vision.registry import load_engine

__all__ = ["Stages"]


@dataclass(frozen=True)
class Stages:
    """Each stage stores its results below ``out``, and resumes from what it finds there."""

    checkpoint: Checkpoint
    recipe: Recipe
    precisions: Sequence[DecoderPrecision]
    task: Task
    data: DataSet
    out: Path
    options: StudyOptions
    built: Built
    stage: StageReporter

    @property
    def samples(self) -> Sequence[Sample]:
        return self.data.samples[: self.options.limit]

    @property
    def max_tokens(self) -> int:
        return self.options.max_tokens or self.task.max_tokens

    @cached_property
    def preprocessor(self) -> Preprocessor:
        prompt = self.recipe.prompt
        return Preprocessor.from_folder(
            self.built.folder / "model",
            style=PromptStyle(prompt.style),
            system=prompt.system,
            max_images=prompt.max_images,
            max_seq_len=self.recipe.decoder.max_seq_len,
            max_tiles=prompt.max_tiles,
        )

    def keep_settings(self) -> None:
        prompt, decoder = self.recipe.prompt, self.recipe.decoder
        asked = {
            "task": self.task.name,
            "questions": len(self.samples),
            "data_sha256": self.data.digest(),
            "model": self.checkpoint.fingerprint(),
            "vision": self.built.vision,
            "prompt": prompt.model_dump(mode="json"),
            "max_tokens": self.max_tokens,
            "max_seq_len": decoder.max_seq_len,
            "runner": decoder.runner,
            "quantize_activations": decoder.quantize_activations,
        }
        keep_values(self.out / "settings.json", asked)

    def prepare(self, prompts: Prompts) -> None:
        vision, built = self.recipe.vision, self.built.folder / "vision"
        most = self.preprocessor.config.tiling.most_tiles_per_image

        def engine() -> VisionEngine:
            return load_engine(vision.engine, built, self.checkpoint.root, most, threads=self.options.threads)

        with self.stage("pictures") as reporter:
            reporter.started(len(self.samples), len(prompts))
            prepare_all(prompts, self.samples, self.data, self.preprocessor, engine, self.max_tokens, reporter.advanced)

    def answers(self, precision: DecoderPrecision, prompts: Prompts) -> list[Record]:
        place = self.out / precision.slug
        settings = RunSettings(
            task=self.task.name,
            num_samples=len(self.samples),
            data_sha256=self.data.digest(),
            max_tokens=self.max_tokens,
            first_line=False,
            no_answer="first",
            seed=0,
            num_partitions=1,
            answered_by=self.built.identity[precision.name],
        )
        keep_settings(place, settings)
        with self.stage(f"{precision.name}, answers") as reporter:
            return answer_all(
                self._decoder(precision),
                self.task,
                self.samples,
                prompts,
                self.preprocessor.tokenizer,
                self.max_tokens,
                output_file(place, self.task.name, 0),
                reporter,
            )

    def forced(self, reference: Sequence[Record], prompts: Prompts) -> Mapping[str, list[ForcedQuestion]]:
        answers = forced_answers(reference, self.options.kl_questions)
        if not answers:
            return {}
        identity = self.built.identity
        found: dict[str, list[ForcedQuestion]] = {}
        for precision in self.precisions:
            key = {"reference": identity[self.precisions[0].name], "own": identity[precision.name]}
            with self.stage(f"{precision.name}, followed") as reporter:
                found[precision.name] = compare_forced(
                    self.out / "forced",
                    precision.slug,
                    key,
                    self._decoder(precision),
                    prompts,
                    answers,
                    self.preprocessor.tokenizer.eos_id,
                    reporter,
                )
        return found

    def layers(self, reference: Sequence[Record], prompts: Prompts) -> Layers | None:
        answers = forced_answers(reference, self.options.layer_questions)
        if not answers:
            return None
        calibration = Calibration.from_json(self.built.calibration.read_text(encoding="utf-8"))
        with self.stage("layers") as reporter:
            begun = False

            def advanced(done: int, total: int) -> None:
                nonlocal begun
                if not begun:
                    reporter.started(total, done - 1)
                    begun = True
                reporter.advanced(done, 0)

            found = layer_divergences(
                self.checkpoint,
                AnswerSamples(self.checkpoint, prompts, answers),
                calibration,
                device=self.recipe.calibration.device,
                scratch=self.out / "layers.scratch",
                progress=advanced,
            )
        return judge_layers(found, answers)

    def _decoder(self, precision: DecoderPrecision) -> StudiedDecoder:
        return StudiedDecoder(self.built.decoder(precision), self.recipe.decoder, self.options.threads)
