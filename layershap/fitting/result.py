"""Everything that a fit found, in one object.

Shapes: L layers, M masks, N numbers of layers removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layershap.calibration import Calibration
from layershap.environment import Environment
from layershap.fitting.contributions import Contributions
from layershap.fitting.diagnostics import Diagnostics
from layershap.fitting.evidence import Evidence
from layershap.fitting.final_choice import SetComparison
from layershap.inspection import ModelInspection
from layershap.masks import mask_key, mask_keys, without
from layershap.protocols import FloatArray, SelectionEvidence


@dataclass(frozen=True)
class FitResult:
    """Everything that a fit found; the result holds no model.

    Attributes
    ----------
    evidence : Evidence
        The masks, their scores, and the removable layers.
    contributions : Contributions
        The layers' values with their errors, and the surrogate.
    selection : SelectionEvidence
        Data by which a selector chooses.
    sets : list of list of int or None
        Layers that the selector of the fit removes, for n = 1 to N; None where it can't do that number.
    removal_probabilities : ndarray [N, L]
        Probabilities over resamples of the calibration text.
    diagnostics : Diagnostics
        Cost and quality of the fit.
    fingerprint : dict
        Everything that the scores depend on.
    inspection : ModelInspection
        The model's layers and sizes.
    environment : Environment
        Versions and machine.
    calibration : Calibration or None
        All calibration sequences; None for a task's, which are not all text.
    """

    evidence: Evidence
    contributions: Contributions
    selection: SelectionEvidence
    sets: list[list[int] | None]
    removal_probabilities: FloatArray
    diagnostics: Diagnostics
    fingerprint: dict[str, Any]
    inspection: ModelInspection
    environment: Environment
    calibration: Calibration | None

    @property
    def comparisons(self) -> list[SetComparison | None] | None:
        """What the text held back says of each set chosen [N]."""
        return None if self.evidence.final is None else self.evidence.final.comparisons

    def removal_scores(self, sets: Sequence[list[int] | None]) -> FloatArray:
        """Scores [N] of a set for each n = 1 to N; NaN if unknown.

        On the text held back, if any was, else on all that was searched.
        """
        evidence, final = self.evidence, self.evidence.final
        known = dict(zip(mask_keys(evidence.searched), evidence.searched_scores, strict=True))
        found = np.full(evidence.max_remove, np.nan)
        for n_remove, chosen in enumerate(sets, 1):
            if chosen is None:
                continue
            mask = without(chosen, len(evidence.removable))
            compared = None if final is None else final.comparisons[n_remove - 1]
            if final is not None and compared and (final.masks[n_remove - 1] == mask).all():
                found[n_remove - 1] = compared.score
            else:
                found[n_remove - 1] = known.get(mask_key(mask), np.nan)
        return found
