"""Which pages of the web may use a server that asks for no token.

A browser sends what any page tells it to, to servers of its own machine too. Two things are refused: requests from pages of other sites
that do more than look (as Go's http.CrossOriginProtection decides: Sec-Fetch-Site, and Origin where a browser does not send it),
and names that are not the server's, by which a page whose own name was made to point here (DNS rebinding) would read answers. Programs send
none of these headers. A token makes both needless: no foreign page has it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from swinkit.serve.problems import ApiError
from swinkit.serve.settings import Settings
from swinkit.tasks.text import printable

SAFE = ("GET", "HEAD", "OPTIONS")


def check_site(method: str, headers: Mapping[str, str], settings: Settings) -> None:
    """headers: by names in lower case. Errors: ApiError (403)."""
    if settings.token is not None:
        return
    host = headers.get("host", "")
    if settings.hosts and host and not _known(_name(host), settings.hosts):
        says = f"This server is not called {printable(host[:60])!r}; use its address, or start it with --allow-host and that name."
        raise ApiError(403, "unknown_host", says)
    if method not in SAFE and _foreign(headers, host):
        says = "The request comes from a page of another site; a server without a token takes them from its own page and from programs."
        raise ApiError(403, "cross_site", says)


def _foreign(headers: Mapping[str, str], host: str) -> bool:
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != host.lower()


def _known(name: str, hosts: Collection[str]) -> bool:
    # Only names can be made to point elsewhere, and browsers look localhost up nowhere.
    return name in hosts or name == "localhost" or name.endswith(".localhost") or _is_address(name)


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:  # brackets that hold no address
        return ""


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False
