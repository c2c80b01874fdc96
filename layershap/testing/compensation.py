"""The contract of a `Compensation`."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import torch

from layershap.calibration import Calibration
from layershap.compensation import (
    Compensation,
    CompensationRecord,
    RefusesEarly,
    Removal,
    ScalesSkippedLayers,
    compensation_record,
)
from layershap.datasets import load_calibration_text, load_tiny_gpt2
from layershap.forward.unmasked import sequence_statistics
from layershap.model.agreement import plain_logits
from layershap.model.stack import find_layers
from layershap.surgery import remove_layers
from layershap.testing.contract import Contract, check_contract, check_copies, only_if, require

_REMOVED = (3, 6, 7)


class CompensationContract(Contract):
    """Tests that a compensation keeps the contract of `layershap.compensation.Compensation`, for pytest.

    To be inherited; define `make`. Measuring leaves the model as it is, and keeps no reference to it; the pruned model
    keeps its parameters' names, shapes and types; what the record says of the loss is so; the same removal gives the
    same weights; the first layer may be among those removed; it can be cloned and pickled. The tests run on the bundled
    GPT-2.
    """

    def test_it_is_a_compensation(self) -> None:
        """It has both methods, and survives copying."""
        part = self.make()
        require(isinstance(part, Compensation), f"{type(part).__name__} must have methods `measure` and `apply`")
        check_copies(part)

    def test_it_refuses_early_or_not_at_all(self) -> None:
        """Where it has a `check`, the bundled model passes and stays as it is."""
        part, model = self.make(), _model()
        only_if(isinstance(part, RefusesEarly), f"{type(part).__name__} has no check")
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        part.check(model, find_layers(model), _text())
        require(
            all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items()),
            f"{type(part).__name__}.check must leave the model as it is",
        )

    def test_it_scales_skipped_layers_or_not(self) -> None:
        """Where it has `skip_scales`, these are None or one positive number for each layer, the same again."""
        part, model = self.make(), _model()
        only_if(isinstance(part, ScalesSkippedLayers), f"{type(part).__name__} has no skip_scales")
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        first, second = (part.skip_scales(model, find_layers(model), _text()) for _ in range(2))
        name = f"{type(part).__name__}.skip_scales"
        require(
            all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items()),
            f"{name} must leave the model as it is",
        )
        only_if(first is not None, f"{name} leaves games as they are")
        scales_L = np.asarray(first, dtype=float)
        require(
            scales_L.shape == (len(find_layers(model)),) and bool((np.isfinite(scales_L) & (scales_L > 0)).all()),
            f"{name} must return one positive number for each of the {len(find_layers(model))} layers, got {first!r}",
        )
        require(np.array_equal(scales_L, np.asarray(second)), f"{name} must return the same again")

    def test_it_changes_the_pruned_model_only(self) -> None:
        """The model given stays bit for bit; the result has the parameters of any pruned model."""
        part, model = self.make(), _model()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        pruned = _pruned(part, model)
        name = type(part).__name__
        require(
            all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items()),
            f"{name} must leave the model that it measures as it is",
        )
        plain = remove_layers(model, _REMOVED, check=False).state_dict()
        found = pruned.state_dict()
        require(
            {key: (value.shape, value.dtype) for key, value in found.items()}
            == {key: (value.shape, value.dtype) for key, value in plain.items()},
            f"{name} must change weights only, not their names, shapes or types",
        )

    def test_it_tells_the_truth(self) -> None:
        """The losses of the record are those of the models on some of the calibration text."""
        part, model = self.make(), _model()
        pruned = _pruned(part, model)
        record, name = compensation_record(pruned), type(part).__name__
        require(
            isinstance(record, CompensationRecord), f"{name}.apply must return a CompensationRecord, got {record!r}"
        )
        assert record is not None
        require(record.removed == _REMOVED, f"{name} must record the removed layers {_REMOVED}, got {record.removed}")
        require(
            record.n_tokens > 0 and record.n_held_out > 0,
            f"{name} must record how many tokens it was fitted to and judged by, got {record.n_tokens} and "
            f"{record.n_held_out}",
        )
        losses = [change.loss for change in record.changes]
        require(
            not losses or abs(losses[-1] - record.loss_after) < 1e-6,
            f"{name} must record the loss after its last change as loss_after, got {losses} and {record.loss_after}",
        )

        plain_model = remove_layers(model, _REMOVED, check=False)
        for when, told, judged in (
            ("before", record.loss_before, plain_model),
            ("after", record.loss_after, pruned),
        ):
            low, high = _losses_of_sequences(judged)
            require(
                low - 1e-3 <= told <= high + 1e-3,
                f"{name} must record as loss_{when} the loss of the model on some of the calibration sequences, whose "
                f"own losses are {low:.4f} to {high:.4f} nats per token; got {told}",
            )

        plain = plain_model.state_dict()
        changed = [key for key, value in pruned.state_dict().items() if not torch.equal(value, plain[key])]
        require(
            bool(changed) == bool(record.changes),
            f"{name} must record changes if, and only if, it changes weights; it changed {changed} and recorded "
            f"{record.changes}",
        )

    def test_it_is_repeatable(self) -> None:
        """The same weights again."""
        model = _model()
        first, second = (plain_logits(_pruned(self.make(), model)) for _ in range(2))
        require(torch.equal(first, second), f"{type(self.make()).__name__} must give the same weights again")

    def test_it_lives_without_the_first_layer(self) -> None:
        """Layer 0 removed: done, or left alone with a note."""
        part = self.make()
        record = compensation_record(
            remove_layers(_model(), [0, 5], check=False, compensation=part, calibration=_text())
        )
        require(record is not None, f"{type(part).__name__} must record what it did where layer 0 goes too")

    def test_it_lets_the_model_go(self) -> None:
        """What was measured holds no reference to the model."""
        part, model = self.make(), _model()
        measured = part.measure(Removal(model, find_layers(model), _REMOVED, _text()))
        watched = [weakref.ref(module) for module in model.modules()]
        del model
        gc.collect()
        require(
            not any(reference() is not None for reference in watched),
            f"{type(part).__name__}.measure must not keep the model, or a layer of it, in {type(measured).__name__}",
        )


def check_compensation(compensation: Any) -> None:
    """Check that a compensation keeps the contract of `CompensationContract`.

    Raises
    ------
    AssertionError
        The first test that fails; the message names the contract.
    """

    class Given(CompensationContract):
        def make(self) -> Any:
            return compensation

    check_contract(Given())


def _model() -> Any:
    return load_tiny_gpt2()[0]


def _text() -> Calibration:
    tokenizer = load_tiny_gpt2()[1]
    return Calibration.from_texts(load_calibration_text(), tokenizer, seq_len=64, n_sequences=24)


def _pruned(part: Any, model: Any) -> Any:
    return remove_layers(model, _REMOVED, check=False, compensation=part, calibration=_text())


def _losses_of_sequences(model: Any) -> tuple[float, float]:
    """The least and the largest loss of a sequence of the text, in nats per token."""
    found = sequence_statistics(model, _text(), ("nll",))
    means_S = found.sums["nll"] / found.counts
    return float(means_S.min()), float(means_S.max())
