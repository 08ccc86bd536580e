"""Names that climb: no URL, id, filename, model or file of a folder leads out of where it belongs."""

import json
import os
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from jobs.artifacts import ArtifactStore
from jobs.database import Database
from jobs.errors import ModelUnavailable
from jobs.settings import Settings
from tests.trainer.small import order, write_model
from tests.web.conftest import Caller, rows
from tests.web.test_gunicorn import Server
from trainer import export
from trainer.bases import fetch_folder

CLIMBING = [
    "../../../../../../etc/passwd",
    "..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "%2e%2e%2f%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%252e%252e%252f%252e%252e%252fetc%252fpasswd",
    "....//....//....//etc/passwd",
    "..%5c..%5c..%5cetc%5cpasswd",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "%00",
    "page.html%00.css",
    "..",
    ".",
    "%c0%ae%c0%ae%c0%afetc%c0%afpasswd",
    "~root/.ssh/id_rsa",
    "file:%2f%2f%2fetc%2fpasswd",
    "C:%5cwindows%5cwin.ini",
    "%0d%0aX-Injected:%20yes",
    "..;/..;/etc/passwd",
    "pages/../../page.py",
]


def test_no_route_leads_to_a_file_of_the_host(app: Flask, caller: Caller) -> None:
    rules = [rule for rule in app.url_map.iter_rules() if rule.arguments]
    assert {"/static/<path:filename>", "/docs/<name>", "/v1/files/<file_id>/content"} <= {
        rule.rule for rule in rules
    }
    for rule, name in product(rules, CLIMBING):
        path = re.sub(r"<(?:\w+:)?\w+>", lambda _, name=name: name, rule.rule)
        for method in sorted((rule.methods or set()) & {"GET", "POST", "DELETE"}):
            answer = caller.send(method, path, data="{}" if method == "POST" else None)
            assert answer.status_code in (400, 404, 405), (method, path, answer.status_code)
            assert "root:" not in answer.text
            assert "X-Injected" not in answer.headers


def test_nor_by_a_url_that_no_client_library_would_send(server: Server) -> None:
    for path in CLIMBING:
        for begin in ("/static/", "/docs/", "/", "http://x/static/", "/static/../"):
            answer = server.raw(
                f"GET {begin}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
            head, _, body = answer.partition("\r\n\r\n")
            # some of these normalize to the page itself, which is for everybody
            assert "root:" not in body, path
            assert "import " not in body, path
            assert "X-Injected" not in head, path
            assert head.split(" ")[1] in ("200", "400", "404"), (begin, path, head)


@pytest.mark.parametrize(
    "name", ["../../models/starter", "/etc/passwd", "starter/../starter", "a\\..\\b", "."]
)
def test_a_model_s_name_is_looked_up_and_never_opened(caller: Caller, offered: Database, name: str) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v1/responses", {"input": "d", "background": True}),
        ("/v1/completions", {"prompt": "d"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "d"}]}),
    ]
    for path, body in asked:
        answer = caller.post(path, model=name, **body)
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "model_not_found")
    assert rows(offered) == 0


@pytest.mark.parametrize("suffix", ["../x", "a/b", "a\0", "a b", "ä", "x" * 65, "a\nb"])
def test_a_suffix_cannot_become_a_path(caller: Caller, suffix: str) -> None:
    answer = caller.post("/v1/fine_tuning/jobs", model="starter", training_file="file-x", suffix=suffix)
    assert answer.status_code == 400
    assert answer.get_json()["error"]["param"] == "suffix"


@pytest.mark.parametrize("path", ["../outside", "/tmp/outside-of-penstock", "a/../../outside"])
def test_files_of_a_model_stay_in_its_folder(settings: Settings, tmp_path: Path, path: str) -> None:
    store = ArtifactStore(f"file://{tmp_path}/store")
    held = {path: store.put(b"evil")}
    with pytest.raises(ModelUnavailable, match="outside of its folder"):
        fetch_folder(store, held, tmp_path / "inner" / "folder")
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "inner" / "outside").exists()
    assert not Path("/tmp/outside-of-penstock").exists()


@pytest.mark.parametrize(
    "name", ["", "aside", "../" * 20 + "etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "\0"]
)
def test_an_artifact_has_a_hash_for_a_name_or_is_none(tmp_path: Path, name: str) -> None:
    store = ArtifactStore(f"file://{tmp_path}/store")
    (tmp_path / "store").mkdir()
    for read in (store.get, store.open, store.remove):
        try:
            read(name)
        except FileNotFoundError:
            continue
        assert read == store.remove, name
    with pytest.raises(FileNotFoundError):
        store.fetch(name, tmp_path / "copy")


def test_an_export_takes_the_files_of_a_model_and_no_other(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    secret = tmp_path / "secret"
    secret.write_text("secret-5c1d")
    for name in ("notes.txt", "README.md", "credentials.json"):
        os.symlink(secret, base / name)
    asked = order(tmp_path / "export", base)
    export.write(asked)
    written = [path for path in (tmp_path / "export").rglob("*") if path.is_file()]
    assert {"config.json", "model.safetensors"} <= {path.name for path in written}
    assert not any(path.is_symlink() for path in written)
    assert not any(b"secret-5c1d" in path.read_bytes() for path in written)


def test_a_shard_elsewhere_is_not_taken_into_an_export(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", shard="10KB")
    index = base / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] = dict.fromkeys(content["weight_map"], "../secret")
    index.write_text(json.dumps(content))
    with pytest.raises(ModelUnavailable, match="no weight_map of files beside it"):
        export.write(order(tmp_path / "export", base))
