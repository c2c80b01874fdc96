"""Published and simple methods of depth pruning, as estimators with the `fit`/`transform` of `LayerPruner`.

===================== =======================================================
`ShortGPT`            Block Influence: least turning of the hidden state
`RelativeMagnitude`   least addition to the hidden state
`AngularDistance`     the contiguous block whose ends are most alike
`ShortenedLlama`      one-shot perplexity, Taylor or magnitude of the weights
`SLEB`                greedy elimination with re-evaluation
`BlockPruner`         the same with attention and feed-forward parts apart
`BruteForce`          every set: the optimum on the calibration text
`FixedLayers`         those that you name
`LastLayers`          the last n
`RandomLayers`        any n
`SliceGPT`            width instead of depth, at as many parameters
===================== =======================================================
"""

from layershap.baselines.angular_distance import AngularDistance
from layershap.baselines.base import DepthPruner
from layershap.baselines.block_pruner import BlockPruner
from layershap.baselines.brute_force import BruteForce
from layershap.baselines.fixed_layers import FixedLayers
from layershap.baselines.relative_magnitude import RelativeMagnitude
from layershap.baselines.short_gpt import ShortGPT
from layershap.baselines.shortened_llama import ShortenedLlama
from layershap.baselines.sleb import SLEB
from layershap.baselines.slice_gpt import SliceGPT
from layershap.baselines.trivial import LastLayers, RandomLayers

__all__ = [
    "SLEB",
    "AngularDistance",
    "BlockPruner",
    "BruteForce",
    "DepthPruner",
    "FixedLayers",
    "LastLayers",
    "RandomLayers",
    "RelativeMagnitude",
    "ShortGPT",
    "ShortenedLlama",
    "SliceGPT",
]
