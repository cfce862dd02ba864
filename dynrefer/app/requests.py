"""The body of ``POST /v1/regions``: its fields, and what the predictor makes of them."""

import base64
import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from dynrefer.app.images import checked, content_of, mask_of_file
from dynrefer.app.limits import RequestError, ServiceLimits
from dynrefer.predictor import PredictionOptions, RegionRequest
from dynrefer.vocabulary import Vocabularies

Number = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=100)]
Names = Annotated[list[Name], Field(min_length=1, max_length=1000)]
Words = Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=50)]
Body = TypeVar("Body", bound=BaseModel)


class RunLengthMask(BaseModel):
    """A mask as COCO's run lengths."""

    model_config = ConfigDict(extra="forbid", strict=True)

    size: Annotated[list[int], Field(min_length=2, max_length=2, description="height, width")]
    counts: str | list[Annotated[int, Field(ge=0)]]


class RegionsBody(BaseModel):
    """An image, its regions, and what is asked of them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image: Annotated[str, Field(description="base64 of an image file, or a data URL")]
    id: Annotated[int | str, Field(description="comes back with the answer")] = 0
    boxes: Annotated[
        list[Annotated[list[Number], Field(min_length=4, max_length=4)]] | None,
        Field(description="regions as boxes"),
    ] = None
    masks: Annotated[
        list[RunLengthMask | list[list[Number]] | str] | None,
        Field(description="regions as run lengths, polygons, or base64 of mask files"),
    ] = None
    controls: Annotated[
        list[Words] | None, Field(description="words that steer the captions, a list a region")
    ] = None
    decoders: Annotated[
        list[Literal["caption", "tags", "attributes", "classes"]] | None, Field(min_length=1)
    ] = None
    classes: Names | None = None
    attributes: Names | None = None
    tags: Names | None = None
    tag_threshold: Annotated[float | None, Field(ge=0, le=1)] = None
    num_beams: Annotated[int | None, Field(ge=1, le=10)] = None
    box_format: Literal["xyxy", "xywh"] = "xyxy"
    relative: Annotated[bool, Field(description="boxes are in shares of the image")] = False
    top: Annotated[int, Field(ge=0, le=1000, description="classes and attributes listed")] = 5


def parsed(model: type[Body], text: bytes | str) -> Body:
    """A body of JSON as a model; RequestError 400 for broken JSON, 422 for a field."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise RequestError(400, f"body: {first['msg']}") from error
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise RequestError(422, f"{field}: {first['msg']}", field) from error


async def body_of_form(form: FormData) -> RegionsBody:
    """The same fields as parts of a form: files as they are, all others as JSON.

    Raises:
        RequestError: 422 for a part that is not known, is there twice or is not valid.
    """
    values: dict[str, Any] = {}
    masks: list[str] = []
    for name, part in form.multi_items():
        if name == "masks" and isinstance(part, UploadFile):
            masks.append(await _base64(part))
        elif name in values:
            raise RequestError(422, f"{name} is there twice; valid is one part", name)
        elif isinstance(part, UploadFile):
            values[name] = await _base64(part)
        else:
            values[name] = _value(name, part)
    if masks:
        values["masks"] = [*_listed(values.get("masks", [])), *masks]
    return parsed(RegionsBody, json.dumps(values))


def region_request(
    body: RegionsBody, limits: ServiceLimits, known: Vocabularies
) -> tuple[RegionRequest, PredictionOptions]:
    """What the predictor is asked for.

    Args:
        body: of the request.
        limits: of its image and regions.
        known: the model's own names.

    Raises:
        RequestError: a field whose value cannot be used; see also :func:`checked`.
    """
    content = content_of(body.image, "image")
    image = checked(content, limits, "image")
    masks = body.masks or []
    count = len(body.boxes or []) + len(masks)
    if not 1 <= count <= limits.regions:
        raise RequestError(
            422, f"boxes and masks are {count} regions; valid are 1 to {limits.regions}", "boxes"
        )
    if len(masks) * image.width * image.height > limits.mask_pixels:
        raise RequestError(
            413,
            f"masks: {len(masks)} of {image.width} x {image.height} pixels; valid are "
            f"{limits.mask_pixels} pixels at most in all",
            "masks",
        )
    asked = body.model_dump(
        include={"decoders", "classes", "attributes", "tags", "tag_threshold", "num_beams"}
        | {"box_format", "relative"}
    )
    try:
        options = PredictionOptions(**asked)
        known.replaced(options.tags, options.attributes, options.classes)
    except ValueError as error:
        raise RequestError(422, str(error)) from error
    shapes = [_mask(mask, limits, f"masks.{index}") for index, mask in enumerate(masks)]
    request = RegionRequest(content, body.boxes, shapes, body.controls, body.id)
    return request, options


def _mask(mask: RunLengthMask | list | str, limits: ServiceLimits, field: str) -> Any:
    if isinstance(mask, str):
        return mask_of_file(content_of(mask, field), limits, field)
    return mask if isinstance(mask, list) else mask.model_dump()


async def _base64(part: UploadFile) -> str:
    return base64.b64encode(await part.read()).decode("ascii")


def _value(name: str, text: str) -> Any:
    if name in ("image", "box_format"):  # texts need no quotes
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if name == "id":
            return text
        raise RequestError(422, f"{name} is no JSON: {error}", name) from error


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
