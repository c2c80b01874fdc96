"""What a score depends on is in the fingerprint, and what it doesn't depend on is not."""

from __future__ import annotations

import subprocess
import sys
import threading
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from layershap import LayerGame, LedgerError, LedgerMismatchError
from layershap import fingerprint as fingerprint_module
from layershap.fingerprint import weights_digest
from layershap.fingerprint.describe import IndescribableError, digest_of

from .architectures.build import build
from .helpers.callables import KINDS
from .helpers.models import STORIES

MASK = np.array([[True, False, True, True, True]])


@pytest.fixture
def model(stories):
    return deepcopy(stories[0])


def opened(model, calibration, path, **kwargs):
    with LayerGame(model, calibration, ledger=path, **kwargs) as game:
        game(MASK)
    return game.n_evaluated


def halve(module, args, output):
    return output * 0.5


def higher_eps(model):
    model.model.layers[2].input_layernorm.variance_epsilon = 0.1


def other_activation(model):
    model.model.layers[1].mlp.act_fn = nn.GELU()


def config_value(model):
    model.config.rms_norm_eps = 1e-2


def attention(model):
    model.set_attn_implementation("eager")


def hook(model):
    model.model.layers[3].mlp.register_forward_hook(halve)


def pre_hook(model):
    model.model.layers[3].register_forward_pre_hook(lambda module, args: None)


def replaced_forward(model):
    layer = model.model.layers[0].mlp
    layer.forward = lambda hidden: 0 * hidden


def one_weight_among_many(model):
    table = model.model.embed_tokens.weight.data
    table[[7, 8]] = table[[8, 7]]


CHANGES = [
    (higher_eps, "attribute variance_epsilon"),
    (other_activation, "module classes"),
    (config_value, "config, rms_norm_eps"),
    (attention, "_attn_implementation"),
    (hook, r"forward hook of model\.layers\.3\.mlp"),
    (pre_hook, r"forward pre-hook of model\.layers\.3"),
    (replaced_forward, r"replaced forward of model\.layers\.0\.mlp"),
    (one_weight_among_many, "weights"),
]


@pytest.mark.parametrize(("change", "named"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_model_that_computes_something_else_is_refused_by_name(model, stories_calibration, tmp_path, change, named):
    path = tmp_path / "l.jsonl"
    assert opened(model, stories_calibration, path) == 2
    assert opened(deepcopy(model), stories_calibration, path) == 0
    change(model)
    with pytest.raises(LedgerMismatchError, match=named):
        opened(model, stories_calibration, path)


SMALL = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
SMALL |= {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("family", "field", "values", "attribute"),
    [
        ("Mixtral", "num_experts_per_tok", (1, 2), "top_k"),
        ("Gemma2", "attn_logit_softcapping", (50.0, 5.0), "attn_logit_softcapping"),
        ("Gemma2", "final_logit_softcapping", (30.0, 3.0), "config"),
        ("Mistral", "sliding_window", (128, 4096), "config"),
        ("Granite", "residual_multiplier", (1.0, 0.22), "residual_multiplier"),
    ],
)
def test_what_a_config_says_beside_the_weights_is_named(family, field, values, attribute, tmp_path):
    """By the config's field, and by the attribute of the modules that it became."""
    ids = torch.arange(8, 40).reshape(2, 16)
    first, second = (
        getattr(transformers, f"{family}ForCausalLM")(
            getattr(transformers, f"{family}Config")(**SMALL, **{field: value})
        ).eval()
        for value in values
    )
    second.load_state_dict(first.state_dict())
    path = tmp_path / "l.jsonl"
    LayerGame(first, ids, ledger=path).close()
    with pytest.raises(LedgerMismatchError, match=f"config, {field}: {values[0]} there, {values[1]} here"):
        LayerGame(second, ids, ledger=path)
    with pytest.raises(LedgerMismatchError, match=f"modules, attribute {attribute}:"):
        LayerGame(second, ids, ledger=path)


def test_what_lists_of_attributes_miss_shows_in_the_behaviour(model, stories_calibration, tmp_path):
    class Scale:
        """Neither a number nor a config: not looked at."""

        def __init__(self, value):
            self.value = value

    class Scaled(nn.Module):
        def __init__(self, inner, value):
            super().__init__()
            self.inner, self.scale = inner, Scale(value)

        def forward(self, *args, **kwargs):
            return self.inner(*args, **kwargs) * self.scale.value

    model.model.layers[4].mlp = Scaled(model.model.layers[4].mlp, 1.0)
    path = tmp_path / "l.jsonl"
    opened(model, stories_calibration, path)
    model.model.layers[4].mlp.scale.value = 1.5
    with pytest.raises(LedgerMismatchError, match="behaviour: the model's logits"):
        opened(model, stories_calibration, path)


def test_adapters_that_are_switched_off_are_another_model(model, stories_calibration, tmp_path):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    ).eval()
    path = tmp_path / "l.jsonl"
    opened(adapted, stories_calibration, path)
    with adapted.disable_adapter(), pytest.raises(LedgerMismatchError, match="attribute _disable_adapters"):
        opened(adapted, stories_calibration, path)
    assert opened(adapted, stories_calibration, path) == 0
    for module in adapted.modules():
        if hasattr(module, "lora_A"):
            module.scaling["default"] *= 2
    with pytest.raises(LedgerMismatchError, match="attribute scaling"):
        opened(adapted, stories_calibration, path)
    adapted.add_adapter("other", peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    both = tmp_path / "both.jsonl"
    opened(adapted.eval(), stories_calibration, both)
    adapted.set_adapter("other")
    with pytest.raises(LedgerMismatchError, match=r"attribute _?active_adapter"):
        opened(adapted.eval(), stories_calibration, both)


def test_the_number_of_experts_is_in_it(tmp_path):
    moe = build("mixtral")
    ids = torch.arange(1, 33).reshape(2, 16)
    path = tmp_path / "l.jsonl"
    mask = np.arange(len(moe.model.layers))[None] != 1

    def score():
        with LayerGame(moe, ids, ledger=path) as game:
            return game(mask)

    score()
    for layer in moe.model.layers:
        layer.mlp.gate.top_k = 1
    with pytest.raises(LedgerMismatchError, match="attribute top_k"):
        score()


@pytest.mark.parametrize("kind", ["cpu", "disk"])
def test_offloaded_weights_are_hashed_like_others(model, kind, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    plain = weights_digest(model)
    changed = deepcopy(model)
    changed.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    for which, same in ((model, True), (changed, False)):
        if kind == "cpu":
            offloaded = accelerate.cpu_offload(which, execution_device="cpu")
        else:
            offloaded = accelerate.disk_offload(which, tmp_path / str(same), execution_device=torch.device("cpu"))
        assert offloaded.model.layers[0].mlp.up_proj.weight.device.type == "meta"
        assert (weights_digest(offloaded) == plain) is same


def test_every_element_of_a_large_tensor_counts():
    table = nn.Embedding(70_000, 32)
    before = weights_digest(table)
    with torch.no_grad():
        table.weight[[11, 12]] = table.weight[[12, 11]]
    assert weights_digest(table) != before


def test_threads_are_in_it_and_the_message_says_what_to_do(model, stories_calibration, tmp_path):
    path = tmp_path / "l.jsonl"
    opened(model, stories_calibration, path)
    torch.set_num_threads(2)
    try:
        with pytest.raises(LedgerMismatchError, match=r"threads: 1 there, 2 here.*set_num_threads"):
            opened(model, stories_calibration, path)
    finally:
        torch.set_num_threads(1)


def test_without_a_ledger_no_weight_is_read_until_asked(model, stories_calibration, monkeypatch):
    read = []
    real = fingerprint_module.fields.weights_digest
    monkeypatch.setattr(fingerprint_module.fields, "weights_digest", lambda model: read.append(1) or real(model))
    game = LayerGame(model, stories_calibration)
    game(MASK)
    assert not read
    assert game.fingerprint["weights"] == real(model)
    assert game.fingerprint is game.fingerprint
    assert len(read) == 1


def test_another_memory_size_resumes(model, stories_calibration, tmp_path, monkeypatch):
    from layershap.forward import settings

    path = tmp_path / "l.jsonl"
    opened(model, stories_calibration, path)
    real = settings.host_memory()
    for share in (2, 0.75, 1 / 16):
        monkeypatch.setattr(settings, "host_memory", lambda share=share: int(real * share))
        assert opened(model, stories_calibration, path) == 0


# -- callable utilities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_another_callable_is_another_utility_and_the_same_made_anew_is_not(model, stories_calibration, tmp_path, kind):
    path = tmp_path / "l.jsonl"
    with torch.no_grad():
        assert opened(model, stories_calibration, path, utility=KINDS[kind](1)) == 1
        assert opened(model, stories_calibration, path, utility=KINDS[kind](1)) == 0
        with pytest.raises(LedgerMismatchError, match="utility"):
            opened(model, stories_calibration, path, utility=KINDS[kind](-1))


def test_a_callable_that_cannot_be_told_is_refused_with_a_ledger_only(model, stories_calibration, tmp_path):
    lock = threading.Lock()

    def utility(model):
        with lock:
            return 1.0

    assert LayerGame(model, stories_calibration, utility=utility)(MASK)[0] == 1.0
    with pytest.raises(LedgerError, match=r"utility .*'lock', which the utility closes over: a lock"):
        LayerGame(model, stories_calibration, utility=utility, ledger=tmp_path / "l.jsonl")
    assert not (tmp_path / "l.jsonl").exists()


THRESHOLD = 1


def reads_a_global(model):
    return THRESHOLD


def test_globals_that_a_function_names_count(monkeypatch):
    before = digest_of(reads_a_global, "it")
    monkeypatch.setattr(sys.modules[__name__], "THRESHOLD", 2)
    assert digest_of(reads_a_global, "it") != before
    with open(__file__) as file, pytest.raises(IndescribableError, match=r"it\['f'\]: a TextIOWrapper"):
        digest_of({"f": file}, "it")


def test_values_that_hold_themselves_and_each_other():
    first: list = [1]
    first.append(first)
    second: list = [1]
    second.append(second)
    assert digest_of(first, "it") == digest_of(second, "it")
    assert digest_of([first, 2], "it") != digest_of([first, 3], "it")


def test_equal_in_another_process():
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from layershap.fingerprint.attributes import module_values
from layershap.fingerprint.describe import digest_of
from tests.helpers.callables import KINDS
model = AutoModelForCausalLM.from_pretrained({str(STORIES)!r})
tokenizer = AutoTokenizer.from_pretrained({str(STORIES)!r})
tokenizer(["a", "a b c"], padding=len(sys.argv) > 1 and tokenizer.pad_token is not None)
for kind, make in KINDS.items():
    print(kind, digest_of(make(1), "it"))
print(digest_of(tokenizer, "it"), digest_of(lambda: {{"some", "words", "in", "a", "set"}}, "it"))
print(sorted(module_values(model).items()))
"""
    first, second = (
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, *more], stdout=subprocess.PIPE)
        for more in ([], ["x"])
    )
    out = [process.communicate()[0] for process in (first, second)]
    assert out[0] == out[1] != b""
