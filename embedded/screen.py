"""What the operator sees: lines that stay, and at a terminal one line that is written over."""

import io
import shutil
import time
from typing import TextIO

CLEAR_LINE = "\r\x1b[2K"


class Screen:
    """Writes to a terminal or to a log; a log gets every progress line of its own, at most one a second."""

    def __init__(self, stream: TextIO) -> None:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a path may be written as no locale but its own can
        self._stream = stream
        self.is_terminal = stream.isatty()
        self._updating = False
        self._last_update = 0.0

    def say(self, text: str = "") -> None:
        """A line (or several) that stays."""
        self._write((CLEAR_LINE if self._updating else "") + text + "\n")
        self._updating = False

    def update(self, text: str) -> None:
        """The present state of something long; replaces the one before."""
        if self.is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self._write(CLEAR_LINE + text[:width])
            self._updating = True
        elif time.monotonic() - self._last_update >= 1:
            self._last_update = time.monotonic()
            self._write(text + "\n")

    def bold(self, text: str) -> str:
        """`text`, standing out where that is possible."""
        return f"\x1b[1m{text}\x1b[0m" if self.is_terminal else text

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # the terminal is gone; what runs goes on until it is told to stop
            self.is_terminal = False
