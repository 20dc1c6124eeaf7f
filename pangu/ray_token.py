"""The token for Ray's HTTP API, as Ray's own variables name it.

Ray's clients find it, too, but only once a process: what was set when the first of them asked holds for all later ones, so a
process that used Ray before it knew of this cluster would send none.
"""

import os
from pathlib import Path


def headers() -> dict[str, str]:
    """Of a request: none where `RAY_AUTH_MODE` asks for no token or no token is there.

    The token is `RAY_AUTH_TOKEN`, or in the file `RAY_AUTH_TOKEN_PATH`, or in `~/.ray/auth_token`, in Ray's order.
    """
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not token and path.is_file():
        token = path.read_text().strip()
    return {"Authorization": f"Bearer {token}"} if token else {}
