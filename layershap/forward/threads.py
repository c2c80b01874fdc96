"""Whether torch's threads wait for each other, as they do where other programs keep the cores busy."""

from __future__ import annotations

import statistics
import time

import torch

_NUMBERS_PER_THREAD = 2**15
"""torch gives a thread no fewer numbers of an element-wise operation (``at::internal::GRAIN_SIZE``)."""

_REPEATS = 7

_WAITING = 100
"""Times as long as on one thread. Measured with two threads: 1 on idle cores, 1,600 (16 ms) on busy ones."""

_LEAST_SECONDS = 2e-3
"""What a wait for another program's time slice takes at least; waking 64 threads on idle cores takes 0.1 ms."""


def seconds_of_waiting() -> float | None:
    """Median seconds of a small operation on all of torch's threads, if they wait for each other; else None.

    Nothing is set: an operation too small to be shared runs on one thread, one as much larger as there are threads on
    all of them, and both take the same time where nothing waits.
    """
    n_threads = torch.get_num_threads()
    if n_threads == 1:
        return None
    alone = _median_seconds(_NUMBERS_PER_THREAD)
    together = _median_seconds(_NUMBERS_PER_THREAD * n_threads)
    return together if together > max(_WAITING * alone, _LEAST_SECONDS) else None


def _median_seconds(n_numbers: int) -> float:
    numbers = torch.zeros(n_numbers)
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        numbers.add_(1)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
