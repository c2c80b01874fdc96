"""Sets of layers that papers and their authors' code remove: facts, each with its source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

_FILE = files("layershap.datasets") / "data" / "published_sets.json"


@dataclass(frozen=True)
class PublishedSet:
    """Layers that a published method removes from a published model.

    Attributes
    ----------
    method : str
        Name of the method.
    model : str
        Name of the model on the hub.
    n_layers : int
        Number of layers L of that model.
    n_removed : int
        Number of layers that were removed.
    order : tuple of int
        Indices of layers, the first of which is 0, as published; the first `n_removed` are the set. Longer where the
        source ranks more layers than it removes.
    ordered : bool
        Whether `order` is an order of removal, so that its first n layers are the method's set of n.
    paper : str
        arXiv identifier.
    source : str
        Where it stands: section and table, or repository, commit and file.
    note : str
        What else the source says; may be empty.
    """

    method: str
    model: str
    n_layers: int
    n_removed: int
    order: tuple[int, ...]
    ordered: bool
    paper: str
    source: str
    note: str

    @property
    def removed(self) -> tuple[int, ...]:
        """The layers that were removed, sorted."""
        return tuple(sorted(self.order[: self.n_removed]))

    @property
    def chosen(self) -> tuple[int, ...] | frozenset[int]:
        """What `layershap.baselines.FixedLayers` takes: the order, or the set where there is no order."""
        return self.order if self.ordered else frozenset(self.order)


def load_published_sets(model: str | None = None) -> list[PublishedSet]:
    """Sets of layers that papers and their authors' code remove, as data.

    Sets of the paper behind `LayerPruner.paper`, ShortGPT, Shortened LLaMA and an example of SLEB's, for models of the
    LLaMA, Vicuna, Baichuan, Gemma, OPT, Mamba and RWKV families; what others have not published isn't there.

    Parameters
    ----------
    model : str, optional
        Only sets for this model: its name on the hub, or what follows the slash ("Llama-2-7b-hf"), in any case. By
        default all.

    Returns
    -------
    list of PublishedSet
        The sets, by paper.

    Raises
    ------
    ValueError
        There is no set for `model`; the message names the models.

    See Also
    --------
    layershap.baselines.FixedLayers : Scores such sets beside methods, by `layershap.compare`.

    Examples
    --------
    >>> from layershap.datasets import load_published_sets
    >>> [found.removed for found in load_published_sets("Llama-2-7b-hf") if found.method == "ShortGPT"]
    [(21, 22, 23, 24, 25, 26, 27, 28, 29)]
    """
    rows = json.loads(_FILE.read_text(encoding="utf-8"))
    found = [PublishedSet(**{**row, "order": tuple(row["order"])}) for row in rows]
    if model is None:
        return found
    wanted = model.lower()
    chosen = [one for one in found if wanted in (one.model.lower(), one.model.lower().rpartition("/")[2])]
    if not chosen:
        raise ValueError(
            f"no published set is known for the model {model!r}, only for {sorted({one.model for one in found})}"
        )
    return chosen
