"""What a pruned model is to meet, as plain values: each target checks itself and says itself in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

from layershap.limits import check_int
from layershap.speed import SpeedRecord

Phase: TypeAlias = Literal["prefill", "decode"]


@dataclass(frozen=True)
class MaxParameters:
    """At most so many parameters in the whole model; the smallest removal that meets it is taken.

    Attributes
    ----------
    n_parameters : float
        Number of parameters, shared ones counted once: what ``model.num_parameters()`` says.
    """

    n_parameters: float

    def __post_init__(self) -> None:
        _check_positive("MaxParameters: n_parameters", self.n_parameters)

    def __str__(self) -> str:
        return f"at most {self.n_parameters:,.0f} parameters"


@dataclass(frozen=True)
class MaxBytes:
    """At most so many bytes of weights, in the precision that the model has; the smallest removal is taken.

    Attributes
    ----------
    n_bytes : float
        Bytes of all parameters, shared ones counted once: 100e6 is 100 MB, 100 * 2**20 is 100 MiB.
    """

    n_bytes: float

    def __post_init__(self) -> None:
        _check_positive("MaxBytes: n_bytes", self.n_bytes)

    def __str__(self) -> str:
        return f"at most {self.n_bytes:,.0f} bytes of weights"


@dataclass(frozen=True)
class MaxLatency:
    """At most so many seconds, measured on this device; the smallest removal that meets it is taken.

    Attributes
    ----------
    seconds : float
        Time from the prompt to the first new token (prefill), or of each further token (decode); 0.02 is 20 ms.
    phase : {"prefill", "decode"}
        What is timed (`layershap.report.measure_speed`); "decode" by default.
    batch_size : int
        Number of sequences at a time; 1 by default.
    prompt_tokens, new_tokens : int or None
        Number of tokens in each prompt, and of tokens generated after the first; None, the default, is 128 and 32, or
        what fits the model's positions.
    """

    seconds: float
    phase: Phase = "decode"
    batch_size: int = 1
    prompt_tokens: int | None = None
    new_tokens: int | None = None

    def __post_init__(self) -> None:
        _check_positive("MaxLatency: seconds", self.seconds)
        _check_timing(self)

    def reading(self, speed: SpeedRecord) -> float | None:
        """Seconds that `speed` measured; None where there is no rate."""
        return speed.prefill_seconds if self.phase == "prefill" else _positive(speed.decode_seconds)

    def __str__(self) -> str:
        per = "" if self.phase == "prefill" else " per token"
        return f"{self.phase} within {1e3 * self.seconds:,.4g} ms{per}{_conditions(self)}"


@dataclass(frozen=True)
class MinThroughput:
    """At least so many tokens per second of the whole batch, measured on this device; the smallest removal is taken.

    Attributes
    ----------
    tokens_per_second : float
        Prompt tokens (prefill) or new tokens (decode) per second, of all sequences of the batch together.
    phase : {"prefill", "decode"}
        What is timed (`layershap.report.measure_speed`); "decode" by default.
    batch_size : int
        Number of sequences at a time; 1 by default.
    prompt_tokens, new_tokens : int or None
        As in `MaxLatency`.
    """

    tokens_per_second: float
    phase: Phase = "decode"
    batch_size: int = 1
    prompt_tokens: int | None = None
    new_tokens: int | None = None

    def __post_init__(self) -> None:
        _check_positive("MinThroughput: tokens_per_second", self.tokens_per_second)
        _check_timing(self)

    def reading(self, speed: SpeedRecord) -> float | None:
        """Tokens per second that `speed` measured; None where there is no rate."""
        return speed.prefill_tokens_per_second if self.phase == "prefill" else speed.decode_tokens_per_second

    def __str__(self) -> str:
        return f"{self.phase} of at least {self.tokens_per_second:,.4g} tokens/s{_conditions(self)}"


@dataclass(frozen=True)
class MaxPerplexityIncrease:
    """A perplexity at most so many percent higher than the whole model's; the largest removal that keeps it is taken.

    It is read from the scores of a fit with `layershap.utilities.PerplexityRatio`, on calibration text; nothing is run.

    Attributes
    ----------
    percent : float
        Percent: 5 allows 1.05 times the perplexity.
    standard_errors : float
        By how many of its standard errors the increase must stay below the limit; 0, the default, takes the increase as
        it was measured, and then it is as likely above as below on other text. With more than 0, sets whose error is
        not known (nothing held back) don't qualify.
    """

    percent: float
    standard_errors: float = 0.0

    def __post_init__(self) -> None:
        _check_positive("MaxPerplexityIncrease: percent", self.percent)
        if not _is_number(self.standard_errors) or not 0 <= self.standard_errors < math.inf:
            raise ValueError(
                f"MaxPerplexityIncrease: standard_errors must be a number of at least 0, got {self.standard_errors!r}"
            )

    def __str__(self) -> str:
        sure = f", {self.standard_errors:g} standard errors below that" if self.standard_errors else ""
        return f"perplexity at most {self.percent:g}% higher{sure}"


SizeTarget: TypeAlias = MaxParameters | MaxBytes
SpeedTarget: TypeAlias = MaxLatency | MinThroughput
Target: TypeAlias = MaxParameters | MaxBytes | MaxLatency | MinThroughput | MaxPerplexityIncrease


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_positive(name: str, value: Any) -> None:
    if not _is_number(value):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    if not 0 < value < math.inf:  # false for NaN
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def _check_timing(target: MaxLatency | MinThroughput) -> None:
    name = type(target).__name__
    if target.phase not in get_args(Phase):
        raise ValueError(f"{name}: phase must be 'prefill' or 'decode', got {target.phase!r}")
    check_int(f"{name}: batch_size", target.batch_size, 1)
    for field in ("prompt_tokens", "new_tokens"):
        if getattr(target, field) is not None:
            check_int(f"{name}: {field}", getattr(target, field), 1, other="None")


def _conditions(target: MaxLatency | MinThroughput) -> str:
    told = [f"batch {target.batch_size}"]
    told += [] if target.prompt_tokens is None else [f"{target.prompt_tokens} prompt tokens"]
    told += [] if target.new_tokens is None else [f"{target.new_tokens} new tokens"]
    return f" ({', '.join(told)})"


def _positive(seconds: float | None) -> float | None:
    # On a loaded machine the difference of two noisy times can come out at zero or below.
    return seconds if seconds is not None and seconds > 0 else None
