from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from nvlm_trt.gateway.settings import GatewaySettings


@pytest.fixture(scope="session")
def chat(gateway) -> Iterator[openai.OpenAI]:
    """OpenAI's own client, unmodified."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none needed", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
def settings() -> GatewaySettings:
    return GatewaySettings()


def picture_part(data: bytes, detail: str | None = None) -> Any:
    url = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": url} | ({"detail": detail} if detail else {})}


def text_part(text: str) -> Any:
    return {"type": "text", "text": text}


def user(*content: Any) -> Any:
    return {"role": "user", "content": content[0] if len(content) == 1 and isinstance(content[0], str) else [*content]}
