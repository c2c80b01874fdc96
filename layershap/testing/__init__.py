"""Contract checks for your own utilities, samplers, surrogates and selectors.

Each takes an instance, tries it on small synthetic data and raises an `AssertionError` that names the contract and what
was found instead. No model is loaded, so they are quick enough for a unit test::

    from layershap.testing import check_sampler

    def test_my_sampler():
        check_sampler(MySampler(strata=(6, 8)))
"""

from layershap.testing.sampler import check_sampler
from layershap.testing.selector import check_selector
from layershap.testing.surrogate import check_surrogate
from layershap.testing.utility import check_utility

__all__ = ["check_sampler", "check_selector", "check_surrogate", "check_utility"]
