"""Pure parts of the testbed."""
