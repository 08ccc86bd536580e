"""What `make up` and `make key` promise to the person at the terminal."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from jobs import keys
from jobs.database import Database
from tests.conftest import ROOT, wait_for
from tests.end_to_end.conftest import RunningStack, free_port, start_stack

PROGRAMS = ("postgres", "redis", "web", "worker", "trainer", "clerk", "sweeper")


def run(module: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", module]
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_second_start_on_the_same_folder_is_one_sentence(stack: RunningStack) -> None:
    second = run("stack.up", {**stack.environment, "PORT": str(free_port())})
    assert second.returncode == 2
    assert second.stderr.strip() == (
        f"A stack already runs on {stack.settings.var_dir}. "
        "Stop it, or give this one another VAR_DIR and PORT."
    )


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run(
            "stack.up", {**os.environ, "VAR_DIR": str(tmp_path), "PORT": str(port), "PYTHONPATH": str(ROOT)}
        )
    assert refused.returncode == 2
    assert refused.stderr.strip() == (
        f"Cannot listen on 127.0.0.1:{port}: Address already in use. "
        f"Stop what uses the port, or choose another: PORT={port + 1} make up"
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "eighty", "PORT in the environment or .env: Input should be a valid integer"),
        ("MODELS", "starter", "MODELS in the environment or .env: 'starter' is not name=source"),
        ("LEASE_SECONDS", "4", "HEARTBEAT_SECONDS (5) must be at most half of LEASE_SECONDS (4)"),
        ("TOKEN_BUDGET", "8", "TOKEN_BUDGET (8) must be larger than SLOTS (32)"),
        ("DATABASE_URL", "mysql://x/y", "DATABASE_URL in the environment or .env: send a PostgreSQL URL"),
        ("REDIS_URL", "garbage", "REDIS_URL in the environment or .env: send a Redis URL"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL in the environment or .env: send one of DEBUG, INFO"),
        ("HOST", "192.0.2.1", "Cannot listen on 192.0.2.1:8000: Cannot assign requested address. Is HOST"),
        ("VAR_DIR", "/proc/nowhere", "VAR_DIR /proc/nowhere cannot be used: "),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path: Path, name: str, value: str, sentence: str) -> None:
    environment = {**os.environ, "VAR_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), name: value}
    refused = run("stack.up", environment)
    assert refused.returncode == 2
    assert refused.stderr.startswith(sentence)
    assert refused.stderr.count("\n") == 1


def test_make_key_prints_a_working_key_alone(stack: RunningStack) -> None:
    made = run("stack.key", stack.environment)
    assert made.returncode == 0
    key = made.stdout.strip()
    assert " " not in key
    other = RunningStack(stack.process, stack.settings, stack.environment, key)
    assert other.call("GET", "/v1/models")[0] == 200
    job = stack.submit(max_output_tokens=1)
    assert other.call("GET", f"/v1/responses/{job}")[0] == 404  # it belongs to another owner


def test_two_keys_of_one_owner_see_the_same_jobs(stack: RunningStack) -> None:
    named = {**stack.environment, "OWNER": "team"}
    first, second = (
        RunningStack(stack.process, stack.settings, named, run("stack.key", named).stdout.strip())
        for _ in range(2)
    )
    job = first.submit(max_output_tokens=1)
    assert second.get(job)["id"] == job


def test_a_key_without_a_stack_is_one_sentence(tmp_path: Path) -> None:
    refused = run("stack.key", {**os.environ, "VAR_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)})
    assert refused.returncode == 2
    assert refused.stderr.strip() == f"No stack runs on {tmp_path}: start it with `make up`, then ask again."


def test_ctrl_c_hands_back_what_runs_and_the_next_start_finishes_it(tmp_path: Path) -> None:
    first = start_stack(tmp_path, DRAIN_SECONDS="6", SLOTS="2")
    try:
        jobs = [first.submit(max_output_tokens=480) for _ in range(12)]
        wait_for(lambda: first.get(jobs[0])["status"] != "queued", every=0.005)
        group = [first.pid(name) for name in PROGRAMS]
    finally:
        began = time.monotonic()
        assert first.stop() == 0
    assert time.monotonic() - began < 6 + 1  # DRAIN_SECONDS, and a second for this process
    assert not [pid for pid in group if Path(f"/proc/{pid}").exists()]

    again = start_stack(tmp_path)
    again.key = first.key
    try:
        done = [again.end(job, seconds=90) for job in jobs]
        assert {job["status"] for job in done} == {"incomplete"}
        assert not any("API key: sk-" in line for line in again.output)
    finally:
        again.stop()


def test_a_second_start_with_other_models_forgets_the_first_ones(tmp_path: Path) -> None:
    start_stack(tmp_path, DRAIN_SECONDS="6").stop()
    again = start_stack(tmp_path, DRAIN_SECONDS="6", MODELS="other=models/starter,gone=/nowhere")
    try:
        models = again.call("GET", "/readyz")[1]["models"]
        assert {name: model["status"] for name, model in models.items()} == {
            "other": "available",
            "gone": "unavailable",
        }
        assert models["gone"]["reason"] == "/nowhere: there is no such folder."
    finally:
        again.stop()


def test_nothing_is_left_when_the_starter_is_killed(tmp_path: Path) -> None:
    stack = start_stack(tmp_path, DRAIN_SECONDS="6")
    group = [stack.pid(name) for name in PROGRAMS]
    stack.process.send_signal(signal.SIGKILL)
    stack.process.communicate()
    assert wait_for(lambda: not [pid for pid in group if Path(f"/proc/{pid}").exists()], seconds=15)


def test_a_revoked_key_is_refused(stack: RunningStack) -> None:
    key = run("stack.key", stack.environment).stdout.strip()
    client = RunningStack(stack.process, stack.settings, stack.environment, key)
    assert client.call("GET", "/v1/models")[0] == 200
    command = [sys.executable, "-m", "stack.key", "--revoke", key[:24]]
    subprocess.run(command, env=stack.environment, cwd=ROOT, check=True)
    wait_for(lambda: client.call("GET", "/v1/models")[0] == 401, seconds=10)


def test_a_backup_taken_while_the_stack_runs_restores_its_jobs(stack: RunningStack, tmp_path: Path) -> None:
    def client(*command: str) -> None:
        arguments = [sys.executable, "-m", "stack.client", *command]
        subprocess.run(arguments, env=stack.environment, cwd=ROOT, check=True, capture_output=True)

    job, dump = stack.submit(max_output_tokens=1), str(tmp_path / "penstock.dump")
    client("pg_dump", "--format=custom", f"--file={dump}")
    client("psql", "--command=CREATE DATABASE restored")
    client("pg_restore", "--dbname=restored", "--clean", "--if-exists", "--single-transaction", dump)
    client(
        "pg_restore", "--dbname=restored", "--clean", "--if-exists", "--single-transaction", dump
    )  # over it
    restored = Database(stack.settings.database.replace("/postgres?", "/restored?"), connections=1)
    with restored.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM jobs WHERE id = :id"), {"id": job}).scalar() == 1
        assert keys.identify(connection, stack.key) is not None
    restored.close()
