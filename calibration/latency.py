"""How quickly a deployment answers under load. docs/latency.md explains what is measured, and how to read it.

    python calibration/latency.py run DIR --clients 1 --clients 8 --clients 32 -o closed.json
    python calibration/latency.py run grpc://HOST:PORT --rate 4 --rate 8 --objective ttft=500ms,tbt=50ms -o open.json
    python calibration/latency.py run http://HOST:PORT/v1 --trace arrivals.jsonl -o replay.json
    python calibration/latency.py recover open.requests.jsonl -o open.json

Results go to stdout, progress to stderr. The exit code is 1 if a run is not valid, or an answer under load differed,
and 130 if the measurement was stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import click

from nvlm_trt.checkpoint.disk import publish, write_beside
from nvlm_trt.cli.output import Output, output_options
from nvlm_trt.errors import NvlmError
from nvlm_trt.load.circumstances import circumstances, deployed
from nvlm_trt.load.doors.registry import DOORS, door_of
from nvlm_trt.load.journal import Journal, read_journal
from nvlm_trt.load.measure import MeasureOptions, measure
from nvlm_trt.load.mix import Mix, read_mix
from nvlm_trt.load.objective import read_objective
from nvlm_trt.load.result import Experiment, Measurement
from nvlm_trt.load.schedule import ClosedLoad, Load, PoissonLoad, TraceLoad, UniformLoad
from nvlm_trt.load.server_side import server_name
from nvlm_trt.load.target import Target, started_target, target_at
from nvlm_trt.load.text import measurement_text
from nvlm_trt.load.trace import read_trace

_FILE = click.Path(path_type=Path)
_MIX = Path(__file__).parent / "mixes" / "pictures.toml"
_NICER = -10
_INTERRUPTED = 130
_RATE = click.FloatRange(0, min_open=True)
_ARRIVALS = {"poisson": PoissonLoad, "uniform": UniformLoad}


@click.group(context_settings={"max_content_width": 100})
def main() -> None:
    """Measure the latency of a deployment under load."""


@main.command()
@click.argument("target_name", metavar="URL-or-DIR")
@click.option("--clients", type=click.IntRange(1, 4096), multiple=True, help="A closed loop of so many clients.")
@click.option("--rate", "rates", type=_RATE, multiple=True, help="Requests a second, whatever the answers do.")
@click.option("--arrivals", type=click.Choice([*_ARRIVALS]), default="poisson", show_default=True, help="Of --rate.")
@click.option("--trace", "trace_file", type=_FILE, help="Replay these arrivals (JSONL) instead of a mix.")
@click.option("--speed", "speeds", type=_RATE, multiple=True, help="So many times as fast as the trace.")
@click.option("--mix", "mix_file", type=_FILE, help="What is asked (TOML).  [default: mixes/pictures.toml]")
@click.option("--requests", type=click.IntRange(1), default=100, show_default=True, help="Of each run.")
@click.option("--repetitions", type=click.IntRange(1), default=3, show_default=True, help="Runs of each load.")
@click.option("--warm-up", type=click.IntRange(0), default=16, show_default=True, help="Requests before each load.")
@click.option("--seed", type=int, default=0, show_default=True, help="Everything random is drawn from it.")
@click.option(
    "--objective", "limits", default="", metavar="LIMITS", help="Of a good request: ttft=500ms,tbt=50ms,e2e=5s"
)
@click.option("--check", is_flag=True, help="Ask each request again, alone, and compare the answers.")
@click.option("--timeout", "timeout_s", type=_RATE, default=60.0, show_default=True, help="Seconds without a token.")
@click.option("--door", type=click.Choice([door.name for door in DOORS]), help="For a DIR.  [default: grpc]")
@click.option("--checkpoint", type=_FILE, help="For a DIR: where its checkpoint lies now.")
@click.option("--triton", "triton_url", metavar="URL", help="For a gateway: the Triton behind it, for its statistics.")
@click.option("--metrics", "metrics_url", metavar="URL", help="For a URL: Triton's metrics page.")
@click.option(
    "--deployment", "folder", type=_FILE, help="For a URL: the deployment's folder, to say what was measured."
)
@click.option("-o", "out", type=_FILE, metavar="FILE.json", help="Write the result there, and all requests beside it.")
@output_options
def run(
    target_name: str,
    clients: tuple[int, ...],
    rates: tuple[float, ...],
    arrivals: str,
    trace_file: Path | None,
    speeds: tuple[float, ...],
    mix_file: Path | None,
    requests: int,
    repetitions: int,
    warm_up: int,
    seed: int,
    limits: str,
    check: bool,
    timeout_s: float,
    door: str | None,
    checkpoint: Path | None,
    triton_url: str | None,
    metrics_url: str | None,
    folder: Path | None,
    out: Path | None,
    output: Output,
) -> None:
    """Put load on a server and measure how quickly it answers.

    A URL is grpc://HOST:PORT or http://HOST:PORT of a Triton, or http://HOST:PORT/v1 of a gateway; its API key is taken
    from NVLM_TRT_API_KEY. With a DIR a server is started for the measurement. Several --clients, --rate or --speed are
    a sweep. Ctrl-C ends the measurement and keeps what was measured.
    """
    objective = read_objective(limits)
    mix = None if trace_file else read_mix(mix_file or _MIX)
    loads = _loads(mix, mix_file, trace_file, clients, rates, arrivals, speeds, seed)
    here = "://" not in target_name
    if (door or checkpoint) if not here else (triton_url or metrics_url or folder):
        wrong = "--door and --checkpoint are for a DIR" if not here else "--triton, --metrics, --deployment for a URL"
        raise click.UsageError(f"{wrong}.")
    described = Path(target_name) if here else folder
    deployment = deployed(described, checkpoint) if described else None
    with (
        started_target(Path(target_name), checkpoint, door or "grpc", timeout_s)
        if here
        else contextlib.nullcontext(target_at(target_name, triton_url, metrics_url, timeout_s))
    ) as target:
        experiment = Experiment(
            door=door_of(target.url).name,
            mix_name=mix.name if mix else trace_file.stem if trace_file else "",
            mix=mix.to_json() if mix else None,
            seed=seed,
            warm_up=warm_up,
            repetitions=repetitions,
            timeout_s=timeout_s,
            objective=objective,
        )
        requests_file = out.with_suffix(".requests.jsonl") if out else None
        head = Measurement(
            circumstances=circumstances(server_name(target.triton_url) if target.triton_url else None),
            deployment=deployment,
            experiment=experiment,
            requests_file=requests_file.name if requests_file else None,
            points=(),
        )
        with Journal(head, requests_file) as journal:
            options = MeasureOptions(requests, repetitions, warm_up, seed, check)
            stopped = asyncio.run(_until_stopped(target, loads, options, journal, output))
            measurement = journal.measurement()
    _tell(measurement, out, output, stopped)


@main.command()
@click.argument("requests_file", metavar="FILE.requests.jsonl", type=_FILE)
@click.option("-o", "out", type=_FILE, metavar="FILE.json", help="Write the result there.")
@output_options
def recover(requests_file: Path, out: Path | None, output: Output) -> None:
    """Make a result of the requests file that a killed measurement left."""
    _tell(read_journal(requests_file), out, output)


async def _until_stopped(
    target: Target, loads: list[Load], options: MeasureOptions, journal: Journal, output: Output
) -> bool:
    """Whether it was stopped."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with _preferred():
        await measure(target, loads, options, journal, stop, output.note)
    return stop.is_set()


def _loads(
    mix: Mix | None,
    mix_file: Path | None,
    trace_file: Path | None,
    clients: tuple[int, ...],
    rates: tuple[float, ...],
    arrivals: str,
    speeds: tuple[float, ...],
    seed: int,
) -> list[Load]:
    if trace_file is not None:
        if mix_file or clients or rates:
            raise click.UsageError("A trace says what is asked and when; leave out --mix, --clients and --rate.")
        trace = read_trace(trace_file, seed)
        return [TraceLoad(trace, trace_file.parent, speed) for speed in speeds or (1.0,)]
    if speeds:
        raise click.UsageError("--speed is of a --trace.")
    assert mix is not None
    closed = clients if clients or rates else (1,)
    open_loop = _ARRIVALS[arrivals]
    return [*(ClosedLoad(mix, count) for count in closed), *(open_loop(mix, rate) for rate in rates)]


def _tell(measurement: Measurement, out: Path | None, output: Output, stopped: bool = False) -> None:
    if out is not None:
        write_beside(out, measurement.dump().encode())
        publish([out])
    output.result(measurement.model_dump(mode="json"), measurement_text(measurement))
    if stopped:
        raise SystemExit(_INTERRUPTED)
    if not all(run.valid for point in measurement.points for run in point.runs):
        raise SystemExit(1)


@contextlib.contextmanager
def _preferred() -> Iterator[None]:
    """A server on the same cores must not keep the clock waiting. Only root may ask for that."""
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness + _NICER)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, niceness)


@contextlib.contextmanager
def _errors_shown() -> Iterator[None]:
    try:
        yield
    except NvlmError as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    with _errors_shown():
        main()
