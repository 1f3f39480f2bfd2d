"""The adapters and the reconciler on a real kernel, each test in a network namespace of its own."""
