"""The site: it builds without a warning, works offline, holds every public name, and every link in the pages leads somewhere."""

import html.parser
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import swinkit

ROOT = Path(__file__).parents[1]
MISSING = [name for name in ("sphinx", "myst_parser", "furo") if find_spec(name) is None]
PAGES = [
    *ROOT.glob("*.md"),
    *(page for page in (ROOT / "docs").rglob("*.md") if not page.relative_to(ROOT / "docs").parts[0].startswith("_")),
]
FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page):
    """The anchors that GitHub gives to the headings of a page: small letters, no punctuation, hyphens for spaces."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), flags=re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        number = 0
        while (name := slug if not number else f"{slug}-{number}") in found:
            number += 1
        found.add(name)
    return found


def broken(page):
    """Links of a page to files or headings that do not exist."""
    for target, anchor in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" in target or target.startswith("mailto:"):
            continue
        other = (page.parent / target) if target else page
        if not other.exists() or (anchor and other.suffix == ".md" and anchor.lower() not in anchors(other)):
            yield f"{target}#{anchor}"


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_exist(page):
    assert list(broken(page)) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# One `two` (three)\n\n## Four\n\n## Four\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#one-two-three) [b](other.md#four-1) [c](other.md#five) [d](none.md) [e](#here)\n```py\nx[0](no.md)\n```\n"
    )
    assert list(broken(page)) == ["other.md#five", "none.md#", "#here"]


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs" / "api.md").read_text()
    listed = set(re.findall(r"^\.\. auto(?:function|class):: swinkit\.(\w+)", text, flags=re.MULTILINE))
    assert listed == set(swinkit.__all__) - {"__version__"}


class Resources(html.parser.HTMLParser):
    """What a page loads by itself."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon", "shortcut icon"):
            self.found.append(given.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, with warnings as errors."""
    if MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}: pip install '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(out / "trees"), str(ROOT / "docs"), str(out / "html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT / "src")})
    assert done.returncode == 0, done.stderr
    return out / "html"


def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file() or "_build" in page.parts
    for page in site.rglob("*.html"):
        resources = Resources()
        resources.feed(page.read_text())
        for target in resources.found:
            assert not re.match(r"(https?:)?//", target), f"{page.name} loads {target}"
            assert not target or target.startswith("data:") or (page.parent / target.split("?")[0]).is_file(), f"{page.name}: {target}"


def test_the_reference_has_signatures_and_docstrings(site):
    text = re.sub(r"<[^>]+>", "", (site / "api.html").read_text())
    for name in ("create_model", "train", "evaluate", "prepare", "resize", "Predictor", "SwinTransformer"):
        assert re.search(rf"swinkit\.{name}\(|class swinkit\.{name}|\b{name}\(", text), name
    assert "The same weights for another image size" not in text  # a module's text in place of its function's
    assert "size_policy" in text
    assert "UnknownNameError" in text
