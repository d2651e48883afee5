import io

import pytest

from embedded.screen import CLEAR_LINE, Screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_that_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "11")
    terminal = Terminal()
    screen = Screen(terminal)
    screen.update("encoding 1 of 2")
    screen.update("2 of 2")
    screen.say("done")
    assert terminal.getvalue() == f"{CLEAR_LINE}encoding 1{CLEAR_LINE}2 of 2{CLEAR_LINE}done\n"


def test_a_log_gets_plain_lines_and_not_too_many() -> None:
    log = io.StringIO()
    screen = Screen(log)
    screen.update("1 %")
    screen.update("2 %")
    screen.say(screen.bold("done"))
    assert log.getvalue() == "1 %\ndone\n"


def test_a_terminal_that_is_gone_stops_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    Screen(Gone()).say("nobody reads this")


def test_what_the_locale_cannot_write_is_no_reason_to_stop() -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii")
    Screen(stream).say("Data  /srv/kürs")
    assert written.getvalue() == b"Data  /srv/k?rs\n"
