"""Which of a report's removals a pruned model is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from layershap.model.split import find_players
from layershap.model.stack import LayersArgument, LayerStack, find_layers
from layershap.model.sublayers import SublayerStack
from layershap.report.measure import compensated_removal, removed_between, same_weights

if TYPE_CHECKING:
    from layershap.report.records import RemovalRecord
    from layershap.report.report import PruningReport


def removal_of(
    report: PruningReport,
    model: nn.Module,
    pruned: nn.Module,
    n_remove: int | None = None,
    layers: LayersArgument = None,
) -> RemovalRecord:
    """The removal that made `pruned` of `model`.

    Parameters
    ----------
    report : PruningReport
        Report of the fit of `model`.
    model, pruned : nn.Module
        The models before and after pruning.
    n_remove : int, optional
        Number of layers that the removal is said to have removed, which is checked. By default found from the record
        of a compensation, from the weights or, where these were changed since (trained, quantised), from the number
        of layers.
    layers : str or sequence of nn.Module, optional
        Where the layers are, if the rule can't know.

    Raises
    ------
    ValueError
        The models are not the report's, or `n_remove` must be told.
    """
    player = report.fit.granularity
    whole = find_players(model, layers, "layer" if player == "layer" else "sublayer")
    check_depth(report, len(whole))
    if isinstance(whole, SublayerStack):
        # Which sublayers a smaller model lacks is not to be seen from its layers.
        if n_remove is None:
            raise ValueError(f"which removal is it? Give n_remove, the number of {player}s removed")
        return report.removal(n_remove)
    rest = find_layers(pruned, layers)
    gone = len(report.layers) - len(rest)
    if n_remove not in (None, gone):
        raise ValueError(f"pruned must lack n_remove={n_remove} layers, it lacks {gone} of {len(report.layers)}")
    known = compensated_removal(pruned, gone)
    found = removed_between(whole, rest) if known is None else known
    if gone < 1:
        raise ValueError(
            f"pruned must have fewer layers than model's {len(report.layers)}, it has {len(report.layers) - gone}. Are "
            "they in this order?"
        )
    removal = report.removal(gone)
    if found is not None and not (_is(removal, whole, rest) if known is None else removal.layers == known):
        raise ValueError(
            f"pruned must be one of the report's removals: it lacks layers {list(found)}, the report's of this size "
            f"are {list(removal.layers)}. Any pair of models is measured by layershap.report.measure_outcome, on the "
            "command line by `layershap evaluate`"
        )
    return removal


def check_depth(report: PruningReport, n_players: int) -> None:
    """Raise if a model has another number of layers (or sublayers) than the report's.

    Raises
    ------
    ValueError
        It has.
    """
    if n_players != len(report.layers):
        raise ValueError(
            f"the report is of a model of {len(report.layers)} {report.fit.granularity}s ({report.fit.model_class}), "
            f"the model given has {n_players}; fit this model"
        )


def _is(removal: RemovalRecord, whole: LayerStack, rest: LayerStack) -> bool:
    """Whether the layers that the removal leaves have the weights of `rest`: layers may be copies of each other."""
    left = [layer for i, layer in enumerate(whole.layers) if i not in removal.layers]
    return all(same_weights(old, new) for old, new in zip(left, rest.layers, strict=True))
