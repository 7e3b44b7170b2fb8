"""What a server is told at its start."""

from __future__ import annotations

import ipaddress
import math
import os
from dataclasses import dataclass, field, fields, replace
from typing import Any

from swinkit.errors import ConfigError

MIB = 2**20


def _default_decoders() -> int:
    return min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Settings:
    """Where a server listens, and its limits. Errors: ConfigError for one that cannot be."""

    host: str = "127.0.0.1"
    """The address to listen on; anything but this machine's own is reachable by others."""
    port: int = 8000
    """0: any free one."""
    token: str | None = field(default=None, repr=False)
    """What clients must send as `Authorization: Bearer TOKEN`; None: nothing."""
    hosts: tuple[str, ...] = ()
    """Names by which clients may call a server without a token, besides addresses and localhost; others get 403. None: any name will do."""
    max_batch: int = 16
    """The most images that the model computes at a time."""
    max_wait_ms: float = 5.0
    """How long a batch waits for images that are being decoded; one that nothing is on the way to does not wait."""
    queue: int = 128
    """Images of one model that are taken and not answered: being decoded, waiting or computed. Beyond that, requests get 503, and also
    where the model, at its pace of late, needs more than four fifths of `timeout_s` for those it has."""
    max_images: int = 32
    """Images per request; never more than `queue`."""
    max_bytes: int = 32 * MIB
    """Bytes of a request's body."""
    max_pixels: int = 50_000_000
    """Pixels of an image, by its header, before it is decoded; and of all images that are decoded at a time."""
    bytes_in_flight: int = 256 * MIB
    """Bytes of all bodies that are held at a time; beyond that, requests get 503."""
    timeout_s: float = 30.0
    """Seconds from the last byte of a request to its answer; then 504, and its images are not computed any more."""
    body_timeout_s: float = 20.0
    """Seconds that the body of a request may take to arrive; then 408."""
    header_timeout_s: float = 10.0
    """Seconds that a connection may take to send the head of a request; then it is closed."""
    grace_s: float = 20.0
    """Seconds in which a server that was told to stop answers what it took."""
    connections: int = 512
    """Connections held at a time; one more gets 503 and is closed."""
    decoders: int = field(default_factory=_default_decoders)
    """Threads that decode images."""
    top_k: int = 5
    """Guesses per image where a request does not say."""
    access_log: bool = True
    """One line per request on stderr."""

    def __post_init__(self) -> None:
        _whole("port", self.port, 0, 65535)
        for name in ("max_batch", "queue", "max_images", "max_bytes", "max_pixels", "bytes_in_flight", "connections", "decoders", "top_k"):
            _whole(name, getattr(self, name), 1)
        for name in ("timeout_s", "body_timeout_s", "header_timeout_s"):
            _number(name, getattr(self, name), above=True)
        for name in ("max_wait_ms", "grace_s"):
            _number(name, getattr(self, name), above=False)
        if not self.host or self.host != self.host.strip():
            raise ConfigError(f"host is {self.host!r}; expected an address such as 127.0.0.1.")
        _check_token(self.token)
        _check_hosts(self.hosts)
        if self.bytes_in_flight < self.max_bytes:
            raise ConfigError(f"bytes_in_flight is {self.bytes_in_flight}; expected at least max_bytes, {self.max_bytes}.")

    @property
    def images_per_request(self) -> int:
        """How many images a request may bring."""
        return min(self.max_images, self.queue)

    def at_home(self) -> Settings:
        """The same; where it listens on this machine alone, by no name but localhost and those of `hosts`."""
        return replace(self, hosts=self.hosts or ("localhost",)) if _is_home(self.host) else self

    @classmethod
    def of(cls, **given: Any) -> Settings:
        """Settings from those that are given; None stands for the default."""
        known = {name.name for name in fields(cls)}
        return cls(**{name: value for name, value in given.items() if value is not None and name in known})


def _is_home(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_hosts(hosts: Any) -> None:
    for name in hosts if isinstance(hosts, tuple) else (hosts,):
        if not isinstance(name, str) or not name or name != name.lower() or set(name) & set("/:@*,[] "):
            raise ConfigError(f"hosts has {name!r}; expected names in lower case, without a port, such as images.example.org.")


def _whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        bound = f"at least {least}" if most is None else f"{least} to {most}"
        raise ConfigError(f"{name} is {value!r}; expected a whole number, {bound}.")


def _number(name: str, value: Any, *, above: bool) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0 or (above and value == 0):
        raise ConfigError(f"{name} is {value!r}; expected a number {'above' if above else 'of at least'} 0.")


def _check_token(token: str | None) -> None:
    # What a header cannot carry could never be sent by a client.
    if token is not None and not (len(token) >= 8 and token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(f"The token has {len(token)} characters; expected at least 8, all of them printable ASCII and no spaces.")
