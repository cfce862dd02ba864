"""OpenAI's protocol: the region as the alpha channel or as a box in the text."""

import asyncio
import json

import pytest
from PIL import Image

from tests.app.conftest import assert_like, base64_of, chat_body, data_url, file_of, transparent
from tests.predictor.conftest import BOXES, HEIGHT, IMAGE, WIDTH, mask_of

PATH = "/v1/chat/completions"
MASK = mask_of((3, 4), (30, 35))
MASKED = transparent(MASK)
BOX_TEXT = f"What is in {BOXES[1]}?"


def expected_of(predictor, **regions):
    (result,) = predictor.predict(IMAGE, **regions)
    return json.loads(json.dumps(result.to_dict()))


def test_alpha_and_box_give_the_predictors_caption(service):
    asked = [
        (chat_body(MASKED), {"masks": [MASK]}),
        (chat_body(IMAGE, BOX_TEXT), {"boxes": [BOXES[1]]}),
        (chat_body(MASKED, BOX_TEXT), {"boxes": [BOXES[1]]}),  # the text is the plainer word
        (chat_body(IMAGE.convert("RGBA")), {"boxes": [[0, 0, WIDTH, HEIGHT]]}),
        (
            chat_body(MASKED, controls=["red", "small"], num_beams=2),
            {"masks": [MASK], "controls": [["red", "small"]], "num_beams": 2},
        ),
    ]
    answers = service.together(*(("POST", PATH, {"json": body}) for body, _ in asked))
    for (_, regions), answer in zip(asked, answers, strict=True):
        assert answer.status_code == 200, answer.text
        found, expected = answer.json(), expected_of(service.predictor, **regions)
        assert_like(found["region"], expected)
        (choice,) = found["choices"]
        assert choice["message"] == {"role": "assistant", "content": expected["caption"]}
        assert (choice["finish_reason"], found["object"]) == ("stop", "chat.completion")


def test_only_what_users_say_counts_and_texts_may_be_plain(service):
    body = chat_body(IMAGE)
    old = {"role": "assistant", "content": "[1, 2, 3, 4]"}
    rules = {"role": "system", "content": "Be brief: [5, 6, 7, 8]"}
    body["messages"] = [rules, *body["messages"], old, {"role": "user", "content": BOX_TEXT}]
    answer = service.post(PATH, json=body)
    assert_like(answer.json()["region"], expected_of(service.predictor, boxes=[BOXES[1]]))


def test_a_palette_may_be_transparent(service):
    picture = Image.new("P", (WIDTH, HEIGHT), 1)
    picture.putpalette([0, 0, 0, 200, 10, 10])
    picture.paste(0, (0, 0, 20, HEIGHT))
    picture.info["transparency"] = 0
    found = service.post(PATH, json=chat_body(picture)).json()
    assert found["region"]["box"] == [20, 0, WIDTH, HEIGHT]


def test_openais_client_runs_unchanged(started):
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    service = started(api_key="secret")

    async def ask():
        async with service.client() as http:
            client = openai.AsyncOpenAI(
                api_key="secret", base_url="http://service/v1", http_client=http, max_retries=0
            )
            create = client.chat.completions.create
            body = chat_body(MASKED)
            whole = await create(**body)
            pieces = [piece async for piece in await create(**body, stream=True)]
            with pytest.raises(openai.BadRequestError, match="nothing is fetched"):
                await create(**chat_body("https://example.org/a.png"))
            with pytest.raises(openai.UnprocessableEntityError, match="name no region"):
                await create(**chat_body(IMAGE))
            stranger = client.with_options(api_key="other")
            with pytest.raises(openai.AuthenticationError, match="no valid key"):
                await stranger.chat.completions.create(**body)
            return whole, pieces

    whole, pieces = asyncio.run(ask())
    caption = expected_of(service.predictor, masks=[MASK])["caption"]
    assert whole.choices[0].message.content == caption
    assert whole.region["caption"] == caption
    assert [piece.choices[0].delta.content for piece in pieces] == [caption, None]
    assert pieces[-1].choices[0].finish_reason == "stop"


def test_describe_anythings_client_runs_unchanged(service):
    """Its path has no /v1, its model is called so, and it reads a stream's pieces as lists."""
    openai = pytest.importorskip("openai", reason="the openai client is not installed")

    async def ask():
        async with service.client() as http:
            client = openai.AsyncOpenAI(
                api_key="api_key", base_url="http://service", http_client=http
            )
            body = chat_body(MASKED) | {"model": "describe_anything_model", "top_p": 0.5}
            whole = await client.chat.completions.create(**body)
            said = []
            async for piece in await client.chat.completions.create(**body, stream=True):
                delta = piece.choices[0].delta
                said += [part["text"] for part in delta.content or [] if part["type"] == "text"]
            return whole.choices[0].message.content, said

    caption = expected_of(service.predictor, masks=[MASK])["caption"]
    assert asyncio.run(ask()) == (caption, [caption])


TWO_IMAGES = chat_body(IMAGE)["messages"] * 2
WRONG = {
    "no JSON": ("no JSON", 400, "body"),
    "no model": (chat_body(MASKED) | {"model": None}, 422, "model"),
    "no message": (chat_body(MASKED) | {"messages": []}, 422, "messages"),
    "an unknown role": (
        chat_body(MASKED) | {"messages": [{"role": "king", "content": "a"}]},
        422,
        "messages.0.role",
    ),
    "an unknown part": (
        chat_body(MASKED) | {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
        422,
        "messages.0.content",
    ),
    "no image": (
        chat_body(MASKED) | {"messages": [{"role": "user", "content": BOX_TEXT}]},
        422,
        "messages have 0 images",
    ),
    "two images": (chat_body(IMAGE) | {"messages": TWO_IMAGES}, 422, "messages have 2 images"),
    "an address": (chat_body("HTTP://a.org/b.png"), 400, "image_url is an address"),
    "a file": (chat_body("file:///etc/passwd"), 422, "image_url is neither"),
    "no picture": (chat_body("data:image/png;base64," + base64_of(b"a")), 422, "image_url: 1"),
    "a damaged picture": (
        chat_body("data:image/png;base64," + base64_of(file_of(MASKED)[:2000])),
        422,
        "image_url cannot be decoded",
    ),
    "nothing to be seen": (chat_body(transparent(MASK & False)), 422, "alpha channel is 0"),
    "no region": (chat_body(IMAGE), 422, "messages name no region"),
    "two boxes": (chat_body(IMAGE, "[1, 2, 3, 4] [5, 6, 7, 8]"), 422, "messages have 2 boxes"),
    "a box outside": (chat_body(IMAGE, "[70, 1, 90, 9]"), 422, "box 0 [70"),
    "beams": (chat_body(MASKED, num_beams=100), 422, "num_beams"),
}


def test_what_is_wrong_is_refused_by_name(service):
    bodies = [body if isinstance(body, str) else json.dumps(body) for body, _, _ in WRONG.values()]
    answers = service.together(*(("POST", PATH, {"content": body}) for body in bodies))
    for (name, (_, status, told)), answer in zip(WRONG.items(), answers, strict=True):
        message = answer.json()["error"]["message"]
        assert (name, answer.status_code, told in message) == (name, status, True), message


def test_data_urls_of_other_pictures(service):
    url = data_url(IMAGE).replace("image/png", "image/webp")
    jpeg = "data:image/jpeg;base64," + base64_of(file_of(IMAGE, "JPEG"))
    asked = [("POST", PATH, {"json": chat_body(each, BOX_TEXT)}) for each in (url, jpeg)]
    assert [answer.status_code for answer in service.together(*asked)] == [200, 200]
