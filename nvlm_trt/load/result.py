"""What a latency measurement leaves: one JSON file, of this form.

    Measurement            circumstances, deployment, what was asked for
    └── points             one for each load of a sweep: 8 clients, 4 requests a second, ...
        ├── runs           one for each repetition: counts, percentiles, the server's own times, what was wrong with it
        └── summary        each figure's median, least and most over the valid runs

Times are milliseconds and begin when a request was *due*, not when it was sent: under open-loop load a server that
stalls makes everybody wait who would have come meanwhile. A run with ``problems`` is not valid and is not summarised;
its figures stay. ``docs/latency.md`` explains every key; a change of meaning gets another ``version``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pydantic

from nvlm_trt.load.failures import bad_result
from nvlm_trt.load.form import BadForm, Form, read_form
from nvlm_trt.load.provenance import Circumstances, Deployed

__all__ = [
    "Check",
    "DecoderWork",
    "Distribution",
    "Experiment",
    "Generator",
    "LoadKind",
    "Measurement",
    "ModelTimes",
    "Point",
    "PointLoad",
    "Run",
    "ServerSide",
    "Spread",
    "TilesEncoded",
    "load_measurement",
]

LoadKind = Literal["closed", "poisson", "uniform", "trace"]


class Distribution(Form):
    """Of ``n`` samples. Percentiles interpolate linearly, as numpy's do by default."""

    n: int = pydantic.Field(ge=1)
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


class Spread(Form):
    """Of a figure over ``runs`` repetitions."""

    runs: int = pydantic.Field(ge=1)
    median: float
    least: float
    most: float


class PointLoad(Form):
    """``clients`` for a closed loop, ``rate_per_s`` for open-loop arrivals; a trace's rate is its mean."""

    kind: LoadKind
    clients: int | None = None
    rate_per_s: float | None = None

    @property
    def shown(self) -> str:
        if self.clients is not None:
            return f"{self.clients} client{'s' if self.clients != 1 else ''}"
        return f"{self.kind} {self.rate_per_s:g}/s" if self.rate_per_s else self.kind


class Generator(Form):
    """How well the load was made. ``send_lag_ms`` is from due to sent, ``loop_lag_ms`` how late a timer of the event
    loop fired; ``cpu_share`` is processor time over wall time, 1 is one core."""

    send_lag_ms: Distribution | None
    loop_lag_ms: Distribution | None
    cpu_share: float


class ModelTimes(Form):
    """Triton's own statistics of one model during the run; times are means of a request."""

    requests: int
    failures: int
    executions: int
    queue_ms: float
    input_ms: float
    compute_ms: float
    output_ms: float


class TilesEncoded(Form):
    """Tiles of all requests: ``computed`` by the vision engine in ``calls``, or ``cached`` from before."""

    computed: int
    cached: int
    calls: int


class DecoderWork(Form):
    """What the embedded decoder did during the run. Of ``step_s`` ``model_s`` was spent in the model.

    ``queue_ms`` is a request's mean wait for its first step, ``total_ms`` its mean time in the decoder.
    """

    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    preemptions: int
    step_s: float
    model_s: float
    queue_ms: float | None = None
    total_ms: float | None = None


class ServerSide(Form):
    """None where the server does not tell: models' times need Triton's address, the rest its metrics page's."""

    models: dict[str, ModelTimes] | None = None
    tiles: TilesEncoded | None = None
    decoder: DecoderWork | None = None


class Check(Form):
    """Answers under load against the same requests alone, one after another; ``unanswered`` alone."""

    asked_alone: int
    equal: int
    different: int
    unanswered: int
    examples: tuple[str, ...] = ()


class Run(Form):
    """One repetition. ``planned`` = ``completed`` + ``unsent`` + the sum of ``errors``, by code.

    ``seconds`` is from the first request's due time to the last one's end. ``tbt_ms`` is a request's mean time between
    tokens, (last - first) / (tokens - 1); ``gap_ms`` the time between two deliveries, which may carry several tokens.
    ``good`` are completed requests within the objective, ``short`` those that ended before their length. Runs of one
    ``schedule_sha256`` were asked the same.
    """

    repetition: int
    valid: bool
    interrupted: bool
    problems: tuple[str, ...]
    seconds: float
    schedule_sha256: str
    planned: int
    completed: int
    short: int
    unsent: int
    errors: dict[str, int]
    good: int | None
    completed_per_s: float
    output_tokens_per_s: float
    good_per_s: float | None
    in_flight_at_last_arrival: int | None
    ttft_ms: Distribution | None
    tbt_ms: Distribution | None
    gap_ms: Distribution | None
    e2e_ms: Distribution | None
    input_tokens: Distribution | None
    output_tokens: Distribution | None
    tiles: Distribution | None
    generator: Generator
    server: ServerSide
    check: Check | None = None


class Point(Form):
    """``summary`` has ``completed_per_s``, ``output_tokens_per_s``, ``good_per_s``, and for ``ttft``, ``tbt``, ``gap``
    and ``e2e`` the figures ``ttft_ms_p50``, ``ttft_ms_p90``, ``ttft_ms_p99``; those that some valid run has."""

    load: PointLoad
    runs: tuple[Run, ...]
    summary: dict[str, Spread]


class Experiment(Form):
    """``mix`` is the mix file's content, None with a trace. A good request keeps the ``objective``, milliseconds."""

    door: str
    mix_name: str
    mix: dict[str, pydantic.JsonValue] | None
    seed: int
    warm_up: int
    repetitions: int
    timeout_s: float
    objective: dict[Literal["ttft", "tbt", "e2e"], float]


class Measurement(Form):
    """``requests_file`` stands beside this one and has a line for each request."""

    format: Literal["nvlm-trt latency"] = "nvlm-trt latency"
    version: Literal[1] = 1
    circumstances: Circumstances
    deployment: Deployed | None
    experiment: Experiment
    requests_file: str | None
    points: tuple[Point, ...]


def load_measurement(file: Path) -> Measurement:
    """Raises ``UsageError`` E-LOAD-RESULT."""
    try:
        return read_form(Measurement, file)
    except BadForm as why:
        raise bad_result(file.name, str(why)) from None
