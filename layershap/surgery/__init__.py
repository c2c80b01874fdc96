"""Physical removal of decoder layers.

``remove`` is the operation, top to bottom; ``config``, ``indices`` and ``families`` are what has to be mended with it;
``check`` and ``reload`` are the proofs that the result is the model it should be.
"""

from layershap.surgery.families import unremovable_layers
from layershap.surgery.remove import remove_layers

__all__ = ["remove_layers", "unremovable_layers"]
