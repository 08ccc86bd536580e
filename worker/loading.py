"""The only place that finds a model's folder, and chooses what serves it: the kernel or the torch path."""

import ctypes
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is its HTTP client's
    GatedRepoError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
)
from tokenizers import Tokenizer

from jobs import digests
from jobs.errors import ModelUnavailable
from worker import checkpoint
from worker.cuda.model import CudaGPT2
from worker.kernels import refusal
from worker.kernels.model import KernelGPT2
from worker.model import GPT2, Architecture, Network
from worker.protocol import Model
from worker.quantize import saved
from worker.quantize.codes import needed, quantized_weight
from worker.quantize.methods import Method, choose_method
from worker.quantize.weights import Weight
from worker.tokenizer import read_chat_template, read_tokenizer

FETCHED = [
    "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    "chat_template.jinja",
]  # fmt: skip
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Description:
    """What others must know of a model, loaded or not."""

    architecture: Architecture
    tokenizer: Tokenizer
    tokenizer_json: bytes
    chat_template: str | None
    eos_token_id: int
    eos_token_ids: tuple[int, ...]  # all that end a text; eos_token_id is the first
    context: int  # tokens, prompt and continuation together
    vocab_size: int
    digest: str  # SHA-256 over the folder's configuration, weights and tokenizer, whatever the quantization
    quantization: Method
    parameters: int
    weight_bytes: int  # of the weights under this quantization
    original: str | None  # digest of the model that was quantized into this folder


@dataclass(frozen=True)
class LoadedModel(Description):
    """A model ready for an engine."""

    model: Model
    path: str  # what multiplies: avx512_vnni, torch or cuda
    why: str | None  # why not the kernel, in one sentence


def load(
    source: str,
    quantization: str | None,
    device: str,
    token: str | None = None,
    kernel: str = "auto",
    threads: int = 1,
) -> LoadedModel:
    """A model from a local folder in Hugging Face layout, from one that Penstock quantized, or from the Hub.

    `device` is auto, cpu or cuda; `kernel` is auto or torch; `threads` share a pass on a CPU. Raises
    ModelUnavailable with one sentence.
    """
    with named(source):
        opened = _open(source, quantization, device, token)
        description = opened.describe()
        model, path, why = _served(opened, description.eos_token_id, kernel, threads)
        give_back()  # of the original weights
    log.info("path chosen", source=source, quantization=opened.method, path=path, why=why)
    return LoadedModel(**vars(description), model=model, path=path, why=why)


def describe(
    source: str,
    quantization: str | None,
    device: str,
    token: str | None = None,
    files: Mapping[str, str] | None = None,
) -> Description:
    """What `load` would say of a model, without reading its weights but for their digest.

    `files` are the SHA-256 of each file, where they are known, and spare that. Refuses what `load` refuses,
    except numbers that are not finite. Raises ModelUnavailable.
    """
    with named(source):
        opened = _open(source, quantization, device, token)
        opened.check_headers()
        return opened.describe(files)


def give_back() -> None:
    """Hand freed memory back to the system: glibc would keep 230 MB of GPT-2's 124 M parameters."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other C libraries do without
        trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def find_folder(source: str, token: str | None = None) -> Path:
    """Where a model lies, fetched from the Hub if need be. Raises ModelUnavailable."""
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


@dataclass(frozen=True)
class _Opened:
    """A model's folder, its configuration read, and what shall become of it."""

    folder: Path
    architecture: Architecture
    ends: tuple[int, ...]
    files: list[Path]
    kept: saved.Saved | None  # its weights are in the method's numbers already
    method: Method
    device: str

    def describe(self, files: Mapping[str, str] | None = None) -> Description:
        a = self.architecture
        tokenizer = read_tokenizer(self.folder)
        tokenizer_json = digests.tokenizer_json(tokenizer)
        if files is None:
            files = {path.name: digests.sha256(path) for path in (self.folder / digests.CONFIG, *self.files)}
        return Description(
            architecture=a,
            tokenizer=tokenizer,
            tokenizer_json=tokenizer_json,
            chat_template=read_chat_template(self.folder),
            eos_token_id=self.ends[0],
            eos_token_ids=self.ends,
            context=a.n_positions,
            vocab_size=a.vocab_size,
            digest=digests.of_model(files, tokenizer_json),
            quantization=self.method,
            parameters=sum(map(math.prod, a.shapes().values())),
            weight_bytes=saved.size(a, self.method),
            original=None if self.kept is None else self.kept.source,
        )

    def check_headers(self) -> None:
        if self.kept is not None:
            saved.check_header(self.files[0], self.architecture, self.method)
        else:
            checkpoint.check_headers(self.files, self.architecture)

    def weights(self) -> dict[str, Weight]:
        """In the method's numbers; of the original, one tensor at a time is in memory."""
        a = self.architecture
        if self.kept is not None:
            return saved.read_weights(self.files[0], a, self.method)
        tensors = checkpoint.read_tensors(self.files, a)
        return {name: quantized_weight(a, name, tensor, self.method) for name, tensor in tensors}


def _open(source: str, quantization: str | None, wanted_device: str, token: str | None) -> _Opened:
    device = _choose_device(wanted_device)
    folder = find_folder(source, token)
    config = checkpoint.read_json(folder / "config.json")
    architecture = checkpoint.read_architecture(config)
    kept = saved.read_saved(config)
    if kept and quantization not in (None, kept.method):
        raise ModelUnavailable(
            f"it is saved as {kept.method} and cannot become {quantization}; ask for its original."
        )
    method = choose_method(kept.method if kept else quantization, device)
    if method == "int8_static" and not kept:
        needed(None)
    return _Opened(
        folder=folder,
        architecture=architecture,
        ends=checkpoint.read_ends_of_text(folder, config, architecture.vocab_size),
        files=checkpoint.weight_files(folder),
        kept=kept,
        method=method,
        device=device,
    )


def _choose_device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelUnavailable("The device is set to cuda, but there is no CUDA device; use cpu or auto.")
    return wanted


def _served(opened: _Opened, eos_token_id: int, kernel: str, threads: int) -> tuple[Model, str, str | None]:
    """The model on the best path that may take it, that path's name, and why not the kernel."""
    architecture, method, device = opened.architecture, opened.method, opened.device
    why = "KERNEL is set to torch." if kernel == "torch" else refusal(architecture, method, device)
    context = architecture.n_positions
    if why is None:
        model = KernelGPT2.build(architecture, opened.weights(), method, context, eos_token_id, threads)
        return model, "avx512_vnni", None
    network = Network.build(architecture, opened.weights(), method, device)
    if device == "cuda":
        return CudaGPT2(network, context, eos_token_id), "cuda", why
    return GPT2(network, context, eos_token_id, threads), "torch", why


@contextmanager
def named(source: str) -> Iterator[None]:
    """Say of which model an error speaks."""
    try:
        yield
    except ModelUnavailable as error:
        raise ModelUnavailable(f"{source}: {error}") from error
    except OSError as error:
        raise ModelUnavailable(f"{source}: a file cannot be read: {error}.") from error
