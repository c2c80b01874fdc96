"""Train the bundled 12-layer GPT-2 and write the bundled texts, from a folder of public-domain books.

    python scripts/train_tiny_gpt2.py --books BOOKS --out layershap/datasets/data

`BOOKS` is a folder of Markdown books (the 15 named below). Two are kept out of training for evaluation and one for
calibration; the tokenizer sees the training books only. The run is seeded; on two cores it takes about an hour.
The measured perplexities, with the recipe, go into `tiny_gpt2/training.json` beside the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

CALIBRATION_BOOKS = ("Robert_Louis_Stevenson_Treasure_Island",)
EVALUATION_BOOKS = ("H_G_Wells_The_Time_Machine", "Lewis_Carroll_Alice_s_Adventures_in_Wonderland")
BOS = "<|endoftext|>"


def chapters(path: Path) -> list[str]:
    """The chapters of one Markdown book as plain text: no title block, no emphasis marks, paragraphs on one line."""
    body = path.read_text(encoding="utf-8").split("-------", 1)[1]
    texts = []
    for part in re.split(r"^#+ .*$", body, flags=re.MULTILINE):
        paragraphs = re.split(r"\n\s*\n", part)
        cleaned = [re.sub(r"\s+", " ", re.sub(r"[*_\\]+", "", p)).strip() for p in paragraphs]
        text = "\n".join(p for p in cleaned if p)
        if len(text) > 500:
            texts.append(text)
    return texts


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    ids: list[int] = []
    for text in texts:
        ids.append(tokenizer.bos_token_id)
        ids.extend(tokenizer(text, add_special_tokens=False)["input_ids"])
    return np.asarray(ids, dtype=np.int64)


@torch.inference_mode()
def perplexity(model: GPT2LMHeadModel, ids: np.ndarray, length: int = 128, batch: int = 64) -> float:
    blocks = torch.from_numpy(ids[: len(ids) // length * length].reshape(-1, length))
    nll, count = 0.0, 0
    for chunk in blocks.split(batch):
        logits = model(chunk).logits[:, :-1].float()
        nll += torch.nn.functional.cross_entropy(logits.flatten(0, 1), chunk[:, 1:].flatten(), reduction="sum").item()
        count += chunk[:, 1:].numel()
    return math.exp(nll / count)


def unigram_perplexity(train: np.ndarray, test: np.ndarray, vocab: int) -> float:
    counts = np.bincount(train, minlength=vocab) + 1.0
    return float(np.exp(-np.log(counts / counts.sum())[test].mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--books", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16 (faster on CPUs with AVX512-BF16)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    books = {path.stem: chapters(path) for path in sorted(args.books.glob("*.md"))}
    held_out = CALIBRATION_BOOKS + EVALUATION_BOOKS
    missing = set(held_out) - set(books)
    if missing:
        raise SystemExit(f"books not found in {args.books}: {sorted(missing)}")
    train_texts = [text for name, texts in books.items() if name not in held_out for text in texts]
    out = args.out
    (out / "text").mkdir(parents=True, exist_ok=True)
    for split, names in (("calibration", CALIBRATION_BOOKS), ("evaluation", EVALUATION_BOOKS)):
        texts = [text for name in names for text in books[name]]
        (out / "text" / f"{split}.json").write_text(json.dumps(texts, ensure_ascii=False, indent=0), encoding="utf-8")

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(train_texts, vocab_size=args.vocab, special_tokens=[BOS], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token=BOS, eos_token=BOS, model_max_length=args.length
    )
    train_ids = encode(tokenizer, train_texts)
    test_ids = encode(tokenizer, [t for name in EVALUATION_BOOKS for t in books[name]])
    unigram = unigram_perplexity(train_ids, test_ids, args.vocab)
    print(f"{len(train_ids)} training tokens, {len(test_ids)} for evaluation, unigram perplexity {unigram:.1f}")

    config = GPT2Config(
        vocab_size=args.vocab, n_positions=args.length, n_embd=args.width, n_layer=12, n_head=args.heads,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, activation_function="gelu_pytorch_tanh",
    )
    model = GPT2LMHeadModel(config)
    print(f"{model.num_parameters()} parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    data = torch.from_numpy(train_ids)
    start = time.time()
    for step in range(args.steps):
        # Warm-up, a plateau, then a linear decay over the last 40%: the usual trapezoid.
        scale = min(1.0, (step + 1) / 100, (args.steps - step) / (0.4 * args.steps))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * scale
        offsets = rng.integers(0, len(data) - args.length, args.batch)
        tokens = torch.stack([data[o : o + args.length] for o in offsets])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            logits = model(tokens).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.3f} seconds {time.time() - start:.0f}", flush=True)
        if step % 1000 == 999:
            print(f"step {step + 1} evaluation perplexity {perplexity(model.eval(), test_ids):.2f}", flush=True)
            model.train()
            model.save_pretrained(out / "tiny_gpt2_checkpoint")

    model.eval().half()
    folder = out / "tiny_gpt2"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    measured = perplexity(model.float(), test_ids)
    record = {
        "evaluation_perplexity": round(measured, 2),
        "unigram_perplexity": round(unigram, 2),
        "protocol": "128-token sequences of the evaluation books, BOS only where a chapter starts, "
        "weights rounded to float16",
        "training_tokens": len(train_ids),
        "parameters": model.num_parameters(),
        "steps": args.steps, "lr": args.lr, "batch": args.batch, "length": args.length, "seed": args.seed,
        "seconds": round(time.time() - start), "torch": torch.__version__,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
