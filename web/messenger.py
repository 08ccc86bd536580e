"""The chore that empties the outbox: targets side by side, so that a hanging one holds up only itself."""

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import structlog
from prometheus_client import Counter

from jobs import outbox
from jobs.database import Database
from jobs.outbox import Delivery
from web import delivery

log = structlog.get_logger(__name__)

_SIDE_BY_SIDE = 16
_LOOK_SECONDS = 0.5  # what falls due while others are on their way waits for no answer of theirs
_GONE = 410
_ATTEMPTS = Counter("penstock_webhook_deliveries", "Attempts to deliver a webhook, by outcome.", ["outcome"])


def deliver(database: Database, allow_private: bool) -> int:
    """Send what is due until nothing is; return how many were delivered."""
    done, running = 0, dict[Future[bool], Delivery]()
    with ThreadPoolExecutor(_SIDE_BY_SIDE, "messenger") as pool:
        while True:
            with database.transaction() as connection:
                claimed = outbox.claim(connection, running.values(), _SIDE_BY_SIDE - len(running))
            running |= {pool.submit(_attempt, database, each, allow_private): each for each in claimed}
            if not running:
                return done
            for future in wait(running, _LOOK_SECONDS, FIRST_COMPLETED).done:
                done += future.result()
                del running[future]


def _attempt(database: Database, each: Delivery, allow_private: bool) -> bool:
    try:
        status = delivery.send(each, allow_private)
        error = None if 200 <= status < 300 else f"status {status}"
    except delivery.Undelivered as undelivered:
        status, error = 0, str(undelivered)
    except Exception as unexpected:
        log.exception("a webhook could not be sent, tried again later", webhook_id=each.id)
        status, error = 0, type(unexpected).__name__  # or it would be sent for ever, and end us each time
    said = log.bind(webhook_id=each.id, type=each.type, attempt=each.attempt)
    with database.transaction() as connection:
        if error is None:
            outbox.delivered(connection, each)
            outcome = "delivered"
            said.info("webhook delivered")
        elif status == _GONE:
            outbox.gone(connection, each)
            outcome = "gone"
            said.warning("webhook's target is gone for good")
        else:
            again = outbox.failed(connection, each, error)
            outcome = "failed" if again is None else "retried"
            said.warning(
                "webhook not delivered", error=error, again_in=again and round(again.total_seconds())
            )
    _ATTEMPTS.labels(outcome).inc()
    return error is None
