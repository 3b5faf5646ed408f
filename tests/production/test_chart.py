"""Every variant of the chart, rendered by Helm: valid for Kubernetes, whole in itself, and right for this package."""

from __future__ import annotations

from typing import Any

import pytest

from nvlm_trt.supervise.readiness import ReadinessServer
from tests.gateway.raw import send
from tests.production.command_line import accepted, option
from tests.production.conftest import VARIANTS
from tests.production.helm import KINDS, LEAST, Rendered, defaults, notes, render
from tests.production.schemas import RELEASES, mistakes


@pytest.fixture(params=VARIANTS)
def rendered(request, variant) -> Rendered:
    chart: Rendered = variant(request.param)
    return chart


@pytest.fixture(scope="module")
def answered() -> set[str]:
    """The paths of ``asked`` that a real supervisor's readiness answers."""
    asked = ("/health", "/live", "/ready", "/")
    with ReadinessServer("127.0.0.1", 0, lambda: None, dict) as readiness:
        host, port = readiness._server.server_address[:2]
        return {path for path in asked if send(f"http://{host!s}:{port}", path=path).status == 200}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", ()))


@pytest.mark.parametrize("release", RELEASES)
def test_kubernetes_would_accept_every_object(rendered, release):
    assert [mistake for one in rendered.objects for mistake in mistakes(one, release)] == []


def test_names_are_of_one_release_and_used_once(rendered):
    names = [(one["kind"], one["metadata"]["name"]) for one in rendered.objects]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)
    assert len([one for one in rendered.objects if one["kind"] in KINDS]) == 1


def test_every_selector_finds_its_pods_and_no_others(rendered):
    pods = {name: pod["metadata"]["labels"] for name, pod in rendered.templates.items()}

    def found(selector: dict[str, Any]) -> set[str]:
        return {name for name, labels in pods.items() if selects(selector, labels)}

    for service in rendered.all("Service"):
        assert found({"matchLabels": service["spec"]["selector"]}) == {"server"}
    for policy in rendered.all("NetworkPolicy"):
        assert found(policy["spec"]["podSelector"]) == set(pods)
    for budget in rendered.all("PodDisruptionBudget"):
        assert found(budget["spec"]["selector"]) == set(pods)
    for deployment in rendered.all("Deployment"):
        assert found(deployment["spec"]["selector"]) == {"server"}
    for monitor in rendered.all("ServiceMonitor"):
        (service,) = (
            one for one in rendered.all("Service") if selects(monitor["spec"]["selector"], one["metadata"]["labels"])
        )
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} == ports


def test_what_a_pod_names_is_there(rendered):
    made = {(one["kind"], one["metadata"]["name"]) for one in rendered.objects}
    mine = tuple(name for kind, name in made if kind in KINDS)
    for pod in rendered.templates.values():
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        mounted = {mount["name"] for one in containers(pod) for mount in one["volumeMounts"]}
        assert mounted == set(volumes)
        for one in containers(pod):
            paths = [mount["mountPath"] for mount in one["volumeMounts"]]
            assert len(paths) == len(set(paths))
        for volume in volumes.values():
            name = volume.get("configMap", {}).get("name")
            assert name is None or ("ConfigMap", name) in made
            claim = volume.get("persistentVolumeClaim", {}).get("claimName", "")
            assert not claim.startswith(mine) or ("PersistentVolumeClaim", claim) in made
        account = pod["spec"]["serviceAccountName"]
        assert account == "default" or ("ServiceAccount", account) in made


def test_ports_are_those_that_serve_listens_on(rendered):
    for pod in rendered.templates.values():
        for container in pod["spec"]["containers"]:
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
            if container["name"] == "server":
                names = {"api": "gateway_port", "health": "health_port", "metrics": "metrics_port"}
                assert ports == {name: option("serve", parameter) for name, parameter in names.items()}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                action = container.get(probe, {})
                assert action.get("httpGet", action.get("tcpSocket", {"port": None}))["port"] in {None, *ports}
    named = {port["targetPort"] for one in rendered.all("Service") for port in one["spec"]["ports"]}
    named |= {
        port["port"]
        for one in rendered.all("NetworkPolicy")
        for rule in one["spec"]["ingress"]
        for port in rule.get("ports", ())
    }
    assert named <= {"api", "metrics"}
    for ingress in rendered.all("Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                service = rendered.one("Service", backend["name"])
                assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


def test_probes_ask_the_readiness_that_is_true(rendered, answered):
    for pod in rendered.templates.values():
        for container in pod["spec"]["containers"]:
            asked = {
                name: container[f"{name}Probe"]
                for name in ("startup", "readiness", "liveness")
                if f"{name}Probe" in container
            }
            assert len(asked) == {"server": 3, "worker": 1, "build": 0}[container["name"]]
            if container["name"] == "server":
                paths = {name: probe["httpGet"]["path"] for name, probe in asked.items()}
                assert paths == {"startup": "/health", "readiness": "/health", "liveness": "/live"}
                assert set(paths.values()) <= answered
                assert {probe["httpGet"]["port"] for probe in asked.values()} == {"health"}
                assert {"name": "health", "containerPort": option("serve", "health_port")} in container["ports"]
                assert min(probe["timeoutSeconds"] for probe in asked.values()) > option("serve", "ask_timeout_s")
                startup, allowed = asked["startup"], option_of(container["args"], "--start-timeout-s")
                assert startup["periodSeconds"] * startup["failureThreshold"] > allowed


def option_of(arguments: list[str], name: str) -> float:
    return float(arguments[arguments.index(name) + 1])


def test_command_lines_are_accepted(rendered):
    for pod in rendered.templates.values():
        for container in containers(pod):
            if "command" in container:
                assert container["command"][0] == "bash"
            else:
                assert accepted(container["args"]) in ("serve", "build")


def test_a_pod_lives_until_it_has_drained(rendered):
    for name, pod in rendered.templates.items():
        if name == "build":
            continue
        (container,) = pod["spec"]["containers"]
        grace = pod["spec"]["terminationGracePeriodSeconds"]
        before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain = defaults()["serve"]["drainSeconds"]
        if name == "server":
            assert option_of(container["args"], "--drain-s") == drain
            # Ten seconds are what ending a server that does not want to takes.
            assert before + drain + 10 < grace
        else:
            server = rendered.templates["server"]["spec"]["containers"][0]
            assert server["lifecycle"]["preStop"]["sleep"]["seconds"] + drain <= before < grace


def test_no_pod_may_more_than_it_must(rendered):
    for pod in rendered.templates.values():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] >= 10000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
            assert mounts.get("/checkpoint", True) is True
            assert mounts.get("/deployment", True) is (container["name"] != "build")


def test_strangers_reach_the_gateway_alone(rendered):
    for policy in rendered.all("NetworkPolicy"):
        spec = policy["spec"]
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert isinstance(spec["egress"], list)
        for rule in spec["ingress"]:
            inside = selects({"matchLabels": rule["from"][0].get("podSelector", {}).get("matchLabels", {})}, {})
            assert {port["port"] for port in rule.get("ports", ())} <= {"api", "metrics"}
            assert "ports" in rule or not inside, "every port, and to everybody"


def test_notes_say_what_comes_next(tmp_path):
    serve = notes({**LEAST, "serve": {"apiKeys": {"existingSecret": "keys"}}}, tmp_path)
    assert "port-forward svc/web-nvlm-trt-api" in serve
    assert "WARNING" not in serve
    assert "no API keys" in notes(LEAST, tmp_path)
    assert "ReadWriteOnce" in notes({**LEAST, "replicas": 2}, tmp_path)
    assert "serviceMonitor" in notes({**LEAST, "autoscaling": {"enabled": True}}, tmp_path)
    assert "--set build.enabled=false" in notes({**LEAST, "build": {"enabled": True}}, tmp_path)


def test_another_build_is_another_job(tmp_path):
    def name(**more: Any) -> str:
        values = {**LEAST, "build": {"enabled": True}, **more}
        return str(render(values, tmp_path).one("Job")["metadata"]["name"])

    assert name() == name(replicas=7)
    assert len({name(), name(image={"tag": "next"}), name(recipe="h200x8-fp8", gpus=8)}) == 3
