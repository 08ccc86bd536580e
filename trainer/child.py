"""The training's own process: started, heard, stopped and killed. What it needs lies in the job's folder."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import structlog
from pydantic import ValidationError

from jobs.settings import Settings
from trainer.spec import STOP, Spec
from trainer.words import FIFO, WORD, Word

log = structlog.get_logger(__name__)

LOG = "child.log"
_NICE = 10  # generations on the same cores come first
_BLOCK = 65_536
_GONE_SECONDS = 5.0


class Child:
    """A training that runs: torchrun and the processes under it."""

    def __init__(self, folder: Path, config: Settings, module: str = "trainer.launch") -> None:
        """Start it: `module` is run with the folder, in which a specification lies."""
        self._folder = folder
        fifo = folder / FIFO
        fifo.unlink(missing_ok=True)
        (folder / STOP).unlink(missing_ok=True)
        os.mkfifo(fifo, 0o600)
        # for writing, too: so it is never at its end while the child has not opened it yet, or no more
        self._fifo = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        self._begun = b""
        with (folder / LOG).open("ab") as output:
            self._process = _start(folder, config, module, output)

    def words(self, seconds: float) -> list[Word]:
        """What it says within so many seconds; returns as soon as it says something."""
        ready, _, _ = select.select([self._fifo], [], [], seconds)
        if not ready:
            return []
        try:
            read = self._begun + os.read(self._fifo, _BLOCK)
        except BlockingIOError:
            return []
        *lines, self._begun = read.split(b"\n")
        return [word for line in lines if (word := _parsed(line)) is not None]

    @property
    def exit_code(self) -> int | None:
        """None while it runs; -9 of one that was killed."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to save a checkpoint and to end."""
        (self._folder / STOP).touch()

    def kill(self) -> None:
        """End it at once; returns when none of its processes is left. One that has ended is no matter."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        _wait_until_gone(self._folder)

    def close(self) -> None:
        """Kill what is left of it, and give the FIFO back."""
        self.kill()
        os.close(self._fifo)

    def last_words(self) -> str:
        """The end of its log."""
        with (self._folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            return file.read().decode(errors="replace")


def _start(folder: Path, config: Settings, module: str, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Its environment is ours without our settings, of which some are passwords."""
    kept = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    for secret in ("SECRETS_DIR", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        kept.pop(secret, None)
    own = {
        "PENSTOCK_PARENT": str(os.getpid()),
        "TRAINER_NPROC": _processes_of(folder, config),
        "TRAINER_NNODES": str(config.trainer_nnodes),
        "TRAINER_NODE": str(config.trainer_node),
        "TRAINER_RENDEZVOUS": config.trainer_rendezvous or "",
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.Popen(
        ["nice", "-n", str(_NICE), sys.executable, "-m", module, str(folder)],
        env=kept | own,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def _processes_of(folder: Path, config: Settings) -> str:
    """As torchrun takes it: one on each GPU, or one."""
    return str(config.trainer_nproc or ("gpu" if Spec.read(folder).device == "cuda" else 1))


def _parsed(line: bytes) -> Word | None:
    try:
        return WORD.validate_json(line)
    except ValidationError:
        log.warning("the training said something that is no word", line=line[:200].decode(errors="replace"))
        return None


def _wait_until_gone(folder: Path) -> None:
    """torchrun's processes lead groups of their own, and die with it a moment later."""
    deadline = time.monotonic() + _GONE_SECONDS
    while (left := _processes(folder)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _processes(folder: Path) -> list[int]:
    """Those whose command line names the folder."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            with contextlib.suppress(OSError):
                command = (each / "cmdline").read_bytes().split(b"\0")
                if str(folder).encode() in command and int(each.name) != os.getpid():
                    found.append(int(each.name))
    return found
