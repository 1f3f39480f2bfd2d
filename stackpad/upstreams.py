"""What plugin and ingress agree on: the addresses behind which the kernel finds a web service's containers.

A service has a number for as long as it lives, and that number is a port of these addresses. Only what the node itself
sends there is redirected. There are two addresses of each family, and every number means the same at both: who keeps
connections for later use can leave all of them behind by going over to the other address.
"""

from __future__ import annotations

FIRST, LAST = 20000, 64999
"""The numbers services are given."""

MOST = 16
"""Containers behind one number; as many places as the kernel chooses from."""

TURNS = ("54", "55")
"""How the addresses end."""

STEM4, STEM6 = "169.254.53.", "fd9c:5acd:5353::"
"""How they begin: link-local for IPv4, so that it means the node; beside the resolver's."""

UPSTREAM4 = tuple(STEM4 + turn for turn in TURNS)
UPSTREAM6 = tuple(STEM6 + turn for turn in TURNS)
