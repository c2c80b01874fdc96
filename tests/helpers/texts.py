"""Texts, and token ids for models of 60 tokens and more."""

from __future__ import annotations

import torch

from layershap.datasets import load_calibration_text

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high. Her mom said, it is okay, we can ask the man. "
)

TEXTS = [text[:1500] for text in load_calibration_text()[:12]]

IDS = torch.randint(1, 60, (6, 24), generator=torch.Generator().manual_seed(0))
"""Token ids [6, 24]."""

FEW_IDS = torch.randint(1, 60, (5, 12), generator=torch.Generator().manual_seed(0))
"""Token ids [5, 12]."""
