"""What the Makefile calls beyond the testbed."""
