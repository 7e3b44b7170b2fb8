"""The application, and the options that several verbs have."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from swinkit import __version__
from swinkit.train.recipe import DEVICE_HELP

app = App(
    name="swinkit",
    version=__version__,
    help="The Swin Transformer: train it, use it, look inside.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

STDIN = "<stdin>"
"""Stands for "-" on the way through cyclopts, which would take it for an option."""

Source = Annotated[
    str,
    Parameter(
        help="A run folder, a folder or file of anybody's weights, or hf-hub:OWNER/NAME; to predict and evaluate also a file of `export`."
    ),
]
Device = Annotated[str, Parameter(help=DEVICE_HELP)]
Amp = Annotated[bool, Parameter(help="Mixed precision in bfloat16: faster on hardware that has it, to about three digits.")]
BatchSize = Annotated[int, Parameter(help="Images computed at a time.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
