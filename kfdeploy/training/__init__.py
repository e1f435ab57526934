"""Everything with torch: from a recipe to a pool and its students."""

import os

# Read by OpenMP when torch is loaded, which is after this. A thread that spins while it waits takes the core from
# whatever else runs: beside one busy process two such threads are several times slower, and quiet ones lose nothing
# (benchmarks/factorize_speed.py, "waiting"). Whoever sets it himself is left alone.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
