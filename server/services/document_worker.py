"""The process that reads one PDF: on standard input the file, as argument its limits, on standard output a line of JSON
for each page, `[number, text]`, as soon as it is read: what came before a limit is not lost.

It imports nothing of ours and asks nobody: whatever a document does to it stays here. Exit code 3: this is no document.
"""

import io
import json
import logging
import os
import resource
import sys
from typing import Any

NO_DOCUMENT = 3


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


def read(limits: dict[str, Any]) -> None:
    """Write page by page, until there are enough characters or pages."""
    from pypdf import PdfReader  # noqa: PLC0415

    logging.disable(logging.CRITICAL)  # it has much to say about broken files
    reader = PdfReader(io.BytesIO(sys.stdin.buffer.read()))
    if reader.is_encrypted and not reader.decrypt(""):
        raise ValueError("locked")
    left = limits["characters"]
    for number, page in enumerate(reader.pages, start=1):
        if number > limits["pages"] or left <= 0:
            break
        try:
            text = page.extract_text()[:left]
        except Exception:  # noqa: S112  # one bad page is no bad document
            continue
        left -= len(text)
        sys.stdout.buffer.write(json.dumps([number, text]).encode() + b"\n")
        sys.stdout.buffer.flush()


def main() -> int:
    """See the module."""
    limits = json.loads(sys.argv[1])
    limit(limits["memory_bytes"], limits["cpu_s"])
    try:
        read(limits)
    except Exception:
        return NO_DOCUMENT
    return 0


if __name__ == "__main__":
    sys.exit(main())
