"""Read before any test or notebook, wherever pytest is started: `pytest --nbval notebooks` too."""

import os

# The workers of a run share the cores: one thread each is fastest, and sums keep their order.
os.environ.setdefault("OMP_NUM_THREADS", "1")
