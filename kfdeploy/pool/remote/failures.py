"""What it means when a server does not give: every library's errors, in words of ours."""

import re
from dataclasses import dataclass, field

from kfdeploy.errors import KfdeployError, PoolError, StoreError, first_line
from kfdeploy.manifest import POOL
from kfdeploy.shown import without_secrets

_KEYS = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; FSSPEC_S3_ANON=true for a public bucket",
    "gs": "gcloud auth application-default login",
    "hf": "hf auth login",
}
_BUSY = ("SlowDown", "InternalError", "ServiceUnavailable", "500", "502", "503")


@dataclass(frozen=True)
class Asked:
    """What a server was asked: where (without secrets), over which protocol, and whether it has answered before."""

    where: str
    protocol: str
    bucket: str
    answered: bool
    url: str = field(default="", repr=False)  # as it was named: libraries repeat pieces of it


def explain(error: Exception, asked: Asked, name: str, doing: str) -> KfdeployError:
    """Return an error of ours for what fsspec raised while `doing` something with the file `name` ("": the folder)."""
    code, address = _code(error), f"{asked.where}/{name}" if name else asked.where
    said = without_secrets(_line(error), asked.url)
    if code == "NoSuchBucket":
        return StoreError(
            f"there is no bucket '{without_secrets(asked.bucket, asked.url)}' ('{asked.where}')",
            hint="check its name, and whose server is asked: AWS_ENDPOINT_URL, AWS_PROFILE",
        )
    if isinstance(error, FileNotFoundError) or code == "404":
        if doing == "writing":
            return StoreError(f"there is no place for '{address}': {said}", hint="make the bucket first")
        what = (
            f"there is no pool at '{asked.where}' ('{name}' is missing)" if name == POOL else f"'{address}' is missing"
        )
        return PoolError(what, hint=f"kfdeploy pool push <pool> {asked.where}")
    if code in ("InvalidRange", "416"):
        return PoolError(f"'{address}' was altered on the server: it is too short", hint="push the pool again")
    if isinstance(error, PermissionError) or code in ("401", "403") or "Credentials" in type(error).__name__:
        return StoreError(
            f"{doing} '{address}' is not permitted: {said}",
            hint=_KEYS.get(asked.protocol.removesuffix("a"), "check the key or the token of this address"),
        )
    if _unreachable(error):
        halfway = f"stopped answering at '{name}'" if asked.answered and name else "cannot be reached"
        own = ", and AWS_ENDPOINT_URL" if asked.protocol.startswith("s3") else ""
        return StoreError(
            f"'{asked.where}' {halfway}: {said}",
            hint=f"check the network and the address{own}; the same command goes on from what has arrived",
        )
    return StoreError(f"{doing} '{address}' failed: {said}", hint="try again, or ask who runs the server")


def may_pass(error: BaseException) -> bool:
    """Return whether asking again may help: a broken connection, a busy server; a timeout was patience enough."""
    return "Timeout" not in _kinds(error) and (_unreachable(error) or _code(error) in _BUSY)


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and len(found) < 5:
        found.append(error)
        error = error.__cause__
    return found


def _kinds(error: BaseException) -> str:
    return " ".join(kind.__name__ for link in _chain(error) for kind in type(link).__mro__)


def _code(error: BaseException) -> str:
    """Return what the server called the error: S3's name for it, or HTTP's number."""
    for link in _chain(error):
        response, status = getattr(link, "response", None), getattr(link, "status", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        if isinstance(status, int):
            return str(status)
    return ""


def _unreachable(error: BaseException) -> bool:
    """Return whether it is the connection that failed; the libraries have a class of their own for each way."""
    return bool(re.search("Connect|Timeout|Payload|IncompleteRead|HTTPClientError", _kinds(error)))


def _line(error: BaseException) -> str:
    """Return what the server said; not with an HTTP status, whose text holds the URL and so perhaps a key."""
    status, message = getattr(error, "status", None), getattr(error, "message", None)
    return f"{status} {message}" if isinstance(status, int) else first_line(error)
