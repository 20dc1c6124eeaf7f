"""What each process of the tests is told before it imports anything else."""

import gc
import os
import sys

# One thread per process, here and in children: bits repeat, and several processes do not spin against each other.
os.environ["OMP_NUM_THREADS"] = "1"

# What is compiled is kept, whatever the caller's environment says: hundreds of processes import the package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What test files import stays to the end. Looking through it for garbage again and again was a quarter of the imports' time, and
# a tenth of the tests'; `tests/conftest.py` switches it on again once all is imported.
gc.disable()
