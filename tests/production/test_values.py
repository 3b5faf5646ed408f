"""Values: each is described, used and checked; a wrong one is refused in words that name it."""

from __future__ import annotations

import functools
import json
import operator
import re
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import yaml

from nvlm_trt import __version__
from nvlm_trt.gateway.settings import Limits
from tests.production.helm import CHART, EXAMPLES, LEAST, PRODUCTION, TOOLS, Refused, defaults, render

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def keys(values: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield above + name
        if isinstance(value, dict):
            yield from keys(value, f"{above}{name}.")


def described(properties: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in properties.items():
        inner = SCHEMA["definitions"][value["$ref"].rpartition("/")[2]] if "$ref" in value else value
        yield above + name
        yield from described(inner.get("properties", {}), f"{above}{name}.")


def test_every_value_is_in_the_schema_and_the_schema_has_no_other():
    optional = re.compile(r"serve\.limits\.|global$|probes\.\w+\.(initialDelay|success)")
    told = {one for one in described(SCHEMA["properties"]) if not optional.match(one)}
    free = re.compile(r"(\w+\.)*(requests|limits|podSecurityContext|securityContext)\.")
    assert {one for one in keys(defaults()) if not free.match(one)} == told


def test_every_object_of_the_schema_is_closed():
    def closed(schema: Any) -> bool:
        if not isinstance(schema, dict):
            return True
        open_one = "properties" in schema and "type" in schema and schema.get("additionalProperties") is not False
        return not open_one and all(map(closed, schema.values()))

    assert closed(SCHEMA)


SITUATIONS: list[dict[str, Any]] = [
    {
        "autoscaling.enabled": False, "storage.deployment.existingClaim": "", "storage.checkpoint.hostPath": "",
        "image.digest": "", "fullnameOverride": "", "serviceAccount.name": "", "recipeToml": "",
    },
    {
        "nodes": 2, "recipeToml": "nodes = 2", "autoscaling.engine": "keda", "nameOverride": "",
        "storage.checkpoint.existingClaim": "",
    },
    {"autoscaling.engine": "hpa", "storage.checkpoint.existingClaim": ""},
    {"build.enabled": True, "storage.checkpoint.existingClaim": "", "recipeToml": ""},
    {"build.enabled": True, "storage.checkpoint.existingClaim": ""},
]  # fmt: skip
"""What must be so for every value to have an effect in one of them."""

COUNTED = {
    # These are reckoned with, or decide; each has a test of its own.
    "gpus", "nodes", "autoscaling.engine", "serve.stopSeconds", "storage.deployment.accessModes",
}  # fmt: skip


def marked(value: Any, path: str, marks: dict[str, str]) -> Any:
    """The same with a mark of its own for each text and number, with which it can be found in what is rendered."""
    if isinstance(value, dict) and value:
        return {name: marked(one, f"{path}.{name}".lstrip("."), marks) for name, one in value.items()}
    if isinstance(value, list) and value:
        return [marked(one, path, marks) for one in value]
    if isinstance(value, bool):
        return path != "build.enabled"
    marks[path] = f"{70_000 + len(marks)}"
    if isinstance(value, int):
        return int(marks[path])
    if isinstance(value, list):
        return [{"name": marks[path]}] if path in LISTS_OF_OBJECTS else [marks[path]]
    return {marks[path]: "x"} if isinstance(value, dict) else f"m{marks[path]}"


LISTS_OF_OBJECTS = {"image.pullSecrets", "serve.env", "networkPolicy.from", "networkPolicy.metricsFrom"}


def test_every_value_has_an_effect(tmp_path):
    """One that no template reads leaves no trace of its mark in any situation."""
    marks: dict[str, str] = {}
    values = marked(defaults(), "", marks)
    values["storage"]["deployment"]["accessModes"] = ["ReadWriteMany"]
    told = ""
    for situation in SITUATIONS:
        changed = json.loads(json.dumps(values))
        for path, value in {"gpus": 8, "nodes": 1, **situation}.items():
            *above, last = path.split(".")
            functools.reduce(operator.getitem, above, changed)[last] = value
        told += json.dumps(render(changed, tmp_path, unchecked=True).objects)
    unused = {path for path, mark in marks.items() if mark not in told}
    assert unused == COUNTED


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"gpu": 1}, "additional properties 'gpu' not allowed"),
        ({"serve": {"limits": {"answer": 1}}}, "additional properties 'answer' not allowed"),
        ({"serve": {"limits": {"answers": 0}}}, "/serve/limits/answers"),
        ({"serve": {"drainSeconds": "60s"}}, "/serve/drainSeconds"),
        ({"serve": {"stopSeconds": 5}}, "/serve/stopSeconds"),
        ({"serve": {"allowImageHosts": ["https://a.example"]}}, "/serve/allowImageHosts/0"),
        ({"recipe": "h100x3-fp8"}, "/recipe"),
        ({"recipe": "embedded"}, "/recipe"),
        ({"recipe": "h100x2-fp8"}, "'/gpus': value must be 2"),
        (
            {"recipeToml": "x", "gpus": 3, "nodes": 2, "build": {"enabled": True}},
            "gpus (3) must be divided evenly by nodes (2)",
        ),
        ({"nodes": 2, "recipe": "h100x2-fp8", "gpus": 2}, "multiNode.sshSecret"),
        ({"nodes": 2, "recipe": "h100x2-fp8", "gpus": 2, "multiNode": {"sshSecret": "s"}}, "ReadWriteMany"),
        (
            {"nodes": 2, "recipe": "h100x2-fp8", "gpus": 2, "build": {"enabled": True}},
            "recipeToml must say nodes = 2 under [gpu]",
        ),
        (
            {"nodes": 2, "recipeToml": "[gpu]\nnodes = 4", "gpus": 4, "build": {"enabled": True}},
            "recipeToml must say nodes = 2 under [gpu]",
        ),
        ({"multiNode": {"sshPort": 22}}, "/multiNode/sshPort"),
        ({"storage": {"checkpoint": {"existingClaim": ""}}}, "give one of storage.checkpoint.existingClaim"),
        ({"storage": {"checkpoint": {"existingClaim": "a", "hostPath": "/a"}}}, "give one of"),
        (
            {"storage": {"deployment": {"size": "200 GB"}, "checkpoint": {"existingClaim": "a"}}},
            "/storage/deployment/size",
        ),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"probes": {"readiness": {"timeoutSeconds": 1}}}, "/probes/readiness/timeoutSeconds"),
        ({"ingress": {"enabled": True}}, "/ingress/host"),
        ({"autoscaling": {"enabled": True, "minReplicas": 5}}, "autoscaling.minReplicas must not be above"),
        ({"autoscaling": {"engine": "cpu"}}, "/autoscaling/engine"),
        ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "/podDisruptionBudget/maxUnavailable"),
        ({"resources": {"limits": {"memory": "lots"}}}, "/resources/limits/memory"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_by_name(tmp_path, values, says):
    with pytest.raises(Refused) as refused:
        render({**LEAST, **values}, tmp_path)
    assert says in str(refused.value)


def test_the_schema_knows_the_recipes_and_the_limits_of_this_package():
    (known,) = (
        rule["then"]["properties"]["recipe"]["enum"]
        for rule in SCHEMA["allOf"]
        if "recipe" in rule["then"]["properties"]
    )
    assert known == PRODUCTION
    limits = SCHEMA["properties"]["serve"]["properties"]["limits"]["properties"]
    assert set(limits) == {limit.name for limit in fields(Limits)}


def test_versions_are_the_packages(tmp_path):
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == __version__
    assert render(LEAST, tmp_path).templates["server"]["spec"]["containers"][0]["image"] == f"nvlm-trt:{__version__}"


def test_helm_finds_nothing_to_complain_of(tmp_path):
    done = subprocess.run(
        [TOOLS / "helm", "lint", "--strict", CHART, "--values", EXAMPLES[0]],
        capture_output=True, text=True, env={"HOME": str(tmp_path)}, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout
