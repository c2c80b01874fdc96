"""What a user can implement, the array aliases, and the words and shapes of the project.

Any object with the methods qualifies: there is no registry and no base class. Four protocols are the parts of a fit,
`Utility`, `Sampler`, `Surrogate` and `Selector`; the others add a method or an attribute to one of these, and a part
that has it is asked. Each member says when it is called; `docs/extending.md` shows them in the order of a fit.

Shapes
------
L layers (players), M masks, S calibration sequences, T tokens in a sequence, D hidden size, V vocabulary,
K kept layers of a mask, n layers removed. Tensors carry their shape as a suffix: ``hidden_BTD``.
A mask is boolean and True means that the layer is KEPT; a coalition is the set of kept layers.
"""

from layershap.protocols.arrays import CountedGame
from layershap.protocols.arrays import FloatArray as FloatArray
from layershap.protocols.arrays import Game as Game
from layershap.protocols.arrays import IntArray as IntArray
from layershap.protocols.arrays import MaskArray as MaskArray
from layershap.protocols.arrays import Statistic as Statistic
from layershap.protocols.arrays import Weights as Weights
from layershap.protocols.estimator import Parametrised, Seeded
from layershap.protocols.method import (
    ChoosesLayers,
    CountsLayers,
    DepthPruningMethod,
    NarrowingMethod,
    PruningMethod,
    ReportsCosts,
)
from layershap.protocols.sampler import AdaptiveSampler, LeaveOneOutSampler, Sampler, StrataSampler, UniformSampler
from layershap.protocols.selector import EvaluatedGame, HoldsBack, SearchingSelector, SelectionEvidence, Selector
from layershap.protocols.surrogate import ClosedFormSurrogate, InteractionSurrogate, RefittableSurrogate, Surrogate
from layershap.protocols.utility import QuestionUtility, ResamplingUtility, SequenceStatistics, Utility

__all__ = [
    "AdaptiveSampler",
    "ChoosesLayers",
    "ClosedFormSurrogate",
    "CountedGame",
    "CountsLayers",
    "DepthPruningMethod",
    "EvaluatedGame",
    "HoldsBack",
    "InteractionSurrogate",
    "LeaveOneOutSampler",
    "NarrowingMethod",
    "Parametrised",
    "PruningMethod",
    "QuestionUtility",
    "RefittableSurrogate",
    "ReportsCosts",
    "ResamplingUtility",
    "Sampler",
    "SearchingSelector",
    "Seeded",
    "SelectionEvidence",
    "Selector",
    "SequenceStatistics",
    "StrataSampler",
    "Surrogate",
    "UniformSampler",
    "Utility",
]
