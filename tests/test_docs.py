"""Documentation that runs: every Python block is executed, every command line is understood."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from swinkit.cli import app, run

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = [page for page in DOCS.rglob("*.md") if not page.relative_to(DOCS).parts[0].startswith("_")]
PAGES = sorted([*ROOT.glob("*.md"), *WRITTEN])
EXECUTED = ("faq.md", "quickstart.md")
"""Pages whose commands are executed, too."""
NAMES = {"ids": lambda path: str(path.relative_to(ROOT))}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(trained, pictures, tmp_path, monkeypatch):
    """A folder that holds `runs/my-run`, `photo.jpg` and `DIR`, pictures in a folder per class."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "my-run").symlink_to(trained.run)
    (tmp_path / "DIR").symlink_to(pictures)
    (tmp_path / "photo.jpg").write_bytes((pictures / "test" / "red" / "000.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python") and page.name not in EXECUTED], **NAMES)
def test_python_blocks_run(page, place):
    """In order, in one namespace."""
    namespace = {"__name__": "docs"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in EXECUTED], **NAMES)
def test_whole_pages_run(page, place, capsys):
    """Commands and Python alike, in the order in which they are read; a run that is there already is not trained again."""
    namespace = {"__name__": "docs"}
    for language, block in re.findall(r"^```(python|sh)\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(block, str(page), "exec"), namespace)
            continue
        for line in block.splitlines():
            if line.startswith("swinkit ") and not line.startswith("swinkit train --output runs/my-run"):
                assert run(shlex.split(line.split(" #")[0])[1:]) == 0, f"{line}: {capsys.readouterr().err}"


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
