"""The file that a measurement leaves, and the example of it that other tools are tested with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nvlm_trt.errors import UsageError
from nvlm_trt.load.result import Measurement, load_measurement

EXAMPLE = Path(__file__).parents[1] / "golden" / "latency-result.json"


def test_a_measurement_survives_its_file(tmp_path: Path) -> None:
    measurement = load_measurement(EXAMPLE)
    (tmp_path / "again.json").write_text(measurement.dump())
    assert load_measurement(tmp_path / "again.json") == measurement
    assert measurement.dump() == EXAMPLE.read_text()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 2}, "version"),
        ({"format": "another"}, "format"),
        ({"points": [{}]}, "points.0.load"),
        ({"extra": 1}, "extra"),
    ],
)
def test_another_form_is_refused_by_its_key(change, named: str, tmp_path: Path) -> None:
    data = json.loads(EXAMPLE.read_text()) | change
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=f"E-LOAD-RESULT: bad.json .*{named}"):
        load_measurement(file)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"points": NaN}'])
def test_what_is_no_measurement_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "bad.json").write_text(content)
    with pytest.raises(UsageError, match="E-LOAD-RESULT"):
        load_measurement(tmp_path / "bad.json")


def test_numbers_that_json_has_not_are_not_written() -> None:
    measurement = load_measurement(EXAMPLE)
    endless = measurement.experiment.model_copy(update={"timeout_s": float("inf")})
    with pytest.raises(ValueError, match="JSON"):
        Measurement.dump(measurement.model_copy(update={"experiment": endless}))
