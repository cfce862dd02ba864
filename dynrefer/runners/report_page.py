"""A page of regions: one HTML file, its pictures inside, no script and no link to outside."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

MOST_LINES, MOST_LETTERS = 6, 300  # of what is said or true of a region
JPEG = {"quality": 82, "subsampling": 0}  # thin coloured outlines need their full resolution
SCALE = 2 / 3  # pictures are drawn for about two pixels a point

STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; color: #212529; margin: 2em auto; max-width: 1240px;
  padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { margin-top: 2em; border-bottom: 2px solid #e2e5e9; }
table { border-collapse: collapse; } td, th { padding: .15em 1.2em .15em 0; text-align: left;
  font-weight: normal; vertical-align: top; }
th { white-space: nowrap; } th, .faint { color: #6c757d; }
.regions { display: flex; flex-wrap: wrap; gap: 1em; }
article { box-sizing: border-box; width: 400px; max-width: 100%; padding: .8em;
  border: 1px solid #e2e5e9; border-radius: 6px; overflow-wrap: anywhere; }
article img { max-width: 100%; height: auto; } article td { padding-right: .8em; }
.true { color: #18794e; } .missing { color: #c92a2a; }
"""


@dataclass(frozen=True)
class ShownRegion:
    """One region: ``picture`` of its views, or the ``note`` why there is none.

    ``score`` is None where it has no label.
    """

    title: str
    score: float | None
    picture: Image.Image | None
    note: str
    said: Sequence[str]
    true: Sequence[str]


@dataclass(frozen=True)
class Section:
    """The regions shown of a task by group ("best", ...), after a line about it."""

    title: str
    line: str
    groups: Mapping[str, Sequence[ShownRegion]]


def page(title: str, facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    """The whole page; every text is escaped, and long ones are cut."""
    rows = "".join(
        f"<tr><th>{_text(name)}</th><td>{_text(fact)}</td></tr>" for name, fact in facts.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n<table>{rows}</table>\n"
        f"{''.join(map(_section, sections))}</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    groups = "".join(
        f'<h3>{_text(name)}</h3>\n<div class="regions">\n{"".join(map(_region, regions))}</div>\n'
        for name, regions in section.groups.items()
        if regions
    )
    return f"<h2>{_text(section.title)}</h2>\n<p>{_text(section.line)}</p>\n{groups}"


def _region(region: ShownRegion) -> str:
    if region.picture is None:
        picture = f'<p class="missing">{_text(region.note)}</p>'
    else:
        width, height = (round(side * SCALE) for side in region.picture.size)
        picture = (
            f'<img src="{_data_uri(region.picture)}" width="{width}" height="{height}" '
            f'alt="views of {_text(region.title)}">'
        )
    score = "" if region.score is None else f"score {region.score:.2f} &middot; "
    return (
        f"<article>{picture}\n<table>"
        f"<tr><th>predicted</th><td>{_lines(region.said)}</td></tr>"
        f'<tr><th>reference</th><td class="true">{_lines(region.true)}</td></tr></table>\n'
        f'<span class="faint">{score}{_text(region.title)}</span>'
        "</article>\n"
    )


def _lines(lines: Sequence[str]) -> str:
    shown = [_text(line) for line in lines[:MOST_LINES]] or ["(none)"]
    if len(lines) > MOST_LINES:
        shown.append(f"... and {len(lines) - MOST_LINES} more")
    return "<br>".join(shown)


def _text(text: str) -> str:
    """Escaped, cut, and without lone surrogates (JSON may hold them), which UTF-8 cannot write."""
    cut = text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} ..."
    return escape(cut.encode("utf-8", "replace").decode("utf-8"))


def _data_uri(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, "JPEG", **JPEG)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
