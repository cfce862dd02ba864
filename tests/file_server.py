"""A local HTTP server that answers requests as badly as it is told to."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """How one request is answered; without arguments as it should be.

    Attributes:
        status: an error instead of the file.
        breaks_after: bytes after which the connection ends.
        ignores_range: the whole file, whatever part is asked for.
        repeats: a part's headers, and bytes from the beginning of the file.
        shifts: added to the first byte that Content-Range names.
        length_off: added to Content-Length.
        total_off: added to the total in Content-Range.
        length: "length", "chunked" or "none".
        kind: Content-Type.
        stalls: seconds before the body.
    """

    status: int | None = None
    breaks_after: int | None = None
    ignores_range: bool = False
    repeats: bool = False
    shifts: int = 0
    length_off: int = 0
    total_off: int = 0
    length: str = "length"
    kind: str = "application/octet-stream"
    stalls: float = 0


@dataclass
class FileServer:
    """Files by path, the answers to the next requests, and the requests that came.

    ``tag_header`` is "ETag", "Last-Modified" or None: what tells versions of a file apart.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    tag_header: str | None = "ETag"

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each request."""
        return [asked for _, asked in self.requests]


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

    def do_GET(self) -> None:
        answers, path = self.content.answers, self.path.lstrip("/").partition("?")[0]
        answer = answers.pop(0) if answers else Answer()
        self.content.requests.append((path, self.headers["Range"]))
        self.close_connection = True
        body = self.content.files.get(path)
        if answer.status or body is None:
            self.send_error(answer.status or 404)
            return
        tag = f'"{sha1(body).hexdigest()}"'
        asked = None if answer.ignores_range else self.headers["Range"]
        if asked and self.headers["If-Range"] not in (None, tag):
            asked = None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body) + answer.total_off}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if asked else 200)
        if self.content.tag_header:
            self.send_header(self.content.tag_header, tag)
        if asked:
            first, total = start + answer.shifts, len(body) + answer.total_off
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{total}")
        self._send(body[: len(body) - start] if answer.repeats else body[start:], answer)

    def _send(self, part: bytes, answer: Answer) -> None:
        self.send_header("Content-Type", answer.kind)
        if answer.length == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.length == "length":
            self.send_header("Content-Length", str(len(part) + answer.length_off))
        self.end_headers()
        self.wfile.flush()
        time.sleep(answer.stalls)
        sent = part[: answer.breaks_after]
        try:
            if answer.length != "chunked":
                self.wfile.write(sent)
            else:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), sent))
                if answer.breaks_after is None:
                    self.wfile.write(b"0\r\n\r\n")
        except OSError:
            return  # the client had enough

    def log_message(self, *_: Any) -> None:
        pass
