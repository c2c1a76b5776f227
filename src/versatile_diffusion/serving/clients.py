"""Who counts as one client."""

from __future__ import annotations

import ipaddress

SITE = 64  # bits of an IPv6 address that name a site; whoever has one has all addresses in it


def client_of(address: str | None, login: str | None = None) -> str:
    """Who counts as one client: a login, or else an address (IPv6: a site, since it has endless addresses).

    It never goes by what a client can make up, such as the hash of a session.
    """
    if login:
        return f"login {login}"
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or "nowhere"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((parsed, SITE), strict=False)) if not parsed.is_loopback else str(parsed)
    return str(parsed)
