"""Two fingerprints: what differs, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_TOLERANCE = 1e-4
_TOLERANCE_HALF = 5e-2
"""Largest difference of two probes of one model, relative to their largest value: kernels differ between machines."""

_SHOWN = 40


def differences(found: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, str]:
    """The fields that differ, each with a sentence: what is there (in the file) and what is here."""
    differing = {
        name: "; ".join(_of_field(name, found.get(name), own.get(name), str(own.get("dtype"))))
        for name in {**found, **own}
        if _of_field(name, found.get(name), own.get(name), str(own.get("dtype")))
    }
    if differing.keys() & {"calibration", "granularity"}:
        # The behaviour is that on the first calibration tokens, without half of the players: the model may be the same.
        differing.pop("behaviour", None)
    return differing


def _of_field(name: str, there: Any, here: Any, dtype: str) -> list[str]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return [
            f"{name}, {key}: {_shown(there.get(key))} there, {_shown(here.get(key))} here"
            for key in {**there, **here}
            if there.get(key) != here.get(key)
        ]
    if name == "behaviour" and isinstance(there, Sequence) and isinstance(here, Sequence):
        same = len(there) == len(here) and all(_alike(a, b, dtype) for a, b in zip(there, here))
        return [] if same else ["behaviour: the model's logits on the first tokens are others than there"]
    return [] if there == here else [f"{name}: {_shown(there)} there, {_shown(here)} here"]


def _alike(there: Sequence[float], here: Sequence[float], dtype: str) -> bool:
    """Whether two probes could be of one model, NaN and infinity included."""
    if len(there) != len(here):
        return False
    tolerance = _TOLERANCE_HALF if "16" in dtype or "8" in dtype else _TOLERANCE
    scale = max((abs(value) for value in here if math.isfinite(value)), default=1.0)
    return all(
        a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance * scale for a, b in zip(there, here)
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
