"""Files to upload, and how: forms through the server, parts straight to the store."""

import io
import zlib
from typing import Any
from urllib.parse import urljoin

import aiohttp
from PIL import Image

from embedded.s3 import ObjectStore
from tests.support.people import Answer, Person

PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n"
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!doctype html><script>alert(1)</script>"
MEBIBYTE = 1 << 20


def s3_settings(store: ObjectStore) -> dict[str, Any]:
    """Section `s3` that points at the store."""
    keys = {"access_key": store.access_key, "secret_key": store.secret_key}
    return {"endpoint_url": store.endpoint_url, "timeout_s": 20.0, **keys}


def picture(width: int = 320, height: int = 200, kind: str = "PNG", **more: Any) -> bytes:
    """A picture that is one."""
    out = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(out, kind, **more)
    return out.getvalue()


def bomb(side: int = 20_000) -> bytes:
    """A PNG of some kilobytes that takes gigabytes when it is decoded and turned into colours."""
    packed = zlib.compress(bytes((1 + side // 8) * side))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes((1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def pdf(*pages: str, zipped: bytes = b"", half: str = "") -> bytes:
    """A PDF with a line of text on each page; with `zipped` its first page is what that inflates to.

    Its font says of the character `half` that it is the first half of a surrogate pair.
    """
    count = len(pages)
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(count))
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", f"<</Type/Pages/Kids[{kids}]/Count {count}>>".encode()]
    meanings = f"1 beginbfchar <{ord(half):02x}> <d835> endbfchar".encode() if half else b""
    objects.append(f"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/ToUnicode {4 + 2 * count} 0 R>>".encode())
    for n, text in enumerate(pages):
        objects.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources<</Font<</F 3 0 R>>>>"
            f"/Contents {5 + 2 * n} 0 R>>".encode()
        )
        stream, kind = f"BT /F 12 Tf 20 700 Td ({text}) Tj ET".encode(), b""
        if zipped and n == 0:
            stream, kind = zipped, b"/Filter/FlateDecode"
        objects.append(b"<</Length %d%s>>stream\n%s\nendstream" % (len(stream), kind, stream))
    objects.append(b"<</Length %d>>stream\n%s\nendstream" % (len(meanings), meanings))
    out, places = io.BytesIO(), []
    out.write(b"%PDF-1.7\n")
    for number, body in enumerate(objects, start=1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    at = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, at))
    return out.getvalue()


async def upload(person: Person, content: bytes, filename: str = "notes.pdf", **fields: Any) -> Answer:
    """Send a file through the server, with the members before or, with `file_first`, after it."""
    form = aiohttp.FormData()
    members = {"purpose": "material", "visibility": "private", **fields}
    file_first = members.pop("file_first", False)
    if file_first:
        form.add_field("file", io.BytesIO(content), filename=filename)
    for name, value in members.items():
        form.add_field(name, str(value))
    if not file_first:
        form.add_field("file", io.BytesIO(content), filename=filename)
    return await person.post("/api/files/upload", data=form)


async def start(person: Person, size_bytes: int, content_type: str = "application/pdf", **members: Any) -> Any:
    """Begin an upload in parts."""
    body = {"filename": "big.pdf", "purpose": "material", "visibility": "private"} | members
    return await person.make("/api/files/upload/start", body | {"size_bytes": size_bytes, "content_type": content_type})


async def send_parts(begun: Any, content: bytes) -> list[dict[str, Any]]:
    """PUT all parts to the store; what is told when the upload is completed."""
    parts = []
    async with aiohttp.ClientSession() as http:
        for part in begun["parts"]:
            at = (part["number"] - 1) * begun["part_size"]
            async with http.put(part["url"], data=io.BytesIO(content[at : at + begun["part_size"]])) as answer:
                assert answer.status == 200, await answer.text()
                parts.append({"number": part["number"], "etag": answer.headers["ETag"]})
    return parts


async def complete(person: Person, begun: Any, parts: list[dict[str, Any]]) -> Answer:
    """Say that all parts are there."""
    body = {"file_id": begun["file_id"], "upload_id": begun["upload_id"], "parts": parts}
    return await person.post("/api/files/upload/complete", body)


async def download(person: Person, file_id: str, query: str = "", **headers: str) -> tuple[int, bytes, Any]:
    """Follow the way to the bytes; the status, they, and the headers with them."""
    answer = await person.get(f"/api/files/{file_id}{query}", allow_redirects=False)
    assert answer.status == 302, answer.body
    async with (
        aiohttp.ClientSession() as http,
        http.get(urljoin(str(person.client.make_url("/")), answer.headers["Location"]), headers=headers) as found,
    ):
        return found.status, await found.read(), found.headers
