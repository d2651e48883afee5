"""CMCD as stock players write it: what they say is read, what they get wrong costs nothing else."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from actors.video_session.cmcd import parse_members, report_of
from actors.video_session.messages import MAX_KBPS, MAX_MS, encode_frame, parse_kept_frame

READ = (
    "bl",
    "br",
    "bs",
    "bsd",
    "d",
    "dl",
    "e",
    "mtp",
    "msd",
    "ot",
    "pr",
    "pt",
    "rc",
    "rtp",
    "sta",
    "su",
    "tbl",
    "ttfb",
    "ttlb",
)
KEYS = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True)
NUMBERS = st.integers(-(10**12), 10**12) | st.decimals(-(10**6), 10**6, places=3)
BARES = (
    NUMBERS.map(lambda n: (str(n), float(n)))
    | st.booleans().map(lambda b: (f"?{int(b)}", b))
    | st.from_regex(r"[A-Za-z*][A-Za-z0-9._~:/-]{0,8}", fullmatch=True).map(lambda t: (t, t))
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12).map(
        lambda t: ('"' + t.replace("\\", "\\\\").replace('"', '\\"') + '"', t)
    )
)
PARAMETERS = st.lists(st.sampled_from(["a", "x=1", 'n="q;,"']), max_size=2).map(lambda p: "".join(f";{x}" for x in p))
ITEMS = st.tuples(BARES, PARAMETERS).map(lambda i: (i[0][0] + i[1], i[0][1]))
VALUES = ITEMS | st.lists(ITEMS, max_size=4).map(
    lambda items: ("(" + " ".join(text for text, _ in items) + ")", [value for _, value in items])
)
DICTIONARIES = st.dictionaries(KEYS, VALUES, max_size=8)


def written(members: dict[str, tuple[str, object]], between: str = ",") -> str:
    return between.join(key if text == "?1" else f"{key}={text}" for key, (text, _) in members.items())


@given(DICTIONARIES, st.sampled_from([",", ", ", " ,\t"]))
def test_what_is_written_is_read(members: dict[str, tuple[str, object]], between: str) -> None:
    assert parse_members(written(members, between)) == {key: value for key, (_, value) in members.items()}


@given(
    DICTIONARIES, st.sampled_from(["=1", "b=", "c=(1", 'd=(1"2")', "e=%", "@", "f=1x", "g=?2", "(1)", "h;=2", "é=1"])
)
def test_a_member_that_cannot_be_read_costs_no_other(members: dict[str, tuple[str, object]], bad: str) -> None:
    read = {key: value for key, (_, value) in members.items()}
    assert parse_members(f"{bad},{written(members)}") == read
    assert parse_members(f"{written(members)},{bad}") == read


@given(st.text(max_size=300) | st.text('ab=()",;?:@%\\ 1.-', max_size=300))
def test_any_text_becomes_a_report_that_can_be_kept(text: str) -> None:
    report = report_of(parse_members(text))
    assert encode_frame(parse_kept_frame(encode_frame(report))) == encode_frame(report)


@given(st.dictionaries(st.sampled_from(READ), VALUES, max_size=12))
def test_absurd_figures_are_clamped(members: dict[str, tuple[str, object]]) -> None:
    report = report_of(parse_members(written(members)))
    cmcd = report.cmcd
    for amounts, most in (
        (cmcd.buffer_length_ms, MAX_MS), (cmcd.measured_throughput_kbps, MAX_KBPS),
        (cmcd.encoded_bitrate_kbps, MAX_KBPS), (cmcd.starved_ms, MAX_MS), (cmcd.startup_delay_ms, MAX_MS),
        (cmcd.playback_rate, 16),
    ):  # fmt: skip
        for amount in amounts if isinstance(amounts, list) else [0 if amounts is UNSET else amounts]:
            assert 0 <= amount <= most
    assert report.position is UNSET or 0 <= report.position <= 1_000_000


HLS_JS_V1 = (
    'bl=6000,br=5479,cid="lec-1",d=2000,dl=6000,mtp=116200,nor="../s%2C3.m4s",ot=v,rtp=27400,sf=h,sid="a,b",st=v,su'
)
HLS_JS_V2 = (
    'bl=(5800),br=(5479),d=2000,e=rr,mtp=(140000),ot=v,pr=1,rc=200,sta=p,ttfb=12,ttlb=48,url="https://x/a?b=1,2",v=2'
)
EXO_PLAYER = ("bl=500,dl=400,mtp=1500", "br=840,d=4000,ot=av,tb=1000", "bs,rtp=1700", 'cid="m",sf=d,sid="s",st=v')
SHAKA = 'br=(800;v 64;a),bl=(4200),bs,bsd=(250),e=ps,msd=350,pt=61500,sta=r,sn=4,ts=1764000000000,v=2,com.example-x="y"'


def test_hls_js_dash_js_shaka_and_exoplayer_are_understood() -> None:
    first = report_of(parse_members(HLS_JS_V1))
    assert (first.cmcd.buffer_length_ms, first.cmcd.encoded_bitrate_kbps, first.cmcd.startup) == (6000, 5479, True)
    assert (first.position, first.segments) == (UNSET, [])
    answered = report_of(parse_members(HLS_JS_V2))
    (segment,) = answered.segments
    assert (segment.br, segment.bytes, segment.ms, segment.ttfb_ms) == (5479, 5479 * 250, 48, 12)
    exo = report_of(parse_members(",".join(EXO_PLAYER))).cmcd
    assert (exo.measured_throughput_kbps, exo.top_bitrate_kbps, exo.starved) == (1500, 1000, True)
    shaka = report_of(parse_members(SHAKA))
    assert (shaka.position, shaka.cmcd.encoded_bitrate_kbps, shaka.cmcd.player_state) == (61.5, [800, 64], "r")
    assert (shaka.cmcd.starved, shaka.cmcd.starved_ms, shaka.cmcd.startup_delay_ms) == (True, 250, 350)


def test_sound_tracks_and_failed_requests_say_nothing_of_the_picture() -> None:
    sound = report_of(parse_members("br=128,d=2000,e=rr,ot=a,rc=200,ttlb=40,bl=3000"))
    assert (sound.cmcd.encoded_bitrate_kbps, sound.cmcd.buffer_length_ms, sound.segments) == (UNSET, 3000, [])
    assert report_of(parse_members("br=800,d=2000,e=rr,ot=v,rc=404,ttlb=40")).segments == []


@pytest.mark.parametrize("bad", ['"', '"\\', "(", "a=(", "a;", "a", ",", 'a="\\"', '"a",', "a=(1 ", "a=1,", "=,"])
def test_nonsense_costs_next_to_nothing(bad: str) -> None:
    before = time.process_time()
    parse_members(bad * 100_000)
    assert time.process_time() - before < 1  # it is 30 ms at most; what is quadratic would take minutes
