"""What every test shares: caches of its own, one thread, and Ray without tokens; never the user's own settings. An
example of Hypothesis may take as long as it takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ROBUST_STORE", str(tmp_path_factory.mktemp("store")))
        patch.setenv("RAY_ROBUST_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RAY_ROBUST_TIMING", "0")  # a plan times no steps: a test of its own does
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # as the product starts Ray, also where a test does it by itself
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # as the product starts Ray: else workers wait for all else to rest
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
