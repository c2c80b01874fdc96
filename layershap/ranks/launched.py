"""What a launcher told this process: the variables that torch's own, accelerate's among them, set for each."""

from __future__ import annotations

import os


def launched_with_others() -> bool:
    """Whether ``accelerate launch``, ``torchrun`` or the like started this process as one of several."""
    return {"RANK", "MASTER_ADDR"} <= os.environ.keys() and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first_rank() -> bool:
    """Whether this process is the one that writes: the first of those launched together, or launched alone."""
    return not launched_with_others() or int(os.environ["RANK"]) == 0
