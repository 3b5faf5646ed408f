"""The compose file, read by an implementation of the Compose specification."""

from __future__ import annotations

import json
import re
from typing import Any

import compose_spec
import pytest
import yaml

from nvlm_trt import __version__
from tests.production.command_line import accepted, option
from tests.production.helm import BUILD

FILE = BUILD / "compose.yaml"
NEEDED = {"CHECKPOINT": "/data/model", "DEPLOYMENT": "/data/deployment", "NVLM_TRT_API_KEYS": "0123456789abcdef"}


def interpolated(variables: dict[str, str]) -> str:
    """As Compose does it with ${NAME:-default} and ${NAME:?what to do}; raises ``KeyError`` with the latter's words."""

    def value(found: re.Match[str]) -> str:
        name, default = found["name"], found["default"]
        if name in variables:
            return variables[name]
        if default is None:
            raise KeyError(found["why"])
        return str(default)

    return re.sub(
        r"\$\{(?P<name>\w+):(-(?P<default>[^}]*)|\?(?P<why>[^}]*))\}", value, FILE.read_text(encoding="utf-8")
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    project = compose_spec.PyCompose.from_json(json.dumps(yaml.safe_load(interpolated(NEEDED))))
    project.validate()
    found: dict[str, Any] = yaml.safe_load(interpolated(NEEDED))["services"]
    assert set(project.service_names()) == set(found) == {"build", "serve"}
    return found


@pytest.mark.parametrize("left_out", NEEDED)
def test_what_cannot_be_guessed_is_asked_for(left_out):
    with pytest.raises(KeyError, match=r"the folder|a key"):
        interpolated({name: value for name, value in NEEDED.items() if name != left_out})


@pytest.mark.parametrize("name", ["build", "serve"])
def test_a_service_may_no_more_than_it_must(services, name):
    service = services[name]
    assert accepted(service["command"]) == name
    assert service["image"] == f"nvlm-trt:{__version__}"
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert service["user"] == "10001:10001"
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "network_mode", "pid", "ipc"} & set(service)
    mounts = {mount["target"]: mount.get("read_only", False) for mount in service["volumes"]}
    assert mounts == {"/checkpoint": True, "/deployment": name == "serve"}
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert service["ulimits"]["memlock"] == -1
    # As much as the chart gives.
    assert service["shm_size"] == "8gb"
    assert (FILE.parent / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_health_is_the_true_readiness(services):
    health = services["serve"]["healthcheck"]
    assert f"http://127.0.0.1:{option('serve', 'health_port')}/health" in health["test"][-1]
    compile(health["test"][-1], "health", "exec")
    assert int(health["timeout"].rstrip("s")) > option("serve", "ask_timeout_s")
    assert services["build"]["healthcheck"] == {"disable": True}


def test_strangers_reach_the_gateway_alone_and_only_when_they_are_let(services):
    assert services["serve"]["ports"] == [f"127.0.0.1:9000:{option('serve', 'gateway_port')}"]
    assert "ports" not in services["build"]


def test_it_may_drain_before_it_is_killed(services):
    command = services["serve"]["command"]
    drain_s = float(command[command.index("--drain-s") + 1])
    assert int(services["serve"]["stop_grace_period"].rstrip("s")) > drain_s + 10
