"""What is refused before it is read, and what is counted."""

import asyncio
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dynrefer.app.limits import ServiceLimits
from tests.app.conftest import chat_body, regions_body

PATH = "/v1/regions"


def numbers(service, **more):
    """Every counter by name and labels."""
    families = text_string_to_metric_families(service.get("/metrics", **more).text)
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, *sorted(s.labels.values())): s.value for s in samples}


def test_a_key_is_asked_of_all_but_health(started):
    service = started(api_key="secret")
    wrong = [{}, *({"authorization": value} for value in ("secret", "Bearer secre", "Bearer é"))]
    for headers in wrong:
        given = {key: value.encode() for key, value in headers.items()}
        for method, path in (("POST", PATH), ("GET", "/metrics"), ("GET", "/openapi.json")):
            answer = service.together((method, path, {"headers": given}))[0]
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert "Authorization: Bearer" in answer.json()["error"]["message"]
    right = {"headers": {"authorization": "Bearer secret"}}
    assert service.get("/healthz").status_code == 200
    assert service.post(PATH, json=regions_body(), **right).status_code == 200
    assert numbers(service, **right)["dynrefer_answers_total", "401", "other"] == 12


def test_a_long_body_is_refused_announced_or_not(started):
    service = started(limits=ServiceLimits(body_bytes=1000))
    fed = []

    async def endless():
        while len(fed) < 100:
            fed.append(1)
            yield b"a" * 100

    long = [{"content": b"a" * 1001}, {"content": endless()}]
    for answer in service.together(*(("POST", PATH, each) for each in long)):
        assert answer.status_code == 413
        assert "body is longer than 1000 bytes" in answer.json()["error"]["message"]
    assert service.post(PATH, content=b"a" * 1000).status_code == 400  # read, and no JSON


def test_a_body_that_does_not_come_is_given_up(started):
    service = started(limits=ServiceLimits(body_seconds=0.05))

    async def slow():
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    assert service.post(PATH, content=slow()).status_code == 408
    assert numbers(service)["dynrefer_waiting_requests",] == 0


def test_a_full_queue_refuses_and_is_open_again_after(started, monkeypatch):
    service = started(limits=ServiceLimits(waiting=3))
    go, predict_many = threading.Event(), service.predictor.predict_many

    def held(requests, **options):
        assert go.wait(5)
        return predict_many(requests, **options)

    monkeypatch.setattr(service.predictor, "predict_many", held)

    async def send():
        async with service.client() as client:
            first = [asyncio.create_task(client.post(PATH, json=regions_body())) for _ in range(3)]
            while (await client.get("/metrics")).text.count("dynrefer_waiting_requests 3.0") == 0:
                await asyncio.sleep(0.01)
            refused = [await client.post(PATH, json=regions_body()) for _ in range(2)]
            healthy = await client.get("/healthz")
            go.set()
            return await asyncio.gather(*first), refused, healthy

    answered, refused, healthy = asyncio.run(send())
    assert [answer.status_code for answer in answered] == [200] * 3
    assert [answer.status_code for answer in refused] == [429] * 2
    assert refused[0].headers["retry-after"] == "1"
    assert "3 requests are waiting" in refused[0].json()["error"]["message"]
    assert healthy.status_code == 200
    assert service.post(PATH, json=regions_body()).status_code == 200


def test_unknown_paths_and_methods_are_said_in_the_same_form(service):
    asked = [("GET", "/v1/nothing", {}), ("GET", PATH, {}), ("DELETE", PATH, {})]
    answers = service.together(*asked)
    assert [answer.status_code for answer in answers] == [404, 405, 405]
    assert [answer.json()["error"]["message"] for answer in answers][0] == "Not Found"
    assert answers[1].headers["allow"] == "POST"


def test_answers_are_counted_by_path_and_status(service):
    service.together(
        ("POST", PATH, {"json": regions_body()}),
        ("POST", PATH, {"content": b"{"}),
        ("POST", "/v1/chat/completions", {"json": chat_body("http://a")}),
        *(("GET", f"/made/up/{number}", {}) for number in range(3)),
    )
    found = numbers(service)
    assert found["dynrefer_answers_total", PATH, "200"] == 1
    assert found["dynrefer_answers_total", PATH, "400"] == 1
    assert found["dynrefer_answers_total", "/v1/chat/completions", "400"] == 1
    assert found["dynrefer_answers_total", "404", "other"] == 3
    assert found["dynrefer_answer_seconds_count", PATH] == 2
    assert found["dynrefer_regions_total",] == 3
    assert found["dynrefer_batch_requests_count",] == 1
    assert found["process_resident_memory_bytes",] > 1e8


@pytest.mark.parametrize("name", ["body_bytes", "pixels", "waiting", "body_seconds"])
def test_limits_are_more_than_nothing(name):
    with pytest.raises(ValueError, match=f"limit {name} is 0"):
        ServiceLimits(**{name: 0})
