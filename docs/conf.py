"""How the site is made: `make docs`, or `python -m sphinx -W docs build/docs`."""

import sys
from pathlib import Path

import swinkit

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "swinkit"
version = release = swinkit.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "cells", "docstrings", "linked_files", "pictures"]

myst_heading_anchors = 4  # the anchors that GitHub gives to headings
exclude_patterns = ["_build"]
templates_path: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 100
add_module_names = False

html_theme = "furo"
html_title = "swinkit"
html_static_path = ["_static"]
html_css_files = ["swinkit.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
