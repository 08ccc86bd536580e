"""How a webhook is sent: signed, to one checked address, within a deadline, and never reading an answer."""

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from jobs.outbox import Delivery
from web import targets
from web.targets import Target

TIMEOUT = 15.0
"""Seconds of one attempt in all, the name's resolution aside."""

_TLS = ssl.create_default_context()


class Undelivered(Exception):
    """There was no answer; the message says what happened instead."""


def send(delivery: Delivery, allow_private: bool) -> int:
    """Post a delivery; return the status that its target answered. A redirect is an answer, and not followed.

    Raises:
        Undelivered: it was not answered.
    """
    body = json.dumps(
        {
            "id": delivery.id,
            "object": "event",
            "type": delivery.type,
            "created_at": int(delivery.created_at.timestamp()),
            "data": {"id": delivery.resource_id},
        }
    )
    try:
        target = targets.parse(delivery.url, allow_private)
        address = targets.resolve(target, allow_private)
        return _post(target, address, body, _headers(delivery.id, body, delivery.signing_secrets))
    except targets.Refused as error:
        raise Undelivered(f"the URL {error}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Undelivered(str(error) or type(error).__name__) from error


def _headers(id: str, body: str, signing_secrets: Sequence[str]) -> dict[str, str]:
    """Standard Webhooks: https://github.com/standard-webhooks/standard-webhooks (specification 1.0)."""
    now = datetime.now(UTC)
    signatures = (Webhook(secret).sign(id, now, body) for secret in signing_secrets)
    return {
        "Content-Type": "application/json",
        "User-Agent": "Penstock-Webhooks",
        "webhook-id": id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _post(target: Target, address: str, body: str, headers: dict[str, str]) -> int:
    connection = _Pinned(target, address)
    deadline = threading.Timer(TIMEOUT, connection.cut)  # a timeout of the socket is of each read alone
    deadline.start()
    try:
        connection.request("POST", target.path, body, headers)
        return connection.getresponse().status  # what follows the headers is nobody's
    except Exception:  # TLS that is cut between two reads raises whatever it comes upon
        if connection.was_cut:
            raise TimeoutError(f"no answer within {TIMEOUT:g} s") from None
        raise
    finally:
        deadline.cancel()
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """A connection to the address that was checked, under the name that was asked for."""

    def __init__(self, target: Target, address: str) -> None:
        super().__init__(target.host, target.port, timeout=TIMEOUT)
        self._address, self._tls = address, target.tls
        self.was_cut = False
        if target.tls:
            self.default_port = 443  # left out of the Host header

    def connect(self) -> None:
        """Open the socket; with TLS, only to who can show that it is the host."""
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._tls:
            # the handshake only afterwards: `cut` must find the socket that waits
            self.sock = _TLS.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        if self.was_cut:  # before there was this socket
            raise TimeoutError
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.do_handshake()

    def cut(self) -> None:
        """End whatever it waits for; from any thread."""
        self.was_cut = True
        if self.sock is not None:
            with contextlib.suppress(OSError):  # it may be closed by now
                self.sock.shutdown(socket.SHUT_RDWR)
