"""Can tables and artefacts be written where the profile puts them? One small object, written and deleted again."""

import os
from urllib.parse import urlsplit

from pangu.errors import UserError
from pangu.extras import missing
from pangu.stack.profile import Profile

PROBE = ".pangu-probe"
TIMEOUT_S = 5


def check(profile: Profile) -> None:
    """Write and delete an object in both places.

    Raises:
        UserError: nobody answers, a bucket is missing, or the keys are missing or wrong.
    """
    for place in dict.fromkeys(profile.in_object_storage):
        _try(place, profile)


def answers(profile: Profile) -> bool:
    try:
        check(profile)
    except UserError:
        return False
    return True


def _try(place: str, profile: Profile) -> None:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    except ImportError as error:
        raise missing("server", "The profile server", "boto3 and psycopg2") from error
    url = urlsplit(place)
    key = f"{url.path.strip('/')}/{PROBE}".lstrip("/")
    config = Config(connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, retries={"total_max_attempts": 2})
    where = profile.endpoint or "AWS"
    try:
        # A session of its own: the default one would go on with keys that it found before.
        client = boto3.session.Session().client(
            "s3", endpoint_url=profile.endpoint or None, region_name=profile.region or _region(), config=config
        )
        client.put_object(Bucket=url.netloc, Key=key, Body=b"")
        client.delete_object(Bucket=url.netloc, Key=key)
    except NoCredentialsError as error:
        raise UserError(
            "There are no keys for the object storage; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "NoSuchBucket":
            raise UserError(f"The object storage at {where} has no bucket {url.netloc}; create it.") from error
        raise UserError(
            f"The object storage at {where} lets nobody with these keys write to {place} ({code}); check "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from error
    except (BotoCoreError, ValueError) as error:
        what = " ".join(str(error).split())[:160]
        raise UserError(
            f"No object storage answers at {where} ({what}); check AWS_ENDPOINT_URL, or start it."
        ) from error


def _region() -> str | None:
    return os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
