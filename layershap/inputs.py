"""What a model takes beside the tokens that it predicts: images, sound, the text that an encoder reads.

Shapes: S sequences, B rows of a batch, T tokens, k rows of an input for each sequence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from layershap.exceptions import UnsupportedModelError

Inputs: TypeAlias = Mapping[str, Tensor]
"""Arguments of the model's forward by name, each [S * k, ...]: k rows for the first sequence, then k for the second."""

SENSES = ("pixel_values", "pixel_values_videos", "images", "input_features", "input_values", "audio_values")
"""Arguments by which models take images or sound beside token ids."""


def check_inputs(inputs: Inputs, n_sequences: int) -> None:
    """Raise unless each input has as many rows as there are sequences, or a multiple.

    Raises
    ------
    TypeError, ValueError
    """
    for name, value in inputs.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"inputs[{name!r}] must be a tensor, got {type(value).__name__}; give torch.as_tensor(...)")
        if value.dim() == 0 or not len(value) or len(value) % n_sequences:
            raise ValueError(
                f"inputs[{name!r}] must have a row for each of {n_sequences} sequences, or the same number of rows for "
                f"each; got shape {tuple(value.shape)}. Images of one size have as many rows each"
            )
        if name.endswith("_grid_thw"):
            # Rows of patches are told apart by their number for each sequence, which must not come out even by chance.
            patches_S = value.prod(dim=-1).reshape(n_sequences, -1).sum(dim=1)
            if len(set(patches_S.tolist())) > 1:
                raise ValueError(
                    f"inputs[{name!r}] must tell of as many patches for each sequence, got "
                    f"{sorted(set(patches_S.tolist()))[:4]}. Let the processor make images of one size, or give a "
                    "Calibration of its own for each size"
                )


def input_rows(inputs: Inputs, rows: Any, n_sequences: int) -> dict[str, Tensor]:
    """The inputs of some of `n_sequences` sequences; `rows` is anything that indexes a tensor."""
    return {name: value.unflatten(0, (n_sequences, -1))[rows].flatten(0, 1) for name, value in inputs.items()}


def joined_inputs(parts: Sequence[tuple[int, Inputs]]) -> dict[str, Tensor]:
    """The inputs of several sets of sequences, each given with its number of sequences, as of one.

    Token ids of different lengths are padded with 0 on the right, where an attention mask among the inputs says so.

    Raises
    ------
    ValueError
        Sets with other inputs, of other shapes, or with another number of rows for each sequence.
    """
    names = list(parts[0][1])
    for _, inputs in parts:
        if set(inputs) != set(names):
            raise ValueError(f"all sequences must have the same inputs, got {sorted(names)} and {sorted(inputs)}")
    found = {}
    for name in names:
        values = [inputs[name] for _, inputs in parts]
        per_sequence = {len(value) / max(size, 1) for value, (size, _) in zip(values, parts, strict=True)}
        if all(value.dim() == 2 and not value.is_floating_point() for value in values):
            values = _padded(name, values, any("attention_mask" in other for other in names))
        if len({value.shape[1:] for value in values}) > 1 or len(per_sequence) > 1:
            raise ValueError(
                f"inputs[{name!r}] must have one shape for all sequences, got "
                f"{sorted({tuple(value.shape) for value in values})[:4]} for {parts[0][0]} sequences each. Let the "
                "processor make images and sounds of one size"
            )
        found[name] = torch.cat(values)
    return found


def _padded(name: str, values: list[Tensor], masked: bool) -> list[Tensor]:
    longest = max(value.shape[1] for value in values)
    if not masked and any(value.shape[1] != longest for value in values):
        raise ValueError(
            f"inputs[{name!r}] must have one length for all sequences, or an attention_mask beside it: 0 where padding "
            f"is; got lengths {sorted({value.shape[1] for value in values})[:4]}"
        )
    return [torch.nn.functional.pad(value, (0, longest - value.shape[1])) for value in values]


def refuse_inputs(inputs: Inputs, what: str) -> None:
    """Raise for calibration with inputs beside tokens; `what` reads hidden states of text alone.

    Raises
    ------
    UnsupportedModelError
    """
    if inputs:
        raise UnsupportedModelError(
            f"{what} reads token sequences alone, and this calibration has {', '.join(inputs)} beside them; methods "
            "that score masked models (LayerPruner, SLEB, BruteForce, ...) take both"
        )


def add_inputs(update: Callable[[bytes], None], inputs: Inputs) -> None:
    """Feed names, shapes and values of inputs to a hash."""
    for name in sorted(inputs):
        value = inputs[name].detach().cpu().contiguous()
        update(json.dumps([name, list(value.shape), str(value.dtype)]).encode())
        update(value.flatten().view(torch.uint8).numpy().tobytes())


def batch_inputs(batch: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """The fields of a batch that are inputs.

    Raises
    ------
    ValueError
        A field is missing; or the batch holds images or sound that nobody asked for, which the model would not get.
    """
    fields: Any = batch if isinstance(batch, Mapping) else {}
    missing = [name for name in names if name not in fields]
    if missing:
        raise ValueError(f"a calibration batch must have the inputs {missing}, got {sorted(map(str, fields))}")
    unseen = [name for name in SENSES if name in fields and name not in names]
    if unseen:
        raise ValueError(
            f"a calibration batch holds {unseen[0]!r}, which the model would not get: name all that it takes beside "
            f"tokens, Calibration.from_batches(batches, inputs=({unseen[0]!r}, ...)), or leave it out of the batches"
        )
    return {name: torch.as_tensor(fields[name]).cpu() for name in names}
