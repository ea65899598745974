"""The address of a client, behind any number of our own proxies."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

Address = IPv4Address | IPv6Address
_IPV6_PREFIX = 64  # what one household is given


class TrustedProxies:
    """Believes `X-Forwarded-For` as far as the trusted proxies wrote it, and no further."""

    def __init__(self, trusted: Sequence[str]) -> None:
        """`trusted`: addresses or networks; raises `ValueError` for what is neither."""
        self._trusted = tuple(ip_network(one, strict=False) for one in trusted)

    def of(self, request: web.BaseRequest) -> str:
        """The address behind a request; see `address`."""
        return self.address(request.remote, ",".join(request.headers.getall("X-Forwarded-For", [])))

    def address(self, peer: str | None, forwarded_for: str) -> str:
        """The client's address as limits count it: of IPv6 the /64. Empty where the peer has none (a Unix socket).

        `forwarded_for` is read from its end: each proxy appends the address that connected to it.
        """
        hops = [one.strip() for one in forwarded_for.split(",")] if forwarded_for else []
        at = _parsed(peer or "")
        while at is not None and self._is_ours(at) and hops:
            before = _parsed(hops.pop())
            if before is None:
                break
            at = before
        if isinstance(at, IPv6Address):
            return str(IPv6Network((at, _IPV6_PREFIX), strict=False))
        return str(at) if at is not None else ""

    def is_proxy(self, peer: str | None) -> bool:
        """Whether this is one of our own proxies: many clients share its address."""
        at = _parsed(peer or "")
        return at is not None and self._is_ours(at)

    def _is_ours(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _parsed(text: str) -> Address | None:
    try:
        address = ip_address(text.removeprefix("[").partition("]")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
