"""Processes that evaluate one game together: which one this is, and how each learns what the others found.

They are started by ``accelerate launch`` or ``torchrun`` (on CPUs the latter: accelerate's own needs MPI there), each
with the whole model; accelerate holds the process group (gloo on CPUs, NCCL on GPUs). All run the same program in step:
what differs is only which masks each one evaluates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn

from layershap.exceptions import LayerShapError, RanksError
from layershap.ranks.launched import launched_with_others

T = TypeVar("T")

_PATIENCE = timedelta(days=1)
"""How long a rank waits for the others: shards of a large model may differ by more than the usual half hour. A process
that ends is noticed at once.
"""

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@dataclass(frozen=True)
class _Failure:
    """What a rank that failed sends in place of its result."""

    reason: str
    of_model: bool


@dataclass(frozen=True)
class Ranks:
    """The processes that evaluate together.

    Attributes
    ----------
    index : int
        Which of them this one is, from 0.
    count : int
        How many there are.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, model: nn.Module) -> Ranks:
        """Those that this process was started with; itself alone if there are none.

        A model whose weights are spread over the processes (tensor parallelism, FSDP2) needs all of them for each mask:
        then they share no work.
        """
        return cls() if _is_spread(model) else cls.of_process()

    @classmethod
    def of_process(cls) -> Ranks:
        """Those that this process was started with, whatever model it holds."""
        if _alone.get() or not (_initialised() or launched_with_others()):
            return cls()
        # On a machine without GPUs accelerate joins the processes only if told that the CPU is meant.
        alone = {} if _initialised() else {"cpu": not torch.accelerator.is_available(), "timeout": _PATIENCE}
        state = PartialState(**alone)
        return cls(state.process_index, state.num_processes)

    def together(self, work: Callable[[], T]) -> list[T]:
        """Do this rank's work and return what every rank's gave, in their order; so all wait for the slowest.

        Raises
        ------
        RanksError
            Another rank failed, or ended.
        """
        if self.count == 1:
            return [work()]
        try:
            outcome = work()
        except Exception as error:
            of_model = not isinstance(error, LayerShapError | OSError)
            self._gathered(_Failure(f"{type(error).__name__}: {error}", of_model))
            raise
        found: list[T] = []
        for index, value in enumerate(self._gathered(outcome)):
            if isinstance(value, _Failure):
                failed = RanksError(
                    f"rank {index} of {self.count} failed, so rank {self.index} ends too: {value.reason}"
                )
                failed.in_step = value.of_model
                raise failed
            found.append(value)
        return found

    def check_same(self, value: T, what: str) -> None:
        """Raise unless every rank has an equal value, such as a digest.

        Raises
        ------
        RanksError
            They differ.
        """
        self.raise_unless_same(self.together(lambda: value), what)

    def raise_unless_same(self, values: list[T], what: str) -> None:
        """The same for values that were gathered, one per rank."""
        others = [index for index, value in enumerate(values) if value != values[0]]
        if others:
            raise RanksError(
                f"all ranks must have the same {what}, rank {others[0]} has another than rank 0; give each rank the "
                "same model, text and parameters (or put what is each rank's own work under layershap.on_own_rank())"
            )

    def _gathered(self, outcome: T | _Failure) -> list[T | _Failure]:
        try:
            found: list[T | _Failure] = gather_object([outcome])
        except RuntimeError as error:
            raise RanksError(
                f"rank {self.index} of {self.count} can't reach the others ({error}): one of them has ended. What was "
                "evaluated is in each rank's ledger, if one was given: start the same command again to go on"
            ) from error
        return found


@contextmanager
def on_own_rank() -> Iterator[None]:
    """Within this context a process works alone, also when it was launched with others.

    Use it where each process does work of its own (another seed, another model).
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _initialised() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _is_spread(model: nn.Module) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
