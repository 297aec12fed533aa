"""What stands before gradio: what is served, how large and how many, and the page's policy."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tasks import door
from tasks.door import Door, LocalPage
from tasks.hosts import Names
from tasks.room import COMING, Room

HERE = "127.0.0.1:7860"
JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
JOIN, RUN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/upload"


class Served:
    """A Door, what it lets through, and what it answers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.passed = folder, []
        self.waiting: asyncio.Event | None = None
        self.door = Door(
            self.app,
            names=Names("127.0.0.1", 7860),
            room=Room(folder, 10**6),
            given=[],
            megabytes=1,
            inputs={0: 2, 1: 1},
        )

    async def app(self, scope, receive, send) -> None:
        body = b""
        while scope["method"] == "POST":
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        self.passed.append((scope, body))
        if self.waiting:
            await self.waiting.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})

    async def ask(self, method: str, path: str, headers: dict, *parts: bytes, query: bytes = b"") -> tuple[int, str]:
        sent, left = [], list(parts) or [b""]

        async def receive() -> dict:
            if not left:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

        async def send(message: dict) -> None:
            sent.append(message)

        lines = [(name.encode(), value.encode()) for name, value in ({"host": HERE} | headers).items()]
        scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": lines}
        await self.door(scope, receive, send)
        return sent[0]["status"], sent[1]["body"].decode()

    def get(self, path: str, **headers: str) -> int:
        return asyncio.run(self.ask("GET", path, headers))[0]

    def post(self, path: str, headers: dict, *parts: bytes) -> tuple[int, str]:
        return asyncio.run(self.ask("POST", path, headers, *parts))

    def work(self, **asked: object) -> tuple[int, str]:
        asked = {"data": [1, [0]], "fn_index": 0, "session_hash": "abc"} | asked
        return self.post(RUN, JSON, json.dumps(asked).encode())


@pytest.fixture
def served(tmp_path) -> Served:
    folder = tmp_path / "page"
    folder.mkdir()
    return Served(folder)


class TestDoor:
    def test_what_the_page_uses_is_served_and_nothing_else(self, served):
        for path in ("/", "/assets/a.js", "/static/b/c.svg", "/theme.css", "/gradio_api/heartbeat/abc123"):
            assert served.get(path) == 200, path
        for path in (
            "/gradio_api/proxy=http://a.example",
            "/monitoring",
            "/gradio_api/deep_link",
            "/gradio_api/",
            "//",
        ):
            assert served.get(path) == 404, path
        assert served.get(f"/gradio_api/heartbeat/{'a' * 65}") == 404
        assert served.get("/" * 5000) == 414
        assert served.get(JOIN) == served.post("/", {})[0] == 405
        assert served.get("/", host="evil.example:7860") == 421
        assert served.post(RUN, JSON | {"origin": "null"}, b"{}")[0] == 403
        assert len(served.passed) == 5

    def test_a_websocket_is_closed(self, served):
        sent = []

        async def send(message):
            sent.append(message)

        asyncio.run(served.door({"type": "websocket", "path": "/", "headers": []}, None, send))
        assert [message["type"] for message in sent] == ["websocket.close"] and served.passed == []

    def test_only_files_of_the_page_are_given_out(self, served):
        inside = f"{served.folder}/a/b.mp4"
        assert served.get(f"/gradio_api/file={inside}") == 200
        for path in (
            "/etc/passwd",
            f"{served.folder}/../x",
            f"{served.folder}x",
            "http://a.example/",
            inside[1:],
            "",
            "/\0",
        ):
            assert served.get(f"/gradio_api/file={path}") == 403, path

    def test_a_request_names_one_file_of_the_page_and_no_address(self, served):
        def file(path: object) -> dict:
            return {"path": path, "meta": {"_type": "gradio.FileData"}}

        inside = file(f"{served.folder}/a/b.mp4")
        assert served.work(data=[inside, "text"])[0] == 200
        before = len(served.passed)
        for value in (
            file("http://a.example/b.mp4"),
            file("https://hf.co/x"),
            file("/etc/passwd"),
            file(None),
            [[inside] * 2],
        ):
            for data in ([value, "text"], [None, value], [None, {"a": [value]}]):
                status, why = served.work(data=data)
                assert status == 400 and "one file, which was uploaded here" in json.loads(why)["error"]
        assert len(served.passed) == before

    @pytest.mark.parametrize(
        ("asked", "told"),
        [
            (dict(session_hash="a" * 65), "session_hash"),
            (dict(session_hash=None), "session_hash"),
            (dict(data={}), "data is a list of 2 values"),
            (dict(data=[1]), "data is a list of 2 values"),
            (dict(data=[1, [[[[[[[[[0]]]]]]]]]]), "at most 8 deep"),
            (dict(fn_index=2), "fn_index"),
            (dict(fn_index=True), "fn_index"),
            (dict(fn_index=[]), "fn_index"),
            (dict(batched=True), "batched"),
            (dict(oauth_token="x"), "a request is an object with"),
        ],
    )
    def test_odd_requests(self, served, asked, told):
        status, why = served.work(**asked)
        assert status == 400 and told in json.loads(why)["detail"] and served.passed == []

    def test_what_is_no_request(self, served):
        for body in (b"", b"[]", b"{", b"[" * 10**5, b"\xff\xff", b"1" * 10**5):
            assert served.post(RUN, JSON, body)[0] == 400
        assert served.post(RUN, {"content-type": "text/plain"}, b"{}")[0] == 415  # as a plain form can send
        assert served.post(UPLOAD, JSON, b"{}")[0] == 415

    def test_a_body_is_read_no_further_than_it_may_be_long(self, served):
        body = json.dumps({"data": [1, "a" * 2**20], "fn_index": 0, "session_hash": "abc"}).encode()
        parts = [body[at : at + 2**16] for at in range(0, len(body), 2**16)]
        assert served.post(RUN, JSON, *parts)[0] == 413
        assert served.post(RUN, JSON | {"content-length": "10"}, *parts)[0] == 413
        assert served.post(RUN, JSON | {"content-length": "9" * 30}, b"{}")[0] == 413
        megabyte = [bytes(2**16)] * 16
        assert served.post(UPLOAD, FORM, *megabyte)[0] == 200 and len(served.passed.pop()[1]) == 2**20
        status, why = served.post(UPLOAD, FORM, *megabyte, *megabyte)
        assert status == 413 and "at most 1 MB" in why
        assert served.post(UPLOAD, FORM | {"content-length": str(2**21)}, b"a")[0] == 413
        assert served.passed == []

    def test_what_an_upload_leaves_that_is_cut_short_is_deleted(self, served):
        written = []

        async def app(scope, receive, send):
            written.append(COMING.get() / "tmp")
            written[-1].write_bytes(b"part")
            while (await receive())["more_body"]:
                pass

        served.door.app = app
        assert served.post(UPLOAD, FORM, *[bytes(2**16)] * 32)[0] == 413
        assert len(written) == 1 and not written[0].exists() and served.folder not in written[0].parents
        assert list(served.folder.parent.iterdir()) == [served.folder]

    def test_a_body_that_never_ends_is_given_up(self, served, monkeypatch):
        monkeypatch.setattr(door, "PATIENCE", 0.1)

        async def slowly() -> list:
            sent = []

            async def receive():
                await asyncio.sleep(0.03)
                return {"type": "http.request", "body": b"a", "more_body": True}

            async def send(message):
                sent.append(message)

            lines = [(b"host", HERE.encode()), (b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": RUN, "query_string": b"", "headers": lines}
            await asyncio.wait_for(served.door(scope, receive, send), 20)
            return sent

        assert asyncio.run(slowly())[0]["status"] == 408

    def test_so_many_at_once_and_again_when_they_are_done(self, served):
        async def flood() -> None:
            served.waiting = asyncio.Event()
            most = door.AT_ONCE["stream"]
            streams = [served.ask("GET", f"/gradio_api/heartbeat/a{i}", {}) for i in range(most + 5)]
            streams = [asyncio.create_task(stream) for stream in streams]
            await asyncio.sleep(0.1)
            page = asyncio.create_task(served.ask("GET", "/", {}))
            await asyncio.sleep(0.1)
            served.waiting.set()
            answers = await asyncio.gather(*streams)
            assert [status for status, _ in answers].count(429) == 5 and (await page)[0] == 200
            assert (await served.ask("GET", "/gradio_api/heartbeat/b", {}))[0] == 200

        asyncio.run(flood())

    def test_what_leaves_a_trace_is_bounded_in_time(self, served, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(door.time, "monotonic", lambda: now[0])
        served.door._counted = now[0]
        asked = json.dumps({"data": [1], "fn_index": 1, "session_hash": "abc"}).encode()
        answers = [served.post(JOIN, JSON, asked)[0] for _ in range(door.STARTS + 10)]
        assert answers.count(200) == door.STARTS and answers[-10:] == [429] * 10
        assert served.post(RUN, JSON, asked)[0] == 200  # looking at frames leaves none
        now[0] += 5 / door.STARTS_PER_SECOND
        assert [served.post(JOIN, JSON, asked)[0] for _ in range(6)] == [200] * 5 + [429]

    def test_gradio_is_told_no_name_that_was_not_checked(self, served):
        served.get("/", **{"x-gradio-server": "http://evil.example"})
        assert b"x-gradio-server" not in dict(served.passed[0][0]["headers"])

    def test_odd_ranges_are_ignored(self, served):
        for value, kept in {
            "bytes=0-": 1,
            "bytes=5-9": 1,
            "bytes=-5": 1,
            "bytes=0-1,5-6": 0,
            "bytes=0-" + "9" * 99: 0,
        }.items():
            served.get("/", range=value)
            assert (b"range" in dict(served.passed.pop()[0]["headers"])) == kept


def answered(headers: list, *bodies: bytes, method: str = "GET") -> tuple[dict, bytes]:
    """Headers and body of what an application, which sends ``bodies``, answers through LocalPage."""
    sent = []

    async def inner(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for i, body in enumerate(bodies):
            await send({"type": "http.response.body", "body": body, "more_body": i + 1 < len(bodies)})

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "headers": [(b"host", b"127.0.0.1:7860")]}
    asyncio.run(LocalPage(inner)(scope, None, send))
    return dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


class TestLocalPage:
    KIND = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"1")]

    def test_no_other_site_is_named_or_asked(self):
        page = (
            b'<html><meta charset="utf-8"><meta content="https://exam',
            b'ple.org/a.jpg"><link href="./a.css"><script>a = {"root": "http://127.0.0.1:7860/x", "b": "http://c.d"}'
            b'</script><p>\xc3\xa4 "https://\\"</html>',
        )
        headers, body = answered(self.KIND, *page)
        left = '<html><meta charset="utf-8"><meta content=""><link href="./a.css"><script>a = {"root": '
        assert body.decode() == left + '"http://127.0.0.1:7860/x", "b": ""}</script><p>ä "https://\\"</html>'
        assert headers[b"content-length"] == str(len(body)).encode()
        policy = headers[b"content-security-policy"].decode()
        assert policy.startswith("default-src 'self'") and "http" not in policy and "*" not in policy

    def test_the_rest_is_passed_on(self):
        kind = [(b"content-type", b"video/mp4"), (b"content-length", b"6")]
        assert answered(kind, b"https:") == (dict(kind), b"https:")
        assert b"content-length" not in answered(self.KIND, b"", method="HEAD")[0]
