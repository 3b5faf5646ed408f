from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.production.helm import EXAMPLES, LEAST, Rendered, render

_MINE = 'name = "mine"\n[gpu]\nname = "H100-80GB"\ncount = {gpus}\nnodes = {nodes}\n'
_NETWORK = {"sshSecret": "keys", "networkResources": {"rdma/hca": 1}}
_SHARED = {**LEAST["storage"], "deployment": {"accessModes": ["ReadWriteMany"]}}

VARIANTS: dict[str, dict[str, Any]] = {
    **{file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in EXAMPLES},
    "least": LEAST,
    "hpa": {**LEAST, "autoscaling": {"enabled": True, "engine": "hpa", "queueSeconds": 0.5}},
    "hpa of groups": {
        "recipe": "mine", "recipeToml": _MINE.format(gpus=8, nodes=4), "gpus": 8, "nodes": 4,
        "storage": _SHARED, "multiNode": _NETWORK,
        "autoscaling": {"enabled": True, "engine": "hpa"},
    },
    "keda of groups": {
        "recipe": "mine", "recipeToml": _MINE.format(gpus=2, nodes=2), "gpus": 2, "nodes": 2,
        "storage": _SHARED, "multiNode": _NETWORK,
        "autoscaling": {"enabled": True}, "serve": {"allowImageHosts": ["pictures.example.org"]},
    },
    "nothing optional": {
        **LEAST, "networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False},
        "serviceAccount": {"create": False}, "replicas": 3,
    },
    "everything named": {
        "storage": {"deployment": {"existingClaim": "built"}, "checkpoint": {"hostPath": "/data"}},
        "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": [{"name": "pull"}]},
        "service": {"type": "LoadBalancer", "annotations": {"a.b/c": "d"}}, "fullnameOverride": "vision",
        "podAnnotations": {"a/b": "c"}, "podLabels": {"team": "vision"}, "priorityClassName": "high",
        "runtimeClassName": "nvidia", "nodeSelector": {"zone": "a"}, "serve": {"extraArgs": ["--quiet"],
        "env": [{"name": "NCCL_DEBUG", "value": "INFO"}]}, "serviceAccount": {"annotations": {"a/b": "c"}},
        "affinity": {"nodeAffinity": {}}, "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
    },
    "a recipe of one's own, built": {
        **LEAST, "recipe": "mine", "recipeToml": _MINE.format(gpus=16, nodes=2), "gpus": 16, "nodes": 2,
        "build": {"enabled": True, "gpus": 8},
    },
}  # fmt: skip
"""Values by what they are for: every example of ``build/helm/examples``, and each optional part on and off."""


@pytest.fixture(scope="session")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Rendered]:
    """The objects of a variant, rendered once."""
    made: dict[str, Rendered] = {}

    def rendered(name: str) -> Rendered:
        if name not in made:
            made[name] = render(VARIANTS[name], tmp_path_factory.mktemp("helm"))
        return made[name]

    return rendered
