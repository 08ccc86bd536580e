"""Says what this host can train and how fast: measured at the start, repeated every minute."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import structlog

from jobs import trainers
from jobs.database import Database
from jobs.errors import DatabaseUnavailable
from jobs.exports import HUB
from jobs.settings import Settings
from jobs.trainers import Trainer
from trainer.hub import NO_TOKEN

log = structlog.get_logger(__name__)

_REPEAT_SECONDS = 60.0
_RETRY_SECONDS = 2.0
_SETTLE_SECONDS = 15.0
_GPU = Path("/dev/nvidiactl")  # the driver's; this process has no torch to ask
_LONGEST = 300.0  # seconds of a measurement


class Surveyor:
    """`run` has a thread of its own; the measuring is done by a process of its own."""

    def __init__(self, config: Settings, database: Database) -> None:
        self._config, self._database = config, database
        self._stopped = threading.Event()
        self._measured = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._found: Trainer | None = None

    def device(self) -> str:
        """cpu or cuda: what DEVICE says, or what was found; a host without a GPU need not wait for that."""
        if self._config.device != "auto":
            return self._config.device
        if not _GPU.exists():
            return "cpu"
        self._measured.wait(_LONGEST)
        return self._found.device if self._found else "cpu"

    def run(self) -> None:
        """Measure, then repeat what was found until `stop`."""
        try:
            if not _GPU.exists():  # nobody waits for it, and a stack that starts has other things to do
                self._stopped.wait(_SETTLE_SECONDS)
            if not self._stopped.is_set():
                self._found = self._measure()
        finally:
            self._measured.set()
        while self._found is not None and not self._stopped.is_set():
            try:
                with self._database.transaction() as connection:
                    trainers.report(connection, self._found)
                    trainers.withdraw_silent(connection)
                self._stopped.wait(_REPEAT_SECONDS)
            except DatabaseUnavailable as error:
                log.warning("waiting for the database", error=str(error))
                self._stopped.wait(_RETRY_SECONDS)

    def stop(self) -> None:
        """End the thread, and the measurement."""
        self._stopped.set()
        if self._process is not None:
            self._process.kill()

    def _measure(self) -> Trainer | None:
        """What `trainer.calibrate` prints; None where it failed: jobs run all the same."""
        command = ["nice", "-n", "10", sys.executable, "-m", "trainer.calibrate", self._config.device]
        environment = os.environ | {"TRAINER_THREADS": str(self._config.threads)}
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            printed, complaints = self._process.communicate(timeout=_LONGEST)
        except subprocess.TimeoutExpired:
            self._process.kill()
            printed, complaints = self._process.communicate()
        if self._process.returncode != 0:
            if not self._stopped.is_set():
                log.error("the host could not be measured", log=complaints[-2000:])
            return None
        found = json.loads(printed.strip().splitlines()[-1])
        if self._config.hf_token is None:
            found["refused"][HUB] = NO_TOKEN
        log.info("measured", **found)
        return Trainer(name=self._config.worker, **found)
