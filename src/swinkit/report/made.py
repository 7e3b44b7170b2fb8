"""How a run was made, from environment.json: its commands, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swinkit.report.history import number
from swinkit.tasks.text import clock

Environment = Mapping[str, Any]


@dataclass(frozen=True)
class Start:
    """A start or a resumption: when, by which command, and what differs from the session before."""

    heading: str
    command: str
    changes: tuple[str, ...]


def starts(sessions: Sequence[Environment]) -> list[Start]:
    """One for each session, in order."""
    before: dict[str, str] = {}
    told = []
    for place, session in enumerate(sessions):
        now = flat(session)
        told.append(Start(_heading(session), str(session.get("command") or "swinkit.train(...)"), _changes(before, now) if place else ()))
        before = now
    return told


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    differ = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
    return tuple(f"{name}: {now.get(name, 'not set')} instead of {before.get(name, 'not set')}" for name in differ)


def flat(session: Environment) -> dict[str, str]:
    """An environment as name -> text: versions, hardware, threads, variables."""
    versions, variables = (_mapping(session.get(name)) for name in ("versions", "variables"))
    gpus = session.get("gpus")
    facts = {
        "platform": session.get("platform"),
        "CPU": session.get("cpu"),
        "GPU": _counted(gpus) if isinstance(gpus, list) else None,
        "threads": session.get("threads"),
        "processes": session.get("processes"),
    }
    said = {str(name).replace("python", "Python"): str(value) for name, value in versions.items()}
    return (
        said
        | {name: str(value) for name, value in facts.items() if value not in (None, "")}
        | {str(k): str(v) for k, v in variables.items()}
    )


def hardware(session: Environment, device: str) -> str:
    """What `device` ("cpu", "cuda:0") is, in words; empty where the session does not say."""
    gpus = session.get("gpus")
    if device.startswith("cuda") and isinstance(gpus, list) and gpus:
        return _counted(gpus)
    return str(session.get("cpu") or "")


def _counted(gpus: Sequence[Any]) -> str:
    names = [str(name) for name in gpus]
    return ", ".join(f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names))


def _heading(session: Environment) -> str:
    step = number(session, "step")
    what = f"Resumed at step {step:,.0f}" if step > 0 else "Started"
    time = str(session.get("time", "")).replace("T", " ").replace("Z", " UTC")
    seconds = number(session, "seconds")
    return ", ".join(part for part in (what, time, f"ran for {clock(seconds)}" if seconds >= 0 else "") if part)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
