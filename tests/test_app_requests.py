"""The app's server, asked by programs that are no browser. Skipped where gradio is missing."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import served
from tests.helpers import ROOT
from tests.served import Server, film
from util.files.own_folder import LOCK

pytestmark = pytest.mark.skipif(bool(served.missing()), reason=f"not on this machine: {', '.join(served.missing())}")
API = "/gradio_api"
SEGMENT, STEP, EXPECT, STOP = 1, 2, 4, 5  # numbers of the page's functions
ME = "atab"
BOUNDARY = "BOUNDARY"
FILE = 'name="files"; filename="a.mp4"'
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


class Client:
    """Sends requests to a server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.port = int(server.address.rstrip("/").rpartition(":")[2])

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def work(self, route: str, function: int, data: list, session: str = ME) -> tuple[int, str]:
        asked = json.dumps({"data": data, "fn_index": function, "session_hash": session})
        return self.ask("POST", f"{API}/{route}", asked.encode(), {"Content-Type": "application/json"})

    def step(self, number: object, shown: object, session: str = ME) -> tuple[int, str]:
        return self.work("run/predict", STEP, [number, shown], session)

    def segment(self, *data: object, session: str = ME) -> dict:
        """What comes of a request, once it has waited for its turn."""
        self.join(*data, session=session)
        return self.outcome(session)

    def join(self, *data: object, session: str) -> None:
        status, said = self.work("queue/join", SEGMENT, list(data), session)
        assert status == 200, said

    def outcome(self, session: str) -> dict:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", f"{API}/queue/data?session_hash={session}")
            lines = iter(connection.getresponse().readline, b"")
            return next(json.loads(line[6:]) for line in lines if b"process_completed" in line)["output"]
        finally:
            connection.close()

    def upload(
        self, content: bytes, named: str = 'name="files"; filename="a.mp4"', end: bool = True
    ) -> tuple[int, str]:
        body = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {named}\r\n\r\n".encode() + content
        return self.ask("POST", f"{API}/upload", body + f"\r\n--{BOUNDARY}--\r\n".encode() * end, FORM)

    def coming(self) -> list[Path]:
        return list(self.server.temporary.glob("proxyformer-*/coming-*"))

    def memory(self) -> float:
        """Megabytes that the server has in memory."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[Client]:
    """A server, which finds a folder that a killed one left, and is ended by its terminal in the middle of its work."""
    temporary = tmp_path_factory.mktemp("temporary")
    left = temporary / "proxyformer-killed"
    left.mkdir()
    (left / LOCK).touch()
    (left / "film.mp4").touch()
    with Server(temporary, "--allow_origin", "https://name.example:8443") as server:
        assert not left.exists()
        client = Client(server)
        yield client
        # more than it can do in a moment
        path = json.loads(client.upload(film(temporary / "long.mp4", served.SECONDS, fps=100).read_bytes())[1])[0]
        before = set(temporary.glob("proxyformer-*/jobs/*"))
        assert client.work("queue/join", SEGMENT, [uploaded(path), "a\nb\nc\nd", 0, 0, 1])[0] == 200
        end = time.monotonic() + 20
        while set(temporary.glob("proxyformer-*/jobs/*")) <= before and time.monotonic() < end:
            time.sleep(0.01)
        assert set(temporary.glob("proxyformer-*/jobs/*")) - before
        server.ends(signal.SIGHUP)


@pytest.fixture(scope="module")
def clip(client, tmp_path_factory) -> dict:
    """An uploaded video, as a request names it."""
    status, said = client.upload(film(tmp_path_factory.mktemp("clip") / "clip.mp4", 1).read_bytes())
    assert status == 200
    return uploaded(json.loads(said)[0])


def uploaded(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_the_server_names_no_other_site_and_gives_no_other_file(client):
    status, text = client.ask("GET", "/")
    assert status == 200 and set(re.findall(r"https?://[^/\"]+", text)) == {client.server.address.rstrip("/")}
    for path in ("/etc/passwd", ROOT / "README.md", ROOT / "pretrained_weights" / "demo.safetensors"):
        assert client.ask("GET", f"{API}/file={path}")[0] == 403
    # work that does not wait in the queue
    for route, status in (("run/segment", 404), ("call/segment", 404), ("run/predict", 404)):
        assert client.work(route, SEGMENT, [None, "a", 0, 0, 1])[0] == status


def test_no_other_name_and_no_other_site_is_answered(client):
    asked = [("GET", "/"), ("GET", f"{API}/heartbeat/a"), ("GET", "/theme.css"), ("POST", f"{API}/upload")]
    for headers, status in {
        ("Host", "evil.example"): 421,
        ("Host", f"evil.example:{client.port}"): 421,
        ("X-Forwarded-Host", "evil.example"): 421,
        ("Origin", "null"): 403,
        ("Origin", "http://evil.example"): 403,
        ("Sec-Fetch-Site", "cross-site"): 403,
    }.items():
        for method, path in asked:
            answer, said = client.ask(method, path, b"" if method == "POST" else None, dict([headers]) | FORM)
            assert answer == status and said.count("\n") == 1, (headers, path)
    status, said = client.ask("GET", "/", headers={"Host": f"mybox:{client.port}"})
    assert said.endswith(f"start it with --allow_origin http://mybox:{client.port}\n")


def test_behind_a_proxy_the_page_names_the_proxy(client):
    for headers in ({"Host": "name.example:8443"}, {"X-Forwarded-Host": "name.example:8443"}):
        status, text = client.ask("GET", "/", headers=headers | {"X-Forwarded-Proto": "https"})
        assert status == 200 and set(re.findall(r"https?://[^/\"]+", text)) == {"https://name.example:8443"}
    assert "evil" not in client.ask("GET", "/", headers={"X-Gradio-Server": "http://evil.example"})[1]


def test_nothing_is_fetched_or_read_for_a_request(client):
    for path in ("http://127.0.0.1:9/a.mp4", "https://huggingface.co/a.mp4", "/etc/passwd", "clip.mp4"):
        for data in ([uploaded(path), "a", 0, 0, 1], [None, uploaded(path), 0, 0, 1]):
            status, said = client.work("queue/join", SEGMENT, data)
            assert status == 400 and "one file, which was uploaded here" in json.loads(said)["detail"]
    assert client.ask("GET", f"{API}/file=http://127.0.0.1:9/")[0] == 403
    assert client.ask("GET", f"{API}/proxy=http://127.0.0.1:9/")[0] == 404


def test_what_a_request_names_is_checked_before_anything_is_made(client, clip):
    found = client.segment(clip, "the red square\nthe circle", 0, 0, 1)
    assert "data" in found
    before = client.memory()
    for number, shown, told in [
        (1, [0] * 10**5, "a list of at most 2 whole numbers"),
        (1, [0, 0], "from 0 to 1, each once"),
        (1, [2], "from 0 to 1, each once"),
        (1, {"0": 1}, "a list of at most 2 whole numbers"),
        (11, [0], "the frames 1 to 10"),
        (float("nan"), [0], "the frames 1 to 10"),
        ("1", [0], "the frames 1 to 10"),
    ]:
        status, said = client.step(number, shown)
        assert status == 500 and told in json.loads(said)["error"]
    for data, told in [
        ((clip, "a\n" * 10**5, 0, 0, 1), "at most 20000"),
        ((clip, "a", float("nan"), 0, 1), "a number of seconds"),
        ((clip, "a", 0, [1], 1), "a number of seconds"),
        ((clip, "a", 0, 0, 1e300), "a whole number"),
        ((clip, ["a"], 0, 0, 1), "a text"),
    ]:
        assert told in client.segment(*data)["error"]
    assert client.work("run/predict", STEP, [1, ["a" * 2**20]])[0] == 413
    assert client.memory() < before + 100
    assert client.step(1, [0, 1])[0] == 200


def test_many_steps_at_once_are_refused_and_the_page_still_answers(client, clip):
    client.segment(clip, "the red square", 0, 0, 1)
    with ThreadPoolExecutor(60) as threads:
        answers = list(threads.map(lambda _: client.step(1, [0])[0], range(300)))
    assert set(answers) <= {200, 429, 500} and answers.count(200) > 0 and answers.count(429) > 0
    assert client.ask("GET", "/")[0] == 200 and client.step(1, [0])[0] == 200


def test_uploads_are_one_file_of_bounded_size_and_leave_nothing_else(client):
    before = client.memory()
    status, said = client.upload(bytes(2**20 + 2**17))
    assert status == 413 and "at most 1 MB" in said
    assert client.upload(bytes(2**19), named='name="files"')[0] == 400  # a field, which gradio keeps in memory
    assert client.upload(bytes(2**19), end=False) == (200, "[]")
    # neither its length is told nor does it come to its end
    with socket.create_connection(("127.0.0.1", client.port)) as cut:
        lines = [f"POST {API}/upload HTTP/1.1", f"Host: 127.0.0.1:{client.port}", "Transfer-Encoding: chunked"]
        lines += [f"Content-Type: {FORM['Content-Type']}", "", ""]
        part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'.encode() + bytes(
            2**19
        )
        cut.sendall("\r\n".join(lines).encode() + b"%x\r\n" % len(part) + part + b"\r\n")
        end = time.monotonic() + 20
        while not client.coming() and time.monotonic() < end:
            time.sleep(0.01)
        assert client.coming()
    end = time.monotonic() + 20
    while client.coming() and time.monotonic() < end:
        time.sleep(0.01)
    assert client.coming() == [] and client.memory() < before + 50
    assert [path for path in client.server.files() if path.stat().st_size >= 2**19] == []


def test_a_request_that_waits_is_stopped(client, clip, tmp_path):
    long = json.loads(client.upload(film(tmp_path / "long.mp4", served.SECONDS, fps=100).read_bytes())[1])[0]
    client.join(uploaded(long), "the red square", 0, 0, 1, session="busy")
    for session in ("waits", "goeson"):
        assert client.work("run/predict", EXPECT, [], session)[0] == 200
        client.join(clip, "the red square", 0, 0, 1, session=session)
    for session in ("waits", "busy"):
        assert client.work("run/predict", STOP, [], session)[0] == 200
    for session, answered in (("busy", False), ("waits", False), ("goeson", True)):
        client.outcome(session)
        assert (client.step(1, [0], session)[0] == 200) == answered, session


def test_streams_and_requests_for_the_queue_are_bounded_in_number(client):
    streams = []
    try:
        for i in range(220):
            streams.append(socket.create_connection(("127.0.0.1", client.port), timeout=30))
            streams[-1].sendall(f"GET {API}/heartbeat/a{i} HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n\r\n".encode())
        answers = [stream.recv(12) for stream in streams]
        assert answers.count(b"HTTP/1.1 429") == 20
        assert client.ask("GET", "/")[0] == 200
    finally:
        for stream in streams:
            stream.close()
    answers = [client.work("queue/join", SEGMENT, [None, "a", 0, 0, 1], f"b{i}")[0] for i in range(100)]
    assert set(answers) <= {200, 429, 503} and answers.count(429) > 20
    assert client.ask("GET", "/")[0] == 200
    time.sleep(4)  # until requests are taken again
