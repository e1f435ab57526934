"""A server that lies: each of its ways answers a request (a handler) for a file, of which `data` is the true one."""

import json
import threading
import time
import zlib
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


def started(handler):
    """Start a server on loopback in the background; return it and its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


class Hostile:
    """A folder over HTTP, of which the files called `name` are answered in one of the `WAYS`."""

    def __init__(self, root, name, way):
        self.root, self.name, self.way, self.sent, self.stopped = root, name, way, 0, False
        hostile = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                with suppress(OSError):
                    hostile.answer(self)

            def do_HEAD(self):
                with suppress(OSError):
                    self.send_response(200)
                    self.send_header("Content-Length", "5")
                    self.end_headers()

            def log_message(self, *_):
                pass

        self.server, self.url = started(Handler)

    def answer(self, request):
        name = unquote(request.path.partition("?")[0]).lstrip("/")
        path = self.root / name
        data = path.read_bytes() if path.is_file() else b""
        if name == self.name or (self.name == "*" and name != "pool.json"):
            request.close_connection = True
            WAYS[self.way](self, request, data)
            return
        request.send_response(200 if path.is_file() else 404)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def write(self, request, piece):
        if self.stopped:
            raise ConnectionError
        request.wfile.write(piece)
        self.sent += len(piece)

    def stop(self):
        self.stopped = True
        self.server.shutdown()
        self.server.server_close()


def _begin(request, code=200, **headers):
    request.send_response(code)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), str(value))
    request.end_headers()


def _endless(hostile, request, data):
    _begin(request)
    while True:
        hostile.write(request, b" " * (1 << 20))


def _endless_pieces(hostile, request, data):
    _begin(request, Transfer_Encoding="chunked")
    while True:
        hostile.write(request, b"100000\r\n" + b" " * (1 << 20) + b"\r\n")


def _drip(hostile, request, data):
    _begin(request, Content_Length=len(data) or 1000)
    for byte in data:
        hostile.write(request, bytes([byte]))
        time.sleep(0.05)


def _longer(hostile, request, data):
    _begin(request, Content_Length=len(data) + 50_000)
    hostile.write(request, data + b"x" * 50_000)


def _shorter(hostile, request, data):
    _begin(request, Content_Length=len(data) // 2)
    hostile.write(request, data[: len(data) // 2])


def _terabytes(hostile, request, data):
    _begin(request, Content_Length=35 << 40)
    hostile.write(request, data)


def _negative(hostile, request, data):
    _begin(request, Content_Length=-5)
    hostile.write(request, data)


def _to_a_file(hostile, request, data):
    _begin(request, 302, Location=f"file://{hostile.root}/{hostile.name}", Content_Length=0)


def _in_a_circle(hostile, request, data):
    _begin(request, 302, Location=request.path, Content_Length=0)


def _to_nowhere(hostile, request, data):
    _begin(request, 307, Location="http://127.0.0.1:1/x", Content_Length=0)


def _gzip_bomb(hostile, request, data):
    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join([packer.compress(b" " * (1 << 20)) for _ in range(1000)]) + packer.flush()
    _begin(request, Content_Encoding="gzip", Content_Length=len(packed))
    hostile.write(request, packed)


def _page(hostile, request, data):
    text = b"<!DOCTYPE html><html><body>please sign in</body></html>"
    _begin(request, Content_Type="text/html", Content_Length=len(text))
    hostile.write(request, text)


def _another_range(hostile, request, data):
    piece = data[7:] + b"1234567"
    _begin(request, 206, Content_Range=f"bytes 7-{len(data)}/{len(data)}", Content_Length=len(piece))
    hostile.write(request, piece)


def _no_http(hostile, request, data):
    hostile.write(request, b"SSH-2.0-OpenSSH_9.9\r\n" * 10)


def _endless_header(hostile, request, data):
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        hostile.write(request, b"X-A: " + b"a" * 60_000 + b"\r\n")


def _changed(hostile, request, data):
    """Another file each time that it is asked for: whoever asks about it first is told of the first."""
    hostile.changes = getattr(hostile, "changes", 0) + 1
    data = data[:-1] + bytes([hostile.changes % 256])
    _begin(request, Content_Length=len(data))
    hostile.write(request, data)


def _outside(hostile, request, data):
    manifest = json.loads(data)
    manifest["files"]["../../x"] = {"bytes": 1, "sha256": "0" * 64}
    manifest["tasks"][0]["file"] = "../../x"
    text = json.dumps(manifest).encode()
    _begin(request, Content_Length=len(text))
    hostile.write(request, text)


def _silent(hostile, request, data):
    while not hostile.stopped:
        time.sleep(0.02)


WAYS = {function.__name__.strip("_").replace("_", " "): function for function in (
    _endless, _endless_pieces, _drip, _longer, _shorter, _terabytes, _negative, _to_a_file, _in_a_circle, _to_nowhere,
    _gzip_bomb, _page, _another_range, _no_http, _endless_header, _changed, _outside, _silent,
)}  # fmt: skip
