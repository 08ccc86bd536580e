"""How a Celery worker takes a doorbell: once it is out of its list it is heard, and nobody is told so."""

from celery import Task
from celery.worker.request import Request
from kombu.transport.redis import Transport
from redis.exceptions import OutOfMemoryError


class Heard(Request):  # type: ignore[misc]  # Celery says nothing of its types
    """A message that is never acknowledged.

    Redis may die or its connection break just then, and for ever afterwards kombu counts the message as being
    worked on, so that who works on one at a time hears no other; or the whole process ends of it.
    """

    def acknowledge(self) -> None:
        """There is nothing to say: the queues are `no_ack`."""
        self.acknowledged = True


class Bell(Task):  # type: ignore[misc]
    """The class of all tasks."""

    Request = "jobs.bells:Heard"


def endure_a_full_redis() -> None:
    """Let a Celery worker take a Redis without memory for one that is away, and try again: it would end."""
    if OutOfMemoryError not in Transport.connection_errors:
        Transport.connection_errors = (*Transport.connection_errors, OutOfMemoryError)
