"""One HTML file that explains: sections of text, figures and facts; it loads nothing and follows the light or dark theme.

    html = page("The mechanism", [Section("Windows", ["Attention stays inside ..."], [Shown(figure, alt="A map cut into 64 windows")])])
    write_atomic(Path("page.html"), html)

Text is escaped; markupsafe.Markup goes in as it is.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swinkit.explain.figures import inline

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Shown:
    """One figure of a section."""

    figure: Figure | str | bytes
    """A matplotlib figure (goes in as SVG), SVG text, or the bytes of a PNG or JPEG file."""
    alt: str
    """What there is to see, for who cannot see it."""
    caption: str = ""
    """Stands below."""
    wide: bool = True
    """Whether a narrow screen scrolls it sideways, rather than making it too small to read."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in this order: text, figures, facts, body."""

    title: str
    text: Sequence[str] = ()
    """Paragraphs."""
    figures: Sequence[Shown] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    """Facts, shown as a list of name and value."""
    body: str = ""
    """HTML of your own as markupsafe.Markup (interactive parts); a plain str is escaped like the rest."""

    @property
    def anchor(self) -> str:
        """The id of the section: its title in small letters with hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


def page(title: str, sections: Sequence[Section], *, lead: str = "", scripts: Sequence[str] = (), styles: Sequence[str] = ()) -> str:
    """The sections as one HTML document.

    lead: a sentence under the title; scripts, styles: JavaScript and CSS of interactive parts, put into the page (only these scripts may
    run: the page's policy names their hashes). Errors: ValueError for two sections of one title.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    anchors = [section.anchor for section in sections]
    if len(set(anchors)) < len(anchors):
        raise ValueError(f"Two sections have the same title: {', '.join(section.title for section in sections)}.")
    templates = Environment(
        loader=PackageLoader("swinkit.explain", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    drawn = {
        section.anchor: [Markup(_element(one, f"{section.anchor}-{n}")) for n, one in enumerate(section.figures)] for section in sections
    }
    return templates.get_template("page.html").render(
        title=title, lead=lead, sections=sections, drawn=drawn, scripts=[Markup(script) for script in scripts],
        hashes=[_hash(script) for script in scripts], styles=[Markup(style) for style in styles],
    )  # fmt: skip


def _hash(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _element(shown: Shown, name: str) -> str:
    """The figure as an element with its alternative text."""
    from markupsafe import escape

    alt = escape(shown.alt)
    if isinstance(shown.figure, bytes):
        return f'<img alt="{alt}" src="{data_uri(shown.figure)}">'
    svg = shown.figure if isinstance(shown.figure, str) else inline(shown.figure, name)
    return f'<div role="img" aria-label="{alt}">{svg}</div>'


def data_uri(image: bytes) -> str:
    """The bytes of a PNG or JPEG file as a data URI."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
