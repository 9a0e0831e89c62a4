"""One thread of arithmetic a process: the tests' workers, and what they start, share two cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
