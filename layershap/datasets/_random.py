"""Tiny models with random weights, for tests."""

from __future__ import annotations

from typing import Any

import torch


def tiny_random(
    arch: str = "gpt2", *, n_layers: int = 4, vocab_size: int = 64, hidden_size: int = 32, seed: int = 0
) -> Any:
    """Build a tiny, random, float32 causal language model of a transformers model type.

    Parameters
    ----------
    arch : str, default='gpt2'
        A ``model_type`` whose config takes the common size arguments: gpt2, llama, mistral, qwen2, gpt_neox, mamba...
    n_layers, vocab_size, hidden_size : int, default=4, 64, 32
        Sizes of the model; it has 4 heads and a context of 128 tokens.
    seed : int, default=0
        Seed of the weights. They are larger than a fresh model's, so that every layer moves the logits.

    Returns
    -------
    PreTrainedModel
        Model in evaluation mode.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        arch,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    if hasattr(config, "intermediate_size"):
        config.intermediate_size = 3 * hidden_size
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                noise = torch.randn(parameter.shape, generator=generator, device="cpu")
                parameter.add_(0.1 * noise.to(parameter.device))
    return model
