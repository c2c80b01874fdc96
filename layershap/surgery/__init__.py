"""Physical removal of decoder layers and their sublayers.

``remove`` is the whole of it, top to bottom; ``removable`` is what it refuses and ``operation`` what it does;
``config``, ``indices``, ``cache_slots`` and ``families`` mend what goes with the layers; ``check`` and ``reload`` prove
that the result is the model it should be, ``recipe`` says how to build it.
"""

from layershap.surgery.removable import keep_one_of, unremovable_layers, unremovable_players
from layershap.surgery.remove import remove_layers, remove_players, remove_sublayers

__all__ = [
    "keep_one_of",
    "remove_layers",
    "remove_players",
    "remove_sublayers",
    "unremovable_layers",
    "unremovable_players",
]
