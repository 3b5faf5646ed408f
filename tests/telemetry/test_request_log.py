"""Lines that several processes write, and that nobody can forge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nvlm_trt.errors import UsageError
from nvlm_trt.telemetry.request_log import RequestLog

WRITER = """
import sys
from pathlib import Path
from nvlm_trt.telemetry.request_log import RequestLog

log = RequestLog(Path(sys.argv[1]), sys.argv[2])
for number in range(300):
    log.write(f"request-{number}", {"filling": "x" * 200, "number": number})
"""


def entries(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]


def test_a_line_says_who_did_what_for_which_request(tmp_path: Path):
    log = RequestLog(tmp_path / "log", "vision_encoder")
    log.write("abc", {"seconds": 0.12345678, "tiles": 7, "error": None})
    log.close()
    (entry,) = entries(tmp_path / "log")
    assert entry.pop("time", "").endswith("Z")  # type: ignore[attr-defined]
    assert entry == {"part": "vision_encoder", "request": "abc", "seconds": 0.123457, "tiles": 7}


@pytest.mark.parametrize(
    "name", ['a"}\n{"part": "gateway", "request": "forged', "\r\n", "\x00\x1b[2J", "\u2028\u0085", "x" * 9999]
)
def test_an_id_stays_within_its_string(tmp_path: Path, name: str):
    log = RequestLog(tmp_path / "log", "preprocessing")
    log.write(name, {"error": name})
    log.close()
    data = (tmp_path / "log").read_bytes()
    assert data.count(b"\n") == len(data.splitlines()) == 1
    assert all(32 <= byte < 127 for byte in data[:-1])
    (entry,) = entries(tmp_path / "log")
    assert entry["request"] == entry["error"] == name[:256]


def test_lines_of_several_processes_do_not_mix(tmp_path: Path):
    file = tmp_path / "log"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, file, f"part-{number}"]) for number in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    for number in range(3):
        mine = [entry["number"] for entry in entries(file) if entry["part"] == f"part-{number}"]
        assert mine == [*range(300)]


def test_a_disk_that_is_full_loses_a_line_and_no_request():
    log = RequestLog(Path("/dev/full"), "gateway")
    log.write("abc", {})
    log.close()


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path):
    with pytest.raises(UsageError, match="E-USAGE-LOG"):
        RequestLog(tmp_path / "nowhere" / "log", "gateway")
