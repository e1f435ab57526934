"""How text of other people's is shown: without what steers a terminal, without secrets, without formulas.

Numbers and names come from files, URLs and libraries' messages. Python's own library is all that this needs: it is
copied into device kits as it is.
"""

import json
import re
from urllib.parse import unquote

_JOINERS = "\u200c\u200d"  # which Persian and emoji are written with
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/{1,2})([^/\s'\"<>`|][^\s'\"<>`|]*)")  # a path makes one slash of two
# Schemes whose `name@` is a part of the address and no secret: a user to log in as, a container of an account.
_NAMED = ("ssh", "sftp", "scp", "abfs", "abfss", "wasb", "wasbs")
_QUERY = re.compile(
    r"(?i)([?&;](?:x-amz-[a-z-]*|x-goog-[a-z-]*|awsaccesskeyid|[a-z_-]*(?:token|secret|sig|signature|passw(?:or)?d|key|auth"
    r"|credential)[a-z_-]*)=)[^&;\s'\"]*"
)
_LEAST = 4  # letters of a secret that is looked for by itself: shorter ones are parts of words


def plain(text: object) -> str:
    """Return text for one line of a terminal: what does not print is written as JSON writes it, such as \\u001b.

    That is C0 and C1, the sequences that begin with them, marks that turn the direction of writing, and what has no
    letter; é, 漢 and blanks stay.
    """
    return "".join(letter if _prints(letter) else json.dumps(letter)[1:-1] for letter in str(text))


def lines(text: object) -> str:
    """Return text of ours, in which names of others stand: as `plain`, but its line ends and tabs stay."""
    return "".join(letter if letter in "\n\t" or _prints(letter) else json.dumps(letter)[1:-1] for letter in str(text))


def _prints(letter: str) -> bool:
    return letter.isprintable() or letter in _JOINERS or (letter.isspace() and letter not in _STEERING)


_STEERING = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"  # blanks that are controls or end a line


def cell(value: object) -> object:
    """Return a value for a table that a spreadsheet opens: a text that would be a formula gets an apostrophe."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") or (value[:1] in "\t\r\n" and value) else text


def place(text: object) -> str:
    """Return a place as it may be shown: a URL without user, password, query and fragment; a path as it is."""
    found = without_secrets(text)
    scheme, slashes, rest = found.partition("://")
    return f"{scheme}{slashes}{rest.rstrip('/')}" if slashes else found


def without_secrets(text: object, *urls: str) -> str:
    """Return a text in which no URL has a password, a token or a query; nor the text anything secret of `urls`."""
    found = str(text)
    for secret in sorted({each for url in urls for each in secrets_of(url)}, key=len, reverse=True):
        found = found.replace(secret, "…")
    return _QUERY.sub(r"\1…", _URL.sub(lambda match: _bare(match[1], match[2]), found))


def secrets_of(url: str) -> set[str]:
    """Return what is secret in a URL, as it stands there and as a library may repeat it."""
    user, query = _user(url), url.partition("#")[0].partition("?")[2]
    values = {user, user.partition(":")[2], query, *(pair.partition("=")[2] for pair in query.split("&"))}
    return {each for value in values for each in (value, unquote(value)) if len(each) >= _LEAST}


def _user(url: str) -> str:
    """Return what stands before the host of a URL and is none of anybody's business; passwords may hold a slash."""
    scheme, _, rest = url.partition(":")
    rest = rest.lstrip("/")
    if "@" in (whole := re.split(r"[?#]", rest, maxsplit=1)[0]):
        rest = whole
    host, _, path = rest.partition("/")
    before, at, _ = host.rpartition("@")
    if at:
        return "" if ":" not in before and scheme.lower() in _NAMED else before
    port = host.rpartition(":")[2] if ":" in host else ""
    if "@" in path and port and not port.isdigit() and not host.startswith("["):
        return rest.rpartition("@")[0]
    return ""


def _bare(scheme: str, rest: str) -> str:
    user = _user(scheme + rest)
    rest = rest[len(user) + 1 :] if user else rest
    return scheme + re.split("[?#]", rest, maxsplit=1)[0]
