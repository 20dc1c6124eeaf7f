"""`python -m tests.nodes [FOLDER] [PART ...]`: `tests.nodes.run` in namespaces of its own; see there."""

import sys
import tempfile
from pathlib import Path

from tests.nodes.network import private

LIMIT_S = 1200

if __name__ == "__main__":
    named = Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp(prefix="nodes-"))
    named.mkdir(exist_ok=True)
    sys.exit(private("tests.nodes.run", [str(named.absolute()), *sys.argv[2:]], LIMIT_S))
