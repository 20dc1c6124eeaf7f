"""May this installation speak with that server? One rule for Prefect, MLflow and Ray."""

from importlib.metadata import version

from pangu.errors import UserError


def check_server(package: str, address: str, found: str) -> None:
    """A server has the same major version as the package here, and is not older: its clients send what it must understand.

    Raises:
        UserError: it has not, or what answered is no version.
    """
    ours = version(package)
    theirs, mine = _numbers(found), _numbers(ours)
    if not theirs:
        raise UserError(f"What answers at {address} is no {package} server: it says '{found[:40]}' of its version.")
    if theirs[:1] != mine[:1] or theirs < mine:
        raise UserError(
            f"The {package} server at {address} is version {found} and {package} here is {ours}; make the server the same "
            "major version and not older, or install what it is: pip install "
            f"{package}=={found}."
        )


def _numbers(text: str) -> tuple[int, ...]:
    """Major and minor version; empty for what is none. Patches of one minor version understand each other."""
    parts = text.strip().split(".")[:2]
    return tuple(int(part) for part in parts) if len(parts) == 2 and all(part.isdecimal() for part in parts) else ()
