"""Fixtures shared with the tests of the kernel."""

from tests.netns import netns as netns
