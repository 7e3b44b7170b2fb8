"""The command line: one short function per verb, in `work`, `shipping`, `tools`, `measuring` and `explaining`.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import CycloptsError

from swinkit.cli import explaining as explaining
from swinkit.cli import measuring as measuring
from swinkit.cli import shipping as shipping
from swinkit.cli import tools as tools
from swinkit.cli import work as work
from swinkit.cli.shared import STDIN
from swinkit.cli.shared import app as app
from swinkit.errors import SwinkitError


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        result = app([STDIN if argument == "-" else argument for argument in arguments], exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        print(f"swinkit: {error}\nSee: swinkit {' '.join(arguments[:1])} --help", file=sys.stderr)
        return 2
    except SwinkitError as error:
        print(f"swinkit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"swinkit: interrupted. {stop}".rstrip(), file=sys.stderr)
        return 130
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            return _reader_gone()
        print(f"swinkit: {_about_the_disk(error)}", file=sys.stderr)
        return 1


def _about_the_disk(error: OSError) -> str:
    name = str(error.filename or "")
    if name.endswith(".writing"):
        # Files are written under another name first, which says nothing to anybody.
        return f"{os.path.dirname(name)} cannot be written into ({error.strerror}); choose another place, or change its permissions."
    return f"{error.strerror or error}{f': {name}' if name else ''}"


def _reader_gone() -> int:
    # `| head` has read enough; nothing is left to say, also not at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))
