"""A stream of requests: the same results as one by one, in order, in shared batches."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from dynrefer.models.parts import NonFiniteError
from dynrefer.predictor import RegionRequest
from dynrefer.predictor.preparing import PART
from tests.predictor.conftest import BOXES, IMAGE, assert_same, mask_of, noise


def requests_of(count, seed=1):
    """Images of different sizes with 0 to 4 regions each, some with control words."""
    rng = np.random.default_rng(seed)
    requests = []
    for number in range(count):
        width, height = rng.integers(20, 90, 2).tolist()
        starts = rng.uniform(0, 12, (number % 5, 2))
        boxes = np.hstack([starts, starts + rng.uniform(3, 30, starts.shape)])
        words = [["red"] * (index % 2) for index in range(len(boxes))]
        image = noise(height, width, 3, seed=number)
        requests.append(RegionRequest(image, boxes, None, words if number % 2 else None))
    return requests


@pytest.mark.parametrize("threads", [0, 2])
def test_a_stream_says_what_single_calls_say(predictor, threads):
    requests = requests_of(8)
    requests[5] = RegionRequest(IMAGE, BOXES[:1], [mask_of((3, 4), (30, 35))], id="masked")
    requests[6] = RegionRequest(IMAGE, np.tile(BOXES[:1], (PART + 1, 1)))  # two parts
    predictor.chunk_size = 5
    results = list(predictor.predict_many(iter(requests), threads=threads))
    assert [result.id for result in results] == [*range(5), "masked", 6, 7]
    predictor.chunk_size = 20
    for request, result in zip(requests, results, strict=True):
        assert result.error is None
        expected = predictor.predict(request.image, request.boxes, request.masks, request.controls)
        assert_same(result.regions, expected)
        assert {region.prediction.image_id for region in result.regions} <= {result.id}


def test_images_share_the_batches_of_the_vision_tower(predictor, looks):
    requests = [(noise(40, 50, 3, seed=seed), [[2, 3, 20, 30]]) for seed in range(12)]
    assert len(list(predictor.predict_many(requests))) == 12
    assert looks == [36]
    looks.clear()
    predictor.chunk_size = 5
    list(predictor.predict_many(requests))
    assert looks == [12, 12, 12]  # evenly


def test_what_is_bad_is_said_and_ends_nothing(predictor, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    boxes = [BOXES[0], [5, 5, 5, 9], BOXES[1], [70, 1, 90, 9]]
    items = [
        RegionRequest(IMAGE, BOXES),
        RegionRequest(tmp_path / "text.jpg", BOXES),
        {"image": IMAGE, "boxes": boxes, "masks": [mask_of(), mask_of((3, 4))], "id": "mixed"},
        {"image": tmp_path / "none.jpg", "boxes": BOXES},
        {"image": IMAGE, "boxs": BOXES},
        {"boxes": BOXES},
        3,
        (IMAGE,),
        (IMAGE, 3),
        (IMAGE, BOXES, None, [["red"]]),
        (IMAGE, torch.tensor(BOXES)),
    ]
    results = list(predictor.predict_many(items))
    assert [result.id for result in results] == [0, 1, "mixed", *range(3, 11)]
    expected = predictor.predict(IMAGE, BOXES)
    assert_same(results[0].regions, expected)
    assert_same(results[10].regions, expected)
    errors = [result.error for result in results]
    for number, message in {
        1: "text.jpg cannot be decoded",
        3: "none.jpg does not exist",
        4: "unknown field 'boxs'; valid are image, boxes",
        5: "request has no image",
        6: "request is a int",
        7: "no region is given",
        8: "valid is [N, 4]",
        9: "a list of words for each of the 3 regions",
    }.items():
        assert message in errors[number] and results[number].regions == ()
    assert [errors[number] for number in (0, 2, 10)] == [None] * 3
    mixed = results[2].regions
    assert [region.error and region.error.split(" ")[:2] for region in mixed] == [
        *(None, ["box", "1"], None, ["box", "3"], ["mask", "0"], None)
    ]
    assert [region.prediction.id for region in mixed if not region.error] == [0, 2, 5]
    assert "has no area" in mixed[1].error and "mask 0 is empty" in mixed[4].error
    assert mixed[0].prediction.caption == expected[0].prediction.caption
    assert mixed[2].prediction.caption == expected[1].prediction.caption


def test_only_a_few_requests_are_read_ahead(predictor):
    predictor.chunk_size = 2
    for threads in (0, 1):
        read = itertools.count()
        stream = ((IMAGE, BOXES[:1], None, None, number) for number in read)
        results = predictor.predict_many(stream, ["tags"], threads=threads)
        assert [next(results).id for _ in range(20)] == list(range(20))
        results.close()
        assert next(read) <= 20 + 4 * 2 + 1 + threads * 6


def white_regions_are_not_finite(predictor, monkeypatch, part):
    """Has a part of the model give NaN for regions that are white."""
    model, white = predictor.model, set()
    queries = model.queries

    def spoiled(batch):
        found = queries(batch)
        for row, views in enumerate(batch.view_index):
            if batch.crops[views[0]].min() == 255:
                white.add(found[row].sum().item())
                if part == "queries":
                    raise NonFiniteError("queries", [batch.ids[row]])
        return found

    def unwritable(rows, controls, _):
        bad = [number for number, row in enumerate(rows) if row.sum().item() in white]
        if bad:
            raise NonFiniteError("caption logits", bad)
        return generate(rows, controls, _)

    generate = model.caption_decoder.generate
    monkeypatch.setattr(model, "queries", spoiled)
    monkeypatch.setattr(model.caption_decoder, "generate", unwritable)


@pytest.mark.parametrize("part", ["queries", "caption logits"])
def test_values_that_are_not_finite_end_their_region_alone(predictor, monkeypatch, part):
    image = noise(50, 60, 3)
    image[10:30, 10:30] = 255
    expected = predictor.predict(image, BOXES[:2])
    white_regions_are_not_finite(predictor, monkeypatch, part)
    boxes = [BOXES[0], [12, 12, 25, 25], BOXES[1]]
    (result,) = predictor.predict_many([(image, boxes)])
    one, bad, two = result.regions
    assert bad.prediction is None and bad.error.startswith(f"{part} of region(s) [1] are not")
    captions = [each.prediction.caption for each in (one, two)]
    assert captions == [each.prediction.caption for each in expected]
    with pytest.raises(NonFiniteError, match=rf"{part} of region\(s\) \[1\]"):
        predictor.predict(image, boxes)


def test_an_option_that_is_not_valid_is_said_before_the_first_result(predictor):
    with pytest.raises(ValueError, match="num_beams is 0"):
        predictor.predict_many([], num_beams=0)
    with pytest.raises(TypeError, match="unknown argument 'beams'; valid are decoders, classes"):
        predictor.predict_many([], beams=3)


def test_regions_of_stored_pixels(predictor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    IMAGE.save(tmp_path / "phone.png", exif=exif)
    (stored,) = predictor.predict_many([RegionRequest(tmp_path / "phone.png", BOXES, turn=False)])
    assert_same(stored.regions, predictor.predict(IMAGE, BOXES))
