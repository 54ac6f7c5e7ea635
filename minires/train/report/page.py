"""HTML by small functions. Every text that comes from outside passes `text`, so that no name can break or script a page.

A page refers to nothing outside itself: style, charts (SVG) and pictures (PNG) are inside the file.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

__all__ = ["Html", "bar", "cards", "code", "details", "page", "png", "section", "table", "text"]


class Html(str):
    """A string that is HTML already."""


def text(value: Any) -> Html:
    """`value` as HTML: escaped, unless it is HTML. No line is broken before a percent sign."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)).replace(" %", "&nbsp;%"))


def join(parts: Iterable[Any]) -> Html:
    return Html("\n".join(text(part) for part in parts))


def page(title: str, parts: Iterable[Any]) -> str:
    """The whole document."""
    style = files("minires.train.report").joinpath("style.css").read_text(encoding="utf-8")
    # No script, and nothing from elsewhere: a browser holds the page to it.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{join(parts)}\n</main>\n"
        "</body>\n</html>\n"
    )


def section(title: str, *parts: Any, note: str = "") -> Html:
    """A heading, a line that explains, and what follows."""
    explained = f'<p class="note">{text(note)}</p>\n' if note else ""
    return Html(f"<section>\n<h2>{text(title)}</h2>\n{explained}{join(parts)}\n</section>")


def cards(figures: Sequence[tuple[str, str, str]]) -> Html:
    """The figures that matter: (what, figure, one line about it) each."""
    inside = "".join(
        f'<div class="card"><span class="what">{text(what)}</span><b>{text(figure)}</b><small>{text(about)}</small></div>\n'
        for what, figure, about in figures
    )
    return Html(f'<div class="cards">\n{inside}</div>')


def table(columns: Sequence[Any], rows: Iterable[Sequence[Any]], *, left: Sequence[int] = (0,), kind: str = "") -> Html:
    """A table; `left` are the columns of text."""

    def line(cells: Sequence[Any], tag: str) -> str:
        return "".join(
            f"<{tag}{'' if i in left else ' class=number'}>{text(cell)}</{tag}>" for i, cell in enumerate(cells)
        )

    body = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    name = f' class="{text(kind)}"' if kind else ""
    return Html(
        f'<div class="wide"><table{name}>\n<thead><tr>{line(columns, "th")}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def bar(share: float) -> Html:
    """A bar whose length is `share` of its cell."""
    return Html(f'<span class="bar"><span style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></span></span>')


def code(words: str) -> Html:
    """Something to copy into a terminal."""
    return Html(f"<pre><code>{text(words)}</code></pre>")


def details(summary: str, *parts: Any) -> Html:
    """What is folded away until someone asks."""
    return Html(f"<details>\n<summary>{text(summary)}</summary>\n{join(parts)}\n</details>")


def png(data: bytes, alt: str) -> Html:
    """A picture inside the page."""
    return Html(f'<img alt="{text(alt)}" src="data:image/png;base64,{base64.b64encode(data).decode("ascii")}">')
