"""Docker hosts on one machine: real engines, real plugins, real packets, in network namespaces.

A *testbed* is a switch (a namespace that also plays the internet) and nodes behind it, each a network and mount
namespace of its own with a dockerd of its own. Nothing of it touches the machine's Docker, and ``down`` leaves
nothing behind. ``python -m tests.testbed --help`` is its command line, :class:`~tests.testbed.testbed.Testbed` what
tests use.
"""
