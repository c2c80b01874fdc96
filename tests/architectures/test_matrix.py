"""The architecture matrix: every causal LM type of transformers that can be built tiny."""

from __future__ import annotations

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .build import NOT_BUILT, model_types
from .expected import NO_CACHED_GENERATION, PROTECTED, RECIPE_ONLY, UNSUPPORTED, WARNED_ONLY
from .matrix import Row, measure

# One of each kind: plain, encoder-decoder halves, per-layer lists, index lists, prefix counts, family rules, refusals.
# fmt: off
FAST = [
    "afmoe", "bamba", "bart", "beam", "bert", "bloom", "codegen", "cohere2", "dbrx", "deepseek_v3", "diffllama",
    "dots1", "ernie4_5_moe", "falcon", "gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "git",
    "glm_moe_dsa", "gpt2", "gpt_neo", "gpt_neox", "gpt_neox_japanese", "gpt_oss", "gptj", "jamba", "lfm2",
    "llama", "llama4_text", "mamba2", "minicpm3", "minimax", "mistral", "mixtral", "mllama", "modernbert-decoder",
    "mpt", "nemotron_h", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_next",
    "recurrent_gemma", "reformer", "roberta", "rwkv", "smollm3", "stablelm", "starcoder2", "whisper", "xglm",
    "xlm", "xlnet", "xlstm", "zamba", "zamba2", "zaya",
]
# fmt: on


def assert_row(row: Row) -> None:
    """The row is exactly what `expected` says, for the layers measured."""
    name = row.model_type
    assert bool(row.unsupported) == (name in UNSUPPORTED), row.unsupported
    if row.unsupported:
        return
    assert sorted(row.protected) == PROTECTED.get(name, [])
    assert row.errors == {}
    assert row.skip_is_delete, f"skipping and deleting differ by {row.skip_difference}"
    assert row.intact_generates == (name not in NO_CACHED_GENERATION)
    assert row.generation_broken == []
    recipe = [i for i in RECIPE_ONLY.get(name, []) if i in row.measured]
    warned = [i for i in WARNED_ONLY.get(name, []) if i in row.measured]
    assert row.recipe_only == recipe
    assert row.warned == sorted(recipe + warned)
    assert row.lost == []
    assert row.silently_wrong == []


def test_every_type_is_built_or_accounted_for():
    assert set(model_types()) | set(NOT_BUILT) == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert len(FAST) >= 40
    assert set(FAST) <= set(model_types())


@pytest.mark.parametrize("model_type", FAST)
def test_some_families(model_type):
    assert_row(measure(model_type, layers=(1, 5)))


@pytest.mark.slow
def test_the_whole_matrix(capsys):
    rows = [measure(model_type) for model_type in model_types()]
    failures = {}
    for row in rows:
        try:
            assert_row(row)
        except AssertionError as error:
            failures[row.model_type] = str(error)
    supported = [row for row in rows if not row.unsupported]
    counts = {
        "built": len(rows),
        "layers found": len(supported),
        "skip = delete": sum(row.skip_is_delete for row in supported),
        "cached = uncached generation": sum(row.intact_generates and not row.generation_broken for row in supported),
        "plain reload of every removal": sum(not row.recipe_only and not row.lost for row in supported),
        "plain or recipe": sum(not row.lost for row in supported),
        "silently wrong": sum(bool(row.silently_wrong) for row in supported),
    }
    with capsys.disabled():
        print("\n" + "\n".join(f"{count:4d}  {name}" for name, count in counts.items()))
    assert failures == {}
    assert counts["skip = delete"] >= 176
    assert counts["plain reload of every removal"] >= 169
    assert counts["plain or recipe"] >= 180
    assert counts["silently wrong"] == 0
