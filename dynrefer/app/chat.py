"""``POST /v1/chat/completions`` as OpenAI's clients speak it: an image, a region of it, a caption.

The region is the image's alpha channel, as for Describe Anything's server, or a box in the text,
"Describe [40, 30, 200, 180]", in pixels.
"""

import json
import re
import time
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dynrefer.app.images import checked, content_of, opacity_mask
from dynrefer.app.limits import RequestError, ServiceLimits
from dynrefer.app.requests import Words
from dynrefer.predictor import ImageResult, PredictionOptions, RegionRequest

# Describe Anything's name for whatever model a server has. Its client reads the pieces of a stream
# as lists of parts, where OpenAI's protocol has texts.
DESCRIBE_ANYTHING = "describe_anything_model"
_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


class TextPart(BaseModel):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str


class ImageAddress(BaseModel):
    """An image, as a data URL."""

    url: Annotated[str, Field(description="data:image/png;base64,...")]


class ImagePart(BaseModel):
    """A part of a message that is an image."""

    type: Literal["image_url"]
    image_url: ImageAddress


class ChatMessage(BaseModel):
    """A message; those of users count."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]


class ChatBody(BaseModel):
    """What of a request is read; temperature and the like are ignored, a beam search draws none."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[str, Field(max_length=200, description="any name; comes back")]
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = False
    num_beams: Annotated[int | None, Field(ge=1, le=10)] = None
    controls: Annotated[Words, Field(description="words that steer the caption")] = []


def chat_request(body: ChatBody, limits: ServiceLimits) -> tuple[RegionRequest, PredictionOptions]:
    """The one region of the one image of the users' messages.

    Raises:
        RequestError: 400 for an address that is no data URL, 422 or 413 for other faults.
    """
    parts: list[TextPart | ImagePart] = []
    for message in body.messages:
        if message.role == "user":
            text = message.content
            parts += [TextPart(type="text", text=text)] if isinstance(text, str) else text
    addresses = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
    if len(addresses) != 1:
        raise RequestError(
            422, f"messages have {len(addresses)} images; valid is one image_url", "messages"
        )
    content = content_of(addresses[0], "image_url")
    checked(content, limits, "image_url")
    boxes = [box for part in parts if isinstance(part, TextPart) for box in BOX.findall(part.text)]
    if len(boxes) > 1:
        raise RequestError(
            422,
            f"messages have {len(boxes)} boxes; valid is one, and /v1/regions takes many",
            "messages",
        )
    regions: dict[str, Any] = {"boxes": [list(map(float, box)) for box in boxes]}
    if not boxes:
        mask = opacity_mask(content, limits, "image_url")
        if mask is None:
            raise RequestError(
                422,
                "messages name no region; valid is an image with an alpha channel that is not 0 "
                "in the region, or a box in the text, [x1, y1, x2, y2] in pixels",
                "messages",
            )
        regions = {"masks": [mask]}
    request = RegionRequest(content, **regions, controls=[body.controls], id=0)
    return request, PredictionOptions(num_beams=body.num_beams)


def completion(body: ChatBody, result: ImageResult) -> dict[str, Any]:
    """The answer to a request; beside OpenAI's fields it has all that is known of the region."""
    (region,) = result.regions
    message = {"role": "assistant", "content": region.prediction.caption}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return _head(body, "chat.completion") | {"choices": [choice], "region": region.to_dict()}


def completion_events(body: ChatBody, result: ImageResult) -> Iterator[str]:
    """The answer as a stream of events: the whole caption, the end."""
    (region,) = result.regions
    text: Any = region.prediction.caption
    if body.model == DESCRIBE_ANYTHING:
        text = [{"type": "text", "text": text}]
    head = _head(body, "chat.completion.chunk")
    for delta, reason in (({"role": "assistant", "content": text}, None), ({}, "stop")):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield f"data: {json.dumps(head | {'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"


def _head(body: ChatBody, kind: str) -> dict[str, Any]:
    made = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time())}
    return made | {"model": body.model}
