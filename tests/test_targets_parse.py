"""How targets are spelled, and which values none can have."""

from __future__ import annotations

import math

import numpy as np
import pytest

from layershap.cli.prune import TARGETS
from layershap.targets import (
    MaxBytes,
    MaxLatency,
    MaxParameters,
    MaxPerplexityIncrease,
    MinThroughput,
    parse_target,
)
from layershap.targets.choice import checked_target
from layershap.targets.parse import SPELLINGS

SPELLED = [
    ("parameters<=80M", MaxParameters(80e6)),
    ("parameters <= 1.5B", MaxParameters(1.5e9)),
    ("parameters<=80_000_000", MaxParameters(80e6)),
    ("parameters<=8e7", MaxParameters(80e6)),
    ("bytes<=100MB", MaxBytes(100e6)),
    ("bytes<=100MiB", MaxBytes(100 * 2**20)),
    ("bytes<=2GB", MaxBytes(2e9)),
    ("bytes<=1000", None),
    ("bytes<=100mb", None),
    ("perplexity<=5%", MaxPerplexityIncrease(5)),
    ("perplexity<=+2.5%", MaxPerplexityIncrease(2.5)),
    ("perplexity<=5", None),
    ("decode_latency<=20ms", MaxLatency(0.02)),
    ("prefill_latency<=.5s, batch=8, prompt=512", MaxLatency(0.5, "prefill", 8, 512)),
    ("decode_throughput>=500", MinThroughput(500)),
    ("prefill_throughput>=2e3 tokens/s,batch=2,new=4", MinThroughput(2000, "prefill", 2, None, 4)),
]


@pytest.mark.parametrize(("text", "target"), [pair for pair in SPELLED if pair[1] is not None])
def test_every_quantity_has_a_spelling(text, target):
    assert parse_target(text) == target
    assert str(target).partition(" ")[0] in ("at", "perplexity", "decode", "prefill")


def test_the_examples_can_be_read():
    kinds = {type(parse_target(example.strip("'"))) for example in TARGETS}
    assert kinds == {MaxParameters, MaxBytes, MaxPerplexityIncrease, MaxLatency}
    assert all(isinstance(parse_target(example), MaxBytes | MaxParameters) for example in SPELLINGS.split(", ")[:2])
    for example in SPELLINGS.split(", ")[2:]:
        parse_target(example)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("80M", "must read like one of parameters<=80M"),
        ("", "must read like one of"),
        ("parameters<=nan", "must read like one of"),
        ("parameters<=inf", "must read like one of"),
        ("parameters<80M", "must read like one of"),
        ("parameters<=80M and bytes<=1GB", "must read like one of"),
        ("parameters>=80M", "must read parameters<=..., got 'parameters>=80M'"),
        ("decode_throughput<=5", "must read decode_throughput>=..."),
        ("latency<=5ms", "must be of parameters, bytes, perplexity, prefill_latency, .*; got 'latency'"),
        ("parameters<=80MB", "the unit of parameters must be one of none, 'K', 'M', 'B'; got 'MB'"),
        ("bytes<=1000", "the unit of bytes must be one of 'B', 'KB', 'MB'"),
        ("bytes<=100mb", "the unit of bytes must be one of 'B', 'KB'.*; got 'mb'"),
        ("perplexity<=5", "the unit of perplexity must be one of '%'; got ''"),
        ("decode_latency<=20us", "the unit of decode_latency must be one of 's', 'ms'; got 'us'"),
        ("bytes<=1MB,batch=8", "only latency and throughput depend on batch, prompt, new"),
        ("decode_latency<=1ms,batch=8,batch=9", "may follow once"),
        ("decode_latency<=1ms,tokens=8", "each of batch, prompt, new may follow once"),
        ("decode_latency<=1ms,batch=0", "MaxLatency: batch_size must be an int of at least 1, got 0"),
        ("parameters<=-80M", "MaxParameters: n_parameters must be positive and finite, got -80000000.0"),
        ("perplexity<=0%", "MaxPerplexityIncrease: percent must be positive and finite, got 0.0"),
        ("bytes<=1e999MB", "MaxBytes: n_bytes must be positive and finite, got inf"),
    ],
)
def test_what_can_not_be_read_is_refused_with_what_could(text, message):
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        parse_target(text)


@pytest.mark.parametrize("several", [["bytes<=1MB", "perplexity<=+5%"], (MaxBytes(1e6),), {"bytes": 1e6}])
def test_one_target_is_possible_and_the_curve_serves_two_wishes(several):
    with pytest.raises(TypeError, match=rf"one target is possible, got a {type(several).__name__} of .*removal_curve_"):
        checked_target(several)


@pytest.mark.parametrize("wrong", [0, -1, -0.5, math.nan, math.inf, np.float64("nan")])
@pytest.mark.parametrize("kind", [MaxParameters, MaxBytes, MaxLatency, MinThroughput, MaxPerplexityIncrease])
def test_values_are_positive_and_finite(kind, wrong):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: \w+ must be positive and finite, got"):
        kind(wrong)
    for no_number in ("5", None, True, [5]):
        with pytest.raises(TypeError, match=rf"{kind.__name__}: \w+ must be a number, got"):
            kind(no_number)


def test_sizes_of_a_timing_are_checked():
    with pytest.raises(ValueError, match="phase must be 'prefill' or 'decode', got 'generate'"):
        MaxLatency(1, "generate")
    with pytest.raises(
        TypeError, match=r"MinThroughput: prompt_tokens must be an int of at least 1, or None, got 1\.5"
    ):
        MinThroughput(1, prompt_tokens=1.5)
    for wrong in (-1, math.nan, "1"):
        with pytest.raises(ValueError, match="standard_errors must be a number of at least 0"):
            MaxPerplexityIncrease(5, standard_errors=wrong)
