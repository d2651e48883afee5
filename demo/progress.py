"""How the seed tells how far it is: lines for a person, of which some are soon out of date."""

from typing import Final

# What ends a line that the next one may be written over; `bin/run` tells by it what is worth keeping.
PASSING: Final = "\r"


def say(line: str, *, passing: bool = False) -> None:
    """Print a line at once."""
    print(line, end=PASSING if passing else "\n", flush=True)
