"""The frame of the pages that are made of text: the API's documents and the problems', in the classroom's style."""

import html
import re

_CODE = re.compile(r"`([^`]+)`")


def html_page(title: str, body: str) -> str:
    """A whole page. `title` is text, `body` HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)} · Lectern</title>"
        '<link rel="icon" href="/web/icon.svg" type="image/svg+xml"><link rel="stylesheet" href="/web/style.css">'
        '</head><body><header class="bar"><a class="brand" href="/">Lectern</a></header>'
        f'<main class="page prose"><h1>{html.escape(title)}</h1>{body}</main></body></html>'
    )


def to_html(text: str) -> str:
    """A docstring's paragraphs, with what stands in backquotes as code."""
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return "".join("<p>" + _CODE.sub(r"<code>\1</code>", html.escape(part)) + "</p>" for part in paragraphs if part)
