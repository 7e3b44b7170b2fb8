"""`swinkit serve` as a process: its start, its end, and what it says when it cannot."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

import swinkit
from serving import forms, picture, small_predictor, wait_for
from swinkit.cli import run
from swinkit.errors import CheckpointError, ConfigError, ServeError
from swinkit.serve import Settings
from swinkit.serve.starting import bind, name_models


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process") / "my-model"
    small_predictor(folder)
    return folder


class Process:
    """A server, and what it said."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "swinkit", "serve", *map(str, arguments)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(iter(self.process.stderr.readline, "")))
        self.reader.start()
        wait_for(lambda: any("serve: ready" in line for line in self.lines) or self.process.poll() is not None, 120)
        assert self.process.poll() is None, self.lines
        self.url = re.search(r"http://[^\s]+", "".join(self.lines))[0]

    def end(self, number):
        """(exit code, all that it said)"""
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.reader.join(10)
        self.process.stdout.close()
        self.process.stderr.close()
        return code, "".join(self.lines)


def test_a_life(model):
    """Answers, dies by kill -9 under load, comes again on the same port, stops by SIGTERM under load, losing nothing."""
    server = Process(model, "--port", 0)
    port = httpx.URL(server.url).port
    assert server.lines[0].startswith("serve: my-model: 5 classes, ")
    wanted = swinkit.Predictor(model)(picture())
    assert httpx.get(f"{server.url}/models").json()["models"][0]["name"] == "my-model"
    stop, answers = threading.Event(), []
    load = threading.Thread(target=post_until, args=(stop, server.url, answers))
    load.start()
    wait_for(lambda: len(answers) > 3)
    assert server.end(signal.SIGKILL)[0] == -signal.SIGKILL
    again = Process(model, "--port", port)
    assert again.url == server.url
    wait_for(lambda: answers[-1] == wanted.scores)
    code, said = again.end(signal.SIGTERM)
    stop.set()
    load.join(20)
    assert code == 0
    assert "Traceback" not in said
    assert {answer for answer in answers if isinstance(answer, tuple)} == {wanted.scores}, "right, or no connection"
    assert {answer for answer in answers if isinstance(answer, int)} <= {503}


def post_until(stop, url, answers):
    """A client that takes every refusal and goes on."""
    while not stop.is_set():
        try:
            answer = httpx.post(f"{url}/predict", files=forms(picture()), timeout=30)
            guesses = answer.json()["results"][0]["predictions"] if answer.status_code == 200 else None
            answers.append(tuple(guess["probability"] for guess in guesses) if guesses else answer.status_code)
        except httpx.HTTPError:
            answers.append(None)
            time.sleep(0.05)


def test_ctrl_c_is_130_and_a_token_is_asked_for(model, tmp_path):
    (tmp_path / "token").write_text("sesame-open\n")
    server = Process(model, "--port", 0, "--token-file", tmp_path / "token", "--name", "flowers", "--max-mb", 0.001, "--no-access-log")
    headers = {"Authorization": "Bearer sesame-open"}
    assert httpx.get(f"{server.url}/models").status_code == 401
    assert httpx.get(f"{server.url}/models", headers=headers).json()["models"][0]["name"] == "flowers"
    assert httpx.post(f"{server.url}/predict", files=forms(picture()), headers=headers).status_code == 413
    code, said = server.end(signal.SIGINT)
    assert code == 130
    assert said.splitlines()[-1] == "swinkit: interrupted. The server has stopped."
    assert "sesame" not in said
    assert "GET" not in said


def test_a_port_in_use_is_a_sentence(model, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["serve", str(model), "--port", str(port)]) == 1
    err = capsys.readouterr().err
    assert err == f"swinkit: 127.0.0.1:{port} is in use by another program; end it, or give another --port (0: any free one).\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none"], "none"),
        (["none.onnx"], "There is no none.onnx"),
        (["broken"], "broken"),
        (["ok", "--host", "no.such.host.invalid"], "is not known here"),
        (["ok", "--host", "192.0.2.1"], "cannot be listened on"),
        (["ok", "--token-file", "nowhere"], "No such file"),
        (["ok", "--max-mb", "0"], "--max-mb is 0; expected a number above 0"),
        (["ok", "--max-megapixels", "nan"], "--max-megapixels is nan"),
        (["ok", "--queue", "0"], "queue is 0; expected a whole number"),
        (["ok", "ok"], "give --name for each"),
        (["ok", "--name", "a", "b"], "There are 2 names for 1 models"),
        (["ok", "--device", "cuda:99"], "cannot be used"),
    ],
)
def test_what_cannot_start_is_a_sentence(model, tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ok").symlink_to(model)
    (tmp_path / "broken").mkdir()
    for file in model.iterdir():
        (tmp_path / "broken" / file.name).write_bytes(file.read_bytes()[:-100])
    assert run(["serve", *arguments, "--port", "0"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("swinkit: ")
    assert says in err
    assert "Traceback" not in err


def test_wrong_usage_is_2(capsys):
    assert run(["serve"]) == 2
    assert run(["serve", "m", "--port", "many"]) == 2
    assert run(["serve", "m", "--token", "never-on-a-command-line"]) == 2


def test_a_missing_extra_is_a_sentence(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run(["serve", str(model)]) == 1
    assert "pip install 'swinkit[serve]'" in capsys.readouterr().err


def test_the_token_comes_from_the_environment(monkeypatch, model):
    seen = []
    monkeypatch.setenv("SWINKIT_TOKEN", "sesame-open")
    monkeypatch.setattr("swinkit.serve.starting.start", lambda *arguments: seen.extend(arguments))
    assert run(["serve", str(model), "--max-batch", "3", "--timeout", "2.5"]) == 0
    settings = seen[2]
    assert (settings.token, settings.max_batch, settings.timeout_s) == ("sesame-open", 3, 2.5)
    assert (settings.host, settings.port, settings.max_bytes, settings.max_pixels) == ("127.0.0.1", 8000, 32 * 2**20, 50_000_000)


def test_an_empty_token_is_not_no_token(monkeypatch, model, tmp_path, capsys):
    monkeypatch.setattr("swinkit.serve.starting.start", lambda *arguments: pytest.fail("it started, open to all"))
    monkeypatch.setenv("SWINKIT_TOKEN", "")
    assert run(["serve", str(model)]) == 1
    assert "The token has 0 characters" in capsys.readouterr().err
    (tmp_path / "token").touch()
    assert run(["serve", str(model), "--token-file", str(tmp_path / "token")]) == 1


def test_a_token_that_others_may_read_is_warned_of(monkeypatch, model, tmp_path, capsys):
    seen = []
    monkeypatch.setattr("swinkit.serve.starting.start", lambda *arguments: seen.append(arguments[2].token))
    file = tmp_path / "token"
    file.write_text("sesame-open\r\n")
    for mode, warned in ((0o600, False), (0o644, True), (0o640, False)):
        file.chmod(mode)
        assert run(["serve", str(model), "--token-file", str(file)]) == 0
        assert ("chmod 600" in capsys.readouterr().err) is warned
    assert seen == ["sesame-open"] * 3


def test_listening_to_everybody_without_a_token_is_warned_of(monkeypatch):
    from swinkit.serve.starting import _announce

    for host, token, warned in (("0.0.0.0", None, True), ("0.0.0.0", "sesame-open", False), ("127.0.0.1", None, False)):
        said = []
        settings = Settings(host=host, port=0, token=token)
        with bind(settings) as listener:
            _announce(settings, listener, said.append)
        assert any(line.startswith("WARNING") for line in said) is warned


def test_names(tmp_path):
    (tmp_path / "a.onnx").touch()
    for folder in ("run.1/best", "run-2"):
        (tmp_path / folder).mkdir(parents=True)
    paths = [tmp_path / "a.onnx", tmp_path / "run.1" / "best", tmp_path / "run-2"]
    assert list(name_models(paths, None)) == ["a", "run.1", "run-2"]
    assert list(name_models(paths[:1], ["b"])) == ["b"]
    for wrong in ((paths[:1], ["a\nb"]), ([], None)):
        with pytest.raises(ConfigError):
            name_models(*wrong)


def test_errors_have_types(model, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ServeError):
        swinkit.serve(model, settings=Settings(port=taken.getsockname()[1]))
    with pytest.raises(CheckpointError):
        swinkit.serve(tmp_path / "nothing", settings=Settings(port=0))
