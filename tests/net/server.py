"""A server on 127.0.0.1 with plain files and the routes huggingface_hub uses, which can misbehave on request.

Every answer is real HTTP over a real socket. `Hub.faults` maps "METHOD /path" (or "* /path", or "*" for any) to a list
of faults, one for each request in turn; the last one stays. A fault is a status, a status with headers, a word that
`_Handler` knows, a number of bytes after which the file breaks off as ("cut", count), or a function that is given the
handler and answers itself. `Hub.log` holds (method, path, headers) of what came in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "c0ffee" * 6 + "abcd"
LFS = (".safetensors", ".pt", ".pth", ".bin")


class Hub:
    """The server, running in a thread until `close`."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.plain: dict[str, bytes] = {}
        self.faults: dict[str, list] = {}
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.elsewhere: str | None = None  # where weights are redirected to, as the real hub does
        self.released = threading.Event()  # ends every stall when the server closes
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def ranges(self, ending: str) -> list[str | None]:
        """The `Range` of every GET of a path."""
        return [headers.get("Range") for m, path, headers in self.log if m == "GET" and path.endswith(ending)]

    def count(self, method: str, ending: str) -> int:
        return sum(m == method and path.endswith(ending) for m, path, _ in self.log)

    def fault(self, method: str, path: str):
        for key in (f"{method} {path}", f"* {path}", "*"):
            steps = self.faults.get(key)
            if steps:
                return steps.pop(0) if len(steps) > 1 else steps[0]
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = urlsplit(self.path).path  # a proxy is asked for whole addresses
        self.hub.log.append((self.command, path, dict(self.headers)))
        fault = self.hub.fault(self.command, path)
        if isinstance(fault, int):
            return self.reply(fault, b"", {"Retry-After": "0"})
        if isinstance(fault, dict):  # a status with headers
            return self.reply(fault["status"], b"", fault["headers"])
        if callable(fault):
            self.close_connection = True
            with contextlib.suppress(OSError):  # the client has heard enough
                fault(self)
            return None
        if fault == "loop":
            return self.reply(302, b"", {"Location": self.path})
        if fault == "stall":
            self.hub.released.wait(20)
            self.close_connection = True
            return None
        parts = path.strip("/").split("/")
        if parts[0] == "plain":
            body = self.hub.plain.get("/".join(parts[1:]))
            return self.body(body, fault, {}) if body is not None else self.reply(404, b"", {})
        if parts[0] == "api":
            return self.listing(f"{parts[2]}/{parts[3]}")
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        if repo not in self.hub.repos:
            return self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})
        if parts[3] not in ("main", COMMIT):
            return self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if name not in self.hub.repos[repo]:
            return self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        return self.file(path, self.hub.repos[repo][name], name.endswith(LFS), fault)

    def file(self, path, body, lfs, fault):
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
        if lfs:
            headers |= {"X-Linked-Etag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Linked-Size": str(len(body))}
            if self.hub.elsewhere:
                return self.reply(302, b"", {**headers, "Location": self.hub.elsewhere + path})
        return self.body(body, fault, headers)

    def body(self, body, fault, headers):
        status, sent = 200, body
        if fault == "wrong":
            sent = bytes(len(body) - 1) + b"!"
        if fault == "html":
            headers = {**headers, "Content-Type": "text/html"}
        headers.setdefault("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        asked = self.headers.get("Range")
        if self.headers.get("If-Range") not in (None, headers["ETag"]):
            asked = None
        length, start = len(sent), 0
        if asked:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= length:
                return self.reply(416, b"", {"Content-Range": f"bytes */{length}"})
            status, sent = 206, sent[start:]
            headers = {**headers, "Content-Range": f"bytes {start}-{length - 1}/{length}"}
        cut = fault[1] - start if isinstance(fault, tuple) else len(sent) // 2 if fault == "short" else None
        return self.reply(status, sent, headers, cut)

    def reply(self, status, body, headers, cut=None):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True

    def listing(self, repo):
        if repo not in self.hub.repos:
            return self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})
        files = self.hub.repos[repo]
        if "/tree/" in self.path:
            data = [
                {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                for n, b in files.items()
            ]
        else:
            data = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        return self.reply(200, json.dumps(data).encode(), {"Content-Type": "application/json"})
