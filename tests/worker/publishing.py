"""Models as a trainer publishes them: folders in the artifact store, and a version in the catalog."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from jobs import digests, published
from jobs.artifacts import ArtifactStore
from jobs.catalog import ModelVersion
from jobs.database import Database
from jobs.published import Published
from tests.worker.conftest import CONTEXT, EOS, VOCAB


def publish(
    database: Database,
    store: ArtifactStore,
    owner: int,
    name: str,
    folder: Path,
    base: str | None = None,
    base_digest: str | None = None,
) -> Published:
    """Publish a model's folder, or an adapter's over a base."""
    files = {str(p.relative_to(folder)): store.put_file(p) for p in folder.rglob("*") if p.is_file()}
    tokenizer = digests.tokenizer_json(Tokenizer.from_file(str(folder / "tokenizer.json")))
    over = base_digest or "0" * 64
    version = ModelVersion(
        name=name,
        digest=digests.of_adapter(files, over) if base else digests.of_model(files, tokenizer),
        quantization="fp32",
        parameters=1000,
        context=CONTEXT,
        vocab_size=VOCAB,
        eos_token_id=EOS,
        tokenizer=store.put(tokenizer),
        chat_template=None,
        slots=1,
    )
    lineage: dict[str, Any] = {"base": base or "base", "base_digest": base_digest}
    new = Published(version, owner, f"ftjob-{name}", lineage, base, files)
    with database.transaction() as connection:
        published.publish(connection, new)
    return new


def varied(folder: Path, source: Path, number: int) -> Path:
    """A copy of a model's folder with a digest of its own."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"number": number}))
    return folder
