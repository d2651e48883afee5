import io
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.files import (
    ACTIVE,
    HEAD_BYTES,
    KNOWN,
    agrees,
    best_thumbnail,
    clean_filename,
    disposition,
    fault_of,
    part_size_of,
    sizes_of_parts,
    type_of,
)

GIB = 1 << 30


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "image/png"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"XXXX\0\0\0\0WEBPVP8 ", None),
        (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
        (b"\0\0\0\x20ftypisom", "video/mp4"),
        (b"\0\0\0\x20ftypheic", "image/heic"),
        (b"\0\0\0\x20ftypmif1", "image/heif"),
        (b"\0\0\0\x20ftypavis", "image/avif"),
        (b"PK\x03\x04....anything", "application/zip"),
        (b"PK\x03\x04", "application/zip"),
        (b"hello, w\xc3\xb6rld", "text/plain"),
        (b"cut in a character \xc3", "text/plain"),
        (b"a text about <script> and <svg>", "text/plain"),
        (b"  <!-- x --> <HTML>", "text/html"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><!DOCTYPE svg PUBLIC 'x'><svg/>", "image/svg+xml"),
        (b"<p><svg onload=alert(1)>", "image/svg+xml"),
        (b"GIF89a<script>alert(1)</script>", "image/gif"),
        (b"latin \xe9 text", None),
        (b"nul \0", None),
        (b"\x7fELF\x02\x01", None),
        (b"MZ\x90\0", None),
        (b"", None),
    ],
)  # fmt: skip
def test_a_type_is_told_by_the_first_bytes(head: bytes, kind: str | None) -> None:
    assert type_of(head) == kind


OFFICE, OPEN = "application/vnd.openxmlformats-officedocument.", "application/vnd.oasis.opendocument."


def archive(*names: str, content: bytes = b"something", method: int = ZIP_DEFLATED) -> bytes:
    """The first bytes of a ZIP with these entries."""
    whole = io.BytesIO()
    with ZipFile(whole, "w", method) as file:
        for name in names:
            file.writestr(name, content)
    return whole.getvalue()[:HEAD_BYTES]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (archive("[Content_Types].xml", "_rels/.rels", "word/document.xml"), f"{OFFICE}wordprocessingml.document"),
        (archive("docProps/app.xml", "xl/workbook.xml", "[Content_Types].xml"), f"{OFFICE}spreadsheetml.sheet"),
        (archive("_rels/.rels", "ppt/presentation.xml"), f"{OFFICE}presentationml.presentation"),
        (archive("mimetype", content=b"application/epub+zip", method=ZIP_STORED), "application/epub+zip"),
        (archive("mimetype", content=f"{OPEN}text".encode(), method=ZIP_STORED), f"{OPEN}text"),
        (archive("password/word/a.txt", "crossword/b.txt", "_rels"), "application/zip"),
        (archive("word/a.txt"), "application/zip"),
        (archive("a.txt", content=b"In word/ and xl/ lies mimetypeapplication/epub+zip", method=ZIP_STORED),
         "application/zip"),
    ],
)  # fmt: skip
def test_an_archive_is_a_document_by_the_names_of_its_entries_alone(head: bytes, kind: str) -> None:
    assert type_of(head) == kind


@given(st.binary(max_size=HEAD_BYTES))
def test_any_bytes_have_a_known_type_or_none(head: bytes) -> None:
    assert type_of(head) in KNOWN | {None}


def test_a_sender_may_say_which_species_and_nothing_more() -> None:
    assert agrees("text/csv", "text/plain")
    assert agrees("text/html", "text/plain")  # only makes it an attachment
    assert agrees("application/zip", f"{OFFICE}wordprocessingml.document")  # less than is known
    assert not agrees(f"{OFFICE}wordprocessingml.document", f"{OFFICE}spreadsheetml.sheet")
    assert not agrees("text/plain", "text/html")
    assert not agrees("image/png", "text/plain")
    assert not agrees("text/plain", None)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("application/x-zip-compressed", "application/zip"),
        ("application/vnd.ms-excel", "text/plain"),  # Excel's name for CSV
        ("audio/x-m4a", "audio/mp4"),
        ("audio/x-m4a", "video/mp4"),
        ("video/x-m4v", "video/mp4"),
        ("image/heic", "image/heif"),  # a phone's picture
    ],
)
def test_what_browsers_call_a_type_is_taken(said: str, found: str) -> None:
    assert fault_of("material", said) is None
    assert agrees(said, found)
    assert said not in ACTIVE


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a.pdf", "a.pdf"),
        ("a\0b\r\n\x1b.pdf", "ab.pdf"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("  Übung 1.pdf ", "Übung 1.pdf"),
        ("x" * 300 + ".pdf", "x" * 251 + ".pdf"),
        ("..", None),
        ("a/", None),
        (" \udc80 ", None),
    ],
)
def test_a_name_has_no_folders_and_nothing_that_cannot_be_seen(given_name: str, name: str | None) -> None:
    assert clean_filename(given_name) == name


@given(st.text(max_size=400))
def test_any_name_makes_a_header_of_one_line_in_ascii(name: str) -> None:
    if (clean := clean_filename(name)) is not None:
        header = disposition(clean, "application/pdf")
        assert header.isascii()
        assert header.isprintable()
        assert header.count('"') == 2


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "application/zip"])
def test_what_could_act_or_cannot_be_shown_is_saved(kind: str) -> None:
    assert disposition("a", kind).startswith("attachment")


@given(st.integers(1, 5 * GIB))
def test_parts_add_up_and_are_as_stores_take_them(size: int) -> None:
    part_size = part_size_of(size)
    sizes = sizes_of_parts(size, part_size)
    assert sum(sizes) == size
    assert len(sizes) <= 100
    assert set(sizes[:-1]) <= {part_size}
    assert 5 << 20 <= part_size <= 5 * GIB
    assert 1 <= sizes[-1] <= part_size


def test_the_smallest_thumbnail_that_is_large_enough_is_taken() -> None:
    small = [{"size": 160}, {"size": 640}]
    chosen = [best_thumbnail(small, size) for size in (None, 1, 160, 161, 4000)]
    assert chosen == [None, small[0], small[0], small[1], small[1]]
    assert best_thumbnail([], 160) is None
