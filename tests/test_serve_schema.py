"""schemathesis: requests made from the OpenAPI document, good and bad, get the answers that it declares."""

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.checks import CHECKS

from serving import Told, picture
from swinkit.serve import Settings
from swinkit.serve.app import create_app

PICTURES = st.sampled_from([picture(), picture(kind="JPEG"), picture(size=(1, 1))])
for kind in ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, PICTURES)

TOKEN = "sesame-open"


@pytest.fixture(scope="module", params=[None, TOKEN], ids=["open", "token"])
def app(request):
    app = create_app({"m": Told(), "n": Told()}, settings=Settings(token=request.param, access_log=False, decoders=1))
    yield app
    app.state.service.close()


@pytest.fixture(scope="module")
def schema_of(app):
    return schemathesis.openapi.from_asgi("/openapi.json", app)


schema = schemathesis.pytest.from_fixture("schema_of")


@schema.parametrize()
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck), database=None)
def test_answers_are_as_declared(case, app):
    headers = {"Authorization": f"Bearer {TOKEN}"} if app.state.service.settings.token else {}
    # Bytes that fit the schema need not be an image, so that "400" is an honest answer to what the schema allows; no route keeps state.
    left_out = [CHECKS.get_one(name) for name in ("positive_data_acceptance", "ignored_auth")]
    case.call_and_validate(headers=headers, excluded_checks=left_out)


def test_the_document_is_complete(app):
    document = app.openapi()
    assert set(document["paths"]) == {"/predict", "/embed", "/explain", "/models", "/metrics", "/health", "/ready"}
    guarded = app.state.service.settings.token is not None
    for path, methods in document["paths"].items():
        (operation,) = methods.values()
        assert "HTTPValidationError" not in str(operation)
        assert ("401" in operation["responses"]) is (guarded and path not in ("/health", "/ready"))
        assert ("security" in operation) is (guarded and path not in ("/health", "/ready"))
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "application/json", "image/jpeg", "application/octet-stream"} <= set(body)
