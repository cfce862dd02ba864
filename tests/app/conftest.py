import asyncio
import base64
import io

import pytest
from PIL import Image

from dynrefer.predictor import RegionPredictor
from tests.predictor.conftest import BOXES, IMAGE, predictor

pytest.importorskip("fastapi", reason="the service's libraries are missing: pip install -e .[app]")

import httpx2

from dynrefer.app.batching import MicroBatcher
from dynrefer.app.limits import ServiceLimits
from dynrefer.app.service import create_app

__all__ = ["predictor"]


def file_of(image, form="PNG"):
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def base64_of(content):
    return base64.b64encode(content).decode()


def data_url(image):
    return "data:image/png;base64," + base64_of(file_of(image))


def regions_body(image=IMAGE, boxes=BOXES, **more):
    return {"image": base64_of(file_of(image)), "boxes": boxes, **more}


def transparent(mask, image=IMAGE):
    """The image with the mask as its alpha channel."""
    return Image.merge("RGBA", (*image.split(), Image.fromarray(mask.astype("uint8") * 255)))


def chat_body(image, text="Describe the masked region in detail.", **more):
    parts = [
        {
            "type": "image_url",
            "image_url": {"url": image if isinstance(image, str) else data_url(image)},
        },
        {"type": "text", "text": text},
    ]
    messages = [{"role": "user", "content": parts}]
    return {
        "model": "dynrefer",
        "messages": messages,
        "temperature": 0.2,
        "max_tokens": 512,
        **more,
    }


def assert_like(found, expected):
    """Equal but for what batches of other sizes change in floats."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_like(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_like(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-4)
    else:
        assert found == expected


class Service:
    """A service in this process, and requests to it."""

    def __init__(self, predictor: RegionPredictor, **options):
        self.predictor = predictor
        names = ("wait", "most")
        self.batcher = MicroBatcher(
            predictor, **{name: options.pop(name) for name in names if name in options}
        )
        self.app = create_app(self.batcher, options.pop("limits", ServiceLimits()), **options)

    def client(self):
        transport = httpx2.ASGITransport(self.app)
        return httpx2.AsyncClient(transport=transport, base_url="http://service", timeout=60)

    def together(self, *requests):
        """Answers of requests that are sent at once: (method, path, arguments of httpx)."""

        async def send():
            async with self.client() as client:
                return await asyncio.gather(
                    *(client.request(method, path, **more) for method, path, more in requests)
                )

        return asyncio.run(send())

    def post(self, path, **more):
        return self.together(("POST", path, more))[0]

    def get(self, path, **more):
        return self.together(("GET", path, more))[0]


@pytest.fixture
def started(predictor):
    """Makes a service of the tiny model; its thread ends with the test."""
    running = []

    def start(**options):
        service = Service(predictor, **options)
        running.append(service.batcher.__enter__())
        return service

    yield start
    for batcher in running:
        batcher.__exit__()


@pytest.fixture
def service(started):
    return started()
