"""The settings with which the paper's authors pruned each of their models: facts from their released scripts.

Source: the code of Pruning as a Cooperative Game, arXiv 2602.07804 (github.com/920927/Pruning_As_A_Cooperative_Game,
commit 91b8196); `PaperRecipe.source` names the script. Batch 300 and rate 0.008 with momentum 0.9 are common to all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layershap.fitting.definitions import StratifiedValues
from layershap.samplers import PAPER_FRACTIONS, StratifiedSampler
from layershap.selection import ShapleyRanking
from layershap.surrogates import PaperMLP


@dataclass(frozen=True)
class PaperRecipe:
    """How the authors pruned one of their models.

    Attributes
    ----------
    n_layers : int
        Number of layers of that model.
    kept : tuple of int
        Its strata: numbers of kept layers, with as many masks each.
    source : str
        The authors' script.
    n_masks : int, default=8000
        Number of masks.
    epochs : int, default=300
        Passes of the surrogate's training over the masks.
    decay_every : int or None, default=100
        Passes after which its learning rate falls to a tenth; None where the script keeps it (RWKV's has the schedule
        commented out).
    n_marginals : int, default=80000
        Number of masks over which a layer's marginal contributions are averaged (Q).
    """

    n_layers: int
    kept: tuple[int, ...]
    source: str
    n_masks: int = 8000
    epochs: int = 300
    decay_every: int | None = 100
    n_marginals: int = 80_000

    @property
    def fractions(self) -> tuple[float, ...]:
        """The strata as fractions of all layers, to two digits, which is the rule for models of another depth."""
        return tuple(round(kept / self.n_layers, 2) for kept in self.kept)

    def settings(self, n_masks: int | None = None) -> dict[str, Any]:
        """Parameters of `LayerPruner`: independent masks over the strata, the two-layer network, mean marginal
        contributions read off it, ascending order; `n_masks` masks in place of the authors' number, if given.
        """
        strata = None if self.fractions == PAPER_FRACTIONS else self.fractions
        return {
            "sampler": StratifiedSampler(strata, replace=True),
            "surrogate": PaperMLP(epochs=self.epochs, decay_every=self.decay_every),
            "selector": ShapleyRanking(),
            "values": StratifiedValues(keep_veto=False, unbiased=False, n_marginals=self.n_marginals),
            "n_masks": self.n_masks if n_masks is None else n_masks,
        }


PAPER_RECIPES = {
    "llama": PaperRecipe(32, (30, 27, 24, 21, 18), "sharpley_agent_ppl.py (LLaMA-2-7B)"),
    "mamba": PaperRecipe(
        64,
        (60, 56, 52, 48, 42, 38, 34),
        "sharpley_agent_ppl_mamba.py (Mamba-2.8B)",
        n_masks=10_000,
        n_marginals=150_000,
    ),
    "rwkv": PaperRecipe(
        32,
        (30, 27, 24, 21),
        "sharpley_agent_ppl_rwkv.py (RWKV-4-World-7B)",
        n_masks=12_000,
        epochs=200,
        decay_every=None,
    ),
    # The script's model has 29 layers: LLaMA-2-7B without layers 11, 21 and 23, in 4 bits.
    "gptq": PaperRecipe(29, (27, 24, 21, 18), "sharpley_agent_ppl_quantize.py (LLaMA-2-7B after GPTQ)"),
}
"""The authors' recipes by `LayerPruner.paper`'s name of the model."""


def paper_recipe(model: Any) -> PaperRecipe:
    """The recipe of this name.

    Raises
    ------
    ValueError
        The authors' scripts have none.
    """
    recipe = PAPER_RECIPES.get(model) if isinstance(model, str) else None
    if recipe is None:
        raise ValueError(
            f"model must be one that the paper's scripts prune, {sorted(PAPER_RECIPES)}, got {model!r}; for another "
            "give the one whose architecture is closest, the strata are fractions of its depth"
        )
    return recipe
