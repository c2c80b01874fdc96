"""Physical removal of decoder layers.

``remove`` is the operation, top to bottom, and ``removable`` what it refuses; ``config``, ``indices`` and ``families``
mend what goes with the layers; ``check`` and ``reload`` prove that the result is the model it should be.
"""

from layershap.surgery.removable import unremovable_layers
from layershap.surgery.remove import remove_layers

__all__ = ["remove_layers", "unremovable_layers"]
