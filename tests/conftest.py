from __future__ import annotations

import os

# Before torch is imported, and for the processes that tests start: small tensors on many threads only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
