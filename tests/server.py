"""A web server on this machine that knows ranges, and that can break off."""

import http.server
import re
import threading
from contextlib import contextmanager


class Server:
    """What it serves, what was asked of it, and how it misbehaves.

    Attributes:
        files: Content by name.
        requests: (name, value of the Range header or None), in order.
        agents: The User-Agent of each.
        ranges: Whether it honours ranges.
        stop_after: Bytes of an answer after which it closes the connection; None sends all.
    """

    def __init__(self):
        self.files, self.requests, self.agents = {}, [], []
        self.ranges, self.stop_after = True, None
        self.address = None

    def url(self, name):
        return f"{self.address}/{name}"


@contextmanager
def serving():
    """A server that answers until the block ends."""
    server = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            name, asked = self.path.lstrip("/"), self.headers.get("Range")
            server.requests.append((name, asked))
            server.agents.append(self.headers.get("User-Agent"))
            if name not in server.files:
                return self.send_error(404)
            content, start = server.files[name], 0
            if asked and server.ranges:
                start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
                if start >= len(content):
                    return self.send_error(416)
            self.send_response(206 if asked and server.ranges else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: server.stop_after])

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"http://127.0.0.1:{http_server.server_port}"
    threading.Thread(target=http_server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        http_server.shutdown()
        http_server.server_close()
