"""Work that takes the processor or a disk for long: done in a real thread, or every request waits for it."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import gevent  # type: ignore[import-untyped]
from gevent import monkey

LONG_TEXT = 20_000
"""Characters: about 5 ms of tokenizing."""

P = ParamSpec("P")
T = TypeVar("T")


def offload(work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """What `work` returns or raises; it must not touch what belongs to the request.

    Where requests have threads of their own anyway, as in tests, it is simply called.
    """
    if not monkey.is_module_patched("threading"):
        return work(*given, **named)
    done: T = gevent.get_hub().threadpool.apply(work, given, named)
    return done
