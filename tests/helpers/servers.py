"""Servers for tests, on loopback: a folder over HTTP that can be made to fail, and S3 as moto has it."""

import json
import logging
import re
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

import pytest
from hostile import started


@dataclass
class Web:
    """A folder over HTTP, and what goes wrong with it."""

    root: Path
    log: list[tuple[str, str]] = field(default_factory=list)  # (file, range) of each request
    ranges: bool = True
    dead_after: int | None = None  # requests; then every connection is closed without an answer
    cut: int | None = None  # bytes of each answer's body, after which the connection is closed
    status: int | None = None  # the answer to everything
    seconds: float = 0.0  # each answer takes so long
    hold: threading.Event | None = None  # answers about anything but pool.json wait for it

    def __post_init__(self):
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                with suppress(ConnectionError):
                    web.answer(self)

            def log_message(self, *_):
                pass

        self.server, self.url = started(Handler)

    def answer(self, request):
        name = unquote(request.path.partition("?")[0]).lstrip("/")
        asked = request.headers.get("Range", "")
        self.log.append((name, asked))
        if self.dead_after is not None and len(self.log) > self.dead_after:
            request.close_connection = True
            request.connection.shutdown(2)
            return
        if self.hold is not None and not name.endswith("pool.json"):
            self.hold.wait(20)
        time.sleep(self.seconds)
        path = self.root / name
        if self.status or not path.is_file():
            request.send_error(self.status or 404)
            return
        data, code = path.read_bytes(), 200
        if asked and self.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            if int(first) >= len(data):
                request.send_error(416)
                return
            data, code = data[int(first) : int(last) + 1 if last else None], 206
        request.send_response(code)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: self.cut])
        if self.cut is not None:
            request.close_connection = True

    def asked(self):
        """Return how often each file was asked for."""
        return {name: [n for n, _ in self.log].count(name) for name in dict(self.log)}

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class S3:
    """moto's server, its requests, and the settings that point to it."""

    def __init__(self):
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        self.url = "http://127.0.0.1:{1}".format(*self.server.get_host_and_port())
        self.log = []  # (method, path) of each request
        self.handler = logging.Handler()
        self.handler.emit = lambda record: self.log.append(
            tuple(re.search(r'"(?:\x1b\[\d+m)*(\w+) (\S+) HTTP', record.getMessage()).groups())
        )
        logger = logging.getLogger("werkzeug")
        logger.addHandler(self.handler)
        logger.setLevel(logging.INFO)
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "NO_PROXY": "127.0.0.1",
        }

    def files(self):
        """Return s3fs, to look from another side."""
        import s3fs

        return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)

    def forbid(self, bucket, *actions):
        """Deny actions on everything in a bucket."""
        statement = {"Effect": "Deny", "Principal": "*", "Action": [*actions], "Resource": f"arn:aws:s3:::{bucket}/*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.files().call_s3("put_bucket_policy", Bucket=bucket, Policy=policy)

    def stop(self):
        self.server.stop()
        logging.getLogger("werkzeug").removeHandler(self.handler)


def forget():
    """Let the next store make its own connections: fsspec keeps file systems by their arguments."""
    for module, name in (("fsspec.implementations.http", "HTTPFileSystem"), ("s3fs", "S3FileSystem")):
        if module in sys.modules:
            getattr(sys.modules[module], name).clear_instance_cache()


def fails(kind, call, *words, match):
    with pytest.raises(kind, match=match) as caught:
        call(*words)
    assert caught.value.hint
    return caught.value
