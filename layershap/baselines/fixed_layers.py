"""Sets of layers that are given, not chosen: published ones, or those of another program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias

from sklearn.utils.validation import check_is_fitted

from layershap.baselines.base import DepthPruner, FitInput, Outcome
from layershap.compensation import Compensation
from layershap.limits import check_n_remove, is_int
from layershap.model.stack import LayersArgument, check_layer_indices

ChosenLayers: TypeAlias = "Sequence[int] | AbstractSet[int] | Mapping[int, Iterable[int]]"


class FixedLayers(DepthPruner):
    """Remove layers that you name, so that `layershap.compare` scores them beside what methods choose.

    Parameters
    ----------
    chosen : sequence, set or mapping
        Indices of layers, from 0 on (negative ones count from the end).

        - sequence: an order of removal; ``n_remove=3`` takes the first three.
        - set: one set, for its own number of layers only.
        - mapping of int to iterable of int: a set of n layers for each n.
    n_remove : int or float, optional
        Number of layers that `transform` removes by default, or a fraction of all layers (0.25).
    protect : sequence of int, default=()
        Layers that are never removed: `fit` refuses a set that names one of them, or a layer that can't be removed
        alone.
    layers : str, sequence of nn.Module or LayerStack, optional
        Where the layers are, if the rule can't know (`layershap.find_layers`); or the layers, if found before.
    copy : bool, default=True
        True makes `transform` prune a deep copy; False, the model that it is given.
    compensation : Compensation, optional
        Change of the kept layers' weights by which `transform` makes up for the removed ones
        (`layershap.compensation`).

    Attributes
    ----------
    sets_ : dict of int to tuple of int
        The sorted layers for each number of layers.

    See Also
    --------
    layershap.datasets.load_published_sets : Sets from papers, as data.
    layershap.remove_layers : Removes layers that you name, without an estimator.

    Examples
    --------
    >>> from layershap.baselines import FixedLayers
    >>> from layershap.datasets import load_tiny_gpt2
    >>> model, tokenizer = load_tiny_gpt2()
    >>> FixedLayers([7, 3, 9]).fit(model).removed_layers(2)
    [3, 7]
    """

    def __init__(
        self,
        chosen: ChosenLayers,
        n_remove: int | float | None = None,
        *,
        protect: Sequence[int] = (),
        layers: LayersArgument = None,
        copy: bool = True,
        compensation: Compensation | None = None,
    ) -> None:
        super().__init__(n_remove, protect=protect, layers=layers, copy=copy, compensation=compensation)
        self.chosen = chosen

    def removed_layers(self, n_remove: int | float | None = None) -> list[int]:
        """Return the layers that `transform` would remove.

        Parameters
        ----------
        n_remove : int or float, optional
            Number of layers, or a fraction of all layers. By default the constructor's `n_remove`.

        Returns
        -------
        list of int
            Sorted indices of the layers.

        Raises
        ------
        ValueError
            No set of so many layers was given.
        """
        check_is_fitted(self)
        # As given: no layer takes another's place. Without `max_remove_`, whose error would tell of a search.
        return list(self._select(check_n_remove(self.n_remove if n_remove is None else n_remove, self.removable_)))

    def _fit(self, inputs: FitInput) -> Outcome:
        self.sets_ = _sets(self.chosen, len(inputs.stack))
        reasons = inputs.found.protected(self.protect)
        for n, layers in self.sets_.items():
            kept = [layer for layer in layers if layer in reasons]
            if kept:
                raise ValueError(
                    f"the {n} layers {list(layers)} must all be removable, layer {kept[0]} is not: {reasons[kept[0]]}"
                )
            for group in inputs.found.keep_one_of:
                if set(group) <= set(layers):
                    raise ValueError(
                        f"the {n} layers {list(layers)} must leave one of the layers {list(group)}, from which "
                        "generation reads the cache's length"
                    )
        wanted = inputs.checked_n_remove()
        if wanted is not None:
            self._select(wanted)
        return Outcome(max_remove=max(self.sets_))

    def _known_counts(self) -> list[int]:
        return sorted(self.sets_)

    def _select(self, n_remove: int) -> tuple[int, ...]:
        if n_remove not in self.sets_:
            raise ValueError(
                f"FixedLayers holds sets of {sorted(self.sets_)} layers, got n_remove={n_remove}; give a set of so "
                "many, or an order of removal as a list"
            )
        return self.sets_[n_remove]


def _sets(chosen: Any, n_layers: int) -> dict[int, tuple[int, ...]]:
    """The sorted layers for each number of them, checked."""
    if isinstance(chosen, Mapping):
        sets = {}
        for n, layers in chosen.items():
            if not isinstance(layers, Iterable):
                raise TypeError(f"a mapping must give layer indices for each n, got {layers!r} for {n!r}")
            found = _checked(layers, n_layers)
            if not is_int(n) or len(found) != n:
                raise ValueError(f"a mapping must give n layers for each n, got {len(found)} layers for {n!r}")
            sets[int(n)] = found
    elif isinstance(chosen, AbstractSet):
        sets = {len(chosen): _checked(chosen, n_layers)}
    elif isinstance(chosen, Sequence) and not isinstance(chosen, str):
        order = list(chosen)
        _checked(order, n_layers)
        sets = {n: _checked(order[:n], n_layers) for n in range(1, len(order) + 1)}
    else:
        raise TypeError(
            "chosen must be layer indices: a list in the order of removal, a set, or a mapping of n to n layers; got "
            f"{chosen!r} of type {type(chosen).__name__}"
        )
    if not sets or min(sets) < 1:
        raise ValueError(f"chosen must name at least one layer for each n, got {chosen!r}")
    if max(sets) >= n_layers:
        raise ValueError(f"chosen must leave at least one of the {n_layers} layers, got all of them")
    return sets


def _checked(layers: Iterable[int], n_layers: int) -> tuple[int, ...]:
    return tuple(check_layer_indices(layers, n_layers))
