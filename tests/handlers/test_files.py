import asyncio
import io
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
import pytest_asyncio
from PIL import Image
from pydantic import ValidationError

from embedded.s3 import BUCKET, ObjectStore
from handlers import files, uploads
from server import metrics
from server.data.jobs import Again, Job
from server.http import deadlines
from server.http.keys import OBJECTS
from server.http.keys import PICTURES as LOOKING
from server.services.objects import Objects
from server.services.outside import ServiceAway, ServiceRefused, ServiceSlow
from server.services.pictures import PicturesBusy
from tests.support.app import AppClient
from tests.support.core import eventually
from tests.support.files import (
    HTML,
    MEBIBYTE,
    PDF,
    SVG,
    bomb,
    complete,
    download,
    picture,
    s3_settings,
    send_parts,
    start,
    upload,
)
from tests.support.people import People, Person
from tests.support.standing import *  # noqa: F403  fixtures
from tests.support.standing import STANDING

pytestmark = STANDING

Sql = Any
FORM = "multipart/form-data; boundary=b"
KEPT = "SELECT count(*) FROM files WHERE owner_id = $1"
REMOVALS = "SELECT count(*) FROM jobs WHERE kind = 'remove_file' AND payload ->> 'file_id' = $1"


@pytest.fixture(scope="module")
def overrides(object_store: ObjectStore) -> dict[str, dict[str, Any]]:
    """A store, quick jobs and a small quota."""
    return {
        "s3": s3_settings(object_store),
        "jobs": {"poll_s": 0.05, "reconcile_s": 0.05, "backoff_s": 0.1},
        "files": {"quota_bytes": 40 * MEBIBYTE},
    }


@pytest_asyncio.fixture(loop_scope="module")
async def ada(people: People) -> Person:
    return await people.join("ada")


@pytest_asyncio.fixture(loop_scope="module")
async def teacher(people: People) -> Person:
    return await people.join("teacher", "instructor")


def stored(store: ObjectStore, file_id: str) -> list[str]:
    """What the store has of a file."""
    folders = [kind / file_id for kind in (store.data / BUCKET).iterdir()]
    # One may go while it is looked into, which `glob` is not prepared for.
    return sorted(
        f"{folder.parent.name}/*/{name}" for folder in folders for _, _, names in os.walk(folder) for name in names
    )


# Through the server ---------------------------------------------------------------------------------------------------


async def test_a_file_is_what_its_bytes_say_and_comes_back_whole_and_by_range(ada: Person) -> None:
    answer = await upload(ada, PDF, "..\\..\\etc/Ünï \u202ecod.exe")
    assert answer.status == 201, answer.body
    row = answer.body
    assert (row["filename"], row["content_type"], row["size_bytes"]) == ("Ünï cod.exe", "application/pdf", len(PDF))
    assert (row["owner_id"], row["status"], row["width"], row["thumbnails"]) == (ada.id, "ready", None, [])
    assert answer.headers["Location"] == f"/api/files/{row['id']}"
    assert (await ada.get(f"/api/files/{row['id']}/metadata")).body == row
    status, content, headers = await download(ada, row["id"])
    assert (status, content, headers["Content-Type"]) == (200, PDF, "application/pdf")
    assert "%C3%9Cn%C3%AF%20cod.exe" in headers["Content-Disposition"]
    assert (await download(ada, row["id"], Range="bytes=1-3"))[:2] == (206, b"PDF")
    address = await ada.get(f"/api/files/{row['id']}?redirect=false")
    assert address.status == 200
    assert set(address.body) == {"url", "expires_at"}


SHOWN = {"purpose": "avatar", "visibility": "public"}
NOT_TAKEN: list[tuple[bytes, dict[str, Any], int, str]] = [
    (b"\x7fELF\x02\x01\x01\0", {}, 415, "unsupported_media_type"),
    (bytes(range(256)) * 20, {}, 415, "unsupported_media_type"),
    (PDF, SHOWN, 415, "unsupported_media_type"),
    (b"\x89PNG\r\n\x1a\nnot at all", SHOWN, 422, "validation_failed"),
    (b"", {}, 422, "validation_failed"),
    (PDF, {"purpose": "other"}, 422, "validation_failed"),
    (PDF, {"visibility": "course"}, 422, "validation_failed"),
    (PDF, {"owner_id": "x"}, 422, "validation_failed"),
    (PDF, {"course_id": uuid4()}, 422, "validation_failed"),
    (b"%PDF-" + b"x" * 25 * MEBIBYTE, {}, 413, "body_too_large"),
]


async def test_what_is_not_taken_is_refused_and_leaves_nothing(ada: Person, sql: Sql) -> None:
    for content, fields, status, code in NOT_TAKEN:
        answer = await upload(ada, content, "a.pdf", **fields)
        assert (answer.status, answer.code) == (status, code), (content[:20], fields)
    assert await sql.fetchval(KEPT, ada.id) == 0


async def test_25_mebibytes_pass_whatever_stands_first_in_the_form(ada: Person) -> None:
    content = b"%PDF-" + bytes(25 * MEBIBYTE - 5)
    answer = await upload(ada, content, file_first=True)
    assert (answer.status, answer.body["size_bytes"]) == (201, 25 * MEBIBYTE)
    assert (await download(ada, answer.body["id"]))[1] == content


NO_FORMS = [
    (b"{}", "application/json", 415),
    (b"--b--\r\n", f"{FORM}; x*=idna''a", 415),
    (b"x", "multipart/form-data", 400),
    (b"x", FORM, 400),
    (b"--b\r\n\r\nx\r\n--b--\r\n", FORM, 400),
    (b"--b\r\n1--b--\r\n", FORM, 400),
    (b"--b\r\n" + b"x" * 20_000, FORM, 400),
    (b"--b--\r\n", FORM, 422),
    (b"\r\n--b--\r\n", FORM, 422),
    (b"\r\n" * 2 + b"--b--\r\n", FORM, 400),
    (b"what stands before\r\n--b--\r\n", FORM, 400),
    (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n\xff\r\n--b--\r\n', FORM, 422),
    (b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\n\r\n--c--\r\n--b--", FORM, 400),
    (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ncut', FORM, 400),
]  # fmt: skip


async def test_a_body_that_is_no_form_is_refused(ada: Person) -> None:
    for data, content_type, status in NO_FORMS:
        answer = await ada.post("/api/files/upload", data=io.BytesIO(data), headers={"Content-Type": content_type})
        assert answer.status == status, (data, answer.body)


async def test_the_same_upload_under_one_key_is_one_file(ada: Person, sql: Sql) -> None:
    def form(content: bytes) -> aiohttp.FormData:
        made = aiohttp.FormData({"purpose": "material", "visibility": "private"})
        made.add_field("file", content, filename="a.pdf")
        return made

    key = {"Idempotency-Key": "once"}
    first = await ada.post("/api/files/upload", data=form(PDF), headers=key)
    again = await ada.post("/api/files/upload", data=form(PDF), headers=key)
    other = await ada.post("/api/files/upload", data=form(PDF + b"%"), headers=key)
    assert (first.status, again.status, other.code) == (201, 201, "idempotency_key_reused")
    assert again.body == first.body
    assert await sql.fetchval(KEPT, ada.id) == 1


# Pictures -------------------------------------------------------------------------------------------------------------


async def test_a_picture_is_measured_and_has_small_ones(ada: Person, people: People) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright: width and height change places
    exif[0x010F] = "a camera"
    sent = picture(900, 300, "JPEG", exif=exif)
    row = (await upload(ada, sent, "me.txt", purpose="avatar", visibility="public")).body
    assert (row["content_type"], row["width"], row["height"]) == ("image/jpeg", 300, 900)
    sizes = [(small["width"], small["height"]) for small in row["thumbnails"]]
    assert sizes == [(53, 160), (213, 640)]
    small = await people.stranger.get(row["thumbnails"][0]["url"])
    assert (small.status, small.headers["Content-Type"]) == (200, "image/webp")
    shown = Image.open(io.BytesIO(small.body))
    assert (shown.size, len(shown.getexif())) == ((53, 160), 0)
    private = (await upload(ada, sent)).body
    assert (await people.stranger.get(private["thumbnails"][0]["url"])).status == 401
    status, _, headers = await download(ada, private["id"], "?size=160")
    assert (status, headers["Content-Type"]) == (200, "image/webp")


@pytest.mark.parametrize("text", ["0", "4097", "+5", "1_0", " 5", "160.0", ""])
async def test_a_size_is_a_whole_number_in_plain_digits(text: str) -> None:
    for query in (files.Download, files.PublicDownload):
        with pytest.raises(ValidationError):
            query.model_validate_strings({"size": text})


async def test_a_decompression_bomb_is_a_file_like_any_other_and_no_avatar(ada: Person) -> None:
    material = await upload(ada, bomb())
    assert (material.status, material.body["width"], material.body["thumbnails"]) == (201, 20_000, [])
    avatar = await upload(ada, bomb(), purpose="avatar", visibility="public")
    assert (avatar.status, avatar.pointers) == (422, ["/file"])


async def test_a_polyglot_is_never_more_than_its_first_bytes_say(ada: Person, people: People) -> None:
    sent = picture(20, 20, "GIF") + HTML
    row = (await upload(ada, sent, "a.html", visibility="public")).body
    answer = await people.stranger.get(f"/api/files/public/{row['id']}")
    assert (answer.headers["Content-Type"], answer.headers["X-Content-Type-Options"]) == ("image/gif", "nosniff")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    small = await people.stranger.get(row["thumbnails"][0]["url"])
    assert b"<script>" not in small.body


async def test_what_could_act_as_a_page_is_saved_and_not_shown(ada: Person, people: People) -> None:
    for content, kind in ((SVG, "image/svg+xml"), (HTML, "text/html; charset=utf-8")):
        row = (await upload(ada, content, "a.png", visibility="public")).body
        public = await people.stranger.get(f"/api/files/public/{row['id']}")
        for headers in (public.headers, (await download(ada, row["id"]))[2]):
            assert headers["Content-Type"] == kind
            assert headers["Content-Disposition"].startswith("attachment")


async def test_an_avatar_is_a_public_picture_of_ones_own_and_goes_with_its_file(ada: Person, people: People) -> None:
    ben = await people.join("ben")
    sent = {"purpose": "avatar", "visibility": "public"}
    mine, his = (await upload(ada, picture(), **sent)).body, (await upload(ben, picture(), **sent)).body
    private = (await upload(ada, picture())).body
    text = (await upload(ada, b"hello", visibility="public")).body
    for file_id in (his["id"], private["id"], text["id"], str(uuid4())):
        refused = await ada.ask("PATCH", "/api/auth/me", {"avatar_file_id": file_id})
        assert (refused.status, refused.pointers) == (422, ["/avatar_file_id"])
    changed = await ada.ask("PATCH", "/api/auth/me", {"avatar_file_id": mine["id"]})
    assert changed.status == 200
    shown = await people.stranger.get(changed.body["avatar_url"])
    assert (shown.status, shown.headers["Content-Type"]) == (200, "image/webp")
    assert (await ada.ask("PATCH", "/api/auth/me", {})).body["avatar_url"] == changed.body["avatar_url"]
    assert (await ada.delete(f"/api/files/{mine['id']}")).status == 204
    assert (await ada.get("/api/auth/me")).body["avatar_url"] is None


async def test_a_courses_thumbnail_is_a_public_picture_of_its_owners(teacher: Person, ada: Person, sql: Sql) -> None:
    course = await teacher.make("/api/courses", {"title": "Queues", "status": "published"})
    mine = (await upload(teacher, picture(), purpose="thumbnail", visibility="public", course_id=course["id"])).body
    his = (await upload(ada, picture(), purpose="thumbnail", visibility="public")).body
    path = f"/api/courses/{course['id']}"
    refused = await teacher.put(path, {"thumbnail_file_id": his["id"]})
    assert (refused.status, refused.pointers) == (422, ["/thumbnail_file_id"])
    changed = await teacher.put(path, {"thumbnail_file_id": mine["id"]})
    assert changed.body["thumbnail_url"] == f"/api/files/public/{mine['id']}?size=640"
    same = await teacher.put(path, {"title": "Queues!", "thumbnail_url": changed.body["thumbnail_url"]})
    assert (same.status, same.body["thumbnail_url"]) == (200, changed.body["thumbnail_url"])
    for url in (f"/api/files/public/{his['id']}?size=640", "/api/files/public/", "/api/courses"):
        refused = await teacher.put(path, {"thumbnail_url": url})
        assert (refused.status, refused.pointers) == (422, ["/thumbnail_url"])
    assert await sql.fetchval("SELECT thumbnail_file_id FROM courses WHERE id = $1", course["id"]) == UUID(mine["id"])
    other = await teacher.put(path, {"thumbnail_url": "https://example.org/a.png"})
    assert other.body["thumbnail_url"] == "https://example.org/a.png"
    made = await teacher.make("/api/courses", {"title": "Stacks", "thumbnail_file_id": mine["id"]})
    assert made["thumbnail_url"] == changed.body["thumbnail_url"]
    await teacher.delete(f"/api/files/{mine['id']}")
    assert (await teacher.get(f"/api/courses/{made['id']}")).body["thumbnail_url"] is None
    assert (await teacher.get(path)).body["thumbnail_url"] == "https://example.org/a.png"


# Who may read ---------------------------------------------------------------------------------------------------------


async def test_who_reads_lists_and_deletes_a_file_follows_its_visibility(people: People, sql: Sql) -> None:
    owner, enrolled, other = [
        await people.join(n, r) for n, r in (("o", "instructor"), ("e", "student"), ("x", "instructor"))
    ]
    course = await owner.make("/api/courses", {"title": "Queues", "status": "published", "price": "5.00"})
    await sql.execute(
        "INSERT INTO enrollments (user_id, course_id, source) VALUES ($1, $2, 'admin')", enrolled.id, course["id"]
    )
    lecture = await owner.make(f"/api/courses/{course['id']}/lectures", {"title": "A"})
    await owner.make(f"/api/courses/{course['id']}/lectures", {"title": "B"})
    files = {}
    for visibility in ("private", "course", "public"):
        files[visibility] = (await upload(owner, PDF, visibility=visibility, lecture_id=lecture["id"])).body
        assert files[visibility]["course_id"] == course["id"]
    readers = {
        "private": [owner],
        "course": [owner, enrolled],
        "public": [owner, enrolled, other, people.stranger],
    }
    for visibility, row in files.items():
        for person in (owner, enrolled, other, people.stranger):
            hidden = 404 if person.token else 401
            expected = 200 if person in readers[visibility] else hidden
            assert (await person.get(f"/api/files/{row['id']}/metadata")).status == expected
            got = await person.get(f"/api/files/{row['id']}", allow_redirects=False)
            assert got.status == (302 if expected == 200 else expected)
            public = await person.get(f"/api/files/public/{row['id']}")
            assert public.status == (200 if visibility == "public" else 404)
    for person, seen in ((owner, 3), (enrolled, 2), (other, 1)):
        listed = (await person.get(f"/api/files?course_id={course['id']}")).body["items"]
        assert len(listed) == seen
    assert (await enrolled.get("/api/files")).body["items"] == []
    assert len((await enrolled.get(f"/api/lectures/{lecture['id']}")).body["files"]) == 2
    assert (await other.delete(f"/api/files/{files['public']['id']}")).status == 403
    assert (await other.delete(f"/api/files/{files['course']['id']}")).status == 404
    foreign = await upload(other, PDF, visibility="course", course_id=course["id"])
    assert (foreign.status, foreign.code) == (403, "forbidden")


@pytest.mark.parametrize("status", ["draft", "archived"])
async def test_the_files_of_a_course_that_one_may_not_see_are_listed_as_those_of_a_random_id(
    people: People, status: str
) -> None:
    owner, other = await people.join("o", "instructor"), await people.join("x", "instructor")
    course = await owner.make("/api/courses", {"title": "Queues", "status": status})
    await upload(owner, PDF, visibility="public", course_id=course["id"])
    told, random = [await other.get(f"/api/files?course_id={one}") for one in (course["id"], uuid4())]
    assert (told.status, told.body) == (random.status, random.body)
    assert len((await owner.get(f"/api/files?course_id={course['id']}")).body["items"]) == 1


async def test_lists_go_on_in_pages_by_purpose(ada: Person) -> None:
    made = [(await upload(ada, PDF)).body["id"] for _ in range(3)]
    await upload(ada, picture(), purpose="avatar", visibility="public")
    first = (await ada.get("/api/files?purpose=material&limit=2")).body
    rest = (await ada.get(first["next"])).body
    assert [row["id"] for row in first["items"] + rest["items"]] == made[::-1]
    assert rest["next"] is None


async def test_public_bytes_may_be_kept_and_asked_for_in_ranges(ada: Person, people: People) -> None:
    path = f"/api/files/public/{(await upload(ada, PDF, visibility='public')).body['id']}"
    whole = await people.stranger.get(path)
    assert (whole.status, whole.body, whole.headers["Cache-Control"]) == (200, PDF, "public, max-age=86400")
    tag = whole.headers["ETag"]
    known = await people.stranger.get(path, headers={"If-None-Match": f'"x", {tag}'})
    assert (known.status, known.body, known.headers["ETag"]) == (304, b"", tag)
    for asked, status, body in (
        ({"Range": "bytes=1-3"}, 206, b"PDF"),
        ({"Range": "bytes=-4"}, 206, PDF[-4:]),
        ({"Range": "bytes=0-"}, 206, PDF),
        ({"Range": "bytes=1-3", "If-Range": tag}, 206, b"PDF"),
        ({"Range": "bytes=1-3", "If-Range": '"other"'}, 200, PDF),
        ({"Range": "lines=1-3"}, 200, PDF),
    ):
        answer = await people.stranger.get(path, headers=asked)
        assert (answer.status, answer.body) == (status, body), asked
    for nothing in ("bytes=9999-", "bytes=-0", "Bytes=-00"):
        beyond = await people.stranger.get(path, headers={"Range": nothing})
        assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(PDF)}")
    for asked in ({}, {"Range": "bytes=1-3"}, {"Range": "bytes=9999-"}):  # of which there are none but of a GET
        head = await people.stranger.ask("HEAD", path, headers=asked)
        assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(PDF)), b""), asked


async def test_what_is_not_all_of_a_public_file_is_never_given_out_as_it(
    ada: Person, people: People, client: AppClient
) -> None:
    file_id = (await upload(ada, PDF, visibility="public")).body["id"]
    path, store = f"/api/files/public/{file_id}", client.app[OBJECTS]
    assert store is not None
    await store.put(f"public/{file_id}/original", io.BytesIO(PDF[:-1]), len(PDF) - 1, "application/pdf")
    for asked in ({}, {"Range": "bytes=-4"}):
        answer = await people.stranger.get(path, headers=asked)
        assert (answer.status, answer.code, answer.headers["Cache-Control"]) == (
            503,
            "upstream_unavailable",
            "no-store",
        )


async def test_a_store_that_knows_no_ranges_gives_out_the_whole(
    ada: Person, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/api/files/public/{(await upload(ada, PDF, visibility='public')).body['id']}"
    by_range = Objects.open_object
    monkeypatch.setattr(Objects, "open_object", lambda store, key, _range: by_range(store, key))
    answer = await people.stranger.get(path, headers={"Range": "bytes=1-3"})
    assert (answer.status, answer.body, answer.headers.get("Content-Range")) == (200, PDF, None)


async def test_public_bytes_are_kept_apart_for_pages_of_other_origins(ada: Person, people: People) -> None:
    """A page that shows a picture names no origin, and may have it in its cache when it fetches it to read it."""
    row = (await upload(ada, picture(), visibility="public")).body
    for path in (f"/api/files/public/{row['id']}", row["thumbnails"][0]["url"]):
        for asked in ({}, {"Origin": "https://pages.example"}, {"If-None-Match": "*"}):
            answer = await people.stranger.get(path, headers=asked)
            assert (answer.status, answer.headers["Vary"]) == (304 if "If-None-Match" in asked else 200, "Origin")


async def test_a_cdn_has_what_is_public_and_cannot_act(
    ada: Person, people: People, client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, active = [(await upload(ada, c, visibility="public")).body["id"] for c in (PDF, SVG)]
    private = (await upload(ada, PDF)).body["id"]
    monkeypatch.setitem(client.app[OBJECTS]._settings.__dict__, "cdn_base", "https://cdn.example.org/")
    answer = await people.stranger.get(f"/api/files/public/{shown}", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (302, f"https://cdn.example.org/public/{shown}/original")
    assert (await people.stranger.get(f"/api/files/public/{active}")).status == 200
    assert "cdn.example.org" not in (await ada.get(f"/api/files/{private}?redirect=false")).body["url"]


async def test_what_could_act_as_a_page_is_no_page_to_who_asks_the_store_or_a_cdn_for_it(
    ada: Person, client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, kept = client.app[OBJECTS], []
    assert store is not None
    put, begin_upload = store.put, store.begin_upload

    async def see_put(key: str, content: Any, size_bytes: int, content_type: str) -> None:
        kept.append(content_type)
        await put(key, content, size_bytes, content_type)

    async def see_begun(key: str, content_type: str) -> str:
        kept.append(content_type)
        return await begin_upload(key, content_type)

    monkeypatch.setattr(store, "put", see_put)
    monkeypatch.setattr(store, "begin_upload", see_begun)
    for content, content_type in ((HTML, "text/html"), (SVG, "image/svg+xml"), (PDF, "application/pdf")):
        assert (await upload(ada, content, visibility="public")).body["content_type"] == content_type
        await start(ada, 1000, content_type)
    assert kept == ["application/octet-stream"] * 4 + ["application/pdf"] * 2


# In parts, to the store -----------------------------------------------------------------------------------------------

LARGE = b"%PDF-" + bytes(9 * MEBIBYTE)


async def test_an_upload_in_parts_is_a_file_once_it_is_completed_however_often(
    ada: Person, people: People, object_store: ObjectStore
) -> None:
    begun = await start(ada, len(LARGE), filename="../../big.pdf")
    assert [part["number"] for part in begun["parts"]] == [1, 2]
    pending = await ada.get(f"/api/files/{begun['file_id']}", allow_redirects=False)
    assert (pending.status, pending.code) == (409, "file_not_ready")
    parts = await send_parts(begun, LARGE)
    ben = await people.join("ben")
    anothers = await complete(ben, begun, parts)
    unknown = await complete(ben, begun | {"file_id": str(uuid4()), "upload_id": str(uuid4())}, parts)
    assert (anothers.status, anothers.pointers) == (unknown.status, unknown.pointers) == (422, ["/upload_id"])
    first, second = await asyncio.gather(complete(ada, begun, parts), complete(ada, begun, parts))
    third = await complete(ada, begun, parts)
    assert {first.status, second.status, third.status} == {200}, (first.body, second.body, third.body)
    assert (third.body["status"], third.body["filename"]) == ("ready", "big.pdf")
    assert (await download(ada, begun["file_id"]))[1] == LARGE
    over = await ada.delete(f"/api/files/upload/{begun['upload_id']}")
    assert (over.status, over.code) == (409, "upload_completed")
    assert stored(object_store, begun["file_id"]) == ["private/*/original"]


async def test_an_upload_is_completed_under_its_own_file_s_id_alone(ada: Person) -> None:
    begun, other = [await start(ada, len(PDF)) for _ in range(2)]
    parts = await send_parts(begun, PDF)
    for file_id in (str(uuid4()), other["file_id"]):
        answer = await complete(ada, begun | {"file_id": file_id}, parts)
        assert (answer.status, answer.pointers) == (422, ["/file_id"])
    assert (await complete(ada, begun, parts)).status == 200


async def test_the_store_takes_neither_more_nor_less_than_was_announced(ada: Person) -> None:
    begun = await start(ada, 1000)
    url = begun["parts"][0]["url"]
    async with aiohttp.ClientSession() as http:
        for size in (999, 1001):
            async with http.put(url, data=bytes(size)) as answer:
                assert answer.status == 403
        async with http.put(url.replace("partNumber=1", "partNumber=2"), data=bytes(1000)) as answer:
            assert answer.status == 403
    missing = await complete(ada, begun, [{"number": 1, "etag": "x"}])
    assert (missing.status, missing.pointers) == (422, ["/parts/0/number"])


async def test_wrong_etags_and_numbers_can_be_mended(ada: Person) -> None:
    begun = await start(ada, len(LARGE))
    right = await send_parts(begun, LARGE)
    wrong = await complete(ada, begun, [right[0], {"number": 2, "etag": '"0"'}])
    assert (wrong.status, wrong.pointers) == (422, ["/parts/1/etag"])
    for parts in (right[:1], right * 2, [right[0], right[0] | {"number": 3}]):
        refused = await complete(ada, begun, parts)
        assert (refused.status, refused.pointers) == (422, ["/parts"])
    assert (await complete(ada, begun, right)).status == 200


async def test_a_store_that_does_not_let_us_in_is_no_fault_of_the_parts(
    ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> Any:
        raise ServiceRefused("AccessDenied")

    begun = await start(ada, len(PDF))
    etags = await send_parts(begun, PDF)
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "list_parts", refuse)
        answer = await complete(ada, begun, etags)
    assert (answer.status, answer.code) == (502, "upstream_failed")
    assert (await complete(ada, begun, etags)).status == 200


async def test_content_of_another_type_takes_the_upload_with_it(
    ada: Person, object_store: ObjectStore, sql: Sql
) -> None:
    begun = await start(ada, len(HTML), "Application/PDF; version=1.7")
    refused = await complete(ada, begun, await send_parts(begun, HTML))
    assert (refused.status, refused.pointers) == (422, [""])
    assert (await ada.get(f"/api/files/{begun['file_id']}/metadata")).status == 404

    async def is_gone() -> bool:
        return stored(object_store, begun["file_id"]) == [] and await sql.fetchval(REMOVALS, begun["file_id"]) == 0

    await eventually(is_gone)


async def test_a_picture_in_parts_is_looked_at_too(ada: Person) -> None:
    sent = picture(900, 300)
    begun = await start(ada, len(sent), "image/png", purpose="avatar", visibility="public")
    row = (await complete(ada, begun, await send_parts(begun, sent))).body
    assert (row["width"], row["height"], len(row["thumbnails"])) == (900, 300, 2)


async def test_what_cannot_be_announced_is_refused(ada: Person) -> None:
    good = {
        "filename": "a.pdf", "size_bytes": 1, "content_type": "application/pdf", "purpose": "material",
        "visibility": "private",
    }  # fmt: skip
    for member, value in (
        ("size_bytes", 5 * 1024**3 + 1),
        ("size_bytes", 0),
        ("content_type", "application/x-msdownload"),
        ("filename", ".."),
        ("course_id", str(uuid4())),
        ("purpose", "avatar"),
    ):
        refused = await ada.post("/api/files/upload/start", good | {member: value})
        assert refused.status == 422, (member, value)
    beyond = await ada.post("/api/files/upload/start", good | {"size_bytes": 5 * 1024**3})
    assert (beyond.status, beyond.code) == (409, "quota_exceeded")


@pytest.mark.parametrize("how", ["given up", "swept", "deleted"])
async def test_an_upload_that_ends_early_leaves_nothing_in_the_store(
    ada: Person, sql: Sql, client: AppClient, object_store: ObjectStore, how: str
) -> None:
    begun = await start(ada, len(LARGE))
    parts = await send_parts(begun, LARGE)
    if how == "given up":
        assert (await ada.delete(f"/api/files/upload/{begun['upload_id']}")).status == 204
    elif how == "deleted":
        assert (await ada.delete(f"/api/files/{begun['file_id']}")).status == 204
    else:
        ended = "UPDATE file_uploads SET expires_at = now() - interval '1 second' WHERE file_id = $1"
        await sql.execute(ended, begun["file_id"])

    async def is_gone() -> bool:
        rows = await sql.fetchval(KEPT, ada.id) + await sql.fetchval(REMOVALS, begun["file_id"])
        uploads = await client.app[OBJECTS]._client.list_multipart_uploads(Bucket=BUCKET)  # type: ignore[union-attr]
        key = f"private/{begun['file_id']}/original"
        return rows == 0 and key not in [upload["Key"] for upload in uploads.get("Uploads", ())]

    await eventually(is_gone)
    assert (await complete(ada, begun, parts)).pointers == ["/upload_id"]
    assert stored(object_store, begun["file_id"]) == []


# Room, time and outages -----------------------------------------------------------------------------------------------


async def test_a_quota_holds_however_many_come_at_once(ada: Person, sql: Sql) -> None:
    body = {
        "filename": "a.pdf", "size_bytes": 15 * MEBIBYTE, "content_type": "application/pdf", "purpose": "material",
        "visibility": "private",
    }  # fmt: skip
    answers = await asyncio.gather(*(ada.post("/api/files/upload/start", body) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [201, 201, 409, 409, 409, 409]
    assert await sql.fetchval("SELECT sum(size_bytes) FROM files WHERE owner_id = $1", ada.id) == 30 * MEBIBYTE
    small = await upload(ada, picture(), purpose="avatar", visibility="public")
    assert small.status == 201


async def test_a_file_deleted_while_it_is_completed_is_gone(ada: Person, sql: Sql, object_store: ObjectStore) -> None:
    for _ in range(5):
        begun = await start(ada, 1000)
        parts = await send_parts(begun, b"%PDF-" + bytes(995))
        done, deleted = await asyncio.gather(complete(ada, begun, parts), ada.delete(f"/api/files/{begun['file_id']}"))
        assert (done.status in (200, 422), deleted.status) == (True, 204), done.body

        async def is_gone(file_id: str = begun["file_id"]) -> bool:
            return stored(object_store, file_id) == [] and await sql.fetchval(REMOVALS, file_id) == 0

        await eventually(is_gone)


async def test_a_file_goes_from_the_store_with_its_course_and_its_owner(
    teacher: Person, ada: Person, object_store: ObjectStore
) -> None:
    course = await teacher.make("/api/courses", {"title": "Queues"})
    one = (await upload(teacher, picture(), visibility="public", course_id=course["id"])).body["id"]
    two = (await upload(ada, PDF)).body["id"]
    assert stored(object_store, one) == ["public/*/160.webp", "public/*/original"]
    assert (await teacher.delete(f"/api/courses/{course['id']}")).status == 204
    assert (await ada.ask("DELETE", "/api/auth/me", {"current_password": "correct horse battery"})).status == 204

    async def are_gone() -> bool:
        return stored(object_store, one) == stored(object_store, two) == []

    await eventually(are_gone)


async def test_what_was_stored_for_an_upload_that_failed_is_taken_away(
    ada: Person, sql: Sql, client: AppClient, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    async def fail(_store: Any, file_id: UUID, *_: Any) -> None:
        seen.append((str(file_id), stored(object_store, str(file_id))))
        raise ServiceAway("the store left between two pictures")

    monkeypatch.setattr(uploads, "_store_thumbnails", fail)
    answer = await upload(ada, picture())
    assert (answer.status, answer.code, "Retry-After" in answer.headers) == (503, "upstream_unavailable", True)
    ((file_id, there),) = seen
    assert there == ["private/*/original"]
    await sql.execute("UPDATE jobs SET run_at = now() WHERE payload ->> 'file_id' = $1", file_id)
    await eventually(lambda: stored(object_store, file_id) == [])
    assert (await ada.get("/api/files")).body["items"] == []


@pytest.mark.parametrize("work", [files.remover, uploads.looker])
async def test_what_is_left_to_do_waits_for_a_store_that_is_away(
    work: Any, ada: Person, client: AppClient, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = uuid4()
    if work is uploads.looker:
        file_id = (await upload(ada, picture())).body["id"]
        await sql.execute("UPDATE files SET width = NULL, height = NULL WHERE id = $1", file_id)

    async def be_away(*_: Any) -> None:
        raise ServiceAway("the store is away")

    for name in ("remove", "fetch"):
        monkeypatch.setattr(client.app[OBJECTS], name, be_away)
    job = Job(uuid4(), "any", {"file_id": str(file_id), "visibility": "private"}, attempts=8, age_s=100.0)
    with pytest.raises(Again) as put_off:
        await work(client.app)(job)
    assert put_off.value.in_s == 100.0


async def test_a_picture_for_which_there_was_no_time_is_looked_at_later(
    ada: Person, client: AppClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def be_busy(_content: Any) -> Any:
        raise PicturesBusy

    with monkeypatch.context() as busy:
        busy.setattr(uploads, "_LATER_S", 0.0)
        busy.setattr(client.app[LOOKING], "look_at", be_busy)
        row = (await upload(ada, picture())).body
        assert (row["width"], row["thumbnails"]) == (None, [])

    async def is_known() -> bool:
        return bool((await ada.get(f"/api/files/{row['id']}/metadata")).body["width"] == 320)

    await eventually(is_known, 20.0)


async def test_a_reader_that_leaves_is_no_failure_of_ours(ada: Person, client: AppClient) -> None:
    content = b"%PDF-" + bytes(20 * MEBIBYTE)
    path = f"/api/files/public/{(await upload(ada, content, visibility='public')).body['id']}"
    before = unforeseen()
    answer = await client.get(path)
    assert await answer.content.readexactly(5) == b"%PDF-"
    answer.close()
    assert (await ada.get(path)).body == content
    assert unforeseen() == before


async def test_a_store_that_says_nothing_is_told_as_such_to_who_asks_for_a_public_file(
    ada: Person, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/api/files/public/{(await upload(ada, PDF, visibility='public')).body['id']}"

    @asynccontextmanager
    async def be_silent(*_: Any) -> AsyncIterator[None]:
        later = time.monotonic() + 1000.0  # for as long as any handler may take
        monkeypatch.setattr(deadlines, "time", SimpleNamespace(monotonic=lambda: later))
        await asyncio.sleep(3 * deadlines.LOOK_S)  # it was looked at by then, which comes first however late both are
        raise ServiceSlow("the store said nothing")
        yield

    monkeypatch.setattr(Objects, "open_object", be_silent)
    answer = await people.stranger.get(path)
    assert (answer.status, answer.code) == (504, "upstream_timed_out")
    assert int(answer.headers["Retry-After"]) > 0


def unforeseen() -> float:
    """How often something happened for which there is no problem."""
    return sum(sample.value for metric in metrics.HTTP_UNFORESEEN.collect() for sample in metric.samples)
