"""Files outside docs/ that a page links to become pages of the site, so that every link works offline and on GitHub alike.

A Markdown file is taken as it is, any other text is shown with line numbers, a folder is a list of its files.
"""

import os
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
PAGES = "_generated/files"
ALWAYS = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(!?\[[^\]\n]*\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
LANGUAGES = {".py": "python", ".cpp": "cpp", ".h": "cpp", ".yaml": "yaml", ".json": "json", ".css": "css"}


def setup(app):
    """The events of Sphinx that this listens to."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", rewrite_page)
    return {"parallel_read_safe": True}


def own_pages():
    """The pages that people wrote, without what a build writes."""
    return sorted(page for page in DOCS.rglob("*.md") if not any(part.startswith("_") for part in page.relative_to(DOCS).parts))


def outside(target, folder):
    """The file or folder of the project, outside docs/, that a link in `folder` leads to; None if it leads elsewhere."""
    if "://" in target or target.startswith(("/", "mailto:")):
        return None
    path = Path(os.path.normpath(folder / target))
    return path if path.exists() and path.is_relative_to(ROOT) and not path.is_relative_to(DOCS) else None


def page_of(path):
    """The page, from the root of the site, that shows a file."""
    name = path.relative_to(ROOT).as_posix()
    return f"/{PAGES}/{name}" if path.suffix == ".md" else f"/{PAGES}/{name}.md"


def rewritten(text, folder):
    """Markdown that lies in `folder`, with its links as the site has them."""

    def one(match):
        before, target, after = match.groups()
        path = outside(target, folder)
        if path is not None:
            return before + page_of(path) + after
        inside = Path(os.path.normpath(folder / target))
        moved = folder != DOCS and not folder.is_relative_to(DOCS) and inside.is_relative_to(DOCS) and inside.is_file()
        return f"{before}/{inside.relative_to(DOCS).as_posix()}{after}" if moved else match.group()

    return LINK.sub(one, text)


def shown(path, page):
    """What the page of a file or folder holds."""
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix in LANGUAGES and not file.name.startswith("_")]
        return f"# {path.relative_to(ROOT)}\n\n" + "".join(f"- [{file.name}]({page_of(file)})\n" for file in files)
    if path.suffix == ".md":
        return rewritten(path.read_text(encoding="utf-8"), path.parent)
    language = LANGUAGES.get(path.suffix, "text")
    source = os.path.relpath(path, page.parent)
    return f"# {path.relative_to(ROOT)}\n\n```{{literalinclude}} {source}\n:language: {language}\n:linenos:\n```\n"


def links(text, folder):
    """What a text links to outside docs/."""
    return [path for _, target, _ in LINK.findall(text) if (path := outside(target, folder)) is not None]


def write_pages(app):
    """Write a page for each file that is linked, and for those that these link to."""
    waiting = [ROOT / name for name in ALWAYS if (ROOT / name).is_file()]
    for page in own_pages():
        waiting += links(page.read_text(encoding="utf-8"), page.parent)
    done = set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        page = Path(app.srcdir, page_of(path)[1:])
        if path.is_dir():
            waiting += [file for file in path.iterdir() if file.suffix in LANGUAGES and not file.name.startswith("_")]
        elif path.suffix == ".md":
            waiting += links(path.read_text(encoding="utf-8"), path.parent)
        write(page, f"---\norphan: true\n---\n\n{shown(path, page)}")


def write(page, text):
    """Write a file if it says something else, so that the next build is quick."""
    page.parent.mkdir(parents=True, exist_ok=True)
    if not page.is_file() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def rewrite_page(_app, docname, source):
    """A page that people wrote, with its links as the site has them."""
    if not docname.startswith("_generated/"):
        source[0] = rewritten(source[0], (DOCS / docname).parent)
