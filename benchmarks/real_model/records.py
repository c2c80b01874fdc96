"""How the records of a real model name what was tested."""

from __future__ import annotations


def layers_key(removed: list[int]) -> str:
    """How tests name a set of removed layers; '' is the dense model."""
    return " ".join(map(str, removed))


def made_key(row_key: str, n_remove: int) -> str:
    """How tests name a model that is no mask."""
    return f"{row_key}: {n_remove}"
