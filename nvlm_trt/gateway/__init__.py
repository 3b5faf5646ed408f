"""OpenAI's HTTP API in front of a server's ensemble. See docs/gateway.md."""

from __future__ import annotations

__all__: list[str] = []
