"""How strangers' pictures come in: as data URIs, or from hosts on an allow list.

Checks are functions of values; only ``fetch`` touches the network. None decodes a pixel: that is preprocessing's work,
by its rule and within its bounds, whichever way a picture came.
"""

from __future__ import annotations

__all__: list[str] = []
