"""Which addresses a picture may be fetched from: public ones, and nothing that stands for another address.

The blocks are listed from IANA's registries of special-purpose addresses (RFC 6890 and what was added since). Python's
``is_global`` depends on the patch release in use: 3.11.7 calls 192.0.0.8 and 3fff::/20 global.
"""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address

__all__ = ["is_public"]

_SPECIAL_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",
            "100.64.0.0/10",  # carriers' own
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local, cloud metadata
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocols' own
            "192.0.2.0/24",
            "192.88.99.0/24",  # relays to 6to4
            "192.168.0.0/16",
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
# Outside of it are loopback, link-local, unique local, multicast, and addresses that carry one of IPv4.
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocols' own; among them Teredo, which carries an address of IPv4
            "2001:db8::/32",
            "2002::/16",  # 6to4, which carries one too
            "3fff::/20",
        ),
    )
)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether ``address`` is on the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _SPECIAL_V4)
    return address in _GLOBAL_V6 and address.scope_id is None and not any(address in block for block in _SPECIAL_V6)
