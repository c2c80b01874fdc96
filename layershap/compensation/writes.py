"""The modules by which a layer writes to the residual stream, found by what they compute rather than by their names.

A layer whose output is its input plus a weighted sum of what some of its modules give back writes by these: attention's
and the feed-forward part's last linear layer in most families, the norms after them in others (gemma2, olmo2). The
weights of the sum (1, or a residual multiplier as in granite) come from least squares on random states.

Shapes: N values of a probe state, K modules, D hidden size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from layershap.calibration import Calibration
from layershap.compensation.layerwise import Layerwise, check_finite, check_layout
from layershap.compensation.summands import summands
from layershap.exceptions import UnsupportedModelError
from layershap.forward.state import State
from layershap.model.agreement import MODEL_ERRORS, relative_difference
from layershap.model.io import is_quantized, vocabulary_size, weights_precision
from layershap.model.patching import patched
from layershap.model.stack import LayerStack

_ROWS, _TOKENS = 2, 16
_SCALE, _HEAD_SCALE = 0.5, 16.0  # exact in any precision


@dataclass(frozen=True)
class Write:
    """A module that writes to the residual stream.

    Attributes
    ----------
    name : str
        Dotted name inside its layer.
    multiplier : float
        What its output is multiplied by before it is added to the stream.
    """

    name: str
    multiplier: float


@dataclass(frozen=True)
class _Call:
    """A module's call on the probe."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor


@dataclass(frozen=True)
class Scaling:
    """How a module's output is scaled by its weights.

    Attributes
    ----------
    module : str
        Dotted name of the module inside its layer.
    parameters : tuple of str
        The parameters of the module to scale: all of a linear layer, the weight of a norm, the last matrices of routed
        experts.
    shift : float
        0, or 1 where the module multiplies by one plus its weight (gemma's norms).
    """

    module: str
    parameters: tuple[str, ...]
    shift: float

    def apply(self, layer: nn.Module, scale: float) -> None:
        """Scale what the module of this layer writes, in place."""
        for parameter in self.parameters_of(layer):
            parameter.copy_(self.scaled(parameter, scale))

    def parameters_of(self, layer: nn.Module) -> list[nn.Parameter]:
        """The parameters themselves."""
        module = layer.get_submodule(self.module)
        return [module.get_parameter(name) for name in self.parameters]

    def scaled(self, parameter: Tensor, scale: float) -> Tensor:
        """The parameter with which the module's output is `scale` times what it was."""
        return (parameter + self.shift) * scale - self.shift


class WriteFinder:
    """Finds the writes of the layers of one model; gradients must be off and the model in evaluation mode.

    Parameters
    ----------
    model : nn.Module
        Causal language model; only read.
    stack : LayerStack
        Its layers.
    """

    def __init__(self, model: nn.Module, stack: LayerStack) -> None:
        self._model, self._stack = model, stack
        self._owners = Counter(id(p) for module in model.modules() for p in module._parameters.values())
        self._half = weights_precision(model) in (torch.float16, torch.bfloat16)
        # Devices are named, so that torch.set_default_device has no say.
        generator = torch.Generator("cpu").manual_seed(0)
        ids = torch.randint(0, vocabulary_size(model) or 2, (_ROWS, _TOKENS), generator=generator, device="cpu")
        self._ids_BT = ids
        self._layerwise = Layerwise(model, stack, Calibration(ids, ids.clone()))
        first = self._layerwise.start()[0]
        noise = torch.randn(first.hidden.shape, generator=generator, dtype=torch.float32, device="cpu")
        noise = noise.to(first.hidden)
        self._state = State(noise * first.hidden.float().square().mean().sqrt().to(noise), first.carried)

    def check_tokens_have_rows(self) -> None:
        """Raise `UnsupportedModelError` unless hidden states are [B, T, D], as a regression over tokens needs them."""
        check_layout(self._state.hidden, self._ids_BT)

    def of(self, layer: int) -> tuple[Write, ...]:
        """The writes of a layer in the order in which they are computed.

        Raises
        ------
        UnsupportedModelError
            The layer's output is not its input plus what some of its modules compute.
        """
        module = self._stack.layers[layer]
        calls, after = self._calls(layer)
        check_finite(after.hidden, f"what leaves {self._where(layer)} on random states")
        # On the host, where the sum is solved for: a model's layers may lie on several devices.
        entered_N, left_N = (state.hidden.cpu().double().flatten() for state in (self._state, after))
        candidates = [(call.name, call.output.cpu().double().flatten()) for call in calls]
        found = summands(left_N - entered_N, entered_N, candidates, half=self._half)
        where = self._where(layer)
        if found is None:
            raise UnsupportedModelError(
                f"the output of {where} is not its input plus the outputs of some of its modules, which is what a "
                "compensation changes (learned gains and other connections are not supported). Tried: "
                f"{sorted({name for name, _ in candidates})}"
            )
        writes = tuple(Write(name, weight) for name, weight in found)
        for write in writes:
            part = module.get_submodule(write.name)
            shared = any(part in set(layer.modules()) for layer in self._stack.layers if layer is not module)
            if shared or any(self._owners[id(p)] > 1 for p in part.parameters()):
                raise UnsupportedModelError(
                    f"{write.name} of {where} belongs to other modules too, so a compensation can't change it for one"
                )
            if is_quantized(module.get_submodule(write.name)):
                raise UnsupportedModelError(
                    f"{write.name} of {where} holds quantised weights, which a compensation can't change; compensate "
                    "first and quantise afterwards"
                )
        return writes

    def scalings(self, layer: int) -> tuple[Scaling, ...]:
        """How each write of a layer is scaled.

        Raises
        ------
        UnsupportedModelError
            As `of`; or the output of a module isn't linear in any of its weights, or the layer reads the stream without
            a norm.
        """
        names = [write.name for write in self.of(layer)]
        calls = {call.name: call for call in self._calls(layer)[0]}
        scalings = tuple(self._scaling(layer, calls[name]) for name in names)
        self._check_scale_free(layer, names)
        return scalings

    def check_head(self, layer: int) -> None:
        """Raise unless the head takes the scale of what leaves a layer away, as a norm before it does.

        Raises
        ------
        UnsupportedModelError
            It doesn't (OPT without its last norm); or as `of`.
        """
        after = self._through(layer, self._state)
        state = after.scaled(float(3 / after.hidden.float().square().mean().sqrt().clamp_min(1e-6)))
        last = len(self._stack)
        loss, scaled = (self._layerwise.loss(last, [state.scaled(scale)]) for scale in (1.0, _HEAD_SCALE))
        if not abs(scaled - loss) <= (3e-2 if self._half else 1e-3) * (1 + loss):
            raise UnsupportedModelError(
                f"the head of {type(self._model).__name__} reads the residual stream without a norm, which would take "
                "the scale away that Rescale leaves on it. LinearRefit may serve"
            )

    def _check_scale_free(self, layer: int, names: Sequence[str]) -> None:
        """Raise unless the layer with its writes scaled makes of a scaled state the scaled output."""
        module = self._stack.layers[layer]
        # So large that what norms add to the mean square doesn't count, so small that activation functions are not yet
        # linear: where norms follow the sublayers in place of coming before them (OLMo 2), only these tell the scale.
        state = self._state.scaled(float(3 / self._state.hidden.float().square().mean().sqrt().clamp_min(1e-6)))

        def scaled(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **kwargs: original(*args, **kwargs) * _SCALE

        expected = self._through(layer, state).hidden.float() * _SCALE
        with patched([module.get_submodule(name) for name in names], scaled):
            found = self._through(layer, state.scaled(_SCALE)).hidden.float()
        if relative_difference(found, expected) > (3e-2 if self._half else 1e-3):
            raise UnsupportedModelError(
                f"{self._where(layer)} reads the residual stream without a norm, or with one whose epsilon is no small "
                "part of what it reads, so that the scale would not be taken away that Rescale leaves on the stream. "
                "LinearRefit may serve"
            )

    def _scaling(self, layer: int, call: _Call) -> Scaling:
        module = self._stack.layers[layer].get_submodule(call.name)
        parameters = dict(module.named_parameters())
        names = tuple(parameters)
        attempts = [Scaling(call.name, names, shift) for shift in (0.0, 1.0)]
        # Of several matrices (routed experts) the last, with its bias if it has one.
        attempts += [Scaling(call.name, names[start:], 0.0) for start in range(len(names) - 1, 0, -1)]
        attempts += [Scaling(call.name, (name,), 0.0) for name in names[:-1]]
        for scaling in attempts:
            values = {name: scaling.scaled(parameters[name], _SCALE) for name in scaling.parameters}
            output = functional_call(module, values, call.args, call.kwargs)
            if relative_difference(output.float(), call.output.float() * _SCALE) < (3e-2 if self._half else 1e-4):
                return scaling
        raise UnsupportedModelError(
            f"what {call.name} of {self._where(layer)} writes isn't linear in the weights of a "
            f"{type(module).__name__}, by which Rescale would scale it"
        )

    def _through(self, layer: int, state: State) -> State:
        """The state after a layer that runs on its own."""
        try:
            return self._layerwise.block_through(layer, 0, state)
        except MODEL_ERRORS as error:
            raise UnsupportedModelError(
                f"{self._where(layer)} can't be run without the layers before it, whose keys, values or choices it "
                f"reads ({type(error).__name__}: {error})"
            ) from error

    def _where(self, layer: int) -> str:
        return f"layer {layer} of {self._stack.path or 'the model'} ({type(self._stack.layers[layer]).__name__})"

    def _calls(self, layer: int) -> tuple[list[_Call], State]:
        """What the modules of a layer give back on the probe, where it could be written to the stream."""
        inside = [(name, part) for name, part in self._stack.layers[layer].named_modules() if name and part._parameters]
        calls: list[_Call] = []
        size = self._state.hidden.numel()

        def record(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                output = original(*args, **kwargs)
                # A module may only hand on what one inside it gave back (a mamba mixer, which has weights too).
                if isinstance(output, Tensor) and output.numel() == size and not _same(calls, output):
                    calls.append(_Call(inside[index][0], args, kwargs, output.clone()))
                return output

            return forward

        with patched([part for _, part in inside], record):
            return calls, self._through(layer, self._state)


def _same(calls: Sequence[_Call], output: Tensor) -> bool:
    return bool(calls) and torch.equal(calls[-1].output.flatten(), output.flatten())
