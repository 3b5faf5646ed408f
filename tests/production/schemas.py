"""What the API server would accept: Kubernetes's own schemas, and those of the custom resources the chart uses.

The latter are written from the types of LeaderWorkerSet 0.7 (leaderworkerset.x-k8s.io/v1), KEDA 2.18 (keda.sh/v1alpha1)
and the Prometheus operator 0.86 (monitoring.coreos.com/v1), as far as the chart uses them: a field that is not here
fails, and must be looked up before it is added.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.production.helm import TOOLS

__all__ = ["RELEASES", "mistakes"]

RELEASES = [file.stem.partition("-")[2] for file in sorted(TOOLS.glob("kubernetes-*.json"))]


def mistakes(found: dict[str, Any], release: str) -> list[str]:
    """Where and why a Kubernetes of this release would refuse the object."""
    validator = _validator(release, found["apiVersion"], found["kind"])
    return [f"{found['kind']}{error.json_path[1:]}: {error.message[:200]}" for error in validator.iter_errors(found)]


@functools.cache
def _registry(release: str) -> tuple[Registry[Any], frozenset[str]]:
    """Read once for all kinds: looking for references in so large a schema takes long."""
    schema = json.loads((TOOLS / f"kubernetes-{release}.json").read_text(encoding="utf-8"))
    return Registry().with_resource("kubernetes", Resource.from_contents(schema)).crawl(), frozenset(schema["$defs"])


@functools.cache
def _validator(release: str, version: str, kind: str) -> Any:
    registry, known = _registry(release)
    if (version, kind) in _CUSTOM:
        schema = _CUSTOM[version, kind]
    else:
        group, _, number = version.rpartition("/")
        short = group.removesuffix(".k8s.io").split(".")[0] or "core"
        schema = _core(f"api.{short}.{number}.{kind}")
        assert f"io.k8s.api.{short}.{number}.{kind}" in known, f"{version} has no {kind}"
    return Draft202012Validator(schema, registry=registry)


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": list(required)}


def _core(name: str) -> dict[str, Any]:
    return {"$ref": f"kubernetes#/$defs/io.k8s.{name}"}


def _resource(spec: dict[str, Any]) -> dict[str, Any]:
    metadata = _core("apimachinery.pkg.apis.meta.v1.ObjectMeta")
    return _object(("metadata", "spec"), apiVersion=_TEXT, kind=_TEXT, metadata=metadata, spec=spec)


_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 0}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_SHARE = _core("apimachinery.pkg.util.intstr.IntOrString")
_POD = _core("api.core.v1.PodTemplateSpec")

_CUSTOM: dict[tuple[str, str], dict[str, Any]] = {
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"): _resource(
        _object(
            ("leaderWorkerTemplate",),
            replicas=_COUNT,
            startupPolicy={"enum": ["LeaderCreated", "LeaderReady"]},
            rolloutStrategy=_object(
                ("type",),
                type={"const": "RollingUpdate"},
                rollingUpdateConfiguration=_object(maxUnavailable=_SHARE, maxSurge=_SHARE),
            ),
            leaderWorkerTemplate=_object(
                ("workerTemplate",),
                size={"type": "integer", "minimum": 1},
                restartPolicy={"enum": ["RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"]},
                leaderTemplate=_POD,
                workerTemplate=_POD,
            ),
        )
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): _resource(
        _object(
            ("scaleTargetRef", "triggers"),
            scaleTargetRef=_object(("name",), apiVersion=_TEXT, kind=_TEXT, name=_TEXT),
            minReplicaCount=_COUNT,
            maxReplicaCount=_COUNT,
            pollingInterval=_COUNT,
            advanced=_object(
                horizontalPodAutoscalerConfig=_object(
                    behavior=_core("api.autoscaling.v2.HorizontalPodAutoscalerBehavior")
                )
            ),
            triggers={
                "type": "array",
                "minItems": 1,
                "items": _object(
                    ("type", "metadata"),
                    type={"const": "prometheus"},
                    metricType={"enum": ["AverageValue", "Value"]},
                    metadata={**_TEXTS, "required": ["serverAddress", "query", "threshold"]},
                ),
            },
        )
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _resource(
        _object(
            ("selector", "endpoints"),
            selector=_core("apimachinery.pkg.apis.meta.v1.LabelSelector"),
            endpoints={
                "type": "array",
                "minItems": 1,
                "items": _object(
                    ("port",),
                    port=_TEXT,
                    path={"type": "string", "pattern": "^/"},
                    interval={"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
                    scheme={"enum": ["http", "https"]},
                    tlsConfig=_object(insecureSkipVerify={"type": "boolean"}),
                ),
            },
        )
    ),
}
