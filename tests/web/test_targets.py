"""Which URLs a webhook may have, and which addresses it may reach."""

import socket
from ipaddress import ip_address
from typing import Any

import pytest

from web import targets

PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.20.0.1",
    "192.168.1.1",
    "169.254.169.254",  # the metadata of clouds
    "100.64.0.1",  # carrier-grade NAT
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "198.18.0.1",
    "192.88.99.1",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",  # NAT64
    "64:ff9b:1::1",
    "2002:7f00:1::",  # 6to4
    "2001:0:7f00:1::",  # Teredo
    "fc00::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_a_private_network_is_denied(address: str) -> None:
    assert targets.is_denied(ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(targets.Refused, match="private"):
        targets.parse(f"https://{host}/hook", allow_private=False)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "172.32.0.1", "100.128.0.1"]
)
def test_a_public_address_is_not(address: str) -> None:
    assert not targets.is_denied(ip_address(address))


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0"])
def test_other_spellings_of_an_address_are_seen_through(host: str) -> None:
    with pytest.raises(targets.Refused, match="private"):
        targets.parse(f"https://{host}/", allow_private=False)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/", "https"),
        ("ftp://example.com/", "https"),
        ("example.com/hook", "https"),
        ("https://", "host"),
        ("https:///hook", "host"),
        ("https://user@example.com/", "user"),
        ("https://user:secret@example.com/", "user"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com:99999/", "URL"),
        ("https://[::1", "URL"),
        ("https://exam ple.com/", "characters"),
        ("https://example.com/\r\nHost: other", "characters"),
        ("https://example.com\\@evil.example/", "characters"),
        ("https://bücher.example/", "characters"),
        ("https://example.com/" + "a" * 2048, "2,048"),
    ],
)
def test_what_is_no_url_of_a_public_host_is_refused(url: str, why: str) -> None:
    with pytest.raises(targets.Refused, match=why):
        targets.parse(url, allow_private=False)


def test_the_parts_of_a_url() -> None:
    assert targets.parse("https://example.com:8443/a?b=c", False) == targets.Target(
        "example.com", 8443, "/a?b=c", True
    )
    assert targets.parse("http://localhost", allow_private=True) == targets.Target(
        "localhost", 80, "/", False
    )


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    left = list(answers)

    def getaddrinfo(_host: str, port: int, **_: Any) -> list[Any]:
        addresses = left.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_one_private_address_among_several_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(targets.Refused, match="private"):
        targets.resolve(targets.parse("https://example.com/", False), False)


def test_a_name_that_changes_its_mind_is_checked_at_every_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ["8.8.8.8"], ["127.0.0.1"])
    target = targets.parse("https://rebinding.example/", False)
    assert targets.resolve(target, False) == "8.8.8.8"
    with pytest.raises(targets.Refused):
        targets.resolve(target, False)


@pytest.mark.parametrize("host", ["a..b", ".", ".hooks.example", "a" * 64 + ".example"])
def test_a_host_that_no_resolver_takes_is_refused(host: str) -> None:
    with pytest.raises(targets.Refused, match="names a host"):
        targets.parse(f"https://{host}/", allow_private=False)
