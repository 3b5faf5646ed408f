from __future__ import annotations

import json
import re

from nvlm_trt.supervise.events import EventLog


def told(**options: bool) -> list[str]:
    lines: list[str] = []
    log = EventLog(lines.append, **options)
    log("triton", "ready", "ready after 1.3 s", seconds=1.3)
    log("triton", "failed", "E-SERVER-ENDED: it\nended", code="E-SERVER-ENDED")
    return lines


def test_a_line_for_people_says_when_who_and_what():
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z triton: ready after 1.3 s", told()[0])


def test_a_line_for_machines_is_one_object():
    ready, failed = told(as_json=True)
    assert {"part": "triton", "event": "ready", "seconds": 1.3}.items() <= json.loads(ready).items()
    assert json.loads(failed)["code"] == "E-SERVER-ENDED"
    assert "\n" not in failed


def test_the_quiet_are_told_of_failures_alone():
    assert [json.loads(line)["event"] for line in told(as_json=True, quiet=True)] == ["failed"]
