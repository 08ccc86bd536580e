"""What happens to Penstock's own processes and to their clients."""

import os
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.faults.chaos.client import GaveUp
from tests.faults.chaos.ground import Do, Ground, frozen, kill, pause, wait_for
from tests.faults.chaos.ledger import Strike
from tests.faults.chaos.stack import LEASE_SECONDS

_POISONED_SECONDS = 150.0
_FAILPOINT_SECONDS = 40.0
_TRAINED_SECONDS = 120.0  # until the next checkpoint


def kill_worker(ground: Ground, done: Strike) -> None:
    """Any of them."""
    kill(ground, done, ground.a_worker())


def kill_web(ground: Ground, done: Strike) -> None:
    """gunicorn's master, or the process under it that serves."""
    if ground.random.random() < 0.5:
        return kill(ground, done, "web")
    with suppress(FileNotFoundError, ProcessLookupError):
        master = ground.stack.pid("web")
        for child in Path(f"/proc/{master}/task/{master}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
            done.kills["web"] = done.kills.get("web", 0) + 1
    done.died = done.over = time.time()
    return None


def at_failpoint(point: str) -> Do:
    def do(ground: Ground, done: Strike) -> None:
        """The next process of this worker dies at its first, second or third passing of a point."""
        name = ground.a_worker()
        program = ground.stack.programs[name]
        before = dict(program.environment)
        with tempfile.TemporaryDirectory(dir=ground.stack.folder) as once:
            program.environment |= {
                "FAILPOINTS": f"{point}=kill@{ground.random.randint(1, 3)}",
                "FAILPOINTS_ONCE": once,
            }
            kill(ground, done, name)
            starts = program.starts
            wait_for(lambda: program.starts > starts, 10)
            program.environment.clear()
            program.environment.update(before)
            died = wait_for(lambda: not program.pid or program.starts > starts + 1, _FAILPOINT_SECONDS)
            done.died = done.over = time.time()
            done.held = ground.witness.held_by(name)  # the next process of this name needs seconds to claim
        done.kills["worker"] = done.kills.get("worker", 0) + died
        done.said = "" if died else "it was not passed"

    return do


def zombie(ground: Ground, done: Strike) -> None:
    name = ground.a_worker()
    done.held = ground.witness.held_by(name)
    with frozen(ground, name):
        done.died = time.time()
        pause(ground, LEASE_SECONDS * 1.5, LEASE_SECONDS * 3)


def poison(ground: Ground, done: Strike) -> None:
    starts = sum(ground.stack.programs[name].starts for name in ground.stack.worker_names)
    ended = ground.load.poison()
    with suppress(TimeoutError):
        job = ended.result(_POISONED_SECONDS)
        done.said = f"{job['status']}: {(job['error'] or {}).get('reason')}"
    after = sum(ground.stack.programs[name].starts for name in ground.stack.worker_names)
    done.kills["worker"] = after - starts


def terminate(name: str) -> Do:
    def do(ground: Ground, _: Strike) -> None:
        chosen = ground.a_worker() if name == "worker" else name
        pid = ground.stack.send(chosen, signal.SIGTERM)
        wait_for(lambda: ground.stack.pid(chosen) != pid, 30)

    return do


def hang_up(ground: Ground, _: Strike) -> None:
    ground.stack.send("web", signal.SIGHUP)


def replies_lost(ground: Ground, _: Strike) -> None:
    ground.load.client.cut = 1.0
    pause(ground, 2, 4)
    ground.load.client.cut_some()


def races(ground: Ground, _: Strike) -> None:
    ground.load.race(30)


def twin(name: str) -> Do:
    def do(ground: Ground, _: Strike) -> None:
        with ground.stack.another(name):
            pause(ground, 4, 8)

    return do


def kill_trainer(ground: Ground, done: Strike) -> None:
    """Within a second after a new checkpoint was seen."""
    with suppress(TimeoutError, GaveUp):
        wait_for(lambda: ground.load.training_lag() is not None, _TRAINED_SECONDS, every=0.5)
    pause(ground, 0, 1)
    held = ground.witness.trained()
    kill(ground, done, "trainer")
    done.held = held
