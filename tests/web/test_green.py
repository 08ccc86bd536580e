"""psycopg in a process of greenlets, which needs a process of its own: nothing may be imported unpatched."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.settings import Settings

_BEFORE = """
from gevent import monkey
monkey.patch_all()
import sys, time, gevent, psycopg
from web import green
connect = lambda: green.Connection.connect(sys.argv[1], autocommit=True)
connection = connect()
"""


def greenlets(settings: Settings, script: str) -> str:
    """What a script prints in such a process."""
    url = settings.database.replace("+psycopg", "")
    ran = subprocess.run(
        [sys.executable, "-c", _BEFORE + script, url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.usefixtures("database")
def test_others_go_on_while_one_waits_for_the_server(settings: Settings) -> None:
    script = """
slow = gevent.spawn(lambda: connection.execute("SELECT pg_sleep(1)").fetchone())
turns = 0
while not slow.ready():
    gevent.sleep(0.01)
    turns += 1
print(turns > 20)
"""
    assert greenlets(settings, script) == "True"


@pytest.mark.usefixtures("database")
def test_much_goes_both_ways(settings: Settings) -> None:
    """More than a socket holds: sending waits for room, and what has come must be read meanwhile."""
    script = """
text = "x" * 30_000_000
print(connection.execute("SELECT %s", [text]).fetchone()[0] == text)
"""
    assert greenlets(settings, script) == "True"


@pytest.mark.usefixtures("database")
def test_a_lost_server_is_an_error_at_once(settings: Settings) -> None:
    script = """
pid = connection.info.backend_pid
gevent.spawn_later(0.3, lambda: connect().execute("SELECT pg_terminate_backend(%s)", [pid]))
try:
    connection.execute("SELECT pg_sleep(30)")
except psycopg.OperationalError as error:
    print("terminating" in str(error) or "closed" in str(error))
"""
    assert greenlets(settings, script) == "True"


@pytest.mark.usefixtures("database")
def test_whoever_is_ended_while_waiting_stops_waiting(settings: Settings) -> None:
    script = """
began = time.monotonic()
with gevent.Timeout(0.3, False):
    connection.execute("SELECT pg_sleep(10)")
print(time.monotonic() - began < 3, connection.info.transaction_status.name)
"""
    assert greenlets(settings, script) == "True ACTIVE"
