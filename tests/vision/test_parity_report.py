from __future__ import annotations

import json
import math

from nvlm_trt.vision.parity_report import LinkReport, ParityReport, StageDifference


def stage(name: str, error: float) -> StageDifference:
    return StageDifference(name, "pictures", error, 1.0, 1e-3)


GOOD = LinkReport("graph", "torch", "Sums.", tuple(stage(f"layers.{index}", 1e-4) for index in range(9)))
BAD = LinkReport("engine", "torch", "Roundings.", (stage("layers.0", 1e-4), stage("layers.1", math.inf)))
ABSENT = LinkReport("other engine", "torch", "Roundings.", (), "This machine has no GPU.")


def test_a_report_passes_when_all_that_ran_did():
    assert ParityReport((GOOD, ABSENT)).passed
    assert not ParityReport((GOOD, BAD)).passed
    assert not ParityReport((ABSENT,)).passed
    assert GOOD.first_failure is None
    assert BAD.first_failure == BAD.stages[1]


def test_json_says_everything_and_is_json():
    text = ParityReport((GOOD, BAD, ABSENT), {"cores": 2}).to_json()
    data = json.loads(text, parse_constant=lambda name: math.nan / 0)
    assert (data["version"], data["passed"], data["circumstances"]) == (1, False, {"cores": 2})
    assert [link["passed"] for link in data["links"]] == [True, False, None]
    assert len(data["links"][0]["stages"]) == 9
    assert data["links"][1]["stages"][1]["relative_error"] is None
    assert data["links"][2]["not_run"] == "This machine has no GPU."


def test_the_table_shows_some_layers_and_every_failure():
    text = ParityReport((GOOD, BAD, ABSENT)).to_text(every=4)
    blocks = text.split("\n\n")
    assert blocks[0].startswith("graph against torch: holds\n  Sums.\n")
    assert [line.split()[0] for line in blocks[0].splitlines()[3:]] == ["layers.3", "layers.7"]
    assert blocks[1].startswith("engine against torch: FAILS\n")
    assert [line.split()[:3] for line in blocks[1].splitlines()[3:]] == [["layers.1", "1.00e-03", "inf!"]]
    assert blocks[2] == "other engine against torch: not run\n  This machine has no GPU.\n"
