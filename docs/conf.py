"""How the site is made: `make docs`, or `sphinx-build -W --keep-going docs build/docs`."""

import re
import sys
from pathlib import Path

import swinkit

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "swinkit"
version = release = swinkit.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "linked_files", "docstrings", "pictures"]

myst_heading_anchors = 4  # the anchors that GitHub gives to headings
exclude_patterns = ["_build"]
templates_path: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 100
add_module_names = False

html_theme = "furo"
html_title = "swinkit"
html_static_path = ["_static"]
html_css_files = ["swinkit.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def setup(app):
    """Leave pages out of the table of contents that this checkout does not have."""
    app.connect("source-read", without_absent_pages)


def without_absent_pages(app, docname, source):
    """The first page without lines such as `serve <serving>` where there is no serving.md."""
    if docname == "index":
        source[0] = re.sub(
            r"^\w+ <([\w-]+)>\n", lambda line: line[0] if Path(app.srcdir, f"{line[1]}.md").is_file() else "", source[0], flags=re.M
        )
