"""The process that looks at one picture: on standard input a file, as argument its limits, on standard output a length
(4 bytes), that many bytes of JSON (`width`, `height`, `thumbnails`), and the WebPs one after the other.

It imports nothing of ours and asks nobody: whatever a picture does to it stays here. Exit code 3: this is no picture.
"""

import io
import json
import os
import resource
import struct
import sys
from typing import Any

FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
NO_PICTURE = 3
# 0x0112, turned as a camera was held: at these width and height change places. Some cameras write others, or words.
_ORIENTATION, _LYING = 0x0112, range(5, 9)
_QUALITY = 80
# No PNG is longer or wider, by its specification; Pillow reads what is, and nobody could keep its size.
_LONGEST = 2**31 - 1


def limit(memory_bytes: int, cpu_s: float) -> None:
    """From here on: so much memory, so much processor time, no file, no other process; and after all others."""
    os.nice(10)
    seconds = max(1, round(cpu_s))
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(what, (most, most))


def look(limits: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Measure the picture and make small ones, unless it has too many pixels."""
    from PIL import Image, ImageOps  # noqa: PLC0415

    Image.MAX_IMAGE_PIXELS = None  # looked at below, before anything is decoded
    content = io.BytesIO(sys.stdin.buffer.read())
    picture: Image.Image = Image.open(content, formats=FORMATS)
    width, height = picture.size
    if max(width, height) > _LONGEST:
        raise ValueError("this is no size of a picture")
    told: dict[str, Any] = {"width": width, "height": height, "thumbnails": []}
    if width * height > limits["pixels"]:
        return told, []
    if picture.getexif().get(_ORIENTATION) in _LYING:  # a PNG is decoded for it
        told |= {"width": height, "height": width}
    largest = max(limits["sizes"])
    picture.draft("RGB", (largest, largest))
    picture.load()
    if picture.mode.startswith("I"):  # sixteen bits of grey
        # All but the darkest would be white, and what is told to be clear is told of sixteen bits.
        picture = picture.point(lambda value: value / 257).convert("L")
        picture.info.pop("transparency", None)
    clear = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
    mode = "RGBA" if clear else "RGB"
    small = picture if picture.mode == mode else picture.convert(mode)
    blobs: list[bytes] = []
    for size in sorted(_sizes(limits["sizes"], max(width, height)), reverse=True):
        small.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
        upright = ImageOps.exif_transpose(small)
        out = io.BytesIO()
        upright.save(out, "WEBP", quality=_QUALITY, exif=b"", icc_profile=None)
        blobs.insert(0, out.getvalue())
        told["thumbnails"].insert(0, (size, *upright.size, len(out.getvalue())))
    return told, blobs


def _sizes(wanted: list[int], longest: int) -> list[int]:
    """Those that make it smaller; one of its own size when none does."""
    return [size for size in wanted if size < longest] or [min(wanted)]


def main() -> int:
    """See the module."""
    limits = json.loads(sys.argv[1])
    limit(limits["memory_bytes"], limits["cpu_s"])
    try:
        told, blobs = look(limits)
    except Exception:
        return NO_PICTURE
    head = json.dumps(told).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(head)) + head + b"".join(blobs))
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
