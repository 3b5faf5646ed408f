"""How pictures of strangers come in: data URIs, and addresses of hosts that were listed.

Checks are functions of values; only ``fetch`` touches the network. None decodes a pixel: that is preprocessing's work,
by its rule and within its bounds, whichever way a picture came.
"""

from __future__ import annotations

__all__: list[str] = []
