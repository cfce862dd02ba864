"""What every request passes before it is read: the key, the queue's length, the body's size."""

import asyncio
import hmac
import time

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynrefer.app.limits import RequestError, ServiceLimits
from dynrefer.app.metrics import ServiceMetrics

OPEN = "/healthz"  # for who watches the process and has no key


class Gate:
    """ASGI middleware that refuses with 401, 408, 413 and 429, and counts the answers.

    Args:
        app: what stands behind it; it gets whole bodies.
        limits: of bodies, and of requests at once.
        metrics: that count.
        api_key: which requests must bring; None for no key.
    """

    def __init__(
        self, app: ASGIApp, limits: ServiceLimits, metrics: ServiceMetrics, api_key: str | None
    ) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.expected = None if api_key is None else f"Bearer {api_key}".encode()
        self.waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or has the application answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.monotonic(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, sending)
        except RequestError as error:
            await refusal(error)(scope, receive, sending)
        finally:
            # Paths that a client makes up would be labels without end.
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.answers.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.monotonic() - begun)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_key(scope)
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if self.waiting >= self.limits.waiting:
            raise RequestError(429, f"{self.waiting} requests are waiting; come back in a second")
        self.waiting += 1
        self.metrics.waiting.set(self.waiting)
        try:
            body = await self._body(scope, receive)
            await self.app(scope, _replayed(body, receive), send)
        finally:
            self.waiting -= 1
            self.metrics.waiting.set(self.waiting)

    def _check_key(self, scope: Scope) -> None:
        if self.expected is None or scope["path"] == OPEN:
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self.expected):
            raise RequestError(401, "no valid key; send the header Authorization: Bearer KEY")

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        length = dict(scope["headers"]).get(b"content-length", b"")
        self._check_size(int(length) if length.isdigit() else 0)
        seconds = self.limits.body_seconds
        try:
            return await asyncio.wait_for(self._received(receive), seconds)
        except asyncio.TimeoutError as error:
            raise RequestError(408, f"the body took more than {seconds:g} s", "body") from error

    async def _received(self, receive: Receive) -> bytes:
        body, is_whole = bytearray(), False
        while not is_whole:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestError(400, "the connection ended before the body", "body")
            body += message.get("body", b"")
            self._check_size(len(body))
            is_whole = not message.get("more_body", False)
        return bytes(body)

    def _check_size(self, size: int) -> None:
        most = self.limits.body_bytes
        if size > most:
            raise RequestError(413, f"the body is longer than {most} bytes, the most", "body")


def refusal(error: RequestError) -> JSONResponse:
    """The answer that says why a request is refused."""
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(error.status)
    return JSONResponse(error.content(), error.status, headers)


def _replayed(body: bytes, receive: Receive) -> Receive:
    is_sent = False

    async def replay() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
