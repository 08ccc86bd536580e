"""Which addresses a webhook may reach: never our own network, whatever its name resolves to."""

import ipaddress
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

_MAX_URL = 2048

# An own list: `is_private` and `is_global` of the standard library miss carrier-grade NAT, NAT64, 6to4 and
# multicast. IANA's special-purpose registries: https://www.iana.org/assignments/iana-ipv4-special-registry
_DENIED_V4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
_GLOBAL_V6 = ipaddress.IPv6Network(
    "2000::/3"
)  # so no mapped, NAT64, unique local, link-local or multicast one
_DENIED_V6 = [
    ipaddress.IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")  # Teredo and 6to4 carry IPv4
]


class Refused(Exception):
    """A URL that no webhook may have; the message says why, and follows its name."""


@dataclass(frozen=True)
class Target:
    """A webhook's URL, taken apart."""

    host: str
    port: int
    path: str  # with its query
    tls: bool


def parse(url: str, allow_private: bool) -> Target:
    """The target of a URL. `allow_private` permits plain http and our own network.

    Raises:
        Refused: it is not an https URL of somebody else's host.
    """
    if len(url) > _MAX_URL:
        raise Refused(f"is over {_MAX_URL:,} characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Refused(f"is not a URL ({error})") from None
    if parts.scheme not in ("https", *(["http"] if allow_private else [])):
        raise Refused("must begin with https://")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise Refused("has characters that a URL cannot have: percent-encode them")
    if not host or parts.username is not None or parts.password is not None or parts.fragment:
        raise Refused("must name a host, and no user, password or fragment")
    try:
        host.encode("idna")  # as the resolver will
    except UnicodeError:
        raise Refused("names a host that cannot be: a part of its name is empty or too long") from None
    literal = _literal(host)
    if literal is not None and not allow_private and is_denied(literal):
        raise Refused("is an address of a private network")
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(host, port or (443 if tls else 80), path, tls)


def resolve(target: Target, allow_private: bool) -> str:
    """The one address that is to be connected to; asked anew for every attempt, and never asked again in it.

    Raises:
        Refused: one of the host's addresses is of a private network, so none is taken.
        OSError: the host has no address.
    """
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in found]
    if not allow_private and any(is_denied(address) for address in addresses):
        raise Refused("resolves to an address of a private network")
    return str(addresses[0])


def is_denied(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is none of the public Internet."""
    if isinstance(address, IPv4Address):
        return any(address in network for network in _DENIED_V4)
    return address not in _GLOBAL_V6 or any(address in network for network in _DENIED_V6)


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is, also in the spellings that a resolver reads: 2130706433, 0x7f.1."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None
