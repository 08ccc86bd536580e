"""How a model is named by what is in its folder: the worker and whoever publishes reckon it alike."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import Tokenizer

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def of_model(files: Mapping[str, str], tokenizer: bytes) -> str:
    """The digest of a whole model, whatever it is quantized to.

    `files` are those of its folder with the SHA-256 of each, which is also the name of its artifact: the
    configuration and the weights, one file or shards, count. `tokenizer` is as `tokenizer_json` has it.
    """
    shards = (
        [WEIGHTS] if WEIGHTS in files else sorted(name for name in files if name.endswith(".safetensors"))
    )
    return _joined([files[CONFIG], *(files[name] for name in shards), hashlib.sha256(tokenizer).hexdigest()])


def of_adapter(files: Mapping[str, str], base: str) -> str:
    """The digest of what speaks: the adapter of a PEFT folder over the model with the digest `base`."""
    return over(_joined([files[ADAPTER_CONFIG], files[ADAPTER_WEIGHTS]]), base)


def over(adapter: str, base: str) -> str:
    """The digest of an adapter with that digest of its own over a model."""
    return hashlib.sha256(f"{base}+{adapter}".encode()).hexdigest()


def of_files(paths: Iterable[Path]) -> str:
    """The digest of files alone, in their order. Raises OSError."""
    return _joined(sha256(path) for path in paths)


def sha256(path: Path) -> str:
    """The name of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """A tokenizer as the catalog keeps it, and as its digest counts: without cutting or padding."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    text: str = tokenizer.to_str()
    return text.encode()


def _joined(hashes: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, hashes))).hexdigest()
