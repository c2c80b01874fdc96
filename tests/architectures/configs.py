"""Settings that make every causal LM type of transformers tiny and every layer kind present (facts, no code).

``COMMON`` is applied to every config class that has the field, also to nested configs; ``SPECIAL`` holds what a type
needs beyond that, nested configs under ``@name``.
"""

from typing import Any

LAYERS = 6
VOCABULARY = 128

COMMON: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "n_embd": 64,
    "d_model": 64,
    "dim": 64,
    "embed_dim": 64,
    "hidden_dim": 64,
    "n_hidden": 64,
    "num_hidden_layers": 6,
    "n_layer": 6,
    "n_layers": 6,
    "num_layers": 6,
    "decoder_layers": 6,
    "encoder_layers": 2,
    "num_decoder_layers": 6,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_kv_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "ffn_dim": 96,
    "n_inner": 96,
    "ffn_hidden_size": 96,
    "decoder_ffn_dim": 96,
    "encoder_ffn_dim": 96,
    "d_ff": 96,
    "dim_ff": 96,
    "dff": 96,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "expert_hidden_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_num_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "num_expert_group": 1,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "n_ctx": 128,
    "max_seq_len": 128,
    "max_source_positions": 128,
    "max_target_positions": 128,
    "seq_length": 128,
    "sliding_window": 5,
    "sliding_window_size": 5,
    "attention_chunk_size": 5,
    "attention_window_size": 5,
    "local_attention": 5,
    "window_size": 5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "decoder_start_token_id": 1,
    "sep_token_id": None,
    "cls_token_id": None,
    "mask_token_id": None,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "qk_head_dim": 32,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 4,
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
    "state_size": 8,
    "time_step_rank": 4,
    "chunk_size": 8,
    "ssm_state_size": 8,
    "n_mamba_heads": 2,
    "mamba_headdim": 32,
    "mamba_ngroups": 1,
    "mamba_num_heads": 4,
    "mamba_head_dim": 32,
    "n_groups": 1,
    "conv_kernel": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "is_decoder": True,
    "use_cache": True,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 4,
    "embedding_size": 64,
    "vocab_size_per_layer_input": 128,
    "hidden_size_per_layer_input": 8,
}

SPECIAL: dict[str, dict[str, Any]] = {
    "afmoe": {
        "num_dense_layers": 2,
        "layer_types": [
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ],
    },
    "axk1": {"num_key_value_heads": 4},
    "axk2": {"num_key_value_heads": 4},
    "bailing_hybrid": {
        "num_key_value_heads": 4,
        "layer_types": [
            "linear_attention",
            "linear_attention",
            "full_attention",
            "linear_attention",
            "linear_attention",
            "full_attention",
        ],
    },
    "bamba": {"attn_layer_indices": [1, 4]},
    "bart": {"encoder_layers": 8, "decoder_layers": 6},
    "beam": {
        "layer_types": [
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ]
    },
    "bigbird_pegasus": {"encoder_layers": 8, "decoder_layers": 6},
    "blenderbot": {"encoder_layers": 8, "decoder_layers": 6},
    "blenderbot-small": {"encoder_layers": 8, "decoder_layers": 6},
    "blt": {
        "@patcher_config": {"num_hidden_layers": 2},
        "@encoder_config": {"num_hidden_layers": 2, "cross_attn_k": 2},
        "@decoder_config": {"num_hidden_layers": 3, "hidden_size_global": 64, "cross_attn_k": 2},
        "encoder_hash_byte_group_vocab": 64,
        "@global_config": {"num_hidden_layers": 6},
    },
    "codegen": {"rotary_dim": 8},
    "cohere2": {
        "layer_types": [
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ]
    },
    "cohere_compass_text": {
        "layer_types": [
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": None,
        },
    },
    "cwm": {
        "layer_types": [
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
        ]
    },
    "dbrx": {
        "@attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
        "@ffn_config": {"moe_num_experts": 4, "moe_top_k": 2, "ffn_hidden_size": 32},
    },
    "deepseek_v2": {"num_key_value_heads": 4, "first_k_dense_replace": 2},
    "deepseek_v3": {"num_key_value_heads": 4, "first_k_dense_replace": 2},
    "deepseek_v32": {"num_key_value_heads": 4},
    "dots1": {"first_k_dense_replace": 2, "max_window_layers": 3},
    "dots3_note": {
        "@text_config": {
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 16,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 4,
            "swa_q_lora_rank": 16,
            "swa_kv_lora_rank": 16,
            "swa_head_dim": 32,
            "swa_qk_nope_head_dim": 16,
            "swa_v_head_dim": 16,
            "swa_qk_rope_head_dim": 16,
            "head_dim": 32,
            "shared_experts_intermediate_size": 32,
        }
    },
    "dots3_note_text": {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 16,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 32,
        "swa_qk_nope_head_dim": 16,
        "swa_v_head_dim": 16,
        "swa_qk_rope_head_dim": 16,
        "head_dim": 32,
        "shared_experts_intermediate_size": 32,
    },
    "ernie4_5_moe": {"moe_layer_start_index": 1, "moe_layer_end_index": 4, "moe_layer_interval": 1},
    "exaone4": {
        "layer_types": [
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ]
    },
    "exaone_moe": {
        "layer_types": [
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ]
    },
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 1},
    "flint": {
        "layer_types": [
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
        ],
        "mlp_only_layers": [0, 3],
    },
    "gemma3": {
        "@text_config": {
            "layer_types": [
                "sliding_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "sliding_attention",
                "full_attention",
            ]
        }
    },
    "gemma3_text": {
        "layer_types": [
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ]
    },
    "gemma3n_text": {
        "layer_types": [
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
        ],
        "num_kv_shared_layers": 2,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0, 0.0, 0.0],
    },
    "gemma4": {
        "@text_config": {
            "layer_types": [
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
            ],
            "num_kv_shared_layers": 2,
        }
    },
    "gemma4_assistant": {
        "@text_config": {
            "layer_types": [
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
            ],
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 6,
        }
    },
    "gemma4_text": {
        "layer_types": [
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
        ],
        "num_kv_shared_layers": 2,
    },
    "gemma4_unified": {
        "@text_config": {
            "layer_types": [
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
            ]
        }
    },
    "gemma4_unified_assistant": {
        "@text_config": {
            "layer_types": [
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
            ],
            "num_kv_shared_layers": 6,
        }
    },
    "gemma4_unified_text": {
        "layer_types": [
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
        ]
    },
    "glm4_moe": {"first_k_dense_replace": 2},
    "glm4_moe_lite": {"num_key_value_heads": 4},
    "glm_moe_dsa": {"num_key_value_heads": 4, "indexer_types": ["full", "shared", "full", "shared", "shared", "full"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]]},
    "gptj": {"rotary_dim": 8},
    "granite_swa": {"layer_rope_theta": [10000.0, 20000.0, 0.0, 10000.0, 20000.0, 0.0]},
    "granitemoe_swa": {"layer_rope_theta": [10000.0, 20000.0, 0.0, 10000.0, 20000.0, 0.0]},
    "granitemoehybrid": {
        "layer_types": [
            "linear_attention",
            "full_attention",
            "linear_attention",
            "linear_attention",
            "full_attention",
            "linear_attention",
        ]
    },
    "hunyuan_v1_moe": {"moe_topk": [1, 2, 1, 2, 1, 2]},
    "inkling2_loop_text": {
        "n_layers_per_attn_res_block": 2,
        "unpadded_vocab_size": VOCABULARY,
        "loop_layer_index_start": 2,
        "loop_layer_index_end": 4,
        "loop_num_passes": 2,
    },
    "inkling2_text": {
        "unpadded_vocab_size": VOCABULARY,
        "n_layers_per_attn_res_block": 2,
        "layer_types": ["hybrid_sliding", "hybrid_sliding", "hybrid", "hybrid_sliding", "hybrid_sliding", "hybrid"],
    },
    "inkling_text": {
        "layer_types": ["hybrid_sliding", "hybrid_sliding", "hybrid", "hybrid_sliding", "hybrid_sliding", "hybrid"],
        "mlp_layer_types": ["dense", "dense", "sparse", "sparse", "sparse", "sparse"],
    },
    "jamba": {"attn_layer_period": 3, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "kimi_linear": {
        "num_key_value_heads": 4,
        "layer_types": [
            "linear_attention",
            "linear_attention",
            "full_attention",
            "linear_attention",
            "linear_attention",
            "full_attention",
        ],
    },
    "kolibri1": {
        "layer_types": [
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ]
    },
    "laguna": {
        "layer_types": [
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
        ],
        "num_attention_heads_per_layer": [4, 2, 4, 4, 2, 4],
    },
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "conv", "full_attention", "conv"]},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention", "conv", "conv", "full_attention", "conv"],
        "num_dense_layers": 2,
    },
    "lfm3": {
        "layer_types": ["conv", "sliding_attention", "full_attention", "conv", "sliding_attention", "full_attention"]
    },
    "llama4": {
        "@text_config": {
            "intermediate_size_mlp": 128,
            "no_rope_layers": [1, 0, 1, 1, 0, 1],
            "moe_layers": [1, 3, 5],
            "layer_types": [
                "chunked_attention",
                "full_attention",
                "chunked_attention",
                "chunked_attention",
                "full_attention",
                "chunked_attention",
            ],
        }
    },
    "llama4_text": {
        "intermediate_size_mlp": 128,
        "no_rope_layers": [1, 0, 1, 1, 0, 1],
        "moe_layers": [1, 3, 5],
        "layer_types": [
            "chunked_attention",
            "full_attention",
            "chunked_attention",
            "chunked_attention",
            "full_attention",
            "chunked_attention",
        ],
    },
    "longcat_flash": {"num_key_value_heads": 4},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "marian": {"encoder_layers": 8, "decoder_layers": 6},
    "mbart": {"encoder_layers": 8, "decoder_layers": 6},
    "mellum": {
        "layer_types": [
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ],
        "mlp_layer_types": ["dense", "dense", "sparse", "sparse", "sparse", "sparse"],
    },
    "mimo_v2_flash": {
        "layer_types": [
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
        ]
    },
    "minicpm3": {"num_key_value_heads": 4},
    "minimax_m3_vl_text": {
        "dense_intermediate_size": 128,
        "shared_intermediate_size": 128,
        "mlp_layer_types": ["dense", "dense", "sparse", "sparse", "sparse", "sparse"],
        "layer_types": [
            "full_attention",
            "minimax_m3_sparse",
            "full_attention",
            "full_attention",
            "minimax_m3_sparse",
            "full_attention",
        ],
    },
    "mllama": {"@text_config": {"cross_attention_layers": [1, 4]}},
    "modernbert-decoder": {"cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 2},
    "mpt": {"@attn_config": {"attn_pdrop": 0}},
    "mvp": {"encoder_layers": 8, "decoder_layers": 6},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "linear_attention", "moe", "full_attention"]
    },
    "olmo3": {
        "layer_types": [
            "sliding_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ]
    },
    "olmo_hybrid": {
        "layer_types": [
            "linear_attention",
            "linear_attention",
            "full_attention",
            "linear_attention",
            "linear_attention",
            "full_attention",
        ]
    },
    "pegasus": {"encoder_layers": 8, "decoder_layers": 6},
    "plbart": {"encoder_layers": 8, "decoder_layers": 6},
    "prophetnet": {"num_encoder_layers": 8, "num_decoder_layers": 6},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 3},
    "qwen2_moe": {"mlp_only_layers": [1, 4], "decoder_sparse_step": 1},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 3},
    "qwen3_5": {
        "@text_config": {
            "layer_types": [
                "linear_attention",
                "linear_attention",
                "full_attention",
                "linear_attention",
                "linear_attention",
                "full_attention",
            ]
        }
    },
    "qwen3_5_moe": {
        "@text_config": {
            "layer_types": [
                "linear_attention",
                "linear_attention",
                "full_attention",
                "linear_attention",
                "linear_attention",
                "full_attention",
            ]
        }
    },
    "qwen3_5_moe_text": {
        "layer_types": [
            "linear_attention",
            "linear_attention",
            "full_attention",
            "linear_attention",
            "linear_attention",
            "full_attention",
        ]
    },
    "qwen3_5_text": {
        "layer_types": [
            "linear_attention",
            "linear_attention",
            "full_attention",
            "linear_attention",
            "linear_attention",
            "full_attention",
        ]
    },
    "qwen3_moe": {"mlp_only_layers": [1, 4], "decoder_sparse_step": 1},
    "qwen3_next": {
        "layer_types": [
            "linear_attention",
            "linear_attention",
            "full_attention",
            "linear_attention",
            "linear_attention",
            "full_attention",
        ]
    },
    "qwen4_exp": {
        "@text_config": {
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 16,
            "indexer_budget": 4,
            "indexer_compress_ratio": 2,
            "hc_lowrank": 8,
            "layer_types": [
                "linear_attention",
                "linear_attention",
                "indexed_attention",
                "linear_attention",
                "linear_attention",
                "indexed_attention",
            ],
        }
    },
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
        "hc_lowrank": 8,
        "layer_types": [
            "linear_attention",
            "linear_attention",
            "indexed_attention",
            "linear_attention",
            "linear_attention",
            "indexed_attention",
        ],
        "ple_layer_ids": [2, 4],
        "ngram_vocab_size_base": 64,
        "heads_per_ngram": 2,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 2,
        "eos_token_id": 2,
    },
    "reformer": {
        "axial_pos_shape": (8, 16),
        "axial_pos_embds_dim": (32, 32),
        "attention_head_size": 16,
        "attn_layers": ["local", "local", "local", "local", "local", "local"],
        "local_attn_chunk_length": 14,
        "lsh_attn_chunk_length": 14,
    },
    "rwkv": {"rescale_every": 2},
    "sarvam_mla": {"num_key_value_heads": 4},
    "smollm3": {
        "no_rope_layers": [1, 0, 1, 1, 0, 1],
        "use_sliding_window": True,
        "layer_types": [
            "sliding_attention",
            "full_attention",
            "full_attention",
            "sliding_attention",
            "full_attention",
            "full_attention",
        ],
    },
    "whisper": {"encoder_layers": 8, "decoder_layers": 6},
    "xlm": {"n_words": 128, "emb_dim": 64, "causal": True},
    "xlstm": {"chunk_size": 16, "qk_dim_factor": 1.0, "v_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "youtu": {"num_key_value_heads": 4, "pad_token_id": None},
    "zamba": {
        "layers_block_type": [
            "linear_attention",
            "linear_attention",
            "hybrid",
            "linear_attention",
            "hybrid",
            "linear_attention",
            "hybrid",
            "linear_attention",
        ],
        "num_hidden_layers": 8,
        "n_mamba_heads": 2,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "num_key_value_heads": 4,
    },
    "zamba2": {
        "layers_block_type": [
            "linear_attention",
            "linear_attention",
            "hybrid",
            "linear_attention",
            "hybrid",
            "linear_attention",
            "hybrid",
            "linear_attention",
        ],
        "num_hidden_layers": 8,
        "n_mamba_heads": 4,
        "num_mem_blocks": 1,
        "num_key_value_heads": 4,
    },
    "zaya": {
        "num_experts_per_tok": 1,
        "layer_types": ["hybrid", "hybrid_sliding", "hybrid", "hybrid_sliding", "hybrid", "hybrid_sliding"],
        "router_hidden_size": 16,
        "sliding_window": 5,
    },
}
