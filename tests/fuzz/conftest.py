"""Bounds of every fuzz test: memory, time, and how many cases (``HYPOTHESIS_PROFILE=fuzz``, as ``make fuzz`` sets)."""

import logging
import os
import resource

import pytest
from hypothesis import HealthCheck, Phase, settings

COMMON = {
    "deadline": None,  # damage.outcome has its own, which ends what hangs
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}
# Without the search for a smaller case, which takes minutes: make fuzz does that.
seeded = {"derandomize": True, "database": None, "phases": [Phase.explicit, Phase.generate]}
settings.register_profile("seeded", **seeded, **COMMON)
settings.register_profile("fuzz", print_blob=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "seeded"))

MEMORY = 3 * 2**30
"""Bytes that a case may take beyond what the process has already."""


@pytest.fixture(autouse=True)
def bounded_memory():
    """Address space is limited, so that what asks for gigabytes fails here and not in the whole machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(autouse=True)
def quiet():
    """Warnings about thousands of damaged files are of no use."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
