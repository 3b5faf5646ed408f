"""Steps that take no time, for tests of what is around steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nvlm_trt.pipeline.step import Step, StepContext

RECIPE = """
name = "toy"
description = "For tests."

[vision]
engine = "onnxruntime"

[decoder]
engine = "embedded"
max_batch_size = {max_batch_size}
max_seq_len = 64
"""


def write_recipe(file: Path, max_batch_size: int = 2) -> str:
    file.write_text(RECIPE.format(max_batch_size=max_batch_size), encoding="utf-8")
    return str(file)


def writes(path: str, text: Callable[[StepContext], str]) -> Callable[[StepContext], None]:
    def run(context: StepContext) -> None:
        file = context.into / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text(context), encoding="utf-8")

    return run


def toy_steps() -> list[Step]:
    """first/a (from the config) → second/folder (from first/a and the batch size) → third (from second/folder)."""
    return [
        Step(
            "first",
            writes("first/a", lambda context: str(context.checkpoint.config.decoder.hidden_size)),
            outputs=("first/a",),
            documents=("config.json",),
        ),
        Step(
            "second",
            writes("second/folder/b", _second),
            outputs=("second/folder",),
            artefacts=("first/a",),
            values=("decoder.max_batch_size",),
        ),
        Step(
            "third",
            writes("third", lambda context: (context.out / "second/folder/b").read_text(encoding="utf-8") + "!"),
            outputs=("third",),
            artefacts=("second",),
        ),
    ]


def _second(context: StepContext) -> str:
    first = (context.out / "first/a").read_text(encoding="utf-8")
    return f"{first} x {context.recipe.decoder.max_batch_size}"


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every artefact's bytes; what lies below .build is none."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and ".build" not in file.parts
    }
