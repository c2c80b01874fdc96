"""GGUF files of Llama, Qwen2, Gemma3 and GPT-2 models, written with the package ``gguf``, and wheels that hold one."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

ARCHITECTURES = {"llama": "LLAMA", "qwen2": "QWEN2", "gemma3_text": "GEMMA3", "gpt2": "GPT2"}
"""Model type of a config -> its name in ``gguf.MODEL_ARCH``."""


def write_gguf(model: Any, path: Path, *, tokenizer: Any = None, half: bool = True, eight_bits: bool = False) -> Path:
    """What llama.cpp's converter writes: its tensors' names, metadata and layout of weights; in eight bits (Q8_0) those
    whose rows are made of whole blocks.
    """
    import gguf

    config = model.config
    arch = gguf.MODEL_ARCH[ARCHITECTURES[config.model_type]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        _add_rotary_metadata(writer, config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)
    if tokenizer is not None:
        _add_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        kind = np.float16 if half and tensor.dim() > 1 else np.float32
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        values = _stored(name, tensor.float(), config).contiguous().numpy()
        if eight_bits and in_blocks(tensor):
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(stored, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(stored, values.astype(kind))
    _finish(writer)
    return path


def in_blocks(tensor: torch.Tensor) -> bool:
    """Whether its rows are made of whole blocks of 32 numbers, which share a scale in Q8_0."""
    return tensor.dim() > 1 and tensor.shape[-1] % 32 == 0


def _add_rotary_metadata(writer: Any, config: Any) -> None:
    """Of models with rotary embeddings and gated feed-forward parts."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    parameters = config.rope_parameters
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.model_type == "gemma3_text":
        # The theta of sliding layers isn't written: llama.cpp and transformers have it by themselves.
        writer.add_rope_freq_base(parameters["full_attention"]["rope_theta"])
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_sliding_window(config.sliding_window)
    else:
        writer.add_rope_freq_base(parameters["rope_theta"])
        writer.add_rope_dimension_count(head_dim)


def _stored(name: str, values: torch.Tensor, config: Any) -> torch.Tensor:
    """The weight as the file holds it."""
    if config.model_type == "llama" and name.endswith("q_proj.weight"):
        return _interleaved(values, config.num_attention_heads)
    if config.model_type == "llama" and name.endswith("k_proj.weight"):
        return _interleaved(values, config.num_key_value_heads)
    if config.model_type == "gemma3_text" and name.endswith("norm.weight"):
        return values + 1
    if config.model_type == "gpt2" and ".h." in name and values.dim() == 2:
        return values.T
    return values


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
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.eos_token_id is not None:
        writer.add_eos_token_id(tokenizer.eos_token_id)


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
