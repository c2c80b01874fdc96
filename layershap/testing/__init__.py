"""Contract checks for your own utilities, samplers, surrogates, selectors and compensations.

Each kind of part has a contract: a test class to inherit, whose tests pytest runs and names one by one::

    from layershap.testing import SamplerContract

    class TestMySampler(SamplerContract):
        def make(self):
            return MySampler(strata=(6, 8))

and a function that checks one instance and raises an `AssertionError` at the first test that fails::

    check_sampler(MySampler(strata=(6, 8)))

They try the part on small synthetic data, a compensation on the bundled model, so they are quick enough for a unit
test. Pytest need not be installed.
"""

from layershap.testing.compensation import CompensationContract, check_compensation
from layershap.testing.sampler import SamplerContract, check_sampler
from layershap.testing.selector import SelectorContract, check_selector
from layershap.testing.surrogate import SurrogateContract, check_surrogate
from layershap.testing.utility import UtilityContract, check_utility

__all__ = [
    "CompensationContract",
    "SamplerContract",
    "SelectorContract",
    "SurrogateContract",
    "UtilityContract",
    "check_compensation",
    "check_sampler",
    "check_selector",
    "check_surrogate",
    "check_utility",
]
