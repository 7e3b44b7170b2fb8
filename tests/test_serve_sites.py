"""What pages of other sites may not do with a server that asks for no token."""

import socket

import pytest

from serving import Told, forms, picture, problem, running
from swinkit.errors import ConfigError
from swinkit.serve import Settings


@pytest.fixture(scope="module")
def client():
    with running(Told(), hosts=("images.example.org",)) as (client, _):
        yield client


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:1"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "HERE"}, True),
    ],
)
def test_pages_of_other_sites_compute_nothing(client, headers, taken):
    headers = {name: value.replace("HERE", str(client.base_url).rstrip("/")) for name, value in headers.items()}
    answer = client.post("/predict", files=forms(picture()), headers=headers)
    if taken:
        assert answer.status_code == 200
    else:
        assert problem(answer) == (403, "cross_site")
    assert client.get("/models", headers=headers).status_code == 200, "looking is harmless: no page of another site reads it"


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("app.localhost", True),
        ("127.0.0.1", True),
        ("[::1]:8000", True),
        ("192.0.2.7:80", True),
        ("images.example.org", True),
        ("images.example.org.:443", True),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("[", False),
        ("@", False),
    ],
)
def test_names_that_are_not_the_servers_are_refused(client, host, known):
    for answer in (
        client.get("/models", headers={"Host": host}),
        client.post("/predict", files=forms(picture()), headers={"Host": host}),
        client.get("/", headers={"Host": host}),
    ):
        assert answer.status_code == 200 if known else problem(answer) == (403, "unknown_host")
    assert known or 'swinkit_refused_total{code="unknown_host"}' in client.get("/metrics").text


def test_no_name_at_all_is_an_old_program(client):
    with socket.create_connection(("127.0.0.1", client.base_url.port)) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_with_a_token_any_name_and_page_will_do():
    with running(Told(), token="sesame-open") as (client, _):
        headers = {"Host": "elsewhere.example", "Sec-Fetch-Site": "cross-site", "Authorization": "Bearer sesame-open"}
        assert client.post("/predict", files=forms(picture()), headers=headers).status_code == 200


def test_only_at_home_names_are_asked_for():
    assert Settings(host="0.0.0.0").at_home().hosts == ()
    assert Settings(host="::1").at_home().hosts == Settings(host="localhost").at_home().hosts == ("localhost",)
    assert Settings(hosts=("a.example",)).at_home().hosts == ("a.example",)
    for wrong in (("A",), ("a:80",), ("",), ["a"]):
        with pytest.raises(ConfigError, match="names in lower case"):
            Settings(hosts=wrong)
