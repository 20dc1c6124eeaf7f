"""What benchmarks compute from what they measure. Their folder is no package: each script finds the files beside it."""

import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(FOLDER))
