"""Whether a link is there, asked by a process that may open no more files."""

from __future__ import annotations

import resource

from plugin.kernel.vanished import exists


def test_a_link_that_cannot_be_asked_for_is_not_taken_for_missing() -> None:
    assert exists("lo")
    assert not exists("sp-nobody")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        found = exists("lo")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert found
