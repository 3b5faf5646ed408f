"""The checkpoint that ships: it fits, and it really reads, through the engines that serve it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.mini.curriculum import STAGES
from nvlm_trt.mini.exam import draw_exam
from nvlm_trt.mini.reader import Asked, Decode, Reader, embedded_decoder, plain_decoder
from nvlm_trt.pipeline.builder import build
from nvlm_trt.resources import resource_folder

Served = tuple[Reader, Decode]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("shipped") / "deployment"
    build(resource_folder("calibration") / "mini", "embedded", folder)
    reader = Reader(folder)
    with embedded_decoder(folder, reader.preprocessor.tokenizer.eos_id) as decode:
        yield reader, decode


def test_it_is_small_enough_for_a_repository() -> None:
    files = [file for file in (resource_folder("calibration") / "mini").iterdir() if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in files) <= 20_000_000


def test_it_reads_the_sign_of_the_demo(served: Served) -> None:
    reader, decode = served
    sign = (resource_folder("calibration") / "sign.png").read_bytes()
    assert reader.answers([Asked(sign, "What does the sign say?")], decode) == ["4257"]


def test_its_own_bfloat16_values_read_it_too(served: Served) -> None:
    """FP8 is measured against these."""
    folder = resource_folder("calibration")
    reader, _ = served
    plain = plain_decoder(open_checkpoint(folder / "mini"), reader.preprocessor.tokenizer.eos_id)
    assert reader.answers([Asked((folder / "sign.png").read_bytes(), "What does the sign say?")], plain) == ["4257"]


@pytest.mark.parametrize(("stage", "least"), [("numbers", 35), ("lines", 28), ("questions", 21)])
def test_most_answers_about_pictures_it_never_saw_are_right(stage: str, least: int, served: Served) -> None:
    """Of 42 pictures, three of each grid; guessing would get none, but for counts."""
    reader, decode = served
    questions = list(draw_exam(1, 42, next(one for one in STAGES if one.name == stage)))
    answers = reader.answers([Asked(one.png, one.example.question) for one in questions], decode)
    right = sum(answer == one.example.answer for answer, one in zip(answers, questions, strict=True))
    assert right >= least
