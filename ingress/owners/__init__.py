"""Who owns which host name, and what proves it: as values, on disk, and as control nodes share it."""
