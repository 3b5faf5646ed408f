"""Reads a page of a server straight, as the clients do, whatever proxy the environment names.

A proxy does not reach a server on this machine, and many environments name one without excepting the machine itself.
"""

from __future__ import annotations

import urllib.request

__all__ = ["read_page"]

_STRAIGHT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def read_page(url: str, timeout_s: float) -> bytes:
    """Raises ``OSError``, also for a status that is an error."""
    with _STRAIGHT.open(url, timeout=timeout_s) as response:
        data: bytes = response.read()
    return data
