"""Write a GPT-2 folder as GGUF files for llama.cpp, one for each of its quantizations."""

import argparse
import ctypes
import json
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
from safetensors import safe_open

TYPES = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}
_TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # GPT-2's Conv1D has them as [in, out]


def write(folder: Path, file: Path) -> None:
    """The folder's weights, in fp32, with its tokenizer."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    _add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()), config["eos_token_id"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config["n_layer"])
    with safe_open(folder / "model.safetensors", "numpy") as weights:
        for name in weights.keys():  # noqa: SIM118  # not a dict
            tensor = weights.get_tensor(name)
            if name.endswith(_TRANSPOSED):
                tensor = tensor.T.copy()
            known = names.get_name(name.removeprefix("transformer."), (".weight", ".bias"))
            writer.add_tensor(known, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], end: int) -> None:
    ids = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(ids, key=lambda token: ids[token])
    types = [gguf.TokenType.NORMAL] * len(tokens)
    types[end] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(end)
    writer.add_bos_token_id(end)


def quantize(plain: Path, name: str, file: Path) -> None:
    """llama-quantize's own choice of types for `name`. Raises RuntimeError."""
    wanted = llama_cpp.llama_model_quantize_default_params()
    wanted.ftype = TYPES[name]
    failed = llama_cpp.llama_model_quantize(str(plain).encode(), str(file).encode(), ctypes.byref(wanted))
    if failed:
        raise RuntimeError(f"llama_model_quantize returned {failed} for {name}")


def main() -> None:
    """Write q8_0.gguf and q4_0.gguf."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a folder in Hugging Face layout")
    parser.add_argument("folder", type=Path, help="where to write to")
    asked = parser.parse_args()
    asked.folder.mkdir()
    plain = asked.folder / "f32.gguf"
    write(asked.model, plain)
    for name in TYPES:
        quantize(plain, name, asked.folder / f"{name}.gguf")
    plain.unlink()


if __name__ == "__main__":
    main()
