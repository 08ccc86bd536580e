"""Ends this process when the trainer that it works for is gone, whatever way it went."""

import ctypes
import os
import select
import signal
import threading

PARENT = "PENSTOCK_PARENT"  # the trainer's process id, in the environment of everything it starts
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def hold() -> None:
    """From now on this process is killed with the one that started it, and with the trainer.

    The kernel kills it when the *thread* that started it ends; the trainer further up is watched by a thread.
    """
    started_by = os.getppid()
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != started_by:  # it ended just before
        _end()
    if parent := os.environ.get(PARENT):
        watch(int(parent))


def watch(parent: int) -> None:
    """Kill this process once another one has ended."""
    try:
        ended = os.pidfd_open(parent)  # unlike a signal of 0 it knows a zombie, and no later owner of the id
    except ProcessLookupError:
        _end()
    threading.Thread(target=_wait, args=(ended,), name="lifeline", daemon=True).start()


def _wait(ended: int) -> None:
    poll = select.poll()
    poll.register(ended)
    poll.poll()
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
