"""The order of all tests: what takes seconds before what needs engines, so that a slip is told early.

No test of ours fails because a machine is slow, and so hypothesis's checks of its own speed are off.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("stackpad", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("stackpad")

ORDER = ("unit", "properties", "fuzz", "kernel", "caddy", "e2e")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort by directory; within one, the order stays. A directory not named here comes before the engines."""

    def place(item: pytest.Item) -> int:
        part = item.path.relative_to(config.rootpath / "tests").parts[0]
        return ORDER.index(part) if part in ORDER else len(ORDER) - 1

    items.sort(key=place)
