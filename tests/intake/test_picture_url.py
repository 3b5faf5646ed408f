from __future__ import annotations

import string
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nvlm_trt.errors import RequestError, UsageError
from nvlm_trt.intake.picture_url import PictureUrl, check_host, read_picture_url

HOSTS = ("pictures.example.org", "other.example.org:8443")


def read(url: str) -> PictureUrl:
    return read_picture_url(url, HOSTS, "Picture 1")


@pytest.mark.parametrize(
    ("url", "read_as"),
    [
        ("https://pictures.example.org/a.png", PictureUrl("pictures.example.org", 443, "/a.png")),
        ("HTTPS://Pictures.Example.ORG", PictureUrl("pictures.example.org", 443, "/")),
        ("https://pictures.example.org:443/a%20b?x=1&y=/?", PictureUrl("pictures.example.org", 443, "/a%20b?x=1&y=/?")),
        ("https://other.example.org:8443/", PictureUrl("other.example.org", 8443, "/")),
    ],
)
def test_a_plain_address_of_a_listed_host(url, read_as):
    assert read(url) == read_as


@pytest.mark.parametrize(
    "url",
    [
        "http://pictures.example.org/a.png",
        "ftp://pictures.example.org/a.png",
        "file:///etc/passwd",
        "//pictures.example.org/a.png",
        "https:pictures.example.org/a.png",
        "https:///a.png",
        "https://127.0.0.1/a.png",
        "https://2130706433/a.png",
        "https://0x7f000001/a.png",
        "https://0x7f.0x1/a.png",
        "https://0177.0.0.1/a.png",
        "https://127.1/a.png",
        "https://[::1]/a.png",
        "https://[::ffff:127.0.0.1]/a.png",
        "https://localhost/a.png",
        "https://user@pictures.example.org/a.png",
        "https://pictures.example.org:x@evil.example/a.png",
        "https://pictures.example.org@evil.example/a.png",
        "https://evil.example\\@pictures.example.org/a.png",
        "https:\\\\pictures.example.org\\a.png",
        "https://pictures.example.org\\.evil.example/a.png",
        "https://pictures.example.org./a.png",
        "https://pictures.example.org%2eevil.example/a.png",
        "https://pictures.example.org/a.png#x",
        "https://pictures.example.org#@evil.example/",
        "https://pictures.example.org?x",
        "https://pictures.example.org/a b.png",
        "https://pictures.example.org/a\r\nHost: evil.example",
        "https://pictures.example.org/a\0.png",
        "https://pictures.example.org/%zz",
        "https://pictures.example.org:0443/a.png",
        "https://pictures.example.org:/a.png",
        "https://pictures.example.org:-1/a.png",
        " https://pictures.example.org/a.png",
        "https://pictures.example.org/a.png\n",
        "https://\u212aictures.example.org/a.png",
        "https://pictures。example.org/a.png",
        "https://pictures.example.org/ä.png",
        "https://pictures.example.org/" + "a" * 2048,
        "/etc/passwd",
        "",
    ],
)
def test_every_other_form_is_refused(url):
    with pytest.raises(RequestError, match="E-IMAGE-URL"):
        read(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/a.png",
        "https://pictures.example.org.evil.example/a.png",
        "https://xpictures.example.org/a.png",
        "https://pictures.example.org:8443/a.png",
        "https://other.example.org/a.png",
        "https://example.org/a.png",
    ],
)
def test_a_host_that_is_not_listed(url):
    with pytest.raises(RequestError, match="E-IMAGE-HOST"):
        read(url)


def test_without_hosts_no_address_is_read():
    with pytest.raises(RequestError, match=r"E-IMAGE-URL: .*remote pictures are off"):
        read_picture_url("https://pictures.example.org/a.png", (), "Picture 1")


@given(st.text("https:/\\@.?#%[]0123456789abcx\t\r\n \u212a", max_size=60))
@example("https://pictures.example.org/@evil.example")
def test_whatever_is_read_other_readers_read_the_same(tail):
    """After a listed name and in its place: the standard library sees the host that we see."""
    for url in (f"https://pictures.example.org{tail}", f"https://{tail}/", tail):
        try:
            found = read(url)
        except RequestError:
            continue
        parts = urlsplit(url)
        assert parts.hostname in ("pictures.example.org", "other.example.org")
        assert parts.hostname == found.host
        assert (parts.port or 443) == found.port
        assert parts.username is None
        assert found.target.isascii()
        assert not set(found.target) & set(string.whitespace + "\\#\0")


@pytest.mark.parametrize(
    "host", ["pictures.example.org", "PICTURES.example.org:8443", "xn--bcher-kva.example", "a.b:443"]
)
def test_a_full_name_can_be_listed(host):
    assert check_host(host) == host.lower().removesuffix(":443")


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "*.example.org",
        "127.0.0.1",
        "1.2.3",
        "0x7f.0x1",
        "[::1]",
        "https://a.example",
        "a.example/",
        "a b.c",
    ]
    + ["-a.example", "a-.example", "a..example", ".example.org", "a.example.", "a.example:0", "a" * 64 + ".example"],
)
def test_anything_else_cannot(host):
    with pytest.raises(UsageError, match="E-USAGE-HOST"):
        check_host(host)
