"""Under which hosts the page answers, and for which sites."""

from __future__ import annotations

import pytest

from tasks.hosts import Names, Refused, origin_of

HERE = "127.0.0.1:7860"


def refusal(names: Names, method: str = "GET", **headers: str) -> tuple[int, str] | None:
    """Status and message with which a request is refused; None: it is served."""
    sent = {name.replace("_", "-"): [value] for name, value in headers.items()}
    try:
        names.check(method, sent)
    except Refused as refused:
        return refused.status, refused.why
    return None


class TestNames:
    @pytest.mark.parametrize(
        ("listens", "right", "wrong"),
        [
            (
                "127.0.0.1",
                ["127.0.0.1:7860", "localhost:7860", "LOCALHOST:7860", "[::1]:7860"],
                ["127.0.0.1", "127.0.0.1:80", "evil.example:7860", "10.0.0.1:7860", "127.0.0.1.evil.example:7860"],
            ),
            (
                "0.0.0.0",
                ["10.0.0.1:7860", "localhost:7860", "[fe80::1]:7860", "127.0.0.1:7860"],
                ["10.0.0.1:80", "evil.example:7860", "10.0.0.1.evil.example:7860", "mybox:7860", "2130706433:7860"],
            ),
            ("10.0.0.1", ["10.0.0.1:7860"], ["127.0.0.1:7860", "10.0.0.2:7860", "evil.example:7860"]),
            ("mybox", ["mybox:7860", "MyBox:7860"], ["mybox.evil.example:7860", "mybox"]),
        ],
    )
    def test_hosts(self, listens, right, wrong):
        names = Names(listens, 7860)
        assert [host for host in right if refusal(names, host=host)] == []
        odd = [
            "",
            "@",
            "a@127.0.0.1:7860",
            "127.0.0.1:7860/",
            "127.0.0.1:7860,x",
            "127.0.0.1:",
            "127.0.0.1:99999999",
            "☃",
        ]
        for host in [*wrong, *odd]:
            assert refusal(names, host=host)[0] == 421, host

    def test_the_message_names_the_option_that_mends_it(self):
        status, why = refusal(Names("0.0.0.0", 7860), host="mybox:7860")
        assert (status, why.partition(";")[2]) == (
            421,
            " if that is right, start it with --allow_origin http://mybox:7860",
        )
        assert refusal(Names("0.0.0.0", 7860, ["http://mybox:7860"]), host="mybox:7860") is None
        _, why = refusal(Names("127.0.0.1", 7860), host=HERE, x_forwarded_host="a.example", x_forwarded_proto="https")
        assert why.endswith("--allow_origin https://a.example:443")
        assert "\n" not in refusal(Names("127.0.0.1", 7860), host="a\nb" * 9999)[1]

    def test_a_request_has_one_host(self):
        names = Names("127.0.0.1", 7860)
        assert refusal(names)[0] == 400
        with pytest.raises(Refused):
            names.check("GET", {"host": [HERE, HERE]})

    def test_behind_a_proxy(self):
        """Which hands on the name, or tells it."""
        names = Names("127.0.0.1", 7860, ["https://name.example:8443", "https://plain.example/"])
        for host in ("name.example:8443", "plain.example", "plain.example:443"):
            assert refusal(names, host=host) is None
            assert refusal(names, host=HERE, x_forwarded_host=host) is None
            assert refusal(names, "POST", host=HERE, x_forwarded_host=host, origin=f"https://{host}") is None
        for host in ("name.example", "name.example:7860", "plain.example:80", "evil.example"):
            assert refusal(names, host=HERE, x_forwarded_host=host)[0] == 421
        assert refusal(names, host=HERE, x_forwarded_host="plain.example, evil.example")[0] == 421
        assert refusal(names, "POST", host=HERE, origin="http://name.example:8443")[0] == 403

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_origins(self, method):
        names = Names("0.0.0.0", 7860)
        assert refusal(names, method, host="10.0.0.1:7860", origin="http://10.0.0.1:7860") is None
        assert refusal(names, method, host="10.0.0.1:7860") is None  # no browser
        for origin in (
            "null",
            "",
            "http://evil.example",
            "http://10.0.0.1",
            "https://10.0.0.1:7860",
            "http://10.0.0.2:7860",
            "http://10.0.0.1:7860.evil.example",
            "file://",
        ):
            status, why = refusal(names, method, host="10.0.0.1:7860", origin=origin)
            assert status == 403 and why.startswith("this page does not answer to requests from")

    def test_what_a_browser_says_of_another_site(self):
        names = Names("127.0.0.1", 7860)
        for site in ("cross-site", "same-site"):
            assert refusal(names, host=HERE, sec_fetch_site=site, sec_fetch_dest="image")[0] == 403
            assert refusal(names, host=HERE, sec_fetch_site=site, sec_fetch_dest="iframe")[0] == 403
            assert refusal(names, "POST", host=HERE, sec_fetch_site=site, sec_fetch_dest="document")[0] == 403
            assert refusal(names, host=HERE, sec_fetch_site=site, sec_fetch_dest="document") is None  # a link
        for site in ("none", "same-origin"):
            assert refusal(names, host=HERE, sec_fetch_site=site, sec_fetch_dest="image") is None

    def test_origins_of_the_option(self):
        assert origin_of("HTTPS://Name.example/") == ("https", "name.example", 443)
        assert origin_of("http://[::1]:8000") == ("http", "[::1]", 8000)
        for text in ("*", "name.example", "null", "http://", "ftp://a", "http://a/b", "http://a:b", "http://u@a"):
            with pytest.raises(ValueError, match=r"--allow_origin .*as in https://name.example:8443"):
                origin_of(text)
