"""Train the bundled 12-layer GPT-2 and write the bundled texts, from a folder of public-domain books.

    python scripts/train_tiny_gpt2.py --books BOOKS --out layershap/datasets/data

`BOOKS` is a folder of Markdown books. Two are kept out of training for evaluation and one for calibration (named in
`training.py`); the tokenizer sees the training books only. The run is seeded; on two cores it takes about an hour.
The measured perplexities, with the recipe, go into `tiny_gpt2/training.json` beside the weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from training import (
    CALIBRATION_BOOKS,
    EVALUATION_BOOKS,
    Recipe,
    encode,
    perplexity,
    read_books,
    train,
    training_texts,
    unigram_perplexity,
)
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

BOS = "<|endoftext|>"


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

    books = read_books(args.books)
    train_texts = training_texts(books)
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
        vocab_size=args.vocab,
        n_positions=args.length,
        n_embd=args.width,
        n_layer=12,
        n_head=args.heads,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        activation_function="gelu_pytorch_tanh",
    )
    model = GPT2LMHeadModel(config)
    print(f"{model.num_parameters()} parameters", flush=True)
    recipe = Recipe(args.steps, args.lr, args.batch, args.length, args.seed, args.bf16)
    record = train(model, train_ids, recipe, out / "tiny_gpt2_checkpoint.pt")

    model.half()
    folder = out / "tiny_gpt2"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {
        "evaluation_perplexity": round(perplexity(model.float(), test_ids), 2),
        "unigram_perplexity": round(unigram, 2),
        "protocol": "128-token sequences of the evaluation books, BOS only where a chapter starts, "
        "weights rounded to float16",
        **record,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (out / "tiny_gpt2_checkpoint.pt").unlink(missing_ok=True)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
