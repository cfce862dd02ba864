"""Many clients, one model: all are answered, as if each were alone."""

import json
import threading
import time

import pytest

from dynrefer.app import batching
from dynrefer.app.batching import MicroBatcher
from dynrefer.app.memory import release_memory
from dynrefer.predictor import PredictionOptions, RegionRequest
from tests.app.conftest import assert_like, chat_body, regions_body, transparent
from tests.predictor.conftest import BOXES, IMAGE, mask_of

PLAIN = PredictionOptions()


def request_of(number):
    return RegionRequest(IMAGE, [[number % 20, 2, 30 + number % 20, 40]], id=number)


class Gated:
    """A predictor that waits for ``go``, and writes down what it is given."""

    def __init__(self, predictor, fails=()):
        self.predictor, self.fails, self.go = predictor, fails, threading.Event()
        self.calls = []

    def predict_many(self, requests, **options):
        assert self.go.wait(30)
        self.calls.append([request.id for request in requests])
        if set(self.fails) & {request.id for request in requests}:
            raise RuntimeError("out of memory")
        yield from self.predictor.predict_many(requests, **options)


def test_fifty_clients_at_once_are_answered_as_one_by_one(service):
    masked = transparent(mask_of((3, 4), (30, 35)))
    asked = []
    for number in range(50):
        boxes = [[1 + number % 7, 2, 20 + number % 30, 30], *BOXES[: number % 3]]
        body = regions_body(IMAGE, boxes, id=number, controls=[["red"] * (number % 2)] * len(boxes))
        if number % 10 == 3:
            body |= {"classes": ["dog", "cat"], "decoders": ["classes"], "controls": None}
        asked.append(("POST", "/v1/regions", {"json": body}))
    asked[7] = ("POST", "/v1/chat/completions", {"json": chat_body(masked)})
    alone = {number: service.together(asked[number])[0] for number in (0, 3, 7, 13, 21, 49)}
    answers = service.together(*asked)
    assert [answer.status_code for answer in answers] == [200] * 50
    ids = [answer.json().get("id") for n, answer in enumerate(answers) if n != 7]
    assert ids == [n for n in range(50) if n != 7]
    for number, answer in alone.items():
        key = "region" if number == 7 else "regions"
        assert_like(answers[number].json()[key], answer.json()[key])
    text = service.get("/metrics").text
    (batches,) = [line for line in text.splitlines() if "batch_requests_count" in line]
    assert float(batches.split()[1]) < 6 + 25  # six came alone


def test_what_waits_is_taken_together_in_order_and_by_options(predictor):
    gated = Gated(predictor)
    sizes = []
    with MicroBatcher(gated, wait=0, most=5, observe=sizes.append) as batcher:
        first = batcher.submit(request_of(100), PLAIN)
        while batcher._jobs.qsize():  # the thread has taken it
            pass
        classes = PredictionOptions(decoders=["classes"])
        asked = [(n, classes if n in (1, 3) else PLAIN) for n in range(8)]
        answers = [batcher.submit(request_of(n), options) for n, options in asked]
        gated.go.set()
        results = [answer.result(30) for answer in answers]
    assert first.result(30).id == 100
    assert [result.id for result in results] == list(range(8))
    assert gated.calls == [[100], [0, 2, 4], [1, 3], [5, 6, 7]]
    assert sizes == [1, 5, 3]
    assert results[1].regions[0].prediction.caption is None


def test_one_that_fails_ends_neither_the_others_nor_the_thread(predictor, caplog):
    gated = Gated(predictor, fails=[1])
    with MicroBatcher(gated, wait=0.2) as batcher:
        answers = [batcher.submit(request_of(n), PLAIN) for n in range(3)]
        gated.go.set()
        assert [answers[n].result(30).id for n in (0, 2)] == [0, 2]
        with pytest.raises(RuntimeError, match="out of memory"):
            answers[1].result(30)
        assert batcher.is_alive()
        assert batcher.submit(request_of(9), PLAIN).result(30).id == 9
    assert "the model failed on 3 of 3 requests" in caplog.text


def test_results_that_are_missing_are_said(predictor, monkeypatch):
    monkeypatch.setattr(predictor, "predict_many", lambda requests, **_: iter(()))
    with MicroBatcher(predictor) as batcher, pytest.raises(RuntimeError, match="no result"):
        batcher.submit(request_of(0), PLAIN).result(30)


def test_a_failing_model_is_500_for_the_client_and_the_next_is_answered(service, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a secret place")

    with monkeypatch.context() as patch:
        patch.setattr(service.predictor, "predict_many", fail)
        answer = service.post("/v1/regions", json=regions_body())
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (500, "server_error")
    assert "RuntimeError" in error["message"] and "secret" not in error["message"]
    assert service.post("/v1/regions", json=regions_body()).status_code == 200


def test_the_end_answers_all_that_was_submitted(predictor):
    gated = Gated(predictor)
    batcher = MicroBatcher(gated, wait=0, most=2)
    with batcher:
        answers = [batcher.submit(request_of(n), PLAIN) for n in range(5)]
        abandoned = answers[4].cancel()
        gated.go.set()
    assert [answer.result(0).id for answer in answers[:4]] == [0, 1, 2, 3]
    assert abandoned and 4 not in sum(gated.calls, [])
    assert not batcher.is_alive()
    with pytest.raises(RuntimeError, match="ends"):
        batcher.submit(request_of(5), PLAIN)


@pytest.mark.parametrize("wrong", [{"wait": -1}, {"most": 0}])
def test_wrong_settings(predictor, wrong):
    with pytest.raises(ValueError, match="valid are 0 and 1 or more"):
        MicroBatcher(predictor, **wrong)


def test_health_says_whether_requests_are_answered(service):
    answer = service.get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    service.batcher.__exit__()
    answer = service.get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (503, "down")
    assert json.loads(service.post("/v1/regions", json=regions_body()).text)["error"]


def test_memory_is_given_back_once_when_nobody_asks(predictor, monkeypatch):
    released = []
    monkeypatch.setattr(batching, "release_memory", lambda: released.append(1))
    monkeypatch.setattr(batching, "IDLE", 0.02)
    with MicroBatcher(predictor) as batcher:
        assert batcher.submit(request_of(0), PLAIN).result(30).id == 0
        time.sleep(0.2)
        after = len(released)
        assert batcher.submit(request_of(1), PLAIN).result(30).id == 1
    assert after in (1, 2)  # once before the first, where that was late


def test_memory_that_was_freed_goes_back():
    release_memory()  # on every system without an error
