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
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
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


def tiny_llava() -> LlavaForConditionalGeneration:
    """Vision tower and text decoder are equally deep."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(**_SIZES, image_size=8, patch_size=4)
    text = LlamaConfig(**_SIZES, num_key_value_heads=2, vocab_size=128)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=5, vision_feature_layer=-2)
    ).eval()


def tiny_qwen3_vl(kind: str) -> nn.Module:
    """Six text layers; features of two vision layers are added after text layers 0 and 1."""
    torch.manual_seed(0)
    text = {
        "vocab_size": 200,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4},
    }
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 1,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    ids = {"image_token_id": 190, "video_token_id": 191, "vision_start_token_id": 192, "vision_end_token_id": 193}
    if kind == "moe":
        text |= {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
        config = Qwen3VLMoeConfig(text_config=text, vision_config=vision, **ids)
        return Qwen3VLMoeForConditionalGeneration(config).eval()
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids)).eval()


def image_batches(model: nn.Module, sizes: tuple[int, ...] = (3, 2)) -> list[dict[str, Tensor]]:
    """Texts with an image each, as a processor makes them, padded on the left; labels leave the image's tokens out."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for number, size in enumerate(sizes):
        words = torch.randint(6, 120, (size, 6 + number), generator=generator)
        if isinstance(model, LlavaForConditionalGeneration):
            image = torch.full((size, 4), 5)
            read = {"pixel_values": torch.randn(size, 3, 8, 8, generator=generator)}
        else:
            image = torch.tensor([192, 190, 190, 190, 190, 193]).expand(size, -1)
            read = {"pixel_values": torch.randn(16 * size, 48, generator=generator)}
            read["image_grid_thw"] = torch.tensor([[1, 4, 4]]).expand(size, -1)
        ids = torch.cat([words[:, :2], image, words[:, 2:]], dim=1)
        mask = torch.ones_like(ids)
        ids[0, 0] = mask[0, 0] = 0
        if not isinstance(model, LlavaForConditionalGeneration):
            read["mm_token_type_ids"] = (ids == 190).long()
        labels = ids.masked_fill((mask == 0) | torch.isin(ids, torch.tensor([5, 190, 192, 193])), -100)
        labels[0, 1] = -100  # nothing but padding is before it
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels, **read})
    return batches
