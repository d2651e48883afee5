"""What a file is: its type by its first bytes, a name that harms nobody, how it is cut into parts, how it is shown.

Types are told by content alone, from a short list of what courses are made of: what is not on it is refused. A name or
a sender's word never makes something more than its bytes are.
"""

import re
import unicodedata
from typing import Any, Literal
from urllib.parse import quote

Purpose = Literal["material", "avatar", "thumbnail"]
Visibility = Literal["private", "course", "public"]
FileStatus = Literal["pending", "ready"]

# As much as is looked at.
HEAD_BYTES = 4096
MEBIBYTE = 1 << 20
# S3 takes no part but the last below 5 MiB; a hundred addresses are made in some 25 ms.
_SMALLEST_PART = 8 * MEBIBYTE
_MOST_PARTS = 100

PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
# What a browser would run as ours were it shown as a page.
ACTIVE = frozenset({"text/html", "image/svg+xml"})

# (where, bytes, type); the first that fits counts.
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBPVP8", "image/webp"),
    (8, b"WAVEfmt ", "audio/wav"),
    (0, b"%PDF-", "application/pdf"),
    (4, b"ftypavi", "image/avif"),
    (4, b"ftyphei", "image/heic"),
    (4, b"ftyphev", "image/heic"),
    (4, b"ftypmif1", "image/heif"),
    (4, b"ftypmsf1", "image/heif"),
    (4, b"ftypM4A ", "audio/mp4"),
    (4, b"ftypqt  ", "video/quicktime"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"\xff\xf3", "audio/mpeg"),
    (0, b"\xff\xf2", "audio/mpeg"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"PK\x05\x06", "application/zip"),
    (0, b"\x1f\x8b\x08", "application/gzip"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (257, b"ustar", "application/x-tar"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
)
_OFFICE = "application/vnd.openxmlformats-officedocument."
_OPEN = "application/vnd.oasis.opendocument."
# What else an archive is, by a folder of one of its first entries; Office's all have one of `_OFFICE_PARTS`, too.
_OFFICE_FOLDERS: tuple[tuple[bytes, str], ...] = (
    (b"word/", f"{_OFFICE}wordprocessingml.document"),
    (b"xl/", f"{_OFFICE}spreadsheetml.sheet"),
    (b"ppt/", f"{_OFFICE}presentationml.presentation"),
)
_OFFICE_PARTS = (b"[Content_Types].xml", b"_rels/", b"docProps/")
# Or by what stands in its first entry, which is called `mimetype` and not packed.
_SAYS_SO = (b"mimetype", ("application/epub+zip", f"{_OPEN}text", f"{_OPEN}spreadsheet", f"{_OPEN}presentation"))
_ARCHIVES = frozenset({*(kind for _, kind in _OFFICE_FOLDERS), *_SAYS_SO[1]})
# What cannot be told apart by its first bytes: a sender may say so of what is found there, or less than is found. With
# other names for the same, as browsers have them: on Windows for archives and for CSV, everywhere for M4A. Nothing here
# is active.
_SPECIES: dict[str, frozenset[str]] = {
    "text/plain": frozenset({
        "text/csv", "text/markdown", "text/vtt", "application/json", "application/x-ipynb+json",
        "application/vnd.ms-excel",
    }),
    "application/zip": _ARCHIVES | {"application/x-zip-compressed"},
    "application/x-ole-storage": frozenset(
        {"application/msword", "application/vnd.ms-excel", "application/vnd.ms-powerpoint"}
    ),
    "image/heif": frozenset({"image/heic", "image/avif"}),
    "video/webm": frozenset({"video/x-matroska", "audio/webm"}),
    "video/mp4": frozenset({"audio/mp4", "video/quicktime", "audio/x-m4a", "video/x-m4v"}),
    "audio/mp4": frozenset({"audio/x-m4a"}),
    "audio/mpeg": frozenset({"audio/mp3"}),
    "audio/flac": frozenset({"audio/x-flac"}),
    "audio/ogg": frozenset({"video/ogg", "application/ogg"}),
    "audio/wav": frozenset({"audio/x-wav", "audio/wave"}),
    "application/gzip": frozenset({"application/x-gzip"}),
}  # fmt: skip
KNOWN = frozenset({kind for _, _, kind in _SIGNATURES} | {"text/plain", *ACTIVE}).union(*_SPECIES.values())
# What a document may begin with before its first tag.
_PROLOGUE = re.compile(
    rb"\A(?:\xef\xbb\xbf)?(?:\s+|<\?.*?\?>|<!--.*?-->|<!doctype\s+svg[^>]*>)*", re.IGNORECASE | re.DOTALL
)
_SVG = re.compile(rb"<(?:[a-z]+:)?svg[\s/>]", re.IGNORECASE)
_HTML = re.compile(
    rb"<(?:!doctype\s+html|html|head|body|script|iframe|style|title|meta|link|object|embed|form|img|a|b|p|br|div|h1"
    rb"|table|font)[\s/>]",
    re.IGNORECASE,
)
_CONTROLS = frozenset({*range(32), 0x7F}) - {0x09, 0x0A, 0x0C, 0x0D, 0x1B}


def type_of(head: bytes) -> str | None:
    """The content type of what begins so (HEAD_BYTES are enough); None for what is not taken: programs, the unknown."""
    kind = next((kind for at, sign, kind in _SIGNATURES if head.startswith(sign, at)), None)
    if kind == "image/webp" and not head.startswith(b"RIFF"):
        kind = None
    return _archive_type(head) if kind == "application/zip" else kind or _text_type(head)


def _archive_type(head: bytes) -> str:
    """What an archive is beside that, by the names of its first entries."""
    entries = [match.end() + 26 for match in re.finditer(rb"PK\x03\x04", head)]
    names = [head[at : at + int.from_bytes(head[at - 4 : at - 2], "little")] for at in entries]
    if any(name.startswith(_OFFICE_PARTS) for name in names):
        folders = (kind for folder, kind in _OFFICE_FOLDERS if any(name.startswith(folder) for name in names))
        return next(folders, "application/zip")
    name, kinds = _SAYS_SO
    said = (kind for kind in kinds if head.startswith(name + kind.encode(), 30))
    return next(said, "application/zip")


def _text_type(head: bytes) -> str | None:
    """Text is UTF-8 without control characters, the last of its characters perhaps cut; what begins as markup acts."""
    if not head or _CONTROLS.intersection(head) or not _is_utf8(head):
        return None
    prologue = _PROLOGUE.match(head)
    start = head[prologue.end() :] if prologue else head
    if start.startswith(b"<") and _SVG.search(start):
        return "image/svg+xml"
    return "text/html" if _HTML.match(start) else "text/plain"


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and error.start > 0
    return True


def agrees(said: str, found: str | None) -> bool:
    """Whether what was said of a content is what was found in it, a species of it, or what it is a species of."""
    if said in ACTIVE and found == "text/plain":
        return True  # it only makes us more careful
    if found is None or said == found:
        return found is not None
    return said in _SPECIES.get(found, ()) or found in _SPECIES.get(said, ())


def fault_of(purpose: Purpose, content_type: str) -> str | None:
    """Why files of this type are not taken for the purpose; None when they are."""
    if content_type not in KNOWN:
        return "Files of this type are not taken."
    if purpose != "material" and content_type not in PICTURES:
        return "This must be a PNG, JPEG, GIF or WebP picture."
    return None


def clean_filename(given: str) -> str | None:
    """The name without folders, control and direction characters, at most 255; None when nothing is left of it."""
    name = re.split(r"[/\\]", unicodedata.normalize("NFC", given))[-1]
    name = "".join(c for c in name if c.isprintable() or unicodedata.category(c) == "Zs").strip()
    if len(name) > 255:
        stem, dot, extension = name.rpartition(".")
        name = f"{stem[: 254 - len(extension)]}.{extension}" if dot and len(extension) < 20 else name[:255]
    return name if name.strip(". ") else None


def disposition(filename: str, content_type: str) -> str:
    """`Content-Disposition` (RFC 6266): what a browser may show it does, what could act as a page it saves."""
    shown = content_type not in ACTIVE and content_type.partition("/")[0] in ("image", "audio", "video", "text")
    kind = "inline" if shown or content_type == "application/pdf" else "attachment"
    plain = "".join(c if c.isascii() and c not in '"\\%' else "_" for c in filename)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def served_type(content_type: str) -> str:
    """`Content-Type` with which it is given out: all text is UTF-8."""
    return f"{content_type}; charset=utf-8" if content_type.startswith("text/") else content_type


def kept_type(content_type: str) -> str:
    """`Content-Type` that it has in the store, which a CDN gives on: what could act as a page is bytes there."""
    return "application/octet-stream" if content_type in ACTIVE else content_type


def part_size_of(size_bytes: int) -> int:
    """How large all parts but the last are: whole MiB, at most a hundred parts."""
    wanted = -(-size_bytes // _MOST_PARTS)
    return max(_SMALLEST_PART, -(-wanted // MEBIBYTE) * MEBIBYTE)


def sizes_of_parts(size_bytes: int, part_size: int) -> list[int]:
    """The sizes of the parts in order; they add up to `size_bytes`."""
    whole, rest = divmod(size_bytes, part_size)
    return [part_size] * whole + ([rest] if rest else [])


def object_key(file_id: Any, visibility: str, name: str = "original") -> str:
    """Where the bytes are, by ids alone. What anybody may read lies apart, so that a CDN can be given just that."""
    return f"{'public' if visibility == 'public' else 'private'}/{file_id}/{name}"


def thumbnail_name(size: int) -> str:
    """The last part of a thumbnail's key."""
    return f"{size}.webp"


def best_thumbnail(thumbnails: list[dict[str, Any]], size: int | None) -> dict[str, Any] | None:
    """The smallest that has at least this size, else the largest; None for the original."""
    if size is None or not thumbnails:
        return None
    return next((small for small in thumbnails if small["size"] >= size), thumbnails[-1])


def show_file(row: Any) -> dict[str, Any]:
    """The row (of `files`, by name) as those who may read it see it: its thumbnails with addresses."""
    base = f"/api/files/{'public/' if row['visibility'] == 'public' else ''}{row['id']}"
    thumbnails = [
        {"width": small["width"], "height": small["height"], "url": f"{base}?size={small['size']}"}
        for small in row["thumbnails"]
    ]
    return {**row, "thumbnails": thumbnails}
