"""Every variant of the chart, rendered by Helm: valid for Kubernetes, whole in itself, and right for this package."""

from __future__ import annotations

import re
from typing import Any

import promql_parser
import pytest

from nvlm_trt.deploy.memory import shared_memory_bytes
from nvlm_trt.gateway.admission import Admission
from nvlm_trt.gateway.metrics import Metrics
from nvlm_trt.pipeline.recipe_file import read_draft, recipe_names
from nvlm_trt.plan.calibration_size import calibration_size
from nvlm_trt.plan.planner import make_plan
from nvlm_trt.plan.resolve import resolve
from nvlm_trt.supervise.readiness import ReadinessServer
from tests.gateway.raw import send
from tests.production.command_line import accepted, option
from tests.production.conftest import VARIANTS
from tests.production.helm import LEAST, Refused, Rendered, defaults, notes, render
from tests.production.schemas import RELEASES, mistakes

GPU = "nvidia.com/gpu"
KINDS = {"Deployment", "LeaderWorkerSet", "Job"}
PRODUCTION = [name for name in recipe_names() if read_draft(name).gpu is not None]


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


def bytes_of(quantity: str) -> int:
    parts = re.fullmatch(r"(\d+)([KMGT]?i?)", quantity)
    assert parts, quantity
    number, unit = parts.groups()
    return int(number) * {"": 1, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]


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


@pytest.mark.parametrize("name", PRODUCTION)
def test_a_shipped_recipe_gets_its_gpus_its_disk_and_its_memory(name, tmp_path, full_config):
    plan = make_plan(full_config, read_draft(name), samples=calibration_size(full_config, None))
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
    wanted = shared_memory_bytes(full_config, plan.recipe.prompt.max_images)
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


def test_the_example_of_several_nodes_is_a_recipe_for_its_gpus(tmp_path, full_config):
    values = VARIANTS["several-nodes"]
    (tmp_path / "own.toml").write_text(values["recipeToml"], encoding="utf-8")
    recipe = resolve(read_draft(str(tmp_path / "own.toml")), full_config)
    assert (recipe.name, recipe.decoder.world_size) == (values["recipe"], values["gpus"])


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
