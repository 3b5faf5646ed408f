"""What is known of a run beside its requests: at its beginning, and at its end."""

from __future__ import annotations

from nvlm_trt.load.form import Form
from nvlm_trt.load.result import Distribution, PointLoad, ServerSide

__all__ = ["RunEnd", "RunStart"]


class RunStart(Form):
    """``point`` counts the loads of a sweep from 0, ``repetition`` the runs of one."""

    point: int
    repetition: int
    load: PointLoad
    planned: int
    schedule_sha256: str


class RunEnd(Form):
    """What a run has that was cut off is the default."""

    interrupted: bool = True
    loop_lag_ms: Distribution | None = None
    cpu_share: float = 0.0
    server: ServerSide = ServerSide()
