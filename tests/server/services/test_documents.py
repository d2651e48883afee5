"""Documents are read in bounded time and memory, whatever they are."""

import tempfile
import zlib
from typing import Any

import pytest

from server.config import Files
from server.domain.texts import cut_pages
from server.services.documents import Documents, DocumentsBusy, Page
from tests.support.files import PDF, pdf


async def read(content: bytes, content_type: str = "application/pdf", **limits: Any) -> list[Page]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return await Documents(Files(**limits)).read(file, content_type)


async def test_a_document_is_read_page_by_page() -> None:
    assert await read(pdf("Queues are first in, first out.", "", "Stacks are not.")) == [
        Page(1, "Queues are first in, first out."),
        Page(3, "Stacks are not."),
    ]


async def test_half_a_character_costs_a_document_nothing_else() -> None:
    """As formulas have them whose fonts tell only the first half of what lies beyond 16 bits."""
    pages = await read(pdf("Let @ be a queue.", "Stacks are not.", half="@"))
    assert [piece.text for piece in cut_pages(pages)] == ["Let be a queue.", "Stacks are not."]


async def test_no_more_is_read_than_the_settings_allow() -> None:
    assert await read(pdf("One.", "Two.", "Three."), document_pages=2) == [Page(1, "One."), Page(2, "Two.")]
    assert await read(pdf("One.", "Two."), document_characters=6) == [Page(1, "One."), Page(2, "Tw")]


async def test_a_bomb_costs_no_more_than_its_limits_and_what_came_before_it_is_kept() -> None:
    inflated = zlib.compress(b"(a) Tj " * 60_000_000, 9)  # 400 MB
    assert await read(pdf("x", zipped=inflated), document_memory_bytes=300_000_000, document_timeout_s=3) == []


@pytest.mark.parametrize("content", [b"", b"hello", PDF, pdf("x")[:300]])
async def test_what_is_no_document_says_nothing(content: bytes) -> None:
    assert await read(content) == []


async def test_plain_text_is_one_page_without_a_number() -> None:
    assert await read("\ufeffGrüße\n".encode(), "text/markdown") == [Page(None, "Grüße\n")]
    assert await read(b"\xff\xfe\x00abcdef", "text/plain", document_characters=4) == [Page(None, "\ufffd\ufffd\0a")]
    assert await read(b" \n", "text/plain") == []


async def test_one_document_is_read_at_a_time() -> None:
    documents = Documents(Files())
    with documents.turn("application/pdf"):
        with pytest.raises(DocumentsBusy), documents.turn("application/pdf"):
            pass
        with documents.turn("text/plain"):
            pass
    with documents.turn("application/pdf"):
        pass
