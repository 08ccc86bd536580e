"""The trainer's process with a child that pretends, over a broker that delivers again after five seconds."""

import threading
from functools import partial
from typing import Any

from celery import Celery

from jobs import queue
from trainer import app
from trainer.child import Child


class Unmeasured:
    """A host that nobody measures."""

    def __init__(self, *_: Any) -> None:
        self._stopped = threading.Event()

    def device(self) -> str:
        return "cpu"

    def run(self) -> None:
        self._stopped.wait()

    def stop(self) -> None:
        self._stopped.set()


def impatient(make: Any) -> Any:
    """A maker of Celery apps with a short visibility timeout."""

    def made(*arguments: Any) -> Celery:
        celery: Celery = make(*arguments)
        celery.conf.broker_transport_options["visibility_timeout"] = 5
        return celery

    return made


if __name__ == "__main__":
    app.Child = partial(Child, module="tests.trainer.pretended")  # type: ignore[misc, assignment]
    app.Surveyor = Unmeasured  # type: ignore[misc, assignment]
    app.make_celery = impatient(queue.make_celery)
    app.main()
