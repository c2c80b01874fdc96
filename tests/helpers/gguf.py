"""GGUF files of Llama models, written with the package ``gguf``, and wheels that hold one."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch


def write_gguf(model: Any, path: Path, *, tokenizer: Any = None, half: bool = True) -> Path:
    """What llama.cpp's converter writes for a Llama model: its tensors' names, metadata and order of rotary weights."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
    if tokenizer is not None:
        _add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        values = tensor.float()
        if name.endswith("q_proj.weight"):
            values = _interleaved(values, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            values = _interleaved(values, config.num_key_value_heads)
        kind = np.float16 if half and values.dim() > 1 else np.float32
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values.numpy().astype(kind))
    _finish(writer)
    return path


def write_unreadable_gguf(path: Path) -> Path:
    """A sound file of an architecture that nobody has."""
    import gguf

    writer = gguf.GGUFWriter(path, "unheard-of")
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), dtype=np.float32))
    _finish(writer)
    return path


def write_wheel(folder: Path, requirement: str, members: dict[str, bytes]) -> Path:
    """A wheel that pip takes from ``--find-links``."""
    name, _, version = requirement.partition("==")
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    files = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in {**files, f"{info}/RECORD": record.encode()}.items():
            wheel.writestr(file, content)
    return path


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rotary pairs side by side, as GGUF has them, from two halves, as transformers has them."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _add_tokenizer(writer: Any, tokenizer: Any) -> None:
    """A byte-level BPE's tokens and merges."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(described["vocab"].items(), key=lambda entry: entry[1])]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in described["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
