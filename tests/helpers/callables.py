"""Plain callables as utilities, of every kind that Python has; each made for a sign."""

from __future__ import annotations

import functools

import numpy as np
import torch


def first_token(model, sign=1):
    return sign * float(model(torch.tensor([[1, 2]])).logits[0, 0, 0])


class Scorer:
    def __init__(self, sign):
        self.sign = sign

    def __call__(self, model):
        return first_token(model, self.sign)


def closure(sign):
    return lambda model: first_token(model, sign)


def with_default(sign):
    def utility(model, sign=sign):
        return first_token(model, sign)

    return utility


def with_attribute(sign):
    def utility(model):
        return first_token(model, utility.sign)

    utility.sign = sign
    return utility


def over_arrays(sign):
    signs = {"tensor": torch.full((3,), sign), "array": np.full(2, sign), "set": {"a", "b"}}
    return lambda model: first_token(model, int(signs["tensor"][0]))


KINDS = {
    "closure": closure,
    "default": with_default,
    "attribute": with_attribute,
    "arrays": over_arrays,
    "object": Scorer,
    "method": lambda sign: Scorer(sign).__call__,
    "partial": lambda sign: functools.partial(first_token, sign=sign),
    "code": lambda sign: (lambda model: first_token(model)) if sign == 1 else (lambda model: -first_token(model)),
}
