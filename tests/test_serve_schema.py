"""schemathesis: requests made from the OpenAPI document, good and bad, get the answers that it declares."""

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.checks import CHECKS
from schemathesis.generation.modes import GenerationMode

from serving import Told, picture, running
from swinkit.serve import models

for kind in ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, st.sampled_from([picture(), picture(kind="JPEG"), picture(size=(1, 1))]))

TAKING = ("/predict", "/embed", "/explain")
LOOKING = ("/models", "/metrics", "/health", "/ready")
SETTINGS = hypothesis.settings(
    max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)


class Able(Told):
    """A model that can do everything."""

    source = "able"

    def features(self, images):
        return images.flatten(1)


@pytest.fixture(scope="module", params=[None, "sesame-open"], ids=["open", "token"])
def server(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swinkit.explain.overlay.overlay", lambda model, image, label=None: b"PNG")
        patch.setattr(models.Served, "_model", lambda self: None)
        with running({"m": Able(), "n": Able()}, token=request.param) as (client, _):
            yield str(client.base_url), {"Authorization": f"Bearer {request.param}"} if request.param else {}


@pytest.mark.parametrize(
    ("path", "mode"), [(path, mode) for path in TAKING for mode in GenerationMode] + [(path, GenerationMode.POSITIVE) for path in LOOKING]
)
def test_answers_are_as_declared(server, path, mode):
    url, headers = server
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path]["POST" if path in TAKING else "GET"]
    # Bytes that fit the schema need not be an image, so 400 is an honest answer to what the schema allows.
    # The token is always sent, also where a request is meant to be wrong for lack of it.
    left_out = [CHECKS.get_one("positive_data_acceptance"), *([CHECKS.get_one("negative_data_rejection")] if headers else [])]
    statuses = set()

    @SETTINGS
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def check(case):
        statuses.add(case.call_and_validate(headers=headers, excluded_checks=left_out).status_code)

    check()
    assert mode is GenerationMode.NEGATIVE or 200 in statuses


def test_the_document_is_complete(server):
    url, headers = server
    document = schemathesis.openapi.from_url(f"{url}/openapi.json").raw_schema
    assert set(document["paths"]) == {*TAKING, *LOOKING}
    for path, methods in document["paths"].items():
        (operation,) = methods.values()
        assert "HTTPValidationError" not in str(operation)
        guarded = bool(headers) and path not in ("/health", "/ready")
        assert ("401" in operation["responses"]) is ("security" in operation) is guarded
        for status, answer in operation["responses"].items():
            assert status == "200" or path == "/ready" or answer["content"]["application/json"]["schema"]["$ref"].endswith("/Failed")
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "application/json", "image/jpeg", "application/octet-stream"} <= set(body)
