"""Parts of a report in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layershap.report.records import FitRecord


def named(fit: FitRecord) -> str:
    """The fitted model by its name, if it has one, with its class."""
    return f"{fit.model_name} ({fit.model_class})" if fit.model_name else fit.model_class


def describe(provenance: Mapping[str, object]) -> str:
    """Provenance in one line: plain entries as they are, those of a mixture by kinds and counts.

    Where kinds were made apart (``parts``), only their names and counts are told; the report's file has the rest.
    """
    told = []
    for name, value in provenance.items():
        if name == "kinds" and isinstance(value, Mapping):
            told.append(_kinds(value, provenance.get("scored_tokens")))
        elif name == "parts" and isinstance(value, list | tuple):
            told.append(f"{len(value)} parts")
        elif not isinstance(value, Mapping):
            told.append(f"{name} {value}")
        elif name not in ("parts", "scored_tokens"):
            told.append(f"{name} " + ", ".join(f"{key} {item}" for key, item in value.items()))
    return ", ".join(told)


def _kinds(kinds: Mapping[str, object], scored_tokens: object) -> str:
    counts = scored_tokens if isinstance(scored_tokens, Mapping) else {}
    told = [
        f"{count} sequences of {kind}" + (f" ({counts[kind]} tokens scored)" if kind in counts else "")
        for kind, count in kinds.items()
    ]
    return " and ".join(told)
