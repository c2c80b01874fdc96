"""Why a ledger may be of another fingerprint: what a user has likely changed."""

from __future__ import annotations

from collections.abc import Mapping


def likely_causes(differing: Mapping[str, str]) -> str:
    """What a user may have done, for the fields that don't say it themselves."""
    causes = {
        "calibration": " The calibration differs with other data, another number or length of sequences, and between a "
        "search on text in parts (LayerPruner's default) and an evaluation of all of it (confidence=1, another "
        "selector, the baselines): each needs a ledger file of its own (another --out on the command line).",
        "threads": " The number of threads changes the last bits of sums: torch.set_num_threads sets it.",
        "weights": " Weights and precision of the model must be those that the ledger was written for.",
    }
    return "".join(text for name, text in causes.items() if name in differing)
