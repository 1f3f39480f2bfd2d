"""Tests of the resolver on loopback addresses; none needs root."""

from __future__ import annotations

import os
import shutil

import pytest

_NEEDED = {"dig": "bind9-dnsutils", "dnsmasq": "dnsmasq-base"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is in this directory, and skip it, saying why, where a program is missing."""
    missing = [
        f"{program} (package {package})"
        for program, package in _NEEDED.items()
        if not shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    ]
    for item in items:
        if item.path.is_relative_to(config.rootpath / "tests" / "dns"):
            item.add_marker(pytest.mark.dns)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"missing: {', '.join(missing)}"))
