"""From a command to a server that answers, and its end."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from swinkit.errors import ConfigError, ServeError
from swinkit.predict import Predictor
from swinkit.serve.app import create_app
from swinkit.serve.protocol import protocol_for
from swinkit.serve.service import Service
from swinkit.serve.settings import Settings
from swinkit.tasks.text import printable

Say = Callable[[str], None]


def start(models: Sequence[str | Path], names: Sequence[str] | None, settings: Settings, device: str, amp: bool | None, say: Say) -> None:
    """See `swinkit.serve`."""
    named = name_models(models, names)
    with contextlib.closing(bind(settings)) as listener:
        predictors = {name: Predictor(model, device=device, amp=amp) for name, model in named.items()}
        for name, predictor in predictors.items():
            say(f"{printable(name)}: {len(predictor.classes)} classes, {predictor.runtime.about}")
        run(predictors, settings, listener, say)


def name_models(models: Sequence[str | Path], names: Sequence[str] | None) -> dict[str, str | Path]:
    """What clients call each model. Errors: ConfigError for none, for names that are not as many, or not different."""
    if not models:
        raise ConfigError("There is no model to serve; give at least one.")
    if names and len(names) != len(models):
        raise ConfigError(f"There are {len(names)} names for {len(models)} models; give one for each, or none.")
    found = dict(zip(names or map(_usual_name, models), models, strict=True))
    if len(found) < len(models) or not all(name and name.isprintable() for name in found):
        raise ConfigError(f"The models would be called {', '.join(map(repr, found))}; give --name for each, all different and printable.")
    return found


def _usual_name(model: str | Path) -> str:
    # A folder's dots belong to its name; files have a suffix, and a run's weights stand in a folder that says more.
    path = Path(model).expanduser()
    path = path.resolve() if path.exists() else path
    if path.name in ("model.safetensors", "best", "last"):
        path = path.parent
    return path.stem if path.is_file() else path.name


def bind(settings: Settings) -> socket.socket:
    """A socket at the server's address, before anything that takes long. Errors: ServeError."""
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServeError(
            f"The host {settings.host!r} is not known here ({error.strerror or error}); give an address of this machine."
        ) from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port is free again at once after a crash
    try:
        listener.bind(address)
        listener.listen(settings.connections)
    except OSError as error:
        listener.close()
        raise ServeError(_why_not(error, where)) from None
    return listener


def _why_not(error: OSError, where: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use by another program; end it, or give another --port (0: any free one)."
    return f"{where} cannot be listened on ({error.strerror or error}); give another --host or --port."


def run(predictors: Mapping[str, Predictor], settings: Settings, listener: socket.socket, say: Say) -> None:
    """Answer until a signal. Errors: ServeError, KeyboardInterrupt."""
    server = server_for(predictors, settings, say)
    _announce(settings, listener, say)
    server.run(sockets=[listener])
    server.check_end()


def server_for(predictors: Mapping[str, Predictor], settings: Settings, say: Say) -> Server:
    """A server that is not running yet."""
    app = create_app(predictors, settings=settings.at_home())
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # what clients send wrong, they are told
    config = uvicorn.Config(
        app, http=protocol_for(settings), loop="asyncio", ws="none", lifespan="on", log_config=None, log_level="error",
        access_log=False, server_header=False, timeout_keep_alive=5, timeout_graceful_shutdown=2, backlog=settings.connections,
    )  # fmt: skip
    return Server(config, app.state.service, say)


def _announce(settings: Settings, listener: socket.socket, say: Say) -> None:
    host, port = listener.getsockname()[:2]
    say(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}")
    if not ipaddress.ip_address(host.partition("%")[0]).is_loopback and settings.token is None:
        say(f"WARNING: {host} can be reached from other machines, and no token is asked for; give --token-file, or --host 127.0.0.1.")


class Server(uvicorn.Server):
    """uvicorn, with an end in two steps: first 503 for what is new and time for what was taken, then it closes."""

    def __init__(self, config: uvicorn.Config, service: Service, say: Say) -> None:
        super().__init__(config)
        self.service, self.say = service, say
        self.signal: int | None = None
        self._until = 0.0
        self._told = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal stops it, the second at once."""
        if self.signal is not None:
            self.should_exit = self.force_exit = True
        self.signal = sig if self.signal is None else self.signal
        self._until = time.monotonic() + self.service.settings.grace_s
        self.service.stop()

    async def on_tick(self, counter: int) -> bool:
        """Whether it is time to close; asked ten times a second."""
        ended = await super().on_tick(counter) or self.service.problem is not None
        if self.service.ready and not self._told:
            self._told = True
            self.say("ready")
        return ended or (self.signal is not None and self._drained())

    def _drained(self) -> bool:
        late = time.monotonic() - self._until
        if late > 0:
            self.service.give_up()
        return self.service.in_flight == 0 or late > 1

    def check_end(self) -> None:
        """Errors: ServeError for a model that failed at warm-up; KeyboardInterrupt after Ctrl-C."""
        if self.service.problem is not None:
            raise ServeError(f"A model failed at its warm-up ({self.service.problem}); try it with `swinkit predict`.")
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt("The server has stopped.")
