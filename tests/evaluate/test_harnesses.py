"""The recipes for other harnesses: the gateway answers bodies of the form each of them sends."""

from __future__ import annotations

import base64
import json
import urllib.request
from typing import Any

import pytest

from nvlm_trt.gateway.server import GatewayServer
from nvlm_trt.gateway.settings import GatewaySettings
from nvlm_trt.resources import resource_folder

HARNESSES = resource_folder("calibration") / "harnesses"


def lmms_eval(picture: str) -> dict[str, Any]:
    """Its "openai" backend: the picture first, no "n"."""
    lines = (HARNESSES / "lmms-eval.yaml").read_text(encoding="utf-8").splitlines()
    arguments = next(line for line in lines if line.startswith("model_args:")).removeprefix("model_args: ")
    options = dict(argument.split("=", 1) for argument in arguments.split(","))
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": "What is written?"},
    ]
    return {
        "messages": [{"role": "user", "content": content}],
        "model": options["model_version"],
        "max_tokens": 8,
        "temperature": 0,
    }


def vlmevalkit(picture: str) -> dict[str, Any]:
    """Its "GPT4V" class: "n" and the picture's detail are said."""
    (options,) = json.loads((HARNESSES / "vlmevalkit.json").read_text(encoding="utf-8"))["model"].values()
    content = [
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/jpeg;base64,{picture}", "detail": options["img_detail"]},
        },
        {"type": "text", "text": "What is written?"},
    ]
    return {
        "model": options["model"],
        "messages": [{"role": "user", "content": content}],
        "n": 1,
        "temperature": options["temperature"],
        "max_tokens": 8,
    }


@pytest.mark.parametrize("body", [lmms_eval, vlmevalkit])
def test_the_gateway_answers_what_a_harness_sends(gateway: GatewayServer, photos: list[bytes], body):
    content = json.dumps(body(base64.b64encode(photos[0]).decode())).encode()
    request = urllib.request.Request(
        f"{gateway.url}/v1/chat/completions",
        content,
        {"Content-Type": "application/json", "Authorization": "Bearer sk-none"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        answer = json.load(reply)
    assert answer["choices"][0]["message"]["content"]
    assert 1 <= answer["usage"]["completion_tokens"] <= 8


def test_the_recipes_name_the_gateways_model():
    assert lmms_eval("")["model"] == vlmevalkit("")["model"] == GatewaySettings().model_name
