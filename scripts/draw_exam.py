"""Draw the mini model's held-out pictures as a data set that ``nvlm-trt eval`` reads, task "own".

Question i depends on the seed, the stage and i alone (``nvlm_trt/mini/exam.py``). Groups are those of the page on the
mini model: what is asked, and whether the picture is only legible in tiles.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from nvlm_trt.mini.curriculum import STAGES
from nvlm_trt.mini.exam import draw_exam

__all__ = ["draw"]


def draw(folder: Path, pictures: int, stage: str, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, question in enumerate(draw_exam(seed, pictures, next(one for one in STAGES if one.name == stage))):
        name = f"{number:05}.png"
        (folder / name).write_bytes(question.png)
        legible = "legible in tiles only" if question.needs_tiles else "legible in the thumbnail"
        lines.append(
            {
                "id": number,
                "prompt": question.example.question,
                "images": [name],
                "answers": [question.example.answer],
                "group": f"{question.example.task}, {legible}",
            }
        )
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--pictures", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option(
    "--stage", type=click.Choice([stage.name for stage in STAGES if stage.tasks]), default="numbers", show_default=True
)
@click.option("--seed", type=int, default=1, show_default=True)
def main(folder: Path, pictures: int, stage: str, seed: int) -> None:
    draw(folder, pictures, stage, seed)
    click.echo(f"{pictures} questions in {folder}", err=True)


if __name__ == "__main__":
    main()
