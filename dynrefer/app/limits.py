"""How much a client may ask for, and how refusals are said."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ServiceLimits:
    """What one request, and all that wait together, may cost; see docs/service.md.

    Attributes:
        body_bytes: of a request's body.
        body_seconds: in which the body has to arrive.
        pixels: of an image.
        mask_pixels: of all masks of a request together, each as large as the image.
        regions: of a request.
        waiting: requests that are being received, wait or are computed.
    """

    body_bytes: int = 20_000_000
    body_seconds: float = 30
    pixels: int = 25_000_000
    mask_pixels: int = 200_000_000
    regions: int = 100
    waiting: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"limit {name} is {value}; valid is more than 0")


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: of HTTP, 400 to 599.
        message: what is wrong and what is valid.
        field: of the request that is at fault.
    """

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.field = status, field

    def content(self) -> dict[str, Any]:
        """The answer's body, in the form that OpenAI's clients read."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": str(self), "type": kind, "param": self.field, "code": None}
        return {"error": error}
