"""The page in a browser: an instructor adds a material to a lecture and a learner gets it; and one shows one's face."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from embedded.s3 import ObjectStore
from tests.support.app import AppClient, serving_unlimited
from tests.support.files import MEBIBYTE, picture, s3_settings
from tests.support.people import People, Person, sign_in

if TYPE_CHECKING:
    from playwright.async_api import Dialog, Page

pytestmark = pytest.mark.browser


@pytest.fixture
async def client(postgres_dsn: str, redis_url: str, object_store: ObjectStore) -> AsyncIterator[AppClient]:
    async with serving_unlimited(postgres_dsn, redis_url, {"s3": s3_settings(object_store)}) as client:
        yield client


@pytest.fixture
async def people(client: AppClient, sql: "asyncpg.Connection[asyncpg.Record]") -> People:
    return People(client, sql)


@pytest.fixture
async def teacher(people: People) -> Person:
    return await people.join("teacher", "instructor")


@pytest.fixture
async def lecture(teacher: Person) -> Any:
    """A preview of a published course."""
    course = await teacher.make("/api/courses", {"title": "Queues", "status": "published"})
    return await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A", "is_preview": True})


@pytest.fixture
def origin(client: AppClient) -> str:
    return str(client.make_url("")).rstrip("/")


async def enter(page: "Page", origin: str, name: str) -> None:
    await page.goto(f"{origin}/#/signin")
    await sign_in(page, name)
    await page.get_by_role("link", name=name).wait_for()


async def test_a_material_reaches_a_learner_and_a_picture_the_account(
    page: "Page", origin: str, people: People, teacher: Person, lecture: Any, tmp_path: Path
) -> None:
    await people.join("learner")
    # More than goes through the server: its parts go to the store, from another origin.
    large, face = tmp_path / "slides.pdf", tmp_path / "face.png"
    large.write_bytes(b"%PDF-" + bytes(26 * MEBIBYTE))
    face.write_bytes(picture())

    await enter(page, origin, "teacher")
    await page.goto(f"{origin}/#/lectures/{lecture['id']}")
    await page.get_by_label("Add a file").set_input_files(large)
    await page.get_by_text("“slides.pdf” is there.").wait_for()
    await page.goto(f"{origin}/#/account")
    await page.get_by_label("Add a picture of you").set_input_files(face)
    await page.get_by_text("“face.png” is there.").wait_for()
    shown = page.get_by_role("img", name="Your picture")
    assert "/api/files/public/" in (await shown.get_attribute("src") or "")
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_role("link", name="Sign in").first.wait_for()

    await enter(page, origin, "learner")
    await page.goto(f"{origin}/#/courses/{lecture['course_id']}")
    await page.get_by_role("button", name="Start learning").click()
    async with page.context.expect_page() as opened:
        await page.get_by_role("button", name="slides.pdf").click()
    address = (await opened.value).url
    assert await page.get_by_role("button", name="Delete slides.pdf").count() == 0
    row = (await teacher.get(f"/api/lectures/{lecture['id']}")).body["files"][0]
    assert (row["size_bytes"], row["status"]) == (large.stat().st_size, "ready")
    assert address in ("about:blank", "") or row["id"] in address


async def send(page: "Page", origin: str, lecture: Any, file: Path) -> None:
    """As the teacher, on the lecture's page, until the page is through with it."""
    await enter(page, origin, "teacher")
    await page.goto(f"{origin}/#/lectures/{lecture['id']}")
    await page.get_by_label("Add a file").set_input_files(file)
    await page.get_by_text("Sending").wait_for()
    await page.get_by_text("Sending").wait_for(state="hidden")


async def test_a_file_is_deleted_when_its_teacher_says_so_twice(
    page: "Page", origin: str, teacher: Person, lecture: Any, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.pdf"
    notes.write_bytes(b"%PDF-1.7")
    await send(page, origin, lecture, notes)
    asked: list[str] = []
    answers = ["dismiss", "accept"]

    async def answer(dialog: "Dialog") -> None:
        asked.append(dialog.message)
        await getattr(dialog, answers.pop(0))()

    page.on("dialog", answer)
    await page.get_by_role("button", name="Delete notes.pdf").click()
    assert len((await teacher.get("/api/files")).body["items"]) == 1
    await page.get_by_role("button", name="Delete notes.pdf").click()
    await page.get_by_text("“notes.pdf” is deleted.").wait_for()
    assert (await teacher.get("/api/files")).body["items"] == []
    assert asked == ["Delete “notes.pdf”? It cannot be brought back."] * 2
    # Who goes by keyboard is not thrown back to the page's beginning.
    assert await page.evaluate("document.activeElement.closest('.files') !== null")


async def test_a_large_file_that_does_not_get_through_is_given_up(
    page: "Page", origin: str, teacher: Person, lecture: Any, tmp_path: Path, object_store: ObjectStore
) -> None:
    large = tmp_path / "slides.pdf"
    large.write_bytes(b"%PDF-" + bytes(26 * MEBIBYTE))
    await page.route(f"{object_store.endpoint_url}/**", lambda route: route.abort())
    await send(page, origin, lecture, large)
    assert (await teacher.get("/api/files")).body["items"] == [], "it counts against the quota no longer"


async def test_a_large_file_of_a_type_that_browsers_do_not_know_is_sent(
    page: "Page", origin: str, teacher: Person, lecture: Any, tmp_path: Path
) -> None:
    large = tmp_path / "Notebook.IPYNB"
    large.write_text('{"cells": [], "metadata": {"filler": "' + "x" * 26 * MEBIBYTE + '"}}')
    await send(page, origin, lecture, large)
    rows = (await teacher.get("/api/files")).body["items"]
    assert [(row["content_type"], row["status"]) for row in rows] == [("application/x-ipynb+json", "ready")]
