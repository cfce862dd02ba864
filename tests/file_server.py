"""A local HTTP server of files, and of repositories as the Hugging Face hub serves them."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FileServer:
    """Files by path, and what is wrong with the next answers.

    Attributes:
        breaks: bytes after which the connection ends, for the next requests of files.
        statuses: errors in place of the next files.
        kind: Content-Type.
        requests: what was asked for, by "METHOD path".
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    kind: str = "application/octet-stream"
    requests: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"

    def add_repository(self, files: dict[str, bytes], repository: str) -> None:
        """Lists and serves files; the sha256 of large ones, those of tensors, is in the list."""
        siblings = []
        for name, content in files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": "1" * 40}
            if name.endswith((".safetensors", ".bin", ".pt")):
                digest = sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
            self.files[f"{repository}/resolve/{COMMIT}/{name}"] = content
        content = {"id": repository, "sha": COMMIT, "siblings": siblings}
        self.files[f"api/models/{repository}"] = json.dumps(content).encode()


@contextmanager
def file_server() -> Iterator[FileServer]:
    """Serves on a free port of this machine until the context ends."""
    content = FileServer()
    handler = type("Handler", (_Handler,), {"content": content})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    content.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield content
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    content: FileServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(is_head=True)

    def do_GET(self) -> None:
        self._answer(is_head=False)

    def _answer(self, is_head: bool) -> None:
        path = self.path.lstrip("/").partition("?")[0]
        self.content.requests.append(f"{self.command} {path}")
        self.close_connection = True
        body = self.content.files.get(path)
        if self.content.statuses or body is None:
            self.send_error(self.content.statuses.pop(0) if self.content.statuses else 404)
            return
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Connection", "close")
        self.send_header("Content-Type", self.content.kind)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if not is_head:
            sent = self.content.breaks.pop(0) if self.content.breaks else len(body)
            self.wfile.write(body[start:][:sent])

    def log_message(self, *_: Any) -> None:
        pass
