"""What is asked for is what a browser would ask for; expectations are those of https://url.spec.whatwg.org."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import example, given
from hypothesis import strategies as st

from pangu.data.card import load_card
from pangu.data.ingest.guard import EgressPolicy
from pangu.data.ingest.raw import RawFolder, RowState, states_table, write_rows
from pangu.data.ingest.reuse import reuse
from pangu.data.ingest.source import LISTED
from pangu.data.ingest.stage import private_origins, refuse
from pangu.data.ingest.urls import Failed, asked_host, origin_of, redirect_target, requested_url
from tests import subtests

checks = subtests.Checks()


ASKED = {
    # path and query: UTF-8, percent-encoded
    "http://host/图片/狐狸.png": "http://host/%E5%9B%BE%E7%89%87/%E7%8B%90%E7%8B%B8.png",
    "http://host/a.png?名=狐&b=ü": "http://host/a.png?%E5%90%8D=%E7%8B%90&b=%C3%BC",
    "http://host/🦊.png": "http://host/%F0%9F%A6%8A.png",
    "http://host/my fox.png?q=red fox": "http://host/my%20fox.png?q=red%20fox",
    "http://host/a\u00a0b\u3000c": "http://host/a%C2%A0b%E3%80%80c",
    "http://host/\"<>`{}|'^": "http://host/%22%3C%3E%60%7B%7D|'%5E",
    "http://host/?\"<>`{}|'^": "http://host/?%22%3C%3E`{}|%27^",
    # what is encoded stays, and so does a percent sign that encodes nothing
    "http://host/%E7%8b%90/狐%20a+b": "http://host/%E7%8b%90/%E7%8B%90%20a+b",
    "http://host/%C4%E3%BA%C3.jpg": "http://host/%C4%E3%BA%C3.jpg",
    "http://host/100%/50%zz?p=100%&q=%4": "http://host/100%/50%zz?p=100%&q=%4",
    "http://host/a%2Fb%3Fc%23d": "http://host/a%2Fb%3Fc%23d",
    "http://host/:@!$&'()*+,;=-._~[]": "http://host/:@!$&'()*+,;=-._~[]",
    "http://host/a?b?c/d:@": "http://host/a?b?c/d:@",
    "http://host/a?": "http://host/a?",
    # what is not sent
    "http://host/a#片段": "http://host/a",
    "http://host#a": "http://host/",
    "http://host?a": "http://host/?a",
    "  http://host/a \t\n": "http://host/a",
    "ht\ntp://ho\tst/a\r\n/b": "http://host/a/b",
    # separators and dots
    r"http:\\host\a\b?c\d": r"http://host/a/b?c\d",
    "http://host/a/./b/../c": "http://host/a/c",
    "http://host/a/%2e%2E/b": "http://host/b",
    "http://host//a//b": "http://host//a//b",
    # scheme, host and port
    "HTTP://HOST.Example/A": "http://host.example/A",
    "https://host:443/": "https://host/",
    "http://host:443": "http://host:443/",
    "http://host:0080/": "http://host/",
    "http://host:0/": "http://host:0/",
    "http://my_host.example./": "http://my_host.example./",
    "http://例子.example/a": "http://xn--fsqu00a.example/a",
    "http://例子。测试/": "http://xn--fsqu00a.xn--0zwm56d/",
    "http://ｅｘａｍｐｌｅ．org/": "http://example.org/",
    "http://%E4%BE%8B%E5%AD%90.example/": "http://xn--fsqu00a.example/",
    "http://Bücher.example/": "http://xn--bcher-kva.example/",
    "http://faß.example/": "http://xn--fa-hia.example/",
    "http://a_b.例子.example/": "http://a_b.xn--fsqu00a.example/",
    "http://🦊.example/": "http://xn--9s9h.example/",
    "http://xn--fsqu00a.example/": "http://xn--fsqu00a.example/",
    "http://[2001:DB8:0:0::1]:8080/狐": "http://[2001:db8::1]:8080/%E7%8B%90",
}
PRIVATE = (
    "①②⑦.0.0.1", "１２７.0.0.1", "127。0。0。1", "127.0.0.1.", "%31%32%37.0.0.1", "2130706433", "0x7f.1", "0X7F000001",
    "0177.0.0.1", "127.1", "10.1", "0", "0xA9FEA9FE", "169.254.43518", "ｌｏｃａｌｈｏｓｔ", "LOCALHOST.", "ⓛocalhost",
    "local\u00adhost", "lo\u200bcalhost", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::FFFF:7f00:1]", "[64:ff9b::10.0.0.1]",
    "[2002:7f00:1::]", "[fe80::1]",
)  # fmt: skip
REFUSED = {
    "": "missing_url",
    " ": "refused_scheme",
    "host/a.png": "refused_scheme",
    "//host/a.png": "refused_scheme",
    "ｈttp://host/": "refused_scheme",
    "ja\tvascript:alert(1)": "refused_scheme",
    "http:host/a": "bad_url",
    "http:/host/a": "bad_url",
    "http:////host/a": "bad_url",
    "http://": "bad_url",
    "http://:80/": "bad_url",
    "http://user:secret@host/": "bad_url",
    "http://用户@host/": "bad_url",
    "http://host\\@other/": "",
    "http://host:65536/": "bad_url",
    "http://host:八十/": "bad_url",
    "http://a b/": "bad_url",
    "http://a%20b/": "bad_url",
    "http://a／b/": "bad_url",  # a full-width slash would become one
    "http://a%2Fb/": "bad_url",
    "http://%C4%E3/": "bad_url",  # not UTF-8
    "http://a..b/": "bad_url",
    "http://.example/": "bad_url",
    f"http://{'a' * 64}.example/": "bad_url",
    "http://256.1.1.1/": "bad_url",
    "http://1.2.3.4.5/": "bad_url",
    "http://0x100000000/": "bad_url",
    "http://[::1/": "bad_url",
    "http://[::1]x/": "bad_url",
    "http://[fe80::1%25eth0]/": "bad_url",
    "http://[fe80::1%eth0]/": "bad_url",
    "http://host/a\x00b": "bad_url",
    "http://host/a\ud800": "bad_url",
    f"http://host/{'a' * 9000}": "bad_url",
    f"http://host/{'狐' * 2000}": "bad_url",
}
OUTSIDE = EgressPolicy(frozenset(), max_bytes=1000, max_seconds=0.6)


def reason(url: str) -> str:
    try:
        OUTSIDE.check_url(url)
    except Failed as error:
        return error.reason
    return ""


@checks
def a_url_is_asked_for_as_browsers_do() -> None:
    assert {url: requested_url(url) for url in ASKED} == ASKED


@checks
def what_is_no_http_url_is_refused_with_its_reason() -> None:
    assert {url: reason(url) for url in REFUSED} == REFUSED


@checks
def a_private_host_is_refused_before_any_request_however_it_is_spelled() -> None:
    assert {host: reason(f"http://{host}/a") for host in PRIVATE} == dict.fromkeys(PRIVATE, "refused_address")


PARTS = st.text(st.characters(blacklist_categories=["Cc", "Cs"]), max_size=30) | st.sampled_from([*ASKED, *PRIVATE])


@given(st.sampled_from(["http://host/", "http://host/?", "http://", "http:\\\\host:8\\", "https://例子."]), PARTS)
@example("http://host/", "%%41%4%zz")
def test_what_is_asked_for_is_printable_ascii_and_is_itself_what_would_be_asked_for(start: str, rest: str) -> None:
    try:
        asked = requested_url(start + rest)
    except Failed:
        return
    assert asked.isascii() and asked.isprintable() and not set(asked) & set(' "<>#')
    assert requested_url(asked) == asked
    assert origin_of(asked)[0] and asked.startswith(("http://", "https://"))


@given(
    st.text(st.sampled_from("aZ09-_~!$&()*+,;=:@%/[]|"), max_size=40),
    st.text(max_size=9),
)
def test_what_needs_no_encoding_stays_and_what_was_encoded_comes_back(path: str, text: str) -> None:
    assert requested_url(f"https://host.example/{path}?{path}") == f"https://host.example/{path}?{path}"
    encoded = "".join(f"%{byte:02x}" for byte in text.encode())
    assert requested_url(f"http://host/a{encoded}") == f"http://host/a{encoded}"


@subtests.parametrize(
    ("location", "expected"),
    [
        ("/图片/全 景.png?名=狐", "http://host/%E5%9B%BE%E7%89%87/%E5%85%A8%20%E6%99%AF.png?%E5%90%8D=%E7%8B%90"),
        ("b c.png", "http://host/dir/b%20c.png"),
        ("?q", "http://host/dir/a?q"),
        ("//例子.example/x", "http://xn--fsqu00a.example/x"),
        (r"\\other\x", "http://other/x"),
        ("https://other/%E7#f", "https://other/%E7"),
    ],
)
def test_a_redirect_may_hold_raw_bytes_and_spaces(location: str, expected: str) -> None:
    as_header = location.encode().decode("latin-1")
    assert requested_url(redirect_target("http://host/dir/a", as_header)) == expected


@checks
def a_redirect_in_another_encoding_asks_for_the_very_bytes() -> None:
    as_header = "/你好.jpg".encode("gbk").decode("latin-1")
    assert redirect_target("http://host/", as_header) == "http://host/%C4%E3%BA%C3.jpg"


@checks
def a_card_may_name_a_private_host_in_any_spelling() -> None:
    assert {asked_host(host) for host in ("127.0.0.1", "2130706433", "①②⑦.0.0.1")} == {"127.0.0.1"}
    assert (asked_host("LocalHost"), asked_host("内网.example"), asked_host("0::1")) == (
        "localhost", "xn--v6q792i.example", "::1",
    )  # fmt: skip
    assert [asked_host(more) for more in ("a:8000", "a/b", "u@a", "")] == ["a:8000", "a/b", "u@a", ""]


def listed(*urls: str) -> pa.Table:
    return pa.Table.from_pylist([{"row": row, "url": url} for row, url in enumerate(urls)], schema=LISTED)


@checks
def the_origins_that_a_table_names_are_those_it_asks() -> None:
    card = load_card("openmoji")
    limits = card.limits.model_copy(update={"allow_private_hosts": ("127.0.0.1", "内网.example")})
    card = card.model_copy(update={"limits": limits})
    table = listed("http://①②⑦.1:81/狐", "http://内网。example/", "http://127.0.0.2/", "http://localhost/", "no URL")
    assert private_origins(card, [table]) == {("127.0.0.1", 81), ("xn--v6q792i.example", 80)}
    refused = {row: state.reason for row, state in refuse(card, table).items()}
    assert refused == {2: "refused_address", 3: "refused_address", 4: "refused_scheme"}


@checks
def an_earlier_download_is_known_by_what_was_asked_and_a_refusal_is_decided_anew(tmp_path: Path) -> None:
    before = listed("http://host/狐.png", "http://host/a b", "http://host/gone")
    raw = RawFolder(tmp_path / "earlier")
    raw.shards.mkdir(parents=True)
    pq.write_table(pa.table({"row": [0]}), raw.shard_file(0))
    states = {0: RowState(0, "", "ab"), 1: RowState(0, "bad_url"), 2: RowState(0, "http_404")}
    write_rows(raw, [before], [states_table(states)])
    now = listed("http://HOST/%E7%8B%90.png#x", "http://host/a b", "http://host/gone?", "http://host/gone", "x")
    known = pa.concat_tables(reuse([now], [raw], tmp_path)).to_pylist()
    assert {one.pop("row"): RowState(**one) for one in known} == {
        0: RowState(0, "", "ab", "earlier", 0), 3: RowState(0, "http_404", "", "earlier", 2)
    }  # fmt: skip


test_urls = checks.test()
