import io
import struct
import tempfile
import zlib
from typing import Any

import pytest
from PIL import Image

from server.config import Files
from server.services.pictures import NotAPicture, Picture, Pictures
from tests.support.files import bomb, picture


async def look(content: bytes, **limits: Any) -> Picture:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return await Pictures(Files(**limits)).look_at(file)


def saying(width: int, height: int) -> bytes:
    """A PNG that says that it is so large."""
    whole, head = picture(), b"IHDR" + struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    return whole[:12] + head + zlib.crc32(head).to_bytes(4, "big") + whole[33:]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
async def test_small_ones_keep_the_shape_and_never_grow(kind: str) -> None:
    seen = await look(picture(500, 100, kind), thumbnail_sizes=[64, 400, 1000])
    assert (seen.width, seen.height) == (500, 100)
    assert [(small.width, small.height) for small in seen.thumbnails] == [(64, 13), (400, 80)]
    for small in seen.thumbnails:
        shown = Image.open(io.BytesIO(small.content))
        assert (shown.format, shown.size) == ("WEBP", (small.width, small.height))


@pytest.mark.parametrize(("turned", "lies"), [(1, False), (6, True), (8, True), (0, False), (9, False), (b"6", False)])
async def test_a_picture_is_as_wide_as_it_is_shown_however_the_camera_was_held(turned: int | bytes, lies: bool) -> None:
    kind = (3, 1, turned.to_bytes(4, "little")) if isinstance(turned, int) else (2, 2, turned)  # a number, or a word
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", 0x0112, *kind) + bytes(4)
    seen = await look(picture(500, 200, "JPEG", exif=exif), thumbnail_sizes=[100])
    assert (seen.width, seen.height) == ((200, 500) if lies else (500, 200))
    assert [(small.width, small.height) for small in seen.thumbnails] == [(40, 100) if lies else (100, 40)]


async def test_what_is_clear_stays_clear() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (200, 200), (255, 0, 0, 0)).save(out, "PNG")
    (small,) = (await look(out.getvalue())).thumbnails
    assert Image.open(io.BytesIO(small.content)).convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]


@pytest.mark.parametrize(("mode", "clear"), [("RGB", (255, 0, 0)), ("L", 76), ("P", 0)])
async def test_a_colour_that_is_clear_stays_so(mode: str, clear: Any) -> None:
    out = io.BytesIO()
    red = Image.new("RGB", (200, 200), (255, 0, 0))
    (red.quantize() if mode == "P" else red.convert(mode)).save(out, "PNG", transparency=clear)
    (small,) = (await look(out.getvalue())).thumbnails
    assert Image.open(io.BytesIO(small.content)).convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]


@pytest.mark.parametrize("clear", [{}, {"transparency": 0}])
async def test_sixteen_bits_of_grey_are_as_grey_as_eight(clear: dict[str, int]) -> None:
    out = io.BytesIO()
    Image.new("I;16", (200, 200), 100 * 257).save(out, "PNG", **clear)
    (small,) = (await look(out.getvalue())).thumbnails
    assert Image.open(io.BytesIO(small.content)).convert("RGBA").getpixel((5, 5)) == (100, 100, 100, 255)


async def test_a_bomb_costs_no_more_than_its_head_or_its_limits() -> None:
    assert (await look(bomb())).thumbnails == ()
    with pytest.raises(NotAPicture):
        await look(bomb(), picture_pixels=10**9, picture_memory_bytes=300_000_000)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", picture()[:200], b"\x89PNG\r\n\x1a\n", b"<svg/>", saying(2**31, 1), saying(1, 2**32 - 1)],
)
async def test_what_is_no_picture_is_told_so(content: bytes) -> None:
    with pytest.raises(NotAPicture):
        await look(content)
