"""What scikit-learn's estimators have, and any part may have: parameters by name, and a seed."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Parametrised(Protocol):
    """A part with parameters by name, as every scikit-learn estimator is: it is copied by `sklearn.clone`.

    Other parts are copied as they are (`copy.deepcopy`).
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's parameters; those of parts within too, if `deep`.

        Called when the part is copied, which `fit` does before it learns, so that the user's own stays as it is.
        """
        ...

    def set_params(self, **params: Any) -> Any:
        """Change the parameters named in `params`.

        Called when a surrogate's ``random_state`` is None, or a sampler's ``strata`` count fewer players; always on a
        copy.
        """
        ...


@runtime_checkable
class Seeded(Parametrised, Protocol):
    """A part that is random by itself: a surrogate whose `random_state` is None gets a seed from the pruner's."""

    @property
    def random_state(self) -> Any:
        """Int, RandomState or None; also one of `get_params`.

        Read when a surrogate is copied, before it is fitted.
        """
        ...
