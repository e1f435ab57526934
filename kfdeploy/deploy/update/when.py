"""Days and moments: until when a key or an update counts. All in UTC, all written as 2027-01-31T00:00:00Z."""

import re
from datetime import UTC, datetime, timedelta

from kfdeploy.errors import UpdateError

_MOST_DAYS = 36_500
ALLOWED = ("90d", "2027-01-31", "2027-01-31T12:00:00Z")


def now() -> datetime:
    """Return this moment."""
    return datetime.now(UTC)


def until(asked: str, what: str) -> str:
    """Return the moment that somebody asked for: a number of days from now, a day (its beginning), or a moment.

    Raises:
        UpdateError: it is none, or has passed.
    """
    asked = asked.strip()
    days = re.fullmatch(r"(\d{1,6})d", asked)
    found = now() + timedelta(days=min(int(days[1]), _MOST_DAYS)) if days else moment(asked)
    if found is None:
        raise UpdateError(f"{what} is to expire at '{asked:.40}', which is no day", allowed=ALLOWED)
    if found <= now():
        raise UpdateError(f"{what} is to expire at {written(found)}, which has passed", hint="name a later day")
    return written(found)


def moment(text: object) -> datetime | None:
    """Return a day or a moment as it stands in a file, or None where it is neither."""
    if not isinstance(text, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\dZ)?", text):
        return None
    try:
        return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC)
    except ValueError:
        return None


def written(when: datetime) -> str:
    """Return a moment as it is written."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
