"""What never becomes a request, and what is never read."""

import json
import socket
import time

import pytest
import torch

from serving import Told, forms, picture, running, wait_for

HEAD = b"POST /predict HTTP/1.1\r\nHost: x.localhost\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def port():
    with running(Told()) as (client, _):
        yield client.base_url.port


def exchange(port, *parts):
    """All that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(20)
        for part in parts:
            connection.sendall(part)
            time.sleep(0.05)
        return b"".join(iter(lambda: received(connection), b""))


def received(connection):
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def said(answer):
    """(status, headers, body) of one answer and no more."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert int(headers["content-length"]) == len(body)
    error = json.loads(body)["error"]
    assert error["request_id"] == headers["x-request-id"]
    assert error["message"].endswith(".")
    return int(lines[0].split()[1]), headers, error["code"]


@pytest.mark.parametrize(
    "parts",
    [
        [b"\x16\x03\x01\x02\r\n\r\n"],
        [b"GET /health HTTP/1.1\r\n\r\n"],
        [b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"],
        [HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"],
        [HEAD + b"Content-Length: -1\r\n\r\n"],
        [HEAD + b"X: a\r\n b\x00\r\n\r\n"],
        [HEAD + b"Transfer-Encoding: gzip\r\n\r\n"],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n"],
    ],
)
def test_what_is_no_request_is_a_400_in_the_shape_of_all_errors(port, parts, capfd):
    status, headers, code = said(exchange(port, *parts))
    assert (status, code, headers["connection"], headers["content-type"]) == (400, "bad_request", "close", "application/json")
    assert "Traceback" not in capfd.readouterr().err


def test_nonsense_after_an_answer_is_not_answered_again(port, capfd):
    answer = exchange(port, HEAD.replace(b"image/png", b"text/x") + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n")
    assert said(answer)[0] == 415
    assert "Traceback" not in capfd.readouterr().err


def test_one_connection_too_many_is_a_503_in_that_shape():
    with running(Told(), connections=1) as (client, _):
        client.get("/health")
        status, headers, code = said(exchange(client.base_url.port))
    assert (status, code, headers["retry-after"]) == (503, "overloaded", "1")


def test_pipelined_requests_are_answered_in_order(port):
    content = picture()
    one = HEAD + f"Content-Length: {len(content)}\r\n\r\n".encode() + content
    answer = exchange(port, one * 3 + b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200"] * 3 + [b"404"]


def unread(server):
    return [held for held in list(server.server_state.connections) if held.transport.get_write_buffer_size()]


def test_a_client_that_never_reads_is_given_up(capfd):
    told = Told()
    told.source = "told"
    told.features = lambda images: torch.rand(len(images), 50_000)
    with running(told, timeout_s=1.0, header_timeout_s=1.0) as (client, server):
        body = client.build_request("POST", "/embed", files=forms(*[picture()] * 8))
        body.read()
        head = f"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: {body.headers['content-type']}\r\n"
        head += f"Content-Length: {len(body.content)}"
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", client.base_url.port))
        deaf.sendall(head.encode() + b"\r\n\r\n" + body.content)
        wait_for(lambda: unread(server))
        wait_for(lambda: not unread(server), 10)
        assert client.get("/health").status_code == 200
        deaf.close()
    assert "Traceback" not in capfd.readouterr().err
