"""Documentation that runs: every Python block is executed, every command line is understood."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from swinkit.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = {"ids": lambda path: str(path.relative_to(ROOT))}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], **NAMES)
def test_python_blocks_run(page, trained, pictures, tmp_path, monkeypatch):
    """In order, in one namespace, in a folder that holds `runs/my-run` and `photo.jpg`."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "my-run").symlink_to(trained.run)
    (tmp_path / "photo.jpg").write_bytes((pictures / "test" / "red" / "000.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "docs"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)
    torch.set_grad_enabled(True)


def commands(page):
    lines = [line for block in (*blocks(page, "console"), *blocks(page, "sh")) for line in block.splitlines()]
    return [line.removeprefix("$ ").split(" #")[0] for line in lines if line.removeprefix("$ ").startswith("swinkit ")]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], **NAMES)
def test_commands_are_understood(page):
    for line in commands(page):
        app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES, **NAMES)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150
