"""A door before a server that delays, cuts, black-holes and half-replies either way, as it is told."""

import contextlib
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

_BLOCK = 65_536
_RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: close with a reset, not with a goodbye

Target = tuple[str, int] | str
"""Where the server listens: host and port, or the path of its unix socket."""


class Way(Enum):
    """Which bytes a fault is about."""

    UP = "to the server"
    DOWN = "to the client"


@dataclass(frozen=True)
class Fault:
    """What happens to the bytes that go one way."""

    delay: float = 0.0  # seconds that every block waits
    drop: bool = False  # a black hole: taken, passed to nobody, and no connection ends
    cut_after: int | None = None  # bytes that still pass; then the connection is reset
    once_sent: bytes = b""  # a pattern: it begins only on a connection whose client has sent this
    times: int | None = None  # connections that it happens to; None: all


@dataclass(eq=False)
class _Line:
    """One connection through the door."""

    client: socket.socket
    server: socket.socket
    sent: bytes = b""  # the end of what the client sent since a fault was set
    seen: set[bytes] = field(default_factory=set)  # of what faults wait for, what it has sent
    hurt: dict[Way, Fault] = field(default_factory=dict)  # the faults that have begun on it
    left: dict[Way, int] = field(default_factory=dict)  # bytes that still pass before the cut

    def close(self, reset: bool = False) -> None:
        """End both sides; twice is as once."""
        for each in (self.client, self.server):
            with contextlib.suppress(OSError):
                if reset:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                each.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)  # wakes whoever reads
            each.close()


class Proxy:
    """Listens on a port of 127.0.0.1; everything passes until `fault`, `cut` or `refuse` says otherwise.

    All methods are for any thread, and change what is under way too.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._lines: set[_Line] = set()
        self._faults: dict[Way, Fault] = {}
        self._used: dict[Way, int] = dict.fromkeys(Way, 0)
        self._refuses = False
        self.connections = 0  # that were ever let through
        self._door = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._door.getsockname()[1])
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def hit(self) -> int:
        """How many connections a fault with `times` has begun on."""
        return sum(self._used.values())

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._lines)

    def fault(self, way: Way, fault: Fault) -> None:
        """From now on let this happen to all that goes that way, on connections old and new."""
        with self._lock:
            self._faults[way], self._used[way] = fault, 0
            for line in self._lines:  # what was sent before does not count
                line.sent = b""
                line.seen.clear()

    def half_open(self) -> None:
        """What is connected now hangs for ever and nobody is told; new connections are well."""
        with self._lock:
            for line in self._lines:
                line.hurt = dict.fromkeys(Way, Fault(drop=True))

    def cut(self) -> None:
        """Reset every connection; new ones are let in."""
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            line.close(reset=True)

    def refuse(self) -> None:
        """Reset every connection, and each new one at once."""
        self._refuses = True
        self.cut()

    def heal(self) -> None:
        """Let everything pass again; who hangs already (`half_open`) still hangs."""
        with self._lock:
            self._faults.clear()
            self._refuses = False

    def close(self) -> None:
        """End every connection and the door."""
        self._refuses = True
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            line = _Line(client, server := _connected(self._target))
        except OSError:
            _Line(client, client).close(reset=True)
            return
        with self._lock:
            refused = self._refuses
            self._lines.add(line)
            self.connections += not refused
        if refused:
            line.close(reset=True)
        back = threading.Thread(target=self._pass, args=(line, Way.DOWN, server, client), daemon=True)
        back.start()
        self._pass(line, Way.UP, client, server)
        back.join()
        line.close()
        with self._lock:
            self._lines.discard(line)

    def _pass(self, line: _Line, way: Way, source: socket.socket, to: socket.socket) -> None:
        fault = _NONE
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                fault = self._fault_of(line, way, block)
                time.sleep(fault.delay)
                if fault.cut_after is not None:
                    block = block[: line.left[way]]
                    line.left[way] -= len(block)
                if not fault.drop:
                    to.sendall(block)
                if fault.cut_after is not None and line.left[way] <= 0:
                    line.close(reset=True)
            if not fault.drop:
                to.shutdown(socket.SHUT_WR)
            return
        line.close(reset=True)

    def _fault_of(self, line: _Line, way: Way, block: bytes) -> Fault:
        """What happens to a block of this line; a fault that begins on it stays until it is cut or ends."""
        with self._lock:
            if way is Way.UP:
                line.sent = line.sent[-_BLOCK:] + block
                for each in self._faults.values():
                    if each.once_sent and re.search(each.once_sent, line.sent, re.DOTALL):
                        line.seen.add(each.once_sent)
            if (begun := line.hurt.get(way)) is not None:
                return begun
            fault = self._faults.get(way, _NONE)
            spent = fault.times is not None and self._used[way] >= fault.times
            if spent or (fault.once_sent and fault.once_sent not in line.seen):
                return _NONE
            if fault.times is not None or fault.cut_after is not None:  # the others may be lifted
                line.hurt[way], line.left[way] = fault, fault.cut_after or 0
                self._used[way] += 1
            return fault


_NONE = Fault()


def _connected(target: Target) -> socket.socket:
    if not isinstance(target, str):
        return socket.create_connection(target, timeout=None)
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(target)
    except OSError:
        server.close()
        raise
    return server
