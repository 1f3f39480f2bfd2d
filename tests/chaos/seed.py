"""What chance is made of: ``STACKPAD_SEED`` repeats a run's."""

from __future__ import annotations

import os
import random

SEED = os.environ.get("STACKPAD_SEED") or str(random.SystemRandom().randrange(1_000_000))
