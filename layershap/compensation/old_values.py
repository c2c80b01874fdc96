"""Parameters as they were before a compensation, so that one that fails changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class OldValues:
    """Copies of parameters, on the host: a card that holds the model may have no room for them."""

    def __init__(self) -> None:
        self._values: dict[nn.Parameter, Tensor] = {}

    def keep(self, parameters: Iterable[nn.Parameter]) -> None:
        """Copy the parameters that have not been copied yet."""
        for parameter in parameters:
            if parameter not in self._values:
                self._values[parameter] = parameter.detach().to(torch.device("cpu"), copy=True)

    def put_back(self) -> None:
        """Give the parameters their old values."""
        for parameter, value in self._values.items():
            parameter.detach().copy_(value)


@contextmanager
def put_back_if_it_fails() -> Iterator[OldValues]:
    """Give the parameters that were kept their old values back, should anything be raised."""
    old = OldValues()
    try:
        yield old
    except BaseException:
        old.put_back()
        raise
