"""Tiny random models that don't continue one sequence of tokens, and batches for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

VOCABULARY, START = 128, 0
_BART = {
    "vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 4, "decoder_layers": 4, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "decoder_start_token_id": START, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def perturbed(model: nn.Module) -> Any:
    """The model with weights that make every layer matter, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def tiny_t5(encoder_layers: int = 4) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2}
    depth = {"num_layers": encoder_layers, "num_decoder_layers": 4}
    return perturbed(T5ForConditionalGeneration(T5Config(**sizes, **depth, decoder_start_token_id=START)))


def tiny_bart() -> BartForConditionalGeneration:
    torch.manual_seed(0)
    return perturbed(BartForConditionalGeneration(BartConfig(**_BART, max_position_embeddings=32)))


def tiny_whisper() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    lengths = {"max_source_positions": 10, "max_target_positions": 32, "num_mel_bins": 4}
    config = WhisperConfig(**_BART, **lengths, suppress_tokens=[], begin_suppress_tokens=[])
    return perturbed(WhisperForConditionalGeneration(config))


def seq2seq_batches(model: nn.Module, sizes: tuple[int, ...] = (4, 2)) -> list[dict[str, Tensor]]:
    """Batches as a collator makes them: each padded to its own longest text and target."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for number, size in enumerate(sizes):
        labels = torch.randint(5, 120, (size, 5 + number), generator=generator)
        labels[1, 3:] = -100
        if isinstance(model, WhisperForConditionalGeneration):
            read = {"input_features": torch.randn(size, 4, 20, generator=generator)}
        else:
            text = torch.randint(5, 120, (size, 7 + number), generator=generator)
            mask = torch.ones_like(text)
            mask[0, 6:] = 0
            read = {"input_ids": text * mask, "attention_mask": mask}
        batches.append({**read, "labels": labels})
    return batches


# transformers would write the kind of problem into the config at the first loss: another fingerprint from then on.
_CLASSES = {"num_labels": 3, "problem_type": "single_label_classification"}
_SIZES = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}


def tiny_bert() -> BertForMaskedLM:
    torch.manual_seed(0)
    return perturbed(BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **_SIZES)))


def tiny_bert_classifier() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return perturbed(BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, **_CLASSES, **_SIZES)))


def tiny_modernbert() -> ModernBertForMaskedLM:
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    config = ModernBertConfig(vocab_size=VOCABULARY, global_attn_every_n_layers=2, local_attention=4, **ids, **_SIZES)
    return perturbed(ModernBertForMaskedLM(config))


def tiny_vit() -> ViTForImageClassification:
    torch.manual_seed(0)
    return perturbed(ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **_CLASSES, **_SIZES)))


def labelled_batch(model: nn.Module) -> dict[str, Tensor]:
    """Masked tokens to restore, or inputs with a class each."""
    generator = torch.Generator().manual_seed(1)
    if isinstance(model, ViTForImageClassification):
        pixels = torch.randn(6, 3, 16, 16, generator=generator)
        return {"pixel_values": pixels, "labels": torch.randint(3, (6,), generator=generator)}
    ids = torch.randint(5, 120, (6, 9), generator=generator)
    if isinstance(model, BertForSequenceClassification):
        return {"input_ids": ids, "labels": torch.randint(3, (6,), generator=generator)}
    masked = torch.rand(ids.shape, generator=generator) < 0.3
    return {"input_ids": ids.masked_fill(masked, 3), "labels": ids.masked_fill(~masked, -100)}
