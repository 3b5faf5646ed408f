"""The sizes of the chart: what a recipe is given, how nodes share it, and what is scaled by which figure."""

from __future__ import annotations

import re
from typing import Any

import promql_parser
import pytest

from nvlm_trt.deploy.memory import shared_memory_bytes
from nvlm_trt.gateway.admission import Admission
from nvlm_trt.gateway.metrics import Metrics
from nvlm_trt.pipeline.recipe_file import read_draft
from nvlm_trt.plan.calibration_size import calibration_size
from nvlm_trt.plan.planner import make_plan
from nvlm_trt.plan.resolve import resolve
from tests.production.conftest import VARIANTS
from tests.production.helm import KINDS, LEAST, PRODUCTION, Refused, Rendered, defaults, render
from tests.release import RELEASE

GPU = "nvidia.com/gpu"


def bytes_of(quantity: str) -> int:
    parts = re.fullmatch(r"(\d+)([KMGT]?i?)", quantity)
    assert parts, quantity
    number, unit = parts.groups()
    return int(number) * {"": 1, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]


@pytest.mark.parametrize("name", PRODUCTION)
def test_a_shipped_recipe_gets_its_gpus_its_disk_and_its_memory(name, tmp_path):
    plan = make_plan(RELEASE, read_draft(name), samples=calibration_size(RELEASE, None))
    world = plan.recipe.decoder.world_size
    values = {**LEAST, "recipe": name, "gpus": world}
    with pytest.raises(Refused, match=rf"'?/gpus'?: value must be {world}"):
        render({**values, "gpus": world + 1}, tmp_path)
    pod = render(values, tmp_path).templates["server"]["spec"]["containers"][0]
    assert pod["resources"]["limits"][GPU] == pod["resources"]["requests"][GPU] == world
    chart = render({**values, "build": {"enabled": True}}, tmp_path)
    job = chart.templates["build"]["spec"]["containers"][0]
    assert job["resources"]["limits"][GPU] == world
    assert bytes_of(job["resources"]["limits"]["memory"]) > plan.build_memory_bytes
    claim = chart.one("PersistentVolumeClaim")
    assert bytes_of(claim["spec"]["resources"]["requests"]["storage"]) > plan.disk_bytes
    wanted = shared_memory_bytes(RELEASE, plan.recipe.prompt.max_images)
    assert bytes_of(defaults()["sharedMemory"]) > 2 * wanted


@pytest.mark.parametrize("name", ["several-nodes", "hpa of groups", "keda of groups"])
def test_nodes_share_the_gpus_of_one_engine(variant, name):
    values = VARIANTS[name]
    chart = variant(name)
    group = chart.one("LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    each = [chart.templates[part]["spec"]["containers"][0] for part in ("server", "worker")]
    assert group["size"] == values["nodes"]
    assert {one["resources"]["limits"][GPU] * group["size"] for one in each} == {values["gpus"]}
    waits = chart.templates["server"]["spec"]["initContainers"][0]
    assert {one["name"]: one["value"] for one in waits["env"]}["GPUS"] == str(each[0]["resources"]["limits"][GPU])
    assert {one["image"] for one in [*each, waits]} == {"nvlm-trt:0.1.0-multi-node"}
    # All must see the repository that the leader stages, and the engines, where it does.
    for path in ("/run/nvlm-trt", "/deployment", "/checkpoint"):
        (volume,) = {m["name"] for one in each for m in one["volumeMounts"] if m["mountPath"] == path}
        assert volume in ("deployment", "checkpoint")
    assert {"name": "TMPDIR", "value": "/run/nvlm-trt"} in each[0]["env"]
    assert chart.one("PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_example_of_several_nodes_is_a_recipe_for_its_gpus(tmp_path):
    values = VARIANTS["several-nodes"]
    (tmp_path / "own.toml").write_text(values["recipeToml"], encoding="utf-8")
    recipe = resolve(read_draft(str(tmp_path / "own.toml")), RELEASE)
    assert (recipe.name, recipe.decoder.world_size) == (values["recipe"], values["gpus"])
    assert recipe.gpus_per_node * values["nodes"] == values["gpus"]


def scaled(chart: Rendered) -> dict[str, Any]:
    (scaler,) = chart.all("ScaledObject") + chart.all("HorizontalPodAutoscaler")
    return scaler


@pytest.mark.parametrize("name", ["several-gpus", "hpa", "hpa of groups", "keda of groups"])
def test_what_is_scaled_is_there_and_names_no_number_itself(variant, name):
    chart = variant(name)
    target = scaled(chart)["spec"]["scaleTargetRef"]
    (found,) = (one for one in chart.objects if one["kind"] in KINDS)
    assert target == {"apiVersion": found["apiVersion"], "kind": found["kind"], "name": found["metadata"]["name"]}
    assert "replicas" not in found["spec"]


@pytest.mark.parametrize("name", ["several-gpus", "keda of groups"])
def test_the_query_asks_figures_that_the_gateway_has(variant, name):
    chart = variant(name)
    query = scaled(chart)["spec"]["triggers"][0]["metadata"]["query"]
    promql_parser.parse(query)
    exposed = Metrics(Admission(1, 1, 1.0)).text().decode()
    names = set(re.findall(r"nvlm_gateway_\w+", query))
    assert names
    assert all(re.search(rf"^{one}\b", exposed, re.MULTILINE) for one in names)
    service = chart.one("Service", "-metrics")["metadata"]["name"]
    assert f'namespace="models",service="{service}"' in query
