"""How fast the decoder is converted to FP8, in how much memory, and what the machine would allow.

    python scripts/bench_conversion.py CHECKPOINT --ranks 1x1 --ranks 8x2    # tensor parallel x pipeline parallel
    python scripts/bench_conversion.py --sweep       # small layers: 4, 8, 16, 32 of them, and ten ways to cut them

Beside every conversion two other things are measured in the same run, on the same tensors, cold from the disk:

simple   the simplest loop: read a tensor, amax, scale, cast, append it to one file; the same bytes in and out
disk     the bytes alone, past the page cache: read the input once, write the output once, one after the other
modelopt NVIDIA ModelOpt: the decoder as transformers' model, calibrated on 16 tokens, exported for TensorRT-LLM

Each measurement is a fresh process, so its peak is its own. A conversion whose tensors differ between two repeats
prints no figures. Scratch files go to --scratch and are removed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.synthetic import SIZES, write_checkpoint
from scripts.conversion_work import WORK, Ranks, measure
from scripts.facts import facts, show_facts

# 161 million parameters a layer: large enough for full disk speed, small enough for 32 of them.
_SWEEP = replace(
    SIZES["full"],
    vision_hidden_size=320,
    vision_intermediate_size=1280,
    vision_layers=1,
    vision_heads=5,
    vision_dummy_heads=3,
    hidden_size=4096,
    intermediate_size=9728,
    heads=32,
    base_vocab=16000,
    vocab_size=16384,
)
_SWEEP_LAYERS = (4, 8, 16, 32)
_CUT_LAYERS = 8  # of the checkpoint that is cut for several ranks
_SWEEP_RANKS = [Ranks(*cut) for cut in ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (2, 2), (4, 2), (1, 4), (2, 4), (8, 2))]


class RanksType(click.ParamType[Ranks]):
    name = "TPxPP"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Ranks:
        tp, _, pp = str(value).partition("x")
        if not (tp.isdecimal() and pp.isdecimal() and int(tp) and int(pp)):
            self.fail(f"{value!r} is not of the form TPxPP, as in 8x2.", param, ctx)
        return Ranks(int(tp), int(pp))


AGAINST = [what for what in WORK if what != "convert"]


def in_a_process(what: str, folder: Path, scratch: Path, ranks: Ranks) -> dict[str, Any]:
    out = scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=measure, args=(what, folder, out, ranks, answer))
    process.start()
    process.join()
    shutil.rmtree(out, ignore_errors=True)
    if process.exitcode:
        raise click.ClickException(f"{what} failed.")
    found: dict[str, Any] = answer.get()
    return found


def point(folder: Path, scratch: Path, ranks: Ranks, runs: int, against: tuple[str, ...]) -> dict[str, Any]:
    """Figures for one checkpoint cut one way. All take turns, so that a busy minute hits all of them."""
    found: dict[str, list[dict[str, Any]]] = {what: [] for what in ("convert", *against)}
    for _ in range(runs):
        for what in found:
            found[what].append(in_a_process(what, folder, scratch, ranks))
    if len({run["digest"] for run in found["convert"]}) != 1:
        raise click.ClickException("Two conversions gave different bytes: nothing was measured.")
    layers = open_checkpoint(folder).config.decoder.num_layers
    result: dict[str, Any] = {"layers": layers, "tp": ranks.tp, "pp": ranks.pp}
    for what, measured in found.items():
        rates = sorted(run["bytes_in"] / run["seconds"] / 1e9 for run in measured)
        result[what] = {"gb_per_s": statistics.median(rates), "least": rates[0], "most": rates[-1]}
        result[what]["cpu_s_per_gb"] = statistics.median(run["cpu_seconds"] / run["bytes_in"] * 1e9 for run in measured)
        for name in ("anonymous_gb", "mapped_gb"):
            result[what][name] = max(run[name] for run in measured)
    result["gb_in"], result["gb_out"] = (found["convert"][0][key] / 1e9 for key in ("bytes_in", "bytes_out"))
    return result


def show(result: dict[str, Any]) -> None:
    ranks = Ranks(result["tp"], result["pp"])
    cells = [f"{result['layers']:>6} {ranks!s:>5} {result['gb_in']:>7.2f} {result['gb_out']:>7.2f}"]
    own = result["convert"]
    cells.append(f"{_rate(own):>18}")
    cells.append(f"{own['cpu_s_per_gb']:>8.2f} {own['anonymous_gb']:>12.2f} {own['mapped_gb']:>9.2f}")
    for what in WORK:
        if what in result and what != "convert":
            figures = result[what]
            cells.append(f"{_rate(figures):>18} {own['gb_per_s'] / figures['gb_per_s']:>5.0%}")
            cells.append(f"{figures['anonymous_gb']:>5.2f} GB")
    click.echo("  ".join(cells))


def _rate(figures: dict[str, float]) -> str:
    return f"{figures['gb_per_s']:.2f} ({figures['least']:.2f}-{figures['most']:.2f})"


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option("--sweep", is_flag=True, help="Write checkpoints of 4 to 32 smaller layers and convert those.")
@click.option("--ranks", type=RanksType(), multiple=True, help="Of CHECKPOINT.  [default: 1x1]")
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--against",
    type=click.Choice(AGAINST),
    multiple=True,
    default=("simple", "disk"),
)
@click.option("--scratch", type=click.Path(file_okay=False, path_type=Path), default=Path(tempfile.gettempdir()))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(
    folder: Path | None,
    sweep: bool,
    ranks: tuple[Ranks, ...],
    runs: int,
    against: tuple[str, ...],
    scratch: Path,
    as_json: bool,
) -> None:
    if sweep == (folder is not None) or (sweep and ranks):
        raise click.UsageError("Name a checkpoint, and how to cut it; or say --sweep alone.")
    about, points = facts(), []
    if not as_json:
        show_facts(about)
        click.echo("GB/s are of input; median of the runs, least and most in brackets")
        columns = f"{'layers':>6} {'ranks':>5} {'GB in':>7} {'GB out':>7}  {'convert GB/s':>18}  "
        columns += f"{'CPU s/GB':>8} {'anonymous GB':>12} {'mapped GB':>9}"
        click.echo(columns + "".join(f"  {what + ' GB/s':>18} {'ratio':>5}  {'memory':>8}" for what in against))
    with tempfile.TemporaryDirectory(dir=scratch) as own:
        for checkpoint, cuts in _points(folder, ranks or (Ranks(),), Path(own)):
            for cut in cuts:
                points.append(point(checkpoint, Path(own), cut, runs, against))
                if not as_json:
                    show(points[-1])
    if as_json:
        click.echo(json.dumps({**about, "points": points}, indent=2))


def _points(folder: Path | None, ranks: Sequence[Ranks], scratch: Path) -> Iterator[tuple[Path, Sequence[Ranks]]]:
    """Checkpoints, and for each the ways to cut it; one at a time lies on the disk."""
    if folder is not None:
        yield folder, ranks
        return
    for layers in _SWEEP_LAYERS:
        checkpoint = scratch / f"layers{layers}"
        write_checkpoint(checkpoint, replace(_SWEEP, layers=layers))
        yield checkpoint, _SWEEP_RANKS if layers == _CUT_LAYERS else _SWEEP_RANKS[:1]
        shutil.rmtree(checkpoint)


if __name__ == "__main__":
    main()
