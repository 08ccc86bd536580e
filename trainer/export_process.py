"""A process of an export: started with the export's folder, waited for, killed where nobody wants it now."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from jobs.errors import Unexpected
from jobs.settings import Settings
from trainer.export_order import ANSWER, Answer
from trainer.lifeline import PARENT

LOG = "child.log"

_LOOK = 0.1  # seconds between two looks at what is wished
_LONGEST = 3600.0  # seconds; whatever takes longer is stuck
_NICE = 10  # generations on the same cores come first
_SECRETS = ("SECRETS_DIR", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def run(
    module: str, folder: Path, still_wanted: Callable[[], None], environment: Mapping[str, str]
) -> Answer | None:
    """Run `python -m MODULE FOLDER` to its end; what it answered, None where it died without.

    Raises:
        Unexpected: it took too long, and was ended.
        Whatever `still_wanted` raises; the process is gone by then.
    """
    (folder / ANSWER).unlink(missing_ok=True)
    with (folder / LOG).open("ab") as output:
        process = subprocess.Popen(
            ["nice", "-n", str(_NICE), sys.executable, "-m", module, str(folder)],
            env=_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    until = time.monotonic() + _LONGEST
    try:
        while process.poll() is None:
            still_wanted()
            if time.monotonic() > until:
                raise Unexpected(f"A part of the export took over {_LONGEST / 60:g} minutes and was ended.")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Answer.read(folder) if process.returncode == 0 else None


def last_words(folder: Path) -> str:
    """The end of what the processes of an export wrote."""
    with (folder / LOG).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
        return file.read().decode(errors="replace")


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """Ours without our settings, of which some are passwords."""
    kept = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    for secret in _SECRETS:
        kept.pop(secret, None)
    return {**kept, PARENT: str(os.getpid()), "TOKENIZERS_PARALLELISM": "false", **more}
