"""A process that exports, whose writing process never ends: something to kill."""

import threading

from jobs import settings
from trainer import export_attempt
from trainer.exporter import Exporter

if __name__ == "__main__":
    export_attempt._WRITER = "tests.trainer.endless"
    Exporter(settings.read()).start()
    threading.Event().wait()
