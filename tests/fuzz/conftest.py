"""How much is tried: the same examples each time, or with MPT_FUZZ=N, N times as many others."""

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("MPT_FUZZ", "0"))

settings.register_profile(
    "mpt",
    derandomize=not FACTOR,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
settings.load_profile("mpt")
