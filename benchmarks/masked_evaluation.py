"""Cost of masked evaluation on the bundled model: fused against plain, in one process; fit; import.

    python benchmarks/masked_evaluation.py [--masks 256]

Prints a Markdown table with the command that made it.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from layershap import Calibration, LayerGame, LayerPruner, StratifiedSampler
from layershap.datasets import load_calibration_text, load_tiny_gpt2


def import_seconds(module: str) -> float:
    """Best of three fresh interpreters."""
    code = f"import time; import torch; s = time.perf_counter(); import {module}; print(time.perf_counter() - s)"
    return min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3))


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--masks", type=int, default=256)
    count = parser.parse_args().masks
    model, tokenizer = load_tiny_gpt2()
    calibration = Calibration.from_texts(load_calibration_text(), tokenizer)
    masks = StratifiedSampler().sample(12, count, np.random.default_rng(0))

    rows: list[tuple[str, str]] = []
    fused = LayerGame(model, calibration)
    start = time.perf_counter()
    fused_scores = fused(masks)
    fused_seconds = time.perf_counter() - start
    rows.append((f"fused: {count} masks, {fused.layer_runs} layer runs", f"{fused_seconds:.1f} s"))

    # The plain path: the same engine, told that nothing can be replayed.
    plain = LayerGame(model, calibration)
    plain.engine.__dict__["_replay"] = None
    start = time.perf_counter()
    plain_scores = plain(masks)
    plain_seconds = time.perf_counter() - start
    rows.append((f"plain: {count} masks, {plain.layer_runs} layer runs", f"{plain_seconds:.1f} s"))
    rows.append(("largest difference of scores", f"{np.abs(fused_scores - plain_scores).max():.1e}"))

    start = time.perf_counter()
    LayerPruner(n_masks=count, random_state=0).fit(model, calibration)
    rows.append((f"LayerPruner(n_masks={count}).fit", f"{time.perf_counter() - start:.1f} s"))
    rows.append(("peak memory of this process", f"{peak_gigabytes():.2f} GB"))
    rows.append(("import layershap, beyond torch's own", f"{import_seconds('layershap'):.1f} s"))

    print(f"`python {' '.join(sys.argv)}`, {time.strftime('%Y-%m-%d')}, torch {torch.__version__},")
    print(f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}; 10 x 128 tokens\n")
    print("| | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
