"""
A layer's importance depends on which other layers are there
============================================================

The paper's Table 1 on the bundled model: remove layers by their static, one-at-a-time importance; remove them one by
one, measuring again after each removal; and compare both with the true optimum. A model of 12 layers has 4,096
coalitions, and with shared prefixes all of them cost 4,144 layer runs and 4,096 heads, so the optimum is known.
"""

# %%
# All coalitions, once
# --------------------
from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from layershap import Calibration, LayerGame, shapley
from layershap.datasets import load_calibration_text, load_tiny_gpt2

n_sequences = int(sys.argv[1]) if len(sys.argv) > 1 else 4
out = Path(sys.argv[2] if len(sys.argv) > 2 else "demo_output")
out.mkdir(parents=True, exist_ok=True)
model, tokenizer = load_tiny_gpt2()
calibration = Calibration.from_texts(load_calibration_text(), tokenizer, n_sequences=n_sequences)
with LayerGame(model, calibration, verbose=1) as game:
    n_layers = game.n_players
    masks = shapley.all_masks(n_layers)
    scores = game(masks)
    statistics = game.statistics(masks)
perplexity = np.exp(statistics.sums["nll"].sum(axis=1) / statistics.counts.sum())
dense = perplexity[-1]


def code(removed: tuple[int, ...]) -> int:
    """Row of `masks` that lacks these layers."""
    return 2**n_layers - 1 - sum(2**layer for layer in removed)


# %%
# Three rules and the optimum
# ---------------------------
static_order = sorted(range(n_layers), key=lambda layer: perplexity[code((layer,))])
values = shapley.exact_from_table(scores)
shapley_order = shapley.removal_order(values)
recomputed: list[int] = []
rows = []
for n in range(1, 9):
    rest = [layer for layer in range(n_layers) if layer not in recomputed]
    recomputed.append(min(rest, key=lambda layer: perplexity[code((*recomputed, layer))]))
    best = min(combinations(range(n_layers), n), key=lambda removed: perplexity[code(removed)])
    sets = (tuple(static_order[:n]), tuple(recomputed), tuple(int(i) for i in shapley_order[:n]), best)
    found = [perplexity[code(removed)] for removed in sets]
    rows.append([n, *found, sorted(static_order[:n]), sorted(recomputed), best])

print(f"\nperplexity on {n_sequences} x 128 calibration tokens; dense model {dense:.1f}")
print("removed   static  recomputed  Shapley  optimum   layers: static | recomputed | optimum")
for n, a, b, c, d, *sets in rows:
    print(f"{n:7d} {a:8.1f}  {b:10.1f} {c:8.1f} {d:8.1f}   {sets[0]} | {sets[1]} | {list(sets[2])}")

# %%
# The same layer's marginal contribution in different company
# ------------------------------------------------------------
# How much the log-perplexity rises when a layer goes, given that one other layer is already gone.
alone = np.array([np.log(perplexity[code((i,))] / dense) for i in range(n_layers)])
given = np.full((n_layers, n_layers), np.nan)
for i, j in combinations(range(n_layers), 2):
    pair = np.log(perplexity[code((i, j))] / dense)
    given[i, j], given[j, i] = pair - alone[j], pair - alone[i]
inner = given[1:, 1:] - alone[1:, None]
i, j = (index + 1 for index in np.unravel_index(np.nanargmax(np.abs(inner)), inner.shape))
print(
    f"\nstrongest interaction beyond layer 0: removing layer {i} costs {alone[i]:.3f} nats alone, "
    f"{given[i, j]:.3f} once layer {j} is gone"
)

# %%
# The picture
# -----------
counts = [row[0] for row in rows]
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4), layout="constrained")
styles = {"static": "s--", "recomputed": "^-.", "Shapley": "o-", "optimum": "k:"}
for column, (label, style) in enumerate(styles.items()):
    left.plot(counts, [row[column + 1] / row[4] for row in rows], style, label=label)
left.set(xlabel="layers removed", ylabel="perplexity / best possible", title="Rules against the optimum")
left.legend()
limit = float(np.nanmax(np.abs(inner)))
image = right.imshow(given - alone[:, None], cmap="RdBu_r", vmin=-limit, vmax=limit)
right.set(xlabel="layer already gone", ylabel="layer removed", title="Change of a removal's cost (nats)")
figure.colorbar(image, ax=right)
figure.savefig(out / "context_dependence.png", dpi=120)
