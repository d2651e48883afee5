"""The pages that are made of text."""

from server.http.documents import html_page, to_html


def test_text_becomes_paragraphs_with_code_and_never_markup() -> None:
    assert to_html("One <b>\n  line with `a<b`.\n\nTwo.") == (
        "<p>One &lt;b&gt; line with <code>a&lt;b</code>.</p><p>Two.</p>"
    )
    assert to_html("") == ""


def test_a_page_names_itself_and_wears_the_classroom_s_style() -> None:
    page = html_page("A & B", "<p>body</p>")
    assert page.startswith("<!doctype html>")
    assert "<title>A &amp; B · Lectern</title>" in page
    assert "<h1>A &amp; B</h1><p>body</p>" in page
    assert 'href="/web/style.css"' in page
