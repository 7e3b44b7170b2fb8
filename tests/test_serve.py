"""The routes, over a real server: Predictor's numbers, and every answer that is none."""

import asyncio
import base64
import re
import socket
import threading
import time

import httpx
import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

import swinkit
from serving import LABELS, Told, forms, in_threads, picture, problem, running, small_predictor, wait_for
from swinkit.errors import ConfigError
from swinkit.explain.overlay import overlay
from swinkit.serve import Settings
from swinkit.serve.service import Service

PNG = {"Content-Type": "image/png"}
CUT = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf a file\r\n--b'


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return small_predictor(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def client(predictor):
    with running({"first": predictor, "told": Told()}) as (client, _):
        yield client


def guesses(result):
    return [(guess["label"], guess["index"], guess["probability"]) for guess in result["predictions"]]


def wanted(prediction):
    return list(zip(prediction.labels, prediction.indices, prediction.scores, strict=True))


@pytest.mark.parametrize("form", ["multipart", "raw", "octets", "json"])
def test_one_image_has_predictors_numbers_to_the_bit(client, predictor, form):
    content = picture(3)
    body = {
        "multipart": {"files": forms(content)},
        "raw": {"content": content, "headers": PNG},
        "octets": {"content": content, "headers": {"Content-Type": "application/octet-stream"}},
        "json": {"json": {"images": [base64.b64encode(content).decode()]}},
    }[form]
    answer = client.post("/predict", **body)
    assert answer.status_code == 200
    said = answer.json()
    assert guesses(said["results"][0]) == wanted(predictor(content))
    assert said["results"][0]["name"] == ("p.png" if form == "multipart" else None)
    assert said["model"] == "first"
    assert said["request_id"] == answer.headers["x-request-id"]
    assert 0 < said["timing_ms"]["model"] <= said["timing_ms"]["total"]


def test_several_images_keep_their_order(client, predictor):
    contents = [picture(seed) for seed in range(7)]
    results = client.post("/predict?top_k=2", files=forms(*contents)).json()["results"]
    for result, alone in zip(results, predictor(contents, top_k=2), strict=True):
        assert [guess[:2] for guess in guesses(result)] == [guess[:2] for guess in wanted(alone)]
        assert [guess[2] for guess in guesses(result)] == pytest.approx(alone.scores, abs=1e-6)


def test_vectors_are_those_of_embed(client, predictor):
    contents = [picture(seed) for seed in range(2)]
    said = client.post("/embed", files=forms(*contents)).json()
    model = swinkit.from_pretrained(predictor.source).eval()
    with torch.no_grad():
        features = model.forward_features(torch.stack([predictor.prepare(content) for content in contents]))
        vectors = model.forward_head(features, pre_logits=True)
    np.testing.assert_allclose([result["embedding"] for result in said["results"]], vectors.numpy(), rtol=1e-4, atol=1e-5)
    assert problem(client.post("/embed?model=told", files=forms(*contents))) == (501, "no_features")


def test_explanations_are_those_of_explain(client, predictor):
    content = picture(2)
    model = swinkit.from_pretrained(predictor.source).eval()
    for query, label in (("", None), ("?label=cat", "cat"), ("?label=2", 2)):
        answer = client.post(f"/explain{query}", files=forms(content))
        assert answer.headers["content-type"] == "image/png"
        assert answer.content == overlay(model, content, label)
    assert problem(client.post("/explain?label=cow", files=forms(content))) == (404, "no_such_label")
    assert problem(client.post("/explain", files=forms(content, content))) == (413, "too_many_images")
    assert problem(client.post("/explain?model=told", files=forms(content))) == (501, "no_explanation")


def test_models_say_what_they_are(client, predictor):
    first, told = client.get("/models").json()["models"]
    assert (first["name"], first["classes"], first["img_size"], first["embeds"]) == ("first", list(LABELS), [32, 32], True)
    assert first["about"] == predictor.runtime.about
    assert (told["name"], told["embeds"], told["explains"]) == ("told", False, False)
    assert first["explains"] is True
    named = client.post("/predict?model=told", files=forms(picture()))
    assert named.json()["model"] == "told"


def test_states_and_headers(client):
    assert client.get("/health").json() == {"status": "alive"}
    assert (client.get("/ready").status_code, client.get("/ready").json()) == (200, {"status": "ready"})
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "access-control-allow-origin" not in client.get("/models", headers={"Origin": "http://evil.example"}).headers
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)[1]
    assert f'nonce="{nonce}"' in answer.text
    assert "{{nonce}}" not in answer.text
    assert nonce not in client.get("/").text


def test_the_documentation_loads_nothing_and_lists_every_route(client):
    answer = client.get("/docs")
    document = client.get("/openapi.json").json()
    assert all(f"{method.upper()} {path}<" in answer.text for path, methods in document["paths"].items() for method in methods)
    assert "A name from GET /models" in answer.text
    assert {"&quot;file&quot;", "&quot;base64&quot;", "application/octet-stream"} <= set(
        re.findall(r"&quot;\w+&quot;|application/[\w-]+", answer.text)
    )
    assert "http" not in answer.text
    assert re.findall(r'(?:src|href)="([^"]*)"', answer.text) == ["openapi.json"]
    assert re.search(r'nonce="([^"]+)"', answer.text)[1] in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("route", "body", "says"),
    [
        ("/predict", {"content": b"no image", "headers": PNG}, (400, "bad_image")),
        ("/predict", {"content": b"", "headers": PNG}, (400, "bad_image")),
        ("/predict", {"content": b"x", "headers": {"Content-Type": "text/plain"}}, (415, "unsupported_type")),
        ("/predict", {"content": b"x"}, (415, "unsupported_type")),
        ("/predict", {"content": b"x", "headers": PNG | {"Content-Encoding": "gzip"}}, (415, "unsupported_type")),
        ("/predict?model=none", {"content": b"x", "headers": PNG}, (404, "no_such_model")),
        ("/predict?top_k=0", {"content": b"x", "headers": PNG}, (422, "bad_parameter")),
        ("/predict?topk=3", {"content": b"x", "headers": PNG}, (422, "bad_parameter")),
        ("/predict?top_k=many", {"content": b"x", "headers": PNG}, (422, "bad_parameter")),
        ("/predict", {"files": [("picture", ("a.png", b"x"))]}, (422, "no_image")),
        ("/predict", {"data": {"file": "text"}, "files": [("x", ("a", b"b"))]}, (422, "no_image")),
        ("/predict", {"content": b"--b\r\nbroken", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, (400, "bad_form")),
        ("/predict", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, (400, "bad_form")),
        ("/predict", {"content": CUT, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, (400, "bad_form")),
        ("/predict", {"files": forms(*[b"x"] * 33)}, (413, "too_many_images")),
        ("/predict", {"json": {"images": ["a"] * 33}}, (413, "too_many_images")),
        ("/predict", {"json": {"images": []}}, (422, "bad_json")),
        ("/predict", {"json": {"images": [1]}}, (422, "bad_json")),
        ("/predict", {"json": {"images": ["eA=="], "more": 1}}, (422, "bad_json")),
        ("/predict", {"json": {"images": ["?"]}}, (422, "bad_base64")),
        ("/predict", {"json": {"images": ["http://127.0.0.1/a.png"]}}, (422, "bad_base64")),
        ("/predict", {"content": b"[" * 10**6, "headers": {"Content-Type": "application/json"}}, (422, "bad_json")),
        ("/predict", {"content": b"\xff{", "headers": {"Content-Type": "application/json"}}, (422, "bad_json")),
        ("/nowhere", {"content": b"x"}, (404, "no_such_route")),
        ("/models", {"content": b"x"}, (405, "no_such_method")),
    ],
)
def test_errors_have_one_shape(client, route, body, says):
    answer = client.post(route, **body)
    assert problem(answer) == says
    assert (says[0] != 405) or answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("route", ["/", "/docs", "/openapi.json", "/health", "/ready", "/models", "/metrics"])
def test_head_is_get_without_the_body(client, route):
    head, get = client.head(route), client.get(route)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) > 0
    assert problem(client.get("/models/")) == (404, "no_such_route"), "no redirect to wherever the client says that it is"


def test_head_is_counted_and_refused_as_get_is(client):
    client.head("/health")
    assert (client.head("/predict").status_code, client.head("/predict").headers["allow"]) == (405, "POST")
    assert client.head("/health/").status_code == 404
    assert 'swinkit_requests_total{route="/health",status="200"}' in client.get("/metrics").text


def test_one_bad_image_among_good_ones_is_named(client):
    good = picture()
    answer = client.post("/predict", files=[("file", ("a.png", good)), ("file", ("../b/c.png", good[:100]))])
    assert problem(answer) == (400, "bad_image")
    assert answer.json()["error"]["message"].startswith("c.png is broken")


def test_sizes_are_limited_whatever_is_announced(predictor):
    with running(predictor, max_bytes=9000, max_pixels=2000) as (client, server):
        assert problem(client.post("/predict", content=b"x" * 9001, headers=PNG)) == (413, "body_too_large")
        chunks = (b"x" * 1000 for _ in range(10))
        assert problem(client.post("/predict", content=chunks, headers=PNG)) == (413, "body_too_large")
        assert problem(client.post("/predict", content=picture(size=(50, 41)), headers=PNG)) == (413, "too_many_pixels")
        assert problem(client.post("/predict", content=picture(size=(1000, 1)), headers=PNG)) == (413, "too_many_pixels")
        assert server.service.budget.used == 0


def test_ids_are_the_clients_where_they_are_sane(client):
    for given, kept in (("abc-1.2_3", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("a/b", False), ("", False)):
        answer = client.get("/health", headers={"X-Request-ID": given})
        assert (answer.headers["x-request-id"] == given) is kept
    assert len({client.get("/health").headers["x-request-id"] for _ in range(5)}) == 5


def test_token(predictor):
    with running(predictor, token="sesame-open") as (client, _):
        for given in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic sesame-open"},
            {"Authorization": "Bearer sesame-opeñ".encode()},
        ):
            for route in ("/models", "/metrics"):
                answer = client.get(route, headers=given)
                assert problem(answer) == (401, "no_access")
                assert answer.headers["www-authenticate"] == "Bearer"
            assert problem(client.post("/predict?top_k=x", headers=given)) == (401, "no_access")
        right = {"Authorization": "Bearer sesame-open"}
        assert client.post("/predict", files=forms(picture()), headers=right).status_code == 200
        assert {client.get(route).status_code for route in ("/health", "/ready", "/", "/openapi.json")} == {200}
        assert "elk" not in client.get("/").text, "the models are not told without the token"
    assert "sesame" not in repr(Settings(token="sesame-open"))


def test_overload_is_refused_and_what_was_taken_is_answered():
    told = Told(shut=True)
    with running(told, queue=4, max_batch=2) as (client, server):
        threads, answers = in_threads(lambda n: client.post("/predict", files=forms(picture(n))), 12)
        wait_for(lambda: sum(answer is not None for answer in answers) == 8)
        assert server.service.models["m"].batcher.taken == 4
        refused = [answer for answer in answers if answer is not None]
        assert {problem(answer) for answer in refused} == {(503, "overloaded")}
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
        assert problem(client.post("/predict", files=forms(*[picture()] * 5))) in ((413, "too_many_images"), (503, "overloaded"))
        told.gate.set()
        for thread in threads:
            thread.join(20)
        assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 8
        assert sum(told.batches) == 4
        assert client.post("/predict", files=forms(picture())).status_code == 200


def test_uploads_in_flight_are_bounded():
    with running(Told(), max_bytes=6000, bytes_in_flight=9000, body_timeout_s=20) as (client, server):
        port = client.base_url.port
        slow = half_a_request(port, 6000, 5000)
        wait_for(lambda: server.service.budget.used == 5000)
        assert problem(client.post("/predict", content=b"x" * 5000, headers=PNG)) == (503, "overloaded")
        assert problem(client.post("/predict", content=b"x" * 3000, headers=PNG)) == (400, "bad_image")
        slow.close()
        wait_for(lambda: server.service.budget.used == 0)


def half_a_request(port, announced, sent):
    """A client that stops in the middle of its body."""
    connection = socket.create_connection(("127.0.0.1", port))
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {announced}\r\n\r\n"
    connection.sendall(head.encode() + b"x" * sent)
    connection.settimeout(20)
    return connection


def test_slow_clients_block_nobody_and_are_given_up():
    with running(Told(), body_timeout_s=1.0, header_timeout_s=0.5, connections=64) as (client, server):
        port = client.base_url.port
        bodies = [half_a_request(port, 1000, 10) for _ in range(20)]
        heads = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        for connection in heads:
            connection.sendall(b"GET /health HTTP/1.1\r\nX: ")
            connection.settimeout(20)
        assert client.post("/predict", files=forms(picture())).status_code == 200
        assert all(connection.recv(100).startswith(b"HTTP/1.1 408") for connection in bodies)
        assert all(connection.recv(100) == b"" for connection in heads), "closed without a word"
        for connection in bodies + heads:
            connection.close()
        assert server.service.budget.used == 0


def test_connections_are_bounded():
    with running(Told(), connections=5, header_timeout_s=20) as (client, server):
        port = client.base_url.port
        client.get("/health")
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
        wait_for(lambda: len(server.server_state.connections) == 5)
        with socket.create_connection(("127.0.0.1", port)) as one_more:
            one_more.settimeout(20)
            assert one_more.recv(200).startswith(b"HTTP/1.1 503")
        assert client.get("/health").status_code == 200
        for connection in idle:
            connection.close()


def test_too_slow_is_504_and_its_images_are_dropped():
    told = Told(shut=True)
    with running(told, timeout_s=0.3, max_batch=1) as (client, server):
        threads, answers = in_threads(lambda n: client.post("/predict", files=forms(picture(n))), 3)
        for thread in threads:
            thread.join(20)
        assert {problem(answer) for answer in answers} == {(504, "timeout")}
        told.gate.set()
        wait_for(lambda: server.service.models["m"].batcher.taken == 0)
        assert told.batches == [1], "two had not begun"


def test_images_of_a_client_that_left_are_dropped():
    told = Told(shut=True)
    with running(told, max_batch=1) as (client, server):
        threads, _ = in_threads(lambda n: client.post("/predict", files=forms(picture())), 1)
        assert told.entered.wait(20)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/predict", files=forms(picture(1)), timeout=0.5)
        wait_for(lambda: server.service.in_flight == 1)
        told.gate.set()
        threads[0].join(20)
        wait_for(lambda: server.service.models["m"].batcher.taken == 0)
        assert told.batches == [1]
        assert 'route="/predict",status="499"' in client.get("/metrics").text


def test_a_model_that_fails_is_500_and_the_next_request_is_answered(capfd):
    told = Told(error=RuntimeError("secret inside"))
    with running(told) as (client, _):
        answer = client.post("/predict", files=forms(picture()))
        assert problem(answer) == (500, "model_failed")
        assert "secret" not in answer.text
        told.error = None
        assert client.post("/predict", files=forms(picture())).status_code == 200
    err = capfd.readouterr().err
    assert "secret inside" in err
    assert answer.headers["x-request-id"] in err


def test_logits_that_are_not_finite_are_500(capfd):
    told = Told()
    told.run = lambda images: torch.full((len(images), 5), float("nan"))
    with running(told) as (client, _):
        assert problem(client.post("/predict", files=forms(picture())))[0] == 500


def test_a_model_that_cannot_warm_up_ends_the_server():
    from swinkit.errors import ServeError

    told = Told()
    told.run = lambda images: 1 / 0
    with running(told) as (_, server):
        wait_for(lambda: server.service.stopped)
        with pytest.raises(ServeError, match="warm-up"):
            server.check_end()


@pytest.mark.parametrize("queue", [1, 3])
def test_requests_during_the_warm_up_do_no_harm(queue):
    """They fill the queue, and the warm-up goes without a place."""
    told = Told(shut=True)
    service = Service({"m": told}, Settings(queue=queue, max_batch=4, decoders=1))
    batcher = service.models["m"].batcher
    with batcher.places(queue):
        asyncio.run(service.warm_up())
    assert service.ready
    assert service.problem is None
    service.close()


def test_stopping_during_the_warm_up_is_no_problem():
    service = Service({"m": Told()}, Settings(decoders=1))
    service.close()
    asyncio.run(service.warm_up())
    assert service.problem is None
    assert not service.ready


def test_warming_up_is_not_ready():
    told, gate = Told(), threading.Event()
    told.run = lambda images: gate.wait(20) and torch.zeros(len(images), 5)

    def look(url):
        wait_for(lambda: reachable(url))
        seen.append(
            (httpx.get(f"{url}/ready").status_code, httpx.get(f"{url}/ready").json()["status"], httpx.get(f"{url}/health").status_code)
        )
        gate.set()

    seen = []
    import serving

    bound = serving.bind

    def watched(settings):
        listener = bound(settings)
        threading.Thread(target=look, args=(f"http://127.0.0.1:{listener.getsockname()[1]}",)).start()
        return listener

    serving.bind = watched
    try:
        with running(told) as (client, _):
            assert client.get("/ready").status_code == 200
    finally:
        serving.bind = bound
    assert seen == [(503, "warming up", 200)]


def reachable(url):
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.HTTPError:
        return False


def test_shutdown_answers_what_was_taken_and_refuses_what_is_new():
    told = Told(shut=True)
    with running(told) as (client, server):
        threads, answers = in_threads(lambda n: client.post("/predict", files=forms(picture())), 2)
        wait_for(lambda: server.service.models["m"].batcher.taken == 2)
        server.handle_exit(15, None)
        assert problem(client.post("/predict", files=forms(picture()))) == (503, "shutting_down")
        assert (client.get("/ready").status_code, client.get("/ready").json()["status"]) == (503, "stopping")
        time.sleep(0.3)
        told.gate.set()
        for thread in threads:
            thread.join(20)
        assert [answer.status_code for answer in answers] == [200, 200]
        wait_for(lambda: not server.server_state.connections)


def test_a_model_that_hangs_delays_the_end_by_the_grace_at_most():
    told = Told(shut=True)
    began = time.monotonic()
    with running(told, grace_s=0.3) as (client, server):
        threads, answers = in_threads(lambda n: client.post("/predict", files=forms(picture())), 1)
        assert told.entered.wait(20)
        server.handle_exit(15, None)
        threads[0].join(20)
        assert problem(answers[0]) == (503, "shutting_down")
    assert time.monotonic() - began < 15
    told.gate.set()


def test_metrics_count(predictor):
    with running(predictor, max_batch=4) as (client, _):
        client.post("/predict", files=forms(*[picture()] * 6))
        client.post("/predict", content=b"x", headers=PNG)
        client.get("/nowhere")
        answer = client.get("/metrics")
        found = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
    assert found["swinkit_requests_total", "/predict", "200"] == 1
    assert found["swinkit_requests_total", "/predict", "400"] == 1
    assert found["swinkit_requests_total", "404", "other"] == 1, "routes that are not there share one label"
    assert found["swinkit_request_seconds_count", "/predict"] == 2
    assert found["swinkit_refused_total", "bad_image"] == 1
    assert found["swinkit_images_total", "m"] == 6 + 1 + 4, "the warm-up's too"
    assert found["swinkit_batch_images_count", "m"] == 4
    assert found["swinkit_queue_images", "m"] == 0
    assert found[("swinkit_ready",)] == 1
    assert found[("process_resident_memory_bytes",)] > 1e6


def test_the_log_has_one_printable_line_per_request(capfd):
    with running(Told(), access_log=True) as (client, _):
        client.post("/predict", files=forms(picture()), headers={"X-Request-ID": "abc"})
        client.get("/a%0Ab%1B[31m")
        client.request("A" * 3000, "/health")
        client.head("/health")
    lines = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"127\.0\.0\.1 POST /predict 200 [\d.]+ ms 1 image abc", lines[0])
    assert len(lines) == 4
    assert f"127.0.0.1 {'A' * 16} /health 405" in lines[2]
    assert "HEAD /health 200" in lines[3]
    assert r"/a\nb\x1b[31m 404" in lines[1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"port": 70000}, "port is 70000; expected a whole number, 0 to 65535"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"queue": 1.5}, "queue is 1.5"),
        ({"timeout_s": 0}, "timeout_s is 0; expected a number above 0"),
        ({"max_wait_ms": -1}, "max_wait_ms is -1"),
        ({"grace_s": float("nan")}, "grace_s is nan"),
        ({"host": ""}, "host is ''"),
        ({"token": "short"}, "The token has 5 characters"),
        ({"token": "with a space"}, "no spaces"),
        ({"max_bytes": 2**40}, "bytes_in_flight"),
    ],
)
def test_settings_are_checked(changes, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        Settings(**changes)


def test_an_app_needs_a_model():
    from swinkit.serve.app import create_app

    with pytest.raises(ConfigError, match="no model"):
        create_app({})
