"""The server as a Ray Serve deployment: two replicas on this machine give what Predictor gives."""

import json
import os
import secrets
import signal
import socket
import urllib.request
import warnings
from urllib.error import HTTPError

import pytest

import swinkit
from swinkit.cli import run
from swinkit.errors import ConfigError, ServeError, SwinkitError
from swinkit.serve import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own
    serve = pytest.importorskip("ray.serve", reason="needs the extra 'ray': pip install 'swinkit[ray]'")
    import ray

from swinkit.serve import ray as with_ray
from swinkit.serve.ray import deployment

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
SETTINGS = Settings(top_k=3, max_images=4, max_batch=8, access_log=False, token="let-me-in")


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def address(trained):
    """Two replicas, where nothing of Ray is left afterwards."""
    port = _free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else it writes one into the home of whoever runs the tests
        yield from serving(trained, port)


def serving(trained, port):
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", object_store_memory=100 * 2**20)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        handle = serve.run(deployment(trained.run, names=["colours"], replicas=2, settings=SETTINGS, cpus=0.5), route_prefix="/two")
        yield f"http://127.0.0.1:{port}/two", handle
    finally:
        serve.shutdown()
        ray.shutdown()


def ask(address, path, content=None, token="let-me-in"):
    headers = {"Content-Type": "image/png", "Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, content, headers), timeout=30) as response:
            return response.status, response.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def test_over_http_it_is_the_server(address, trained, pictures):
    predictor = swinkit.Predictor(trained.run)
    for file in sorted((pictures / "test").rglob("*.png"))[::5]:
        status, content = ask(address[0], "/predict?model=colours", file.read_bytes())
        expected = predictor(file)
        answered = json.loads(content)["results"][0]["predictions"]
        assert status == 200
        assert [guess["label"] for guess in answered] == list(expected.labels)
        assert [guess["probability"] for guess in answered] == pytest.approx(expected.scores, abs=1e-6)
    assert ask(address[0], "/predict", b"no image")[0] == 400
    assert ask(address[0], "/predict", b"", token="another-one")[0] == 401
    assert json.loads(ask(address[0], "/models")[1])["models"][0]["name"] == "colours"
    assert b"Nothing leaves this server" in ask(address[0], "/")[1]


def test_two_replicas_answer_and_batches_keep_their_order(address, trained, pictures):
    processes = serve.status().applications["default"].deployments["swinkit"].replica_states
    assert {str(state).rpartition(".")[2]: count for state, count in processes.items()} == {"RUNNING": 2}
    files = sorted((pictures / "test").rglob("*.png"))
    predictor = swinkit.Predictor(trained.run)
    contents = [b"no image", *(file.read_bytes() for file in files)]
    results = [response.result(timeout_s=60) for response in [address[1].predict.remote(content) for content in contents]]
    assert results[0]["error"].startswith("image ")
    assert [result["label"] for result in results[1:]] == [prediction.label for prediction in predictor(files)]


def test_the_command_serves_until_sigterm_and_leaves_a_cluster_that_it_found(address, trained, pictures):
    root = address[0].removesuffix("/two")
    said = []

    def say(line):
        said.append(line)
        if line.startswith("ready"):
            said.append(ask(root, "/predict", next((pictures / "test").rglob("*.png")).read_bytes())[0])
            os.kill(os.getpid(), signal.SIGTERM)

    with_ray.run([trained.run], Settings(port=int(root.rpartition(":")[2]), access_log=False), say, max_replicas=2)
    assert said == ["colours: 3 classes", f"ready on {root}, 1 processors a replica", 200]
    assert ask(root, "/predict", b"")[0] == 404
    assert ask(address[0], "/models")[0] == 200


def test_a_handle_opens_no_files(address, pictures):
    path = str(next((pictures / "test").rglob("*.png")))
    assert "expected the bytes" in address[1].predict.remote(path).result(timeout_s=60)["error"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"replicas": 0}, "expected 1 <="), ({"replicas": 3, "max_replicas": 2}, "max_replicas 2"), ({"cpus": 0}, "cpus is 0")],
)
def test_numbers_that_cannot_be(wrong, says):
    with pytest.raises(ConfigError, match=says):
        deployment("anything", **wrong)


def test_autoscaling_is_rays(trained):
    made = deployment(trained.run, max_replicas=4, autoscaling={"upscale_delay_s": 3}, settings=SETTINGS)
    scaling = made._bound_deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests, scaling.upscale_delay_s) == (1, 4, 8, 3)


def test_a_wrong_model_is_told_before_ray_starts(tmp_path):
    with pytest.raises(SwinkitError, match="nowhere"):
        with_ray.run([tmp_path / "nowhere"], Settings(port=_free_port()), print)


def test_an_address_that_cannot_be_is_told_before_ray_starts():
    with pytest.raises(ConfigError, match="port is 0"):
        with_ray.run(["anything"], Settings(port=0), print)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServeError, match="in use"):
            with_ray._check_address(Settings(port=taken.getsockname()[1]), print, alone=True)


def test_processors_are_shared():
    assert with_ray._share(8.0, 2, None) == 4
    assert with_ray._share(8.0, 2, 5) == 1
    assert with_ray._share(2.0, 1, 4) == 1
    with pytest.raises(ConfigError, match="2 free processors for 3 replicas"):
        with_ray._share(2.0, 3, None)


def test_replicas_are_rays(trained, capsys):
    assert run(["serve", str(trained.run), "--replicas", "2"]) == 1
    assert "add --ray" in capsys.readouterr().err
