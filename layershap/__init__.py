"""layershap: prune whole layers of large language models by their Shapley values.

pruner = LayerPruner(random_state=0).fit(model, texts, tokenizer=tokenizer)
small = pruner.transform(model, n_remove=6)
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layershap import shapley, tasks, utilities
    from layershap.calibration import PERPLEXITY_PROTOCOLS, Calibration, PerplexityProtocol
    from layershap.checkpoint import load_pruned, save_pruned
    from layershap.comparison import MethodComparison, compare
    from layershap.compensation import LinearRefit, Rescale
    from layershap.exceptions import (
        CalibrationWarning,
        CheckpointWarning,
        GenerationWarning,
        LayerNotRemovableError,
        LayerShapError,
        LedgerError,
        LedgerFormatError,
        LedgerInUseError,
        LedgerMismatchError,
        MissingExtraError,
        ModelInUseError,
        NonFiniteScoreWarning,
        PlainForwardWarning,
        PromptWarning,
        RanksError,
        ReportFormatError,
        SurgeryCheckError,
        SurrogateQualityWarning,
        ThreadsWarning,
        TiedSelectionWarning,
        UncheckedInputWarning,
        UnreachableTargetError,
        UnsupportedModelError,
        ValueQualityWarning,
    )
    from layershap.fitting.definitions import ShapleyValues, StratifiedValues
    from layershap.game import LayerGame
    from layershap.inspection import inspect
    from layershap.model.split import find_sublayers, skip_sublayers
    from layershap.model.stack import LayerStack, find_layers, skip_layers
    from layershap.model.sublayers import SublayerStack
    from layershap.pruner import LayerPruner
    from layershap.ranks.together import on_own_rank
    from layershap.report import PruningReport
    from layershap.samplers import StratifiedSampler
    from layershap.scoring.evaluate import PAPER_TASKS, Evaluation, EvaluationTable, Score, evaluate, side_by_side
    from layershap.scoring.generation import GenerationCheck
    from layershap.scoring.perplexity import Perplexity, perplexity
    from layershap.selection import Exhaustive, Greedy, ShapleyRanking, SurrogateSearch
    from layershap.surgery import remove_layers, remove_sublayers
    from layershap.surrogates import (
        BestSurrogate,
        BootstrapEnsemble,
        HammingProcess,
        LinearRidge,
        PairwiseRidge,
        PaperMLP,
    )
    from layershap.tasks import Task

__version__ = "0.1.0"

__all__ = [
    "PAPER_TASKS",
    "PERPLEXITY_PROTOCOLS",
    "BestSurrogate",
    "BootstrapEnsemble",
    "Calibration",
    "CalibrationWarning",
    "CheckpointWarning",
    "Evaluation",
    "EvaluationTable",
    "Exhaustive",
    "GenerationCheck",
    "GenerationWarning",
    "Greedy",
    "HammingProcess",
    "LayerGame",
    "LayerNotRemovableError",
    "LayerPruner",
    "LayerShapError",
    "LayerStack",
    "LedgerError",
    "LedgerFormatError",
    "LedgerInUseError",
    "LedgerMismatchError",
    "LinearRefit",
    "LinearRidge",
    "MethodComparison",
    "MissingExtraError",
    "ModelInUseError",
    "NonFiniteScoreWarning",
    "PairwiseRidge",
    "PaperMLP",
    "Perplexity",
    "PerplexityProtocol",
    "PlainForwardWarning",
    "PromptWarning",
    "PruningReport",
    "RanksError",
    "ReportFormatError",
    "Rescale",
    "Score",
    "ShapleyRanking",
    "ShapleyValues",
    "StratifiedSampler",
    "StratifiedValues",
    "SublayerStack",
    "SurgeryCheckError",
    "SurrogateQualityWarning",
    "SurrogateSearch",
    "Task",
    "ThreadsWarning",
    "TiedSelectionWarning",
    "UncheckedInputWarning",
    "UnreachableTargetError",
    "UnsupportedModelError",
    "ValueQualityWarning",
    "compare",
    "evaluate",
    "find_layers",
    "find_sublayers",
    "inspect",
    "load_pruned",
    "on_own_rank",
    "perplexity",
    "remove_layers",
    "remove_sublayers",
    "save_pruned",
    "shapley",
    "side_by_side",
    "skip_layers",
    "skip_sublayers",
    "tasks",
    "utilities",
]

# Names are imported when they are first used: torch takes seconds, which `layershap --version` need not wait for.
_HOMES = {
    "layershap.calibration": ("PERPLEXITY_PROTOCOLS", "Calibration", "PerplexityProtocol"),
    "layershap.checkpoint": ("load_pruned", "save_pruned"),
    "layershap.comparison": ("MethodComparison", "compare"),
    "layershap.compensation": ("LinearRefit", "Rescale"),
    "layershap.exceptions": (
        "CalibrationWarning",
        "CheckpointWarning",
        "GenerationWarning",
        "LayerNotRemovableError",
        "LayerShapError",
        "LedgerError",
        "LedgerFormatError",
        "LedgerInUseError",
        "LedgerMismatchError",
        "MissingExtraError",
        "ModelInUseError",
        "NonFiniteScoreWarning",
        "PlainForwardWarning",
        "PromptWarning",
        "RanksError",
        "ReportFormatError",
        "SurgeryCheckError",
        "SurrogateQualityWarning",
        "ThreadsWarning",
        "TiedSelectionWarning",
        "UncheckedInputWarning",
        "UnreachableTargetError",
        "UnsupportedModelError",
        "ValueQualityWarning",
    ),
    "layershap.fitting.definitions": ("ShapleyValues", "StratifiedValues"),
    "layershap.game": ("LayerGame",),
    "layershap.inspection": ("inspect",),
    "layershap.model.split": ("find_sublayers", "skip_sublayers"),
    "layershap.model.stack": ("LayerStack", "find_layers", "skip_layers"),
    "layershap.model.sublayers": ("SublayerStack",),
    "layershap.pruner": ("LayerPruner",),
    "layershap.ranks.together": ("on_own_rank",),
    "layershap.report": ("PruningReport",),
    "layershap.samplers": ("StratifiedSampler",),
    "layershap.scoring.evaluate": ("PAPER_TASKS", "Evaluation", "EvaluationTable", "Score", "evaluate", "side_by_side"),
    "layershap.scoring.generation": ("GenerationCheck",),
    "layershap.scoring.perplexity": ("Perplexity", "perplexity"),
    "layershap.selection": ("Exhaustive", "Greedy", "ShapleyRanking", "SurrogateSearch"),
    "layershap.surgery": ("remove_layers", "remove_sublayers"),
    "layershap.surrogates": (
        "BestSurrogate",
        "BootstrapEnsemble",
        "HammingProcess",
        "LinearRidge",
        "PairwiseRidge",
        "PaperMLP",
    ),
    "layershap.tasks": ("Task",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:

    def __getattr__(name):
        if name in _HOME_OF:
            value = getattr(import_module(_HOME_OF[name]), name)
        elif not name.startswith("_") and find_spec(f"layershap.{name}") is not None:
            value = import_module(f"layershap.{name}")
        else:
            raise AttributeError(f"module 'layershap' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
