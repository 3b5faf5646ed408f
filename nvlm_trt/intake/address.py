"""Which addresses a picture may be fetched from: public ones, and nothing that stands for another address."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address

__all__ = ["is_public"]

# Global unicast. Outside of it are loopback, link-local, unique local, IPv4-mapped and NAT64 addresses.
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
# Within it: 6to4 and Teredo carry an IPv4 address that a relay will speak to.
_CARRIERS_V6 = (ipaddress.ip_network("2002::/16"), ipaddress.ip_network("2001::/32"))
_RELAY_V4 = ipaddress.ip_network("192.88.99.0/24")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether ``address`` is one of the open internet, as IANA's registries of special addresses say."""
    if isinstance(address, IPv6Address):
        carried = address not in _GLOBAL_V6 or any(address in network for network in _CARRIERS_V6)
        return address.is_global and not carried and address.scope_id is None
    # Of multicast, some is "global".
    return address.is_global and not address.is_multicast and address not in _RELAY_V4
