"""The service as an application of FastAPI: regions and chat, health and metrics."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from dynrefer import __version__
from dynrefer.app.batching import MicroBatcher
from dynrefer.app.chat import ChatBody, chat_request, completion, completion_events
from dynrefer.app.gate import Gate, refusal
from dynrefer.app.limits import RequestError, ServiceLimits
from dynrefer.app.metrics import ServiceMetrics
from dynrefer.app.requests import RegionsBody, body_of_form, parsed, region_request
from dynrefer.predictor import ImageResult, PredictionOptions, RegionRequest

READERS = 4  # threads that decode masks and check images; more would hold more of them in memory
FORM_PARTS = 200
Asked = tuple[RegionRequest, PredictionOptions]


def create_app(
    batcher: MicroBatcher,
    limits: ServiceLimits | None = None,
    api_key: str | None = None,
    metrics: ServiceMetrics | None = None,
) -> FastAPI:
    """The application; the batcher has to run as long as it answers.

    Args:
        batcher: runs the model.
        limits: of what a client may ask for.
        api_key: that every request but ``/healthz`` must bring; None for no key.
        metrics: that count.
    """
    limits, metrics = limits or ServiceLimits(), metrics or ServiceMetrics()
    batcher.observe = metrics.together.observe
    readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
    vocabularies = batcher.predictor.model.vocabularies
    app = FastAPI(title="DynRefer", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, limits=limits, metrics=metrics, api_key=api_key)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(HTTPException, _not_found)

    async def read(function: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(readers, function, *given)

    async def answer(asked: Asked) -> ImageResult:
        try:
            result = await asyncio.wrap_future(batcher.submit(*asked))
        except Exception as error:  # the batcher has written down where it was raised
            raise RequestError(500, f"the model failed: {type(error).__name__}") from error
        _check_result(result)
        metrics.regions.inc(len(result.regions))
        return result

    @app.post("/v1/regions", openapi_extra=_body_schema(RegionsBody, "multipart/form-data"))
    async def regions(request: Request) -> JSONResponse:
        """Describes regions of an image."""
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            async with request.form(
                max_fields=FORM_PARTS, max_files=FORM_PARTS, max_part_size=limits.body_bytes
            ) as form:
                body = await body_of_form(form)
        else:
            body = await read(parsed, RegionsBody, await request.body())
        result = await answer(await read(region_request, body, limits, vocabularies))
        return JSONResponse(result.to_dict(body.top))

    @app.post("/v1/chat/completions", openapi_extra=_body_schema(ChatBody))
    @app.post("/chat/completions", include_in_schema=False)  # as Describe Anything's server has it
    async def chat(request: Request) -> Response:
        """Describes one region of an image, in OpenAI's protocol."""
        body = await read(parsed, ChatBody, await request.body())
        result = await answer(await read(chat_request, body, limits))
        if result.regions[0].prediction is None:
            raise RequestError(500, f"the model failed: {result.regions[0].error}")
        if body.stream:
            events = completion_events(body, result)
            return StreamingResponse(events, media_type="text/event-stream")
        return JSONResponse(completion(body, result))

    @app.get("/healthz")
    async def health() -> JSONResponse:
        """Whether requests are answered."""
        is_alive = batcher.is_alive()
        content = {"status": "ok" if is_alive else "down", "version": __version__}
        return JSONResponse(content, 200 if is_alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def numbers() -> Response:
        """Counters, for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    _add_schemas(app)
    return app


def _check_result(result: ImageResult) -> None:
    """Raises RequestError for a client's fault; one of the model stays in its region's result."""
    if result.error is not None:
        raise RequestError(422, result.error)
    for region in result.regions:
        if region.error is not None and region.box is None:
            raise RequestError(422, region.error)


async def _refused(_: Request, error: Exception) -> Response:
    return refusal(error)


async def _not_found(_: Request, error: Exception) -> Response:
    response = refusal(RequestError(error.status_code, str(error.detail)))
    response.headers.update(error.headers or {})
    return response


def _body_schema(model: type, *more: str) -> dict[str, Any]:
    """A request body in OpenAPI's words: JSON, and of the same fields other kinds of content."""
    schema = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    content = dict.fromkeys(("application/json", *more), schema)
    refused = {"description": "refused; error.message says why"}
    codes = ("400", "401", "408", "413", "422", "429", "500")
    return {
        "requestBody": {"required": True, "content": content},
        "responses": dict.fromkeys(codes, refused),
    }


def _add_schemas(app: FastAPI) -> None:
    """Has the OpenAPI document hold the bodies, which are read by hand."""
    bodies = [(model, "validation") for model in (RegionsBody, ChatBody)]
    _, found = models_json_schema(bodies, ref_template="#/components/schemas/{model}")
    document = app.openapi()
    document.setdefault("components", {}).setdefault("schemas", {}).update(found["$defs"])
