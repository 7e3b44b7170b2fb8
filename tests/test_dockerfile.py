"""What can be known of the Dockerfile without building it: its command is understood, its files exist and reach the build."""

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from swinkit.cli import app

ROOT = Path(__file__).parents[1]
LINES = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).splitlines()
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]


def listed(instruction):
    """The JSON of the last such instruction."""
    return json.loads("[" + [line for line in LINES if line.startswith(f"{instruction} ")][-1].partition("[")[2])


def test_its_command_is_understood():
    command = listed("ENTRYPOINT") + listed("CMD")
    function, bound, _ = app.parse_args(command[1:], exit_on_error=False, print_error=False)
    assert (command[0], function.__name__) == ("swinkit", "serve")
    assert bound.arguments["models"] == ["/model"]
    assert bound.arguments["host"] == "0.0.0.0"


def test_the_commands_in_its_head_are_understood():
    for line in LINES:
        if line.startswith("#") and " swinkit " in line:
            app.parse_args(["serve", *line.partition(" swinkit ")[2].split()], exit_on_error=False, print_error=False)


def test_its_files_exist_and_are_not_ignored():
    copied = [name for line in LINES if line.startswith("COPY") and "--from" not in line for name in line.split()[1:-1]]
    assert {"pyproject.toml", "src", "LICENSE"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in IGNORED
    for name in ("runs/my-run/last", ".git/config", "tests/conftest.py", ".venv/bin/python"):
        assert not any(rule.startswith("!") and fnmatch.fnmatch(name.split("/")[0], rule[1:]) for rule in IGNORED)


def test_its_extras_and_floors_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = "\n".join(LINES)
    assert set(re.findall(r"ARG EXTRAS=(.*)", text)) <= set(project["optional-dependencies"])
    for floor in re.findall(r'"(torch\w*>=[\d.]+)"', text):
        assert floor in project["dependencies"]
    python = re.findall(r"ARG PYTHON=(.*)", text)[0]
    assert tuple(map(int, python.split("."))) >= tuple(map(int, project["requires-python"].strip(">=").split(".")))


def test_it_runs_as_nobody_in_particular():
    last_stage = LINES[max(number for number, line in enumerate(LINES) if line.startswith("FROM")) :]
    assert any(re.fullmatch(r"USER [1-9]\d*", line) for line in last_stage)


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_its_health_check(status, code):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        command = listed("HEALTHCHECK")
        assert command[0] == "python"
        asked = command[2].replace("127.0.0.1:8000", f"127.0.0.1:{server.server_port}")
        done = subprocess.run([sys.executable, command[1], asked], capture_output=True, check=False)
        server.shutdown()
    assert done.returncode == code
