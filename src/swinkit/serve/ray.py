"""Where one process is not enough: the same server as a Ray Serve deployment, as many replicas as are needed, on one machine or a cluster.

    swinkit serve runs/my-run --ray --replicas 4 --max-replicas 16

    application = deployment("runs/my-run", replicas=2)          # in a module, for `serve run module:application`
    handle = ray.serve.run(application)
    handle.predict.remote(content).result()                      # from other deployments, without HTTP

Every replica is the whole application of `create_app`: routes, limits, token, answers and micro-batches are those of a single server. Ray
starts the replicas, spreads the requests and replaces replicas that die.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinkit.errors import ConfigError, ServeError
from swinkit.runtimes.artefacts import need
from swinkit.serve.settings import Settings
from swinkit.tasks.text import printable

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

    from swinkit.predict import Predictor

Models = tuple[tuple[str, str], ...]
"""(name, what Predictor opens) of each."""
APPLICATION = "swinkit"


def deployment(
    *models: str | Path,
    names: Sequence[str] | None = None,
    replicas: int = 1,
    max_replicas: int | None = None,
    settings: Settings | None = None,
    device: str = "auto",
    amp: bool | None = False,
    cpus: float = 1.0,
    gpus: float | None = None,
    autoscaling: Mapping[str, Any] | None = None,
) -> Application:
    """A Ray Serve application that answers as `swinkit serve` does; for `ray.serve.run` and Ray's `serve run`.

    models, names, device, amp: as of `swinkit.serve`; every machine of the cluster has to find the models under these paths.
    replicas: how many there are, or, with max_replicas, the least; between them Ray follows the load, aiming at `settings.max_batch`
    requests under way per replica. autoscaling: further fields of Ray's AutoscalingConfig. settings: limits of each replica, whose
    max_batch and max_wait_ms also hold for the handle; host and port are those of `ray.serve.start`. cpus, gpus: what a replica takes;
    the model computes with so many threads. gpus: by default 1 where the device is a GPU.
    Errors: ConfigError for numbers and names that cannot be, and if Ray is not installed. What a model is wrong about, Ray's log tells.
    """
    serve = need("ray.serve", "ray", "A Ray deployment")
    from swinkit.serve.starting import name_models

    settings = settings or Settings()
    _check(replicas, max_replicas, cpus)
    named = tuple((name, _absolute(model)) for name, model in name_models(models, names).items())
    gpus = float(device.startswith("cuda")) if gpus is None else gpus
    # Beyond what a replica takes, requests wait with Ray, as many again; the rest gets its 503.
    options = {
        "name": APPLICATION,
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
        "max_ongoing_requests": settings.queue,
        "max_queued_requests": settings.queue,
        "graceful_shutdown_timeout_s": settings.grace_s,
        **_scaling(replicas, max_replicas, settings, autoscaling or {}),
    }
    application: Application = serve.deployment(**options)(_replica(named, settings, device, amp, cpus)).bind()
    return application


def _check(replicas: int, max_replicas: int | None, cpus: float) -> None:
    if replicas < 1 or (max_replicas is not None and max_replicas < replicas):
        raise ConfigError(f"replicas is {replicas} and max_replicas {max_replicas}; expected 1 <= replicas <= max_replicas.")
    if cpus <= 0:
        raise ConfigError(f"cpus is {cpus:g}; expected the processors of one replica, above 0.")


def _absolute(model: str | Path) -> str:
    # Replicas start in folders of their own.
    path = Path(model).expanduser()
    return str(path.resolve()) if path.exists() else str(model)


def _scaling(replicas: int, most: int | None, settings: Settings, more: Mapping[str, Any]) -> dict[str, Any]:
    if most is None and not more:
        return {"num_replicas": replicas}
    bounds = {"min_replicas": replicas, "max_replicas": most or replicas, "target_ongoing_requests": settings.max_batch}
    return {"autoscaling_config": bounds | dict(more)}


def _replica(models: Models, settings: Settings, device: str, amp: bool | None, cpus: float) -> type:
    """The class that Ray makes replicas of. What it needs of swinkit, the replica imports."""
    from ray import serve

    def build() -> FastAPI:
        return _app(models, settings, device, amp)

    @serve.ingress(build)  # called in the replica, after __init__
    class Replica:
        def __init__(self) -> None:
            import torch

            torch.set_num_threads(max(1, int(cpus)))
            self._predictor = next(iter(_predictors(models, device, amp).values()))

        @serve.batch(max_batch_size=settings.max_batch, batch_wait_timeout_s=settings.max_wait_ms / 1000)
        async def predict(self, pictures: list[bytes]) -> list[dict[str, Any]]:
            """The bytes of an image file -> `Prediction.to_dict()` by the first model, or {"source", "error"}."""
            return await asyncio.to_thread(_predictions, self._predictor, pictures, settings)

    return Replica


@cache
def _predictors(models: Models, device: str, amp: bool | None) -> dict[str, Predictor]:
    """Opened once in a replica, which is a process."""
    from swinkit.predict import Predictor

    return {name: Predictor(model, device=device, amp=amp) for name, model in models}


def _app(models: Models, settings: Settings, device: str, amp: bool | None) -> FastAPI:
    from swinkit.serve.app import create_app

    return create_app(_predictors(models, device, amp), settings=settings)


def _predictions(predictor: Predictor, pictures: Sequence[bytes], settings: Settings) -> list[dict[str, Any]]:
    """One batch. A picture that is broken, too large or no bytes spoils its own result alone."""
    from swinkit.predict import Failure
    from swinkit.serve.bodies import Upload
    from swinkit.serve.pictures import open_picture
    from swinkit.serve.problems import ApiError

    def opened(number: int, picture: bytes) -> Any:
        # A path would be a file of the replica's machine.
        if not isinstance(picture, bytes):
            return Failure(f"image {number + 1}", f"This is a {type(picture).__name__}; expected the bytes of an image file.")
        try:
            return open_picture(Upload(None, picture), number, predictor.preprocess, settings.max_pixels)
        except ApiError as error:
            return Failure(f"image {number + 1}", error.message)

    images = [opened(number, picture) for number, picture in enumerate(pictures)]
    return [result.to_dict() for result in predictor.stream(images, top_k=settings.top_k)]


def run(
    models: Sequence[str | Path],
    settings: Settings,
    say: Callable[[str], None],
    *,
    names: Sequence[str] | None = None,
    replicas: int = 1,
    max_replicas: int | None = None,
    device: str = "auto",
    amp: bool | None = False,
) -> None:
    """Serve the deployment at `settings.host` and `port` until SIGTERM (returns) or Ctrl-C (KeyboardInterrupt).

    It joins the cluster that the variable RAY_ADDRESS names, else it starts Ray on this machine and ends it afterwards. Replicas share the
    processors evenly. Arguments: those of `deployment`. Errors: those of Predictor and `deployment`; ServeError for an address
    that is taken, or replicas that do not start.
    """
    ray, serve = need("ray", "ray", "swinkit serve --ray"), need("ray.serve", "ray", "swinkit serve --ray")
    _check(replicas, max_replicas, 1)
    settings = settings.at_home()
    joined = ray.is_initialized() or bool(os.environ.get("RAY_ADDRESS"))
    _check_address(settings, say, alone=not joined)
    _try_models(models, names, device, amp, say)
    with _cluster(ray, serve, joined), _stopping() as stop:
        cpus = _share(ray.available_resources().get("CPU", 0), replicas, max_replicas)
        application = deployment(
            *models, names=names, replicas=replicas, max_replicas=max_replicas, settings=settings, device=device, amp=amp, cpus=cpus
        )
        serve.start(http_options={"host": settings.host, "port": settings.port})
        try:
            serve.run(application, name=APPLICATION, route_prefix="/")
            say(f"ready on http://{settings.host}:{settings.port}, {cpus} processors a replica")
            stop.wait()
        except RuntimeError as error:
            raise ServeError(f"The replicas did not start; Ray's log says why ({error}).") from None
        finally:
            serve.delete(APPLICATION)


@contextlib.contextmanager
def _cluster(ray: Any, serve: Any, joined: bool) -> Iterator[None]:
    """Ray, joined or started here. In a cluster of others nothing but the own application may be ended."""
    connected = not ray.is_initialized()
    if connected:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(log_to_driver=False, logging_level="error", **({} if joined else {"include_dashboard": False}))
    try:
        yield
    finally:
        if not joined:
            serve.shutdown()
        if connected:
            ray.shutdown()


def _check_address(settings: Settings, say: Callable[[str], None], alone: bool) -> None:
    """Errors: ConfigError, ServeError for an address that Ray's proxy could not listen on, which would only stand in its log.

    alone: Ray does not run yet, so that nobody may be there; of a cluster the proxies may be there already.
    """
    from swinkit.serve.starting import bind

    if settings.port == 0:
        raise ConfigError("The port is 0, any free one; Ray's proxies all listen on the same, so name it: --port 8000.")
    if alone:
        bind(settings).close()
    if settings.host not in ("127.0.0.1", "localhost", "::1") and settings.token is None:
        say(f"WARNING: {settings.host} may be reached from other machines, and no token is asked for; give --token-file.")


def _try_models(
    models: Sequence[str | Path], names: Sequence[str] | None, device: str, amp: bool | None, say: Callable[[str], None]
) -> None:
    """Replicas that cannot open their model are started again for minutes; here it is one sentence at once."""
    from swinkit.predict import Predictor
    from swinkit.serve.starting import name_models

    for name, model in name_models(models, names).items():
        say(f"{printable(name)}: {len(Predictor(model, device=device, amp=amp).classes)} classes")


def _share(cpus: float, replicas: int, max_replicas: int | None) -> int:
    """Processors of a replica. Errors: ConfigError if there is not one for each, for then Ray would wait for more machines."""
    if cpus < replicas:
        raise ConfigError(
            f"Ray has {cpus:g} free processors for {replicas} replicas; ask for fewer, or join a larger cluster (RAY_ADDRESS)."
        )
    return max(1, int(cpus) // (max_replicas or replicas))


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM sets."""
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
