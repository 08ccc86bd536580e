"""No process writes what clients send into its log: prompts, files, keys, and lines that they would forge."""

import json
import socket
import urllib.request
from pathlib import Path

import redis
from sqlalchemy import text

from jobs.database import Database
from tests.conftest import wait_for
from tests.end_to_end.conftest import RunningStack

CANARY = "canary7d1f"
FORGED = "forged-line"


def logged(stack: RunningStack) -> dict[str, str]:
    """What each process has written."""
    return {
        path.name: path.read_text(errors="replace") for path in (stack.settings.var_dir / "log").iterdir()
    }


def raw(stack: RunningStack, *lines: str) -> None:
    """A request as no library would send it."""
    with socket.create_connection(("127.0.0.1", stack.settings.port), timeout=10) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        client.settimeout(5)
        client.recv(65_536)


def upload(stack: RunningStack, purpose: str, content: str) -> str:
    """The id of a new file, once it was read."""
    head = f'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n--x\r\n'
    head += f'Content-Disposition: form-data; name="file"; filename="{CANARY}.jsonl"\r\n\r\n'
    headers = {"Authorization": f"Bearer {stack.key}", "Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(
        f"{stack.url}/v1/files", f"{head}{content}\r\n--x--\r\n".encode(), headers
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        name = str(json.load(answer)["id"])
    wait_for(lambda: stack.call("GET", f"/v1/files/{name}")[1]["status"] != "uploaded", seconds=60)
    return name


def generate(stack: RunningStack) -> None:
    """Prompts that are run, refused, cancelled, in a chat, in a batch."""
    done = stack.submit(input=f"\ndef {CANARY}(", max_output_tokens=4, metadata={CANARY: CANARY}, user=CANARY)
    stack.end(done)
    stack.call("POST", f"/v1/responses/{stack.submit(input=CANARY, max_output_tokens=200)}/cancel")
    says = {"model": "chatty", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 2}
    assert stack.call("POST", "/v1/chat/completions", says)[0] == 200
    for bad in (
        {"input": f"{CANARY}\0"},
        {"input": CANARY * 1000},
        {CANARY: 1},
        {"model": f"{CANARY}\n{FORGED}"},
    ):
        assert stack.call("POST", "/v1/responses", {"model": "starter", "input": "x", **bad})[0] >= 400
    body = {"model": "starter", "prompt": CANARY, "max_tokens": 2}
    line = {"custom_id": CANARY, "method": "POST", "url": "/v1/completions", "body": body}
    asked = {"endpoint": "/v1/completions", "completion_window": "24h"}
    batch = stack.call(
        "POST", "/v1/batches", {"input_file_id": upload(stack, "batch", json.dumps(line)), **asked}
    )[1]
    wait_for(lambda: stack.call("GET", f"/v1/batches/{batch['id']}")[1]["status"] == "completed", seconds=90)


def train(stack: RunningStack) -> None:
    """Data that is read and refused."""
    broken = upload(stack, "fine-tune", f'{{"text": "{CANARY}"}}\n{{"text": {CANARY}}}\n{{"{CANARY}": 1}}')
    assert stack.call("GET", f"/v1/files/{broken}")[1]["status"] == "error"
    data = upload(stack, "fine-tune", "\n".join(f'{{"text": "def {CANARY}{one}()"}}' for one in range(20)))
    asked = {"model": "starter", "training_file": data, "hyperparameters": {"max_steps": 1}, "suffix": "x"}
    status, job = stack.call("POST", "/v1/fine_tuning/jobs", asked)
    assert status == 200, job
    ended = ("succeeded", "failed", "cancelled")
    wait_for(
        lambda: stack.call("GET", f"/v1/fine_tuning/jobs/{job['id']}")[1]["status"] in ended, seconds=180
    )


def stumble(stack: RunningStack) -> None:
    """What crashes behind the door: a job that nobody can read, and words on Redis that are none."""
    database = Database(stack.settings.database, connections=1)
    name = stack.submit(input="x", max_output_tokens=500)
    stack.call("POST", f"/v1/responses/{name}/cancel")
    wait_for(lambda: stack.get(name)["status"] == "cancelled")
    broken = f"""UPDATE jobs SET state = 'queued', finished_at = NULL, cancel_requested_at = NULL,
        output = NULL, error = NULL, input = '{{"prompts": ["{CANARY}"], "n": "{CANARY}"}}'
        WHERE id = '{name}'"""
    with database.transaction() as connection:
        connection.execute(text(broken))
    assert stack.end(name)["status"] == "failed"
    with redis.Redis.from_url(stack.settings.redis) as client:
        client.publish("penstock:cancelled", f"{CANARY}\n{FORGED}")
        client.publish("penstock:ended", json.dumps([f"{CANARY}\n{FORGED}"]))
    database.close()


def knock(stack: RunningStack) -> None:
    """Heads with keys in them, and with lines that would look like the log's own."""
    for head in (
        f"Authorization: Bearer {CANARY}",
        f"X-Request-Id: {CANARY}\r\n {FORGED}",
        f"Cookie: {CANARY}",
    ):
        raw(
            stack,
            f"GET /v1/models/{CANARY}%0a{FORGED}?{CANARY}=1 HTTP/1.1",
            "Host: x",
            "Connection: close",
            head,
        )
    raw(stack, f"{CANARY} \x1b[31m{FORGED}")
    raw(stack, "GET /v1/models HTTP/1.1", "Host: x", "Connection: close", f"User-Agent: {CANARY}")


def test_no_log_of_any_process_holds_what_clients_sent(stack: RunningStack) -> None:
    generate(stack)
    train(stack)
    stumble(stack)
    knock(stack)
    found = logged(stack)
    names = {Path(name).stem for name in found}
    assert {"web", "worker", "trainer", "clerk", "sweeper", "postgres", "redis"} <= names
    for name, log in found.items():
        for secret in (CANARY, FORGED, stack.key, stack.key[25:]):
            at = log.find(secret)
            assert at < 0, (name, log[max(0, at - 1000) : at + 200])
    for name in ("web", "worker", "trainer", "clerk", "sweeper"):
        for line in found[f"{name}.log"].splitlines():
            assert isinstance(json.loads(line), dict), (name, line)
