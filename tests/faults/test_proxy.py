"""The proxy itself, in front of a server that says everything back."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.conftest import wait_for
from tests.faults.proxy import Fault, Proxy, Way


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while block := self.request.recv(65_536):
            self.request.sendall(block)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A door before the echo."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with Proxy(("127.0.0.1", server.server_address[1])) as made:
            yield made
        server.shutdown()


def connect(proxy: Proxy) -> socket.socket:
    """A client that waits half a second."""
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=0.5)


def said_back(client: socket.socket, text: bytes) -> bytes:
    client.sendall(text)
    return client.recv(1000)


def test_everything_passes_both_ways(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert said_back(client, b"hello") == b"hello"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b""
    wait_for(lambda: proxy.open == 0)
    assert proxy.connections == 1


@pytest.mark.parametrize("way", list(Way))
def test_a_delay_is_of_one_way_and_ends_when_it_is_healed(proxy: Proxy, way: Way) -> None:
    with connect(proxy) as client:
        proxy.fault(way, Fault(delay=0.2))
        began = time.monotonic()
        assert said_back(client, b"a") == b"a"
        assert 0.2 <= time.monotonic() - began < 0.5
        proxy.heal()
        began = time.monotonic()
        assert said_back(client, b"a") == b"a"
        assert time.monotonic() - began < 0.2


@pytest.mark.parametrize("way", list(Way))
def test_a_black_hole_swallows_and_ends_no_connection(proxy: Proxy, way: Way) -> None:
    with connect(proxy) as client:
        proxy.fault(way, Fault(drop=True))
        with pytest.raises(TimeoutError):
            said_back(client, b"lost")
        proxy.heal()
        assert said_back(client, b"heard") == b"heard"


def test_a_reply_is_cut_half_way_once(proxy: Proxy) -> None:
    proxy.fault(Way.DOWN, Fault(cut_after=3, once_sent=b"please", times=1))
    with connect(proxy) as client:
        assert said_back(client, b"hello") == b"hello"
        assert said_back(client, b"please!") == b"ple"
        with pytest.raises(ConnectionError):
            client.recv(10)
    assert proxy.hit == 1
    with connect(proxy) as client:
        assert said_back(client, b"please!") == b"please!"


def test_a_half_open_connection_stays_so_while_new_ones_are_well(proxy: Proxy) -> None:
    with connect(proxy) as old, connect(proxy) as new:
        assert said_back(old, b"a") == b"a"
        new.close()
        proxy.half_open()
        with pytest.raises(TimeoutError):
            said_back(old, b"lost")
        with connect(proxy) as new:
            assert said_back(new, b"a") == b"a"
        proxy.heal()
        with pytest.raises(TimeoutError):
            said_back(old, b"lost")


def is_over(client: socket.socket) -> bool:
    """Whether the connection was ended, with or without a farewell."""
    try:
        return client.recv(10) == b""
    except ConnectionError:
        return True


def test_a_cut_ends_what_is_open_and_a_refusal_what_comes(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert said_back(client, b"a") == b"a"
        proxy.cut()
        assert is_over(client)
    with connect(proxy) as client:
        assert said_back(client, b"a") == b"a"
        proxy.refuse()
        assert is_over(client)
    with connect(proxy) as client:
        assert is_over(client)
    proxy.heal()
    with connect(proxy) as client:
        assert said_back(client, b"a") == b"a"
