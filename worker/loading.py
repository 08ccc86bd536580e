"""The only place that reads a model's files: every one is checked at the door, none of their code is run."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its HTTP client's
    GatedRepoError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
)
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from jobs.errors import ModelUnavailable
from worker.linears import Method, choose_method
from worker.model import GPT2, Architecture, Network

FETCHED = [
    "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    "chat_template.jinja",
]  # fmt: skip
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
CODE = ("auto_map", "custom_pipelines")  # config fields that name code of the model's own
MASKS = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # constants that old checkpoints hold
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for an engine, and what others must know of it."""

    model: GPT2
    tokenizer: Tokenizer
    tokenizer_json: bytes
    chat_template: str | None
    eos_token_id: int
    context: int  # tokens, prompt and continuation together
    vocab_size: int
    digest: str  # SHA-256 over configuration, weights and tokenizer
    quantization: str
    parameters: int


def load(source: str, quantization: str | None, device: str, token: str | None = None) -> LoadedModel:
    """A model from a local folder in Hugging Face layout, or from the Hub.

    `device` is auto, cpu or cuda. Raises ModelUnavailable with one sentence that says why.
    """
    try:
        device = _choose_device(device)
        method = choose_method(quantization, device)
        return _read(_folder(source, token), method, device)
    except ModelUnavailable as error:
        raise ModelUnavailable(f"{source}: {error}") from error
    except OSError as error:
        raise ModelUnavailable(f"{source}: a file cannot be read: {error}.") from error


def _choose_device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelUnavailable("The device is set to cuda, but there is no CUDA device; use cpu or auto.")
    return wanted


def _folder(source: str, token: str | None) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(source):
        raise ModelUnavailable("there is no such folder.")
    try:
        return Path(snapshot_download(source, allow_patterns=FETCHED, token=token))
    except GatedRepoError as error:
        raise ModelUnavailable("the Hub gives this model only to a token that was let in.") from error
    except RepositoryNotFoundError as error:
        raise ModelUnavailable("there is no such folder, and the Hub shows no such model.") from error
    except (OSError, HTTPError, HFValidationError) as error:
        raise ModelUnavailable("there is no such folder, and the Hub could not be reached.") from error


def _read(folder: Path, method: Method, device: str) -> LoadedModel:
    config = _json(folder / "config.json")
    architecture = _architecture(config)
    tokenizer = _tokenizer(folder)
    eos = _end_of_text(folder, config, architecture.vocab_size)
    files = _weight_files(folder)
    weights = _weights(files, architecture)
    tokenizer_json = tokenizer.to_str().encode()
    network = Network.build(architecture, weights, method, device)
    return LoadedModel(
        model=GPT2(network, architecture.n_positions, eos),
        tokenizer=tokenizer,
        tokenizer_json=tokenizer_json,
        chat_template=_chat_template(folder),
        eos_token_id=eos,
        context=architecture.n_positions,
        vocab_size=architecture.vocab_size,
        digest=_digest([folder / "config.json", *files], tokenizer_json),
        quantization=method,
        parameters=sum(tensor.numel() for tensor in weights.values()),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelUnavailable(f"the file {path.name} is missing.") from error
    except ValueError as error:
        raise ModelUnavailable(f"{path.name} is not JSON.") from error
    if not isinstance(found, dict):
        raise ModelUnavailable(f"{path.name} is not a JSON object.")
    return found


def _architecture(config: dict[str, Any]) -> Architecture:
    for field in CODE:
        if config.get(field):
            raise ModelUnavailable(f"config.json names code of its own in {field}, which is never run here.")
    if config.get("quantization_config"):
        raise ModelUnavailable("config.json has a quantization_config; only unquantized weights can be read.")
    try:
        return Architecture.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "its fields"
        raise ModelUnavailable(f"config.json does not fit at {where}: {first['msg']}.") from error


def _end_of_text(folder: Path, config: dict[str, Any], vocab: int) -> int:
    path = folder / "generation_config.json"
    found = _json(path).get("eos_token_id") if path.exists() else None
    found = config.get("eos_token_id", 50256) if found is None else found
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, int) or not 0 <= found < vocab:
        raise ModelUnavailable(f"eos_token_id must be one token id below vocab_size {vocab}, not {found}.")
    return found


def _tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes()) if path.exists() else _byte_level(folder)
    except (OSError, ModelUnavailable):
        raise
    except Exception as error:  # the library raises nothing more precise
        raise ModelUnavailable(f"the tokenizer cannot be read: {error}.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _byte_level(folder: Path) -> Tokenizer:
    """GPT-2's tokenizer from its two old files."""
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocab.exists() and merges.exists()):
        raise ModelUnavailable("there is neither tokenizer.json nor both vocab.json and merges.txt.")
    tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def _chat_template(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    template = _json(path).get("chat_template") if path.exists() else None
    if template is None or isinstance(template, str):
        return template
    raise ModelUnavailable("tokenizer_config.json has a chat_template that is not one text.")


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if index.exists():
        shards = _json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(_is_plain_name(name) for name in shards.values()):
            raise ModelUnavailable(f"{index.name} has no weight_map of safetensors files beside it.")
        return [folder / name for name in sorted(set(shards.values()))]
    for pattern in PICKLES:
        for pickle in sorted(folder.glob(pattern)):
            raise ModelUnavailable(
                f"{pickle.name} is a pickle, which is never opened; save it as safetensors."
            )
    raise ModelUnavailable("the file model.safetensors is missing.")


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")


def _weights(files: list[Path], architecture: Architecture) -> dict[str, Tensor]:
    """The tensors that the architecture asks for, in fp32, each of the right shape and finite."""
    shapes = architecture.shapes()
    found: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no mapping)
                    plain = name.removeprefix("transformer.")
                    if not (MASKS.fullmatch(plain) or (plain == "lm_head.weight" and plain not in shapes)):
                        found[plain] = _checked(name, tensors.get_tensor(name), shapes.get(plain))
        except FileNotFoundError as error:
            raise ModelUnavailable(f"the file {path.name} is missing.") from error
        except SafetensorError as error:
            raise ModelUnavailable(f"{path.name} is not a whole safetensors file: {error}.") from error
    for name in shapes:
        if name not in found:
            raise ModelUnavailable(f"the weights lack the tensor {name}, which config.json asks for.")
    return found


def _checked(name: str, tensor: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    if shape is None:
        raise ModelUnavailable(f"the weights have a tensor {name}, which config.json does not ask for.")
    if tuple(tensor.shape) != shape:
        has, asked = list(tensor.shape), list(shape)
        raise ModelUnavailable(f"the tensor {name} has shape {has}, and config.json asks for {asked}.")
    if not tensor.is_floating_point():
        raise ModelUnavailable(f"the tensor {name} is {tensor.dtype}, not floating point.")
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise ModelUnavailable(f"the tensor {name} holds NaN or infinity.")
    return tensor


def _digest(files: list[Path], tokenizer: bytes) -> str:
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    whole.update(hashlib.sha256(tokenizer).digest())
    return whole.hexdigest()
