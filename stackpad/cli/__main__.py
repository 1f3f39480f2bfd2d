"""``python -m stackpad.cli``: the command ``stackpad`` from a checkout."""

from __future__ import annotations

import sys

from stackpad.cli import main

if __name__ == "__main__":
    sys.exit(main())
