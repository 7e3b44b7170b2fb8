"""Kill -9 at any moment, then --resume: the run is the one that nobody killed."""

import os

import pytest
from rich.console import Console

import swinkit
from conftest import TINY
from killing import KILLED, check_equal, kill_and_resume


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL and fork servers")
def test_twenty_kills_lose_nothing(pictures, tmp_path):
    options = TINY | KILLED | {"epochs": 20}
    swinkit.train(pictures, output=tmp_path / "whole", console=Console(quiet=True), **options)
    moved = kill_and_resume(pictures, tmp_path / "killed", options, kills=20)
    assert moved >= 3, "the kills are meant to fall into a run that gets on"
    check_equal(tmp_path / "whole", tmp_path / "killed")
