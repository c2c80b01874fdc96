"""Targets as the command line spells them: ``parameters<=80M``."""

from __future__ import annotations

import re

from layershap.targets.limits import (
    MaxBytes,
    MaxLatency,
    MaxParameters,
    MaxPerplexityIncrease,
    MinThroughput,
    Phase,
    Target,
)

_NUMBER = r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_SHAPE = re.compile(rf"\s*(\w+)\s*(<=|>=)\s*({_NUMBER})\s*([^\s,]*)\s*((?:,\s*\w+\s*=\s*\d+\s*)*)", re.IGNORECASE)
_PLURALS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9}
_BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_SECONDS = {"s": 1.0, "ms": 1e-3}
_RATE = {"": 1.0, "tokens/s": 1.0}
_PERCENT = {"%": 1.0}
_WORDS: dict[str, tuple[str, dict[str, float]]] = {
    "parameters": ("<=", _PLURALS),
    "bytes": ("<=", _BYTES),
    "perplexity": ("<=", _PERCENT),
    "prefill_latency": ("<=", _SECONDS),
    "decode_latency": ("<=", _SECONDS),
    "prefill_throughput": (">=", _RATE),
    "decode_throughput": (">=", _RATE),
}
_CONDITIONS = {"batch": "batch_size", "prompt": "prompt_tokens", "new": "new_tokens"}

SPELLINGS = (
    "parameters<=80M, bytes<=100MB, perplexity<=+5%, decode_latency<=20ms, prefill_latency<=0.1s,batch=8, "
    "decode_throughput>=500,batch=8, prefill_throughput>=2000,prompt=512"
)
"""One example of each."""


def parse_target(text: str) -> Target:
    """Read a target as ``layershap prune --target`` takes it.

    Parameters
    ----------
    text : str
        Quantity, relation and value with its unit; for speeds also, after commas, ``batch=``, ``prompt=`` and ``new=``
        numbers of sequences and tokens.

        - ``parameters<=80M``: K, M, B are thousands, millions, billions.
        - ``bytes<=100MB``: B, KB, MB, GB by 1,000; KiB, MiB, GiB by 1,024.
        - ``perplexity<=+5%``: at most so much higher than the whole model's.
        - ``decode_latency<=20ms``, ``prefill_latency<=0.1s,batch=8``: s or ms.
        - ``decode_throughput>=500,batch=8``, ``prefill_throughput>=2000,prompt=512``: tokens/s of the whole batch.

    Returns
    -------
    Target
        The dataclass of `layershap.targets` that it means.

    Raises
    ------
    ValueError
        An unknown quantity or unit, the wrong relation, or a value that is not positive.
    TypeError
        Not text.

    Examples
    --------
    >>> from layershap.targets import parse_target
    >>> parse_target("parameters<=80M")
    MaxParameters(n_parameters=80000000.0)
    >>> parse_target("decode_latency<=20ms, batch=8")
    MaxLatency(seconds=0.02, phase='decode', batch_size=8, prompt_tokens=None, new_tokens=None)
    """
    if not isinstance(text, str):
        raise TypeError(f"a target must be one of layershap.targets, or text such as 'parameters<=80M'; got {text!r}")
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise ValueError(f"a target must read like one of {SPELLINGS}; got {text!r}")
    word, relation, number, unit, rest = found.groups()
    if word not in _WORDS:
        raise ValueError(f"a target must be of {', '.join(_WORDS)}; got {word!r} in {text!r}")
    wanted, units = _WORDS[word]
    if relation != wanted:
        raise ValueError(f"a target of {word} must read {word}{wanted}..., got {text!r}")
    if unit not in units:
        allowed = ", ".join(repr(name) if name else "none" for name in units)
        raise ValueError(f"the unit of {word} must be one of {allowed}; got {unit!r} in {text!r}")
    value = float(number) * units[unit]
    conditions = _conditions(word, rest, text)
    if word == "parameters":
        return MaxParameters(value)
    if word == "bytes":
        return MaxBytes(value)
    if word == "perplexity":
        return MaxPerplexityIncrease(value)
    phase: Phase = "prefill" if word.startswith("prefill") else "decode"
    if word.endswith("latency"):
        return MaxLatency(value, phase, **conditions)
    return MinThroughput(value, phase, **conditions)


def _conditions(word: str, rest: str, text: str) -> dict[str, int]:
    """What follows the commas, by the fields' names."""
    pairs = [part.split("=") for part in rest.replace(" ", "").split(",") if part]
    if pairs and not word.endswith(("latency", "throughput")):
        raise ValueError(f"only latency and throughput depend on {', '.join(_CONDITIONS)}; got {text!r}")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names) or not set(names) <= set(_CONDITIONS):
        raise ValueError(f"after a speed each of {', '.join(_CONDITIONS)} may follow once, got {text!r}")
    return {_CONDITIONS[name]: int(value) for name, value in pairs}
