"""One JSON object a line, whoever speaks."""

import json
import subprocess
import sys

PROGRAM = """
import logging, threading, warnings
import structlog
from jobs import logs

logs.configure("worker", "INFO")
log = structlog.get_logger("penstock")
log.info("attempt failed", job_id="j1", code="out_of_memory")
log.debug("too quiet")
log.info("strange facts", text="two\\nlines", what=object(), snow="☃")
logging.getLogger("a.library").warning("it has %s\\nlines", 2)
logging.getLogger("celery").info("chatter")
try:
    1 / 0
except ZeroDivisionError as error:
    log.error("attempt crashed", exc_info=error)
    logging.getLogger("a.library").exception("also here")
warnings.warn("old ways")
thread = threading.Thread(target=lambda: log.info("from a thread"))
thread.start()
thread.join()
"""


def written() -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_every_line_is_one_json_object_with_its_facts_beside_a_constant_sentence() -> None:
    lines = [json.loads(line) for line in written()]
    by_event = {line["event"]: line for line in lines}
    assert by_event["attempt failed"]["job_id"] == "j1"
    assert by_event["attempt failed"]["level"] == "info"
    assert by_event["strange facts"]["text"] == "two\nlines"
    assert by_event["strange facts"]["snow"] == "☃"
    assert "ZeroDivisionError" in by_event["attempt crashed"]["exception"]
    assert "ZeroDivisionError" in by_event["also here"]["exception"]
    assert by_event["it has 2\nlines"]["level"] == "warning"
    assert {"too quiet", "chatter"}.isdisjoint(by_event)
    assert any("old ways" in event for event in by_event), "a library's warning is a line like any other"
    assert {line.get("process") for line in lines} == {"worker"}, "also from its threads"
    assert all(line["timestamp"].endswith("Z") for line in lines)
