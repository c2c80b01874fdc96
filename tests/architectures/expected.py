"""What the matrix must find, exactly: a new failure or a new success fails the test. Reasons beside each entry."""

# No single module is a layer.
UNSUPPORTED = {
    "dory": "some layers are called several times per forward",
    "hrm_text": "two stacks, each called several times per forward",
    "inkling2_loop_text": "some layers are called several times per forward",
    "xlm": "a layer is spread over four parallel lists",
}

# Layers that `unremovable_layers` names.
PROTECTED = {
    "gemma3n_text": [2, 3],  # last unshared layer of each attention type: donors of shared keys and values
    "gemma4": [2, 3],
    "gemma4_text": [2, 3],
    "glm_moe_dsa": [0],  # a full indexer must precede the shared ones
    "hy_v4": [0],
    "inkling2_text": [0, 2, 4],  # block boundaries
    "minimax": [0],  # the cache's length is read from the first layer
    "mllama": [0, 1, 4],  # the same; cross-attention layers are not called on text
    "rwkv": [0],  # owns pre_ln
}

# The config can't express the result: recipe reload, and a CheckpointWarning at removal.
RECIPE_ONLY = {
    "beam": [0, 1, 2, 3, 4],  # residual scale by layer index
    "diffllama": [0, 1, 2, 3, 4],  # lambda_init by layer index
    "gemma4": [5],  # the last layer must use full attention
    "gemma4_text": [5],
    "gemma4_unified": [5],
    "gemma4_unified_text": [5],
    "inkling2_text": [1, 3],  # boundaries by layer index
    "jamba": [1, 2, 4],  # the pattern left has no period
    "modernbert-decoder": [0],  # the first layer has no attention norm
    "qwen4_exp_text": [1],  # hash seeds by ordinal of the layer
}

# Warned of though this probe reloads plainly: the baked index matters only for what the probe does not reach.
WARNED_ONLY = {
    "big_bird": [0, 1, 2, 3, 4],  # seeds of the random blocks of long inputs, by layer index
}

# Types whose intact model does not generate the same text with and without a cache, so nothing is asked of the pruned.
NO_CACHED_GENERATION = {
    "axk2": "the indexer chooses other tokens with a cache than without",
    "blt": "generate with a cache raises in transformers 5.23",
    "cpmant": "cached generation already differs (not causal)",
    "deepseek_v32": "as axk2",
    "dots3_note_text": "as axk2",
    "glm_moe_dsa": "as axk2",
    "hy_v4": "as axk2",
    "moshi": "cached generation already differs when the window is shorter than the text",
    "prophetnet": "cached generation already differs (not causal)",
}

# Refused by `fit` and `LayerGame` (find_layers with causal=True); removal works.
NOT_CAUSAL = {
    "cpmant": "tokens of the context see each other both ways",
    "prophetnet": "its n-gram streams leak a little of later tokens into every logit",
    "xlnet": "both ways without a permutation mask",
}

# Types that the fused forward leaves to plain skipping, with the engine's reason in `path_note`.
PLAIN_PATH = {
    "inkling2_text": "the parent collects block states between layers",
    "rwkv": "the parent rescales the state by loop position",
}

# Types whose layers `find_sublayers` can't split, for which it raises.
# fmt: off
_NORM_BETWEEN = [
    "bart", "bert", "bert-generation", "big_bird", "blenderbot-small", "camembert", "cpmant", "data2vec-text",
    "electra", "ernie", "git", "marian", "megatron-bert", "mvp", "openai-gpt", "plbart", "prophetnet", "rembert",
    "roberta",
    "roberta-prelayernorm", "roc_bert", "roformer", "trocr", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod",
]
_STREAMS = ["deepseek_v4", "hy_v4", "inkling2_text", "qwen4_exp", "qwen4_exp_text"]
# fmt: on
NO_SUBLAYERS = {
    **dict.fromkeys(_NORM_BETWEEN, "a norm lies in the residual stream, or modules add the residual themselves"),
    **dict.fromkeys(["beam", "doge", "minimax", "zaya"], "the residual stream is scaled inside the layer"),
    **dict.fromkeys(_STREAMS, "several streams are mixed in the layer"),
    **dict.fromkeys(["gemma3n_text", "gemma4", "gemma4_text"], "a per-layer input is a third branch"),
    **dict.fromkeys(["falcon_mamba", "mamba", "mamba2", "nemotron_h"], "one sublayer per layer"),
    **dict.fromkeys(["zamba", "zamba2"], "one sublayer per layer, or a whole transformer block in it"),
    "dbrx": "norms and attention are one module, which returns the residual too",
}

# Types that compensations refuse, with the reasons that docs/architectures.md lists.
# fmt: off
_NEITHER = [
    "afmoe", "bart", "beam", "bert", "bert-generation", "big_bird", "blenderbot-small", "camembert", "cpmant",
    "data2vec-text", "dbrx", "deepseek_v4", "doge", "electra", "ernie", "exaone4", "flex_olmo", "gemma3n_text",
    "gemma4", "gemma4_text", "git", "hy_v4", "inkling2_text", "inkling_text", "jetmoe", "marian",
    "minimax", "mllama", "mvp", "olmo2", "olmo3", "openai-gpt", "plbart", "prophetnet",
    "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_next", "qwen4_exp", "qwen4_exp_text", "reformer", "rembert",
    "roberta", "roc_bert", "roformer", "rwkv", "trocr", "xlm-roberta", "xlnet", "xmod", "zaya",
]
NOT_FOLDED = [
    *_NEITHER, "glm_moe_dsa", "gpt_neox_japanese", "llama4", "llama4_text", "longcat_flash", "olmo_hybrid",
    "qwen2_moe", "zamba", "zamba2",
]
NOT_REFITTED = [
    *_NEITHER, "blt", "gemma2", "gemma3", "gemma3_text", "gemma4_unified", "gemma4_unified_text", "glm4",
    "gpt_oss", "granitemoe", "granitemoe_swa", "granitemoeshared", "hunyuan_v1_moe", "hyperclovax", "kolibri1", "lfm3",
    "minimax_m2", "mixtral", "olmoe", "phimoe",
]
# Layers whose last write is a linear layer, where not all are: the others end in routed experts, or in a norm.
PARTLY_REFITTED = {
    "axk1": [0], "ernie4_5_moe": [0, 5], "glm_moe_dsa": [0, 2, 5], "gpt_neox_japanese": [0, 1, 2, 3, 4],
    "jamba": [0, 2, 4], "laguna": [0], "lfm2_moe": [0, 1], "llama4": [0, 2, 4], "llama4_text": [0, 2, 4],
    "mellum": [0, 1], "mimo_v2_flash": [0], "minimax_m3_vl_text": [0, 1], "olmo_hybrid": [0, 1, 3, 4],
    "qwen2_moe": [1, 4], "qwen3_moe": [1, 4],
}
# fmt: on
