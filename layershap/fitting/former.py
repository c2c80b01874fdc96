"""Parameters that earlier versions of `LayerPruner` had, as `values` says them now."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from layershap.fitting.definitions import ShapleyValues, StratifiedValues
from layershap.surrogates import BestSurrogate

Given = ParamSpec("Given")
Instance = TypeVar("Instance")

_FORMER = ("weights", "keep_veto", "unbiased", "n_marginals")


def takes_former_parameters(
    init: Callable[Concatenate[Instance, Given], None],
) -> Callable[Concatenate[Instance, Given], None]:
    """Let a constructor take `weights`, `keep_veto`, `unbiased`, `n_marginals` and 'auto' surrogates, with a warning.

    scikit-learn and type checkers see the constructor's own signature.
    """

    @functools.wraps(init)
    def wrapper(self: Instance, /, *args: Given.args, **given: Given.kwargs) -> None:
        former: dict[str, Any] = {name: given.pop(name) for name in _FORMER if name in given}
        if isinstance(given.get("surrogate"), str) and given["surrogate"] == "auto":
            warnings.warn(
                "surrogate='auto' is surrogate=BestSurrogate() now; the former spelling goes with the next release.",
                FutureWarning,
                stacklevel=2,
            )
            given["surrogate"] = BestSurrogate()
        if former:
            if "values" in given:
                raise TypeError(f"values says what {list(former)} said; give values alone")
            weights = former.pop("weights", "strata")
            if weights not in ("strata", "shapley"):
                raise ValueError(f"weights must be 'strata' or 'shapley', got {weights!r}")
            values = ShapleyValues(**former) if weights == "shapley" else StratifiedValues(**former)
            warnings.warn(
                f"weights, keep_veto, unbiased and n_marginals are parameters of values now: write values={values!r}. "
                "The former spelling goes with the next release.",
                FutureWarning,
                stacklevel=2,
            )
            given["values"] = values
        init(self, *args, **given)

    return wrapper
