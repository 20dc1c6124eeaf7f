"""Taking the last release back: `champion` and `previous` change places, so a second rollback undoes the first."""

from pangu.errors import UserError
from pangu.registry import tracking


def roll_back() -> int:
    """Point `champion` at the version that `previous` names, and `previous` at the champion; returns the new champion.

    Raises:
        UserError: there is no previous version, or no MLflow server.
    """
    client = tracking.connect()
    champion = tracking.alias_version(client, tracking.PAIR, tracking.CHAMPION)
    previous = tracking.alias_version(client, tracking.PAIR, tracking.PREVIOUS)
    if previous is None or previous == champion:
        raise UserError(
            f"{tracking.PAIR} has no alias '{tracking.PREVIOUS}' to go back to; `pangu deploy` serves any version."
        )
    client.set_registered_model_alias(tracking.PAIR, tracking.CHAMPION, previous)
    if champion is not None:
        client.set_registered_model_alias(tracking.PAIR, tracking.PREVIOUS, champion)
    return int(previous)
