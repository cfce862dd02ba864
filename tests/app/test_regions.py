"""POST /v1/regions: what the predictor says, in JSON; what is wrong, by name."""

import io
import json

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from dynrefer.app.limits import ServiceLimits
from tests.app.conftest import assert_like, base64_of, data_url, file_of, regions_body
from tests.predictor.conftest import BOXES, HEIGHT, IMAGE, WIDTH, mask_of

PATH = "/v1/regions"
MASK = mask_of((3, 4), (30, 35), (31, 35))
MASK_FILE = file_of(Image.fromarray(MASK.astype(np.uint8) * 255))
POLYGON = [[5, 5, 30, 6, 20, 30]]


def expected_of(predictor, *given, top=5, **options):
    results = predictor.predict(*given, **options)
    return json.loads(json.dumps([result.to_dict(top) for result in results]))


def test_boxes(service):
    answer = service.post(PATH, json=regions_body(id="seven"))
    assert answer.status_code == 200
    found = answer.json()
    assert (found["id"], found["error"]) == ("seven", None)
    assert_like(found["regions"], expected_of(service.predictor, IMAGE, BOXES))


def test_everything_that_can_be_asked(service):
    runs = coco.encode(np.asfortranarray(MASK, dtype=np.uint8))
    masks = [
        {"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()},
        {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]},
        POLYGON,
        base64_of(MASK_FILE),
        data_url(Image.fromarray(MASK.astype(np.uint8) * 255)),
    ]
    asked = {
        "controls": [["red"], [], ["a", "small"], [], [], []],
        "decoders": ["caption", "classes", "attributes"],
        "classes": ["dog", "fire hydrant"],
        "attributes": ["striped/lined", "plain", "huge"],
        "tag_threshold": 0.4,
        "num_beams": 2,
        "box_format": "xywh",
        "relative": True,
    }
    boxes = [[0.1, 0.2, 0.5, 0.5]]
    answer = service.post(PATH, json=regions_body(IMAGE, boxes, masks=masks, top=2, **asked))
    assert answer.status_code == 200, answer.text
    whole = np.ones((HEIGHT, WIDTH), dtype=bool)
    shapes = [MASK, whole, POLYGON, MASK, MASK]
    expected = expected_of(service.predictor, IMAGE, boxes, shapes, top=2, **asked)
    assert_like(answer.json()["regions"], expected)
    assert {len(region["attributes"]) for region in expected} == {2}


def test_a_form_says_the_same(service):
    parts = {"boxes": json.dumps(BOXES), "masks": json.dumps([POLYGON]), "classes": '["a", "b"]'}
    files = [("image", ("a.png", file_of(IMAGE))), ("masks", ("m.png", MASK_FILE))]
    given = {**parts, "id": "a.png", "box_format": "xyxy", "relative": "false"}
    answer = service.post(PATH, data=given, files=files)
    assert answer.status_code == 200, answer.text
    assert answer.json()["id"] == "a.png"
    masks = [POLYGON, MASK]
    expected = expected_of(service.predictor, IMAGE, BOXES, masks, classes=["a", "b"])
    assert_like(answer.json()["regions"], expected)


def test_an_image_is_shown_upright(service):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    IMAGE.transpose(Image.Transpose.ROTATE_90).save(content, "PNG", exif=exif)
    answer = service.post(PATH, json=regions_body() | {"image": base64_of(content.getvalue())})
    assert_like(answer.json()["regions"], expected_of(service.predictor, IMAGE, BOXES))


LIMITS = ServiceLimits(pixels=WIDTH * HEIGHT, mask_pixels=2 * WIDTH * HEIGHT, regions=4)
EMPTY_MASK = file_of(Image.new("L", IMAGE.size))
WRONG = {
    "no JSON": ("{", 400, "body"),
    "too deep": ("[" * 100_000, 400, "body"),
    "a list": ("[]", 422, "body"),
    "no image": ({"image": ...}, 422, "image"),
    "unknown field": ({"box": [1, 2, 3, 4]}, 422, "box"),
    "an address": ({"image": "https://example.org/a.png"}, 400, "image is an address"),
    "a path": ({"image": "/etc/passwd.png"}, 422, "image"),
    "an empty image": ({"image": ""}, 422, "image is empty"),
    "no base64": ({"image": "%%%"}, 422, "image is neither base64"),
    "no picture": ({"image": base64_of(b"text")}, 422, "image: 4 bytes that are no image file"),
    "a damaged picture": ({"image": base64_of(file_of(IMAGE)[:2000])}, 422, "image file"),
    "a format that runs programs": (
        {"image": base64_of(file_of(Image.new("RGB", (9, 9)), "EPS"))},
        422,
        "image is EPS",
    ),
    "a large picture": (
        {"image": base64_of(file_of(Image.new("L", (WIDTH, HEIGHT + 1))))},
        413,
        "image has 60 x 51 pixels",
    ),
    "no region": ({"boxes": []}, 422, "boxes"),
    "too many regions": ({"boxes": [[1, 2, 3, 4]] * 5}, 422, "boxes and masks are 5 regions"),
    "boxes of text": ({"boxes": "1,2,3,4"}, 422, "boxes"),
    "a short box": ({"boxes": [[1, 2, 3]]}, 422, "boxes.0"),
    "numbers as text": ({"boxes": [["1", 2, 3, 4]]}, 422, "boxes.0.0"),
    "a number that is none": ({"boxes": [[float("nan"), 2, 3, 4]]}, 422, "boxes.0.0"),
    "a box outside": ({"boxes": [[1, 2, 20, 30], [70, 1, 90, 9]]}, 422, "box 1 [70"),
    "a box in shares": ({"boxes": [[0, 0, 0.5, 0.5]]}, 422, "box 0"),
    "a mask of another size": ({"masks": [{"size": [1, 2], "counts": [0, 2]}]}, 422, "mask 0"),
    "runs that do not fit": (
        {"masks": [{"size": [HEIGHT, WIDTH], "counts": [0, 7]}]},
        422,
        "mask 0: 'counts'",
    ),
    "a negative run": ({"masks": [{"size": [1, 2], "counts": [-1]}]}, 422, "masks.0"),
    "an empty mask": ({"masks": [base64_of(EMPTY_MASK)]}, 422, "masks.0 has no pixel"),
    "a mask that is no file": ({"masks": ["AAAA"]}, 422, "masks.0"),
    "a mask at an address": ({"masks": ["http://a/b.png"]}, 400, "masks.0 is an address"),
    "a polygon of two points": ({"masks": [[[1, 2, 3, 4]]]}, 422, "mask 0"),
    "masks of too many pixels": ({"masks": [POLYGON] * 3, "boxes": None}, 413, "masks: 3 of"),
    "controls for other regions": ({"controls": [["red"]]}, 422, "controls"),
    "controls of one text": ({"controls": ["red", "red", "red"]}, 422, "controls.0"),
    "too many control words": ({"controls": [["red"] * 51]}, 422, "controls.0"),
    "an unknown decoder": ({"decoders": ["poem"]}, 422, "decoders.0"),
    "no decoder": ({"decoders": []}, 422, "decoders"),
    "no class": ({"classes": []}, 422, "classes"),
    "a class twice": ({"classes": ["dog", "Dog"]}, 422, "classes: name 1 repeats"),
    "a tag that is not text": ({"tags": ["a\nb"]}, 422, "tags: name 0"),
    "too many attributes": ({"attributes": [f"a{i}" for i in range(1001)]}, 422, "attributes"),
    "a long class": ({"classes": ["a" * 101]}, 422, "classes.0"),
    "an attribute without words": ({"attributes": ["a//b"]}, 422, "attributes: name 0"),
    "a threshold": ({"tag_threshold": 1.5}, 422, "tag_threshold"),
    "beams": ({"num_beams": 0}, 422, "num_beams"),
    "too many beams": ({"num_beams": 11}, 422, "num_beams"),
    "true for a number": ({"num_beams": True}, 422, "num_beams"),
    "a form of boxes": ({"box_format": "cxcywh"}, 422, "box_format"),
    "top": ({"top": -1}, 422, "top"),
}


def test_what_is_wrong_is_refused_by_name(started):
    service = started(limits=LIMITS)
    texts = []
    for change, _, _ in WRONG.values():
        body = change
        if isinstance(change, dict):
            values = {key: v for key, v in (regions_body() | change).items() if v is not ...}
            body = json.dumps(values)
        texts.append(("POST", PATH, {"content": body}))
    answers = service.together(*texts)
    for (name, (_, status, told)), answer in zip(WRONG.items(), answers, strict=True):
        error = answer.json()["error"]
        assert (name, answer.status_code, told in error["message"]) == (name, status, True), error
        assert error["type"] == "invalid_request_error"
    after = service.post(PATH, json=regions_body())
    assert after.status_code == 200


WRONG_FORMS = {
    "no JSON": ({"boxes": "[[1, 2"}, [], 422, "boxes is no JSON"),
    "a part twice": ({"boxes": ["[[1, 2, 3, 4]]"] * 2}, [], 422, "boxes is there twice"),
    "an unknown part": ({"box": "[1, 2, 3, 4]"}, [], 422, "box"),
    "no picture": ({}, [("masks", b"text")], 422, "masks.0"),
}


def test_wrong_forms_are_refused_by_name(service):
    asked = []
    for parts, more, _, _ in WRONG_FORMS.values():
        files = [("image", file_of(IMAGE)), *more]
        asked.append(
            ("POST", PATH, {"data": {"boxes": "[[1, 2, 20, 30]]"} | parts, "files": files})
        )
    broken = {"content": b"no form", "headers": {"content-type": "multipart/form-data"}}
    *answers, last = service.together(*asked, ("POST", PATH, broken))
    for (name, (*_, status, told)), answer in zip(WRONG_FORMS.items(), answers, strict=True):
        message = answer.json()["error"]["message"]
        assert (name, answer.status_code, told in message) == (name, status, True), message
    assert last.status_code == 400
    assert "boundary" in last.json()["error"]["message"]


def test_a_region_that_the_model_fails_on_is_said_beside_the_others(service):
    from dynrefer.models.parts import NonFiniteError

    write = service.predictor.model.write_captions

    def fail_on_the_second(queries, predictions, controls, generation):
        if any(prediction.id == 1 for prediction in predictions):
            where = [p.id for p in predictions].index(1)
            raise NonFiniteError("captions", [predictions[where].id], "nothing")
        write(queries, predictions, controls, generation)

    service.predictor.model.write_captions = fail_on_the_second
    found = service.post(PATH, json=regions_body()).json()["regions"]
    assert [region.get("error") is not None for region in found] == [False, True, False]
    assert found[1]["box"] == BOXES[1] and "captions" in found[1]["error"]
