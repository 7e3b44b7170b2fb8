"""The other end of a worker: starts its process, asks, and says in a sentence why it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from swinkit.bench.jobs import Job

COMMAND = (sys.executable, "-P", "-m", "swinkit.bench.worker")
"""Without the working folder on the path, where a file may have the name of a library."""
MEMORY_WORDS = ("can't allocate memory", "bad allocation", "bad_alloc", "cannot allocate memory", "out of memory")


class WorkerError(Exception):
    """A runtime that could not be built or stopped working; the message is a sentence."""


class Worker:
    """A process that runs one job, alone in its process group so that Ctrl-C reaches the asking side only."""

    def __init__(self, job: Job) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, encoding="utf-8", start_new_session=True
        )
        try:
            self.says = str(self._answer(json.dumps(asdict(job))))
        except BaseException:
            self.close()
            raise

    def ask(self, command: str, *arguments: Any) -> Any:
        """The answer to a command. Errors: WorkerError."""
        return self._answer(json.dumps([command, *arguments]))

    def _answer(self, line: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
            reply = self._process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            raise WorkerError(self._ending())
        content = json.loads(reply)
        if "error" in content:
            raise WorkerError(explained(content["kind"], content["error"]))
        return content["answer"]

    def _ending(self) -> str:
        code = self._process.wait()
        if code == -9:
            return "Its process was killed by the system, most likely for its memory; give a smaller batch or model."
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        return f"Its process ended with {code}: {lines[-1]}"

    def close(self) -> None:
        """End the process and those that it started; it does not finish what it is at."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL) if hasattr(os, "killpg") else self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self._errors.close()


def explained(kind: str, message: str) -> str:
    """A sentence for an exception of a worker: its first line, or that memory was short."""
    if kind == "MemoryError" or any(word in message.lower() for word in MEMORY_WORDS):
        return "There is not enough memory for it; give a smaller batch or model."
    return f"{kind}: {message.strip().splitlines()[0]}"
