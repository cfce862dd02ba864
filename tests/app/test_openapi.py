"""Requests that schemathesis makes of the OpenAPI document: none is answered with a fault."""

import collections

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.app.conftest import base64_of, file_of
from tests.predictor.conftest import IMAGE

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

PICTURE = base64_of(file_of(IMAGE))


def with_picture(body):
    """The body with an image that can be read, so that the other fields are looked at, too."""
    if isinstance(body, dict) and isinstance(body.get("image"), str):
        return body | {"image": PICTURE}
    return body


@pytest.mark.parametrize("path", ["/v1/regions", "/v1/chat/completions", "/healthz", "/metrics"])
def test_made_up_requests_get_documented_answers(service, path):
    schema = schemathesis.openapi.from_asgi("/openapi.json", service.app)
    (operation,) = [each.ok() for each in schema.get_all_operations() if each.ok().path == path]
    statuses = collections.Counter()

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def answered(case):
        case.body = with_picture(case.body)
        response = case.call()
        statuses[response.status_code] += 1
        # What fits the schema may still be refused: a box outside of the image.
        case.validate_response(response, excluded_checks=[positive_data_acceptance])

    answered()
    assert statuses and set(statuses) <= {200, 400, 413, 422}
