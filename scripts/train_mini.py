"""Train the mini model: a small NVLM-D that reads text in pictures, from nothing, on a CPU or a GPU.

python scripts/train_mini.py OUT --steps 20000                        # again after Ctrl-C: goes on where it was
python scripts/train_mini.py OUT --steps 24000 --decay-steps 4000     # lets the learning rate run out

OUT/state.pt is what a run goes on from, OUT/checkpoint the model in the release's file layout, written at the end.
"""

from __future__ import annotations

import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import click

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.synthetic import write_checkpoint
from nvlm_trt.errors import NvlmError
from nvlm_trt.mini.sizes import MINI
from nvlm_trt.mini.views import FULL, VIEWS


@click.command(help=__doc__)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--steps", type=click.IntRange(min=1), required=True, help="Steps in all, those of earlier runs included."
)
@click.option("--decay-steps", type=click.IntRange(min=0), default=0, help="Last steps, with a falling learning rate.")
@click.option("--joint-steps", type=click.IntRange(min=0), default=0, help="Last steps, answers teach the tower too.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Of learning.")
@click.option("--view", type=click.Choice(VIEWS), default=FULL, show_default=True, help="What is shown of a picture.")
@click.option("--tower", type=click.Path(exists=True, path_type=Path), help="A state whose tower to begin with.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the weights and of all pictures.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="As torch names them: cpu, cuda, cuda:1.")
@click.option("--compile/--no-compile", "compiled", help="Compile the vision tower; wants a C++ compiler.")
@click.option("--save-every", type=float, default=120.0, show_default=True, help="Seconds between saved states.")
def main(
    out: Path,
    steps: int,
    decay_steps: int,
    joint_steps: int,
    rate: float,
    view: str,
    tower: Path | None,
    seed: int,
    threads: int,
    device: str,
    compiled: bool,
    save_every: float,
) -> None:
    import torch

    from nvlm_trt.mini.export import export
    from nvlm_trt.mini.model import MiniNvlm
    from nvlm_trt.mini.supply import Supply, batch_maker
    from nvlm_trt.mini.trainer import Plan, Trainer

    torch.set_num_threads(threads)
    base = out / "base"
    try:
        if not (base / "config.json").exists():
            write_checkpoint(base, MINI, seed, 1)
        config = open_checkpoint(base).config
    except NvlmError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    config = replace(config, vision=replace(config.vision, num_dummy_heads=0))
    model = MiniNvlm(config, seed).to(device)
    if compiled:
        model.vision.vision_model.compile(dynamic=False)
    click.echo(f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} million parameters", err=True)
    trainer = Trainer(
        model,
        batch_maker(base, seed, view),
        Plan(steps, decay_steps, joint_steps, rate, save_every_s=save_every),
        out / "state.pt",
        lambda text: click.echo(text, err=True),
    )
    if tower and not trainer.position.step:
        trainer.begin(tower)
    with Supply(base, seed, view) as supply:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: trainer.stop())
        trainer.run(supply)
    shutil.rmtree(out / "checkpoint", ignore_errors=True)
    export(model, out / "checkpoint", MINI)


if __name__ == "__main__":
    main()
