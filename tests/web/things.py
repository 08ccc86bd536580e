"""One of everything that has an id, made over HTTP."""

from tests.web.conftest import Caller


def known(caller: Caller) -> dict[str, str]:
    """One of each thing that has an id, by the name that its id has in URLs."""
    response = caller.post("/v1/responses", model="starter", input="def", background=True)
    line = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    files = {purpose: upload(caller, purpose, line) for purpose in ("batch", "fine-tune")}
    batch = caller.post(
        "/v1/batches", input_file_id=files["batch"], endpoint="/v1/responses", completion_window="24h"
    )
    job = caller.post("/v1/fine_tuning/jobs", model="starter", training_file=files["fine-tune"])
    hook = {"name": "a", "url": "https://host.invalid/", "event_types": ["batch.completed"]}
    made = {
        "response_id": response,
        "batch_id": batch,
        "job_id": job,
        "endpoint_id": caller.post("/v1/webhook_endpoints", **hook),
        "export_id": caller.post("/v1/models/starter/export"),
    }
    assert {answer.status_code for answer in made.values()} == {200}
    ids = {name: str(answer.get_json()["id"]) for name, answer in made.items()}
    # nobody works at it here, and who waits for its end shall not wait for ever
    assert caller.post(f"/v1/models/starter/exports/{ids['export_id']}/cancel").status_code == 200
    return ids | {"file_id": files["batch"], "training_file": files["fine-tune"], "model": "starter"}


def upload(caller: Caller, purpose: str, content: bytes) -> str:
    """The id of a new file."""
    data, kind = multipart({"purpose": purpose}, content)
    answer = caller.send("POST", "/v1/files", data=data, Content_Type=kind)
    assert answer.status_code == 200, answer.text
    return str(answer.get_json()["id"])


def multipart(fields: dict[str, str], content: bytes) -> tuple[bytes, str]:
    """A form as clients send it, and its content type."""
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    return b"".join([*parts, head, content, b"\r\n--x--\r\n"]), "multipart/form-data; boundary=x"
