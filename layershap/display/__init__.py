"""Pictures in scikit-learn's manner: a Display holds plain numbers, ``plot(ax=None)`` draws them and computes nothing.

Needs the extra ``plot``.
"""

from layershap.display.contributions import ContributionDisplay
from layershap.display.depth import DepthCurveDisplay
from layershap.display.interactions import InteractionDisplay
from layershap.display.removals import RemovalCurveDisplay
from layershap.display.surrogate import SurrogateDisplay

__all__ = ["ContributionDisplay", "DepthCurveDisplay", "InteractionDisplay", "RemovalCurveDisplay", "SurrogateDisplay"]
