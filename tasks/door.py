"""What stands before gradio in app.py: which requests are served, how large and how many, and what the page may load.

gradio serves more than this page needs, such as fetching addresses for whoever asks (``/gradio_api/file=http…`` and a
file's ``path`` in a request; gradio 6.31.0, routes.py and processing_utils.py), and bounds little. So the door lets
through what the page uses, and nothing else; the numbers are below. What gradio keeps of each request in its queue and
of each upload (queueing.py, route_utils.py) it never forgets, so these are bounded in time.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.hosts import READS, Names, Refused
from tasks.room import Room

API = "/gradio_api"
JOIN, RUN, UPLOAD, PROGRESS = (f"{API}/{name}" for name in ("queue/join", "run/predict", "upload", "upload_progress"))
WORK, STARTING = {JOIN, RUN}, {JOIN, UPLOAD, PROGRESS}
FILE = f"{API}/file="
SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
STREAMS = re.compile(rf"{API}/(heartbeat/{SESSION.pattern}|queue/data|upload_progress)")
PAGES = re.compile(
    rf"/|/(assets|static)/.+|/(theme\.css|favicon\.ico|manifest\.json|robots\.txt|config)|"
    rf"{API}/(startup-events|app_id)"
)
BODIES = {"work": "application/json", "upload": "multipart/form-data"}  # all other kinds have none
RANGE = re.compile(rb"bytes=([0-9]{1,15}-[0-9]{0,15}|-[0-9]{1,15})")
# how many of a kind are served at the same time; their sum bounds threads, memory and open files
AT_ONCE = {"stream": 200, "upload": 4, "work": 16, "file": 64, "page": 200}
# what leaves a trace in gradio's memory is bounded in time: so many at once, and so many per second after them
STARTS, STARTS_PER_SECOND = 60, 2
ADDRESS, BODY, FRAME = 4096, 2**20, 2**16  # bytes: path and query; a body; what an upload has around its file
PATIENCE, SLOWEST = 60, 2**14  # a body that takes longer than so many seconds and bytes per second is given up
FIELDS = {"data", "session_hash", "fn_index", "trigger_id", "event_data", "event_id", "simple_format", "batched"}
DEPTH = 8  # of lists and objects in each other

App = Callable[[dict, Callable, Callable], Awaitable[None]]


class Gone(Exception):  # noqa: N818 (not an error of the server)
    """Who asked has left."""


class Door:
    """Wraps an ASGI application: an HTTP request is served, or refused by one line.

    Args:
        app: what is wrapped.
        names: under which it answers.
        room: takes uploads.
        given: folders whose files are served and may be named in requests, besides the room's.
        megabytes: of an upload.
        inputs: how many values each function of the page takes, by its number.
    """

    def __init__(
        self,
        app: App,
        *,
        names: Names,
        room: Room,
        given: Sequence[Path],
        megabytes: int,
        inputs: Mapping[int, int],
    ) -> None:
        self.app, self._names, self._room, self._megabytes, self._inputs = app, names, room, megabytes, inputs
        self._folders = [room.folder, *given]
        self._served: Counter[str] = Counter()
        self._left, self._counted = float(STARTS), time.monotonic()

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Serves one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page has no websocket
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def noted(message: dict) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            scope, kind = self._let_in(scope)
            with self._one_more(kind):
                if kind == "work":
                    await self.app(scope, await self._checked(scope, receive), noted)
                elif kind == "upload":
                    await self._take(scope, receive, noted)
                else:
                    await self.app(scope, receive, noted)
        except Refused as refused:
            if not started:
                await _answer(send, refused, scope["path"] in WORK)
        except Gone:
            pass

    def _let_in(self, scope: dict) -> tuple[dict, str]:
        """A request as gradio may see it, and its kind; raises Refused."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        method, path = scope["method"], scope["path"]
        self._names.check(method, headers)
        if len(path) + len(scope.get("query_string", b"")) > ADDRESS:
            raise Refused(414, f"the address is longer than {ADDRESS} characters")
        kind = self._kind(path)
        wanted = BODIES.get(kind)
        if method not in (READS if wanted is None else ("POST",)):
            raise Refused(405, "this address is not asked in this way")
        if path in STARTING:
            self._start()
        if wanted and not headers.get("content-type", [""])[0].lower().startswith(wanted):
            raise Refused(415, f"the body of this request is {wanted}")
        return scope | {"headers": [header for header in scope["headers"] if _is_plain(*header)]}, kind

    def _kind(self, path: str) -> str:
        if path in WORK:
            return "work"
        if path == UPLOAD:
            return "upload"
        if STREAMS.fullmatch(path):
            return "stream"
        if path.startswith(FILE):
            if not self._may_name(path.removeprefix(FILE)):
                raise Refused(403, "this file is not given out")
            return "file"
        if not PAGES.fullmatch(path):
            raise Refused(404, "the page has nothing at this address")
        return "page"

    def _may_name(self, path: object) -> bool:
        """Whether a request may name a file: one that was uploaded or made, or an example. An address is none."""
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
            return False
        return any(Path(os.path.abspath(path)).is_relative_to(folder) for folder in self._folders)

    @contextmanager
    def _one_more(self, kind: str) -> Iterator[None]:
        if self._served[kind] >= AT_ONCE[kind]:
            raise Refused(429, "too many requests at once; try again in a moment")
        self._served[kind] += 1
        try:
            yield
        finally:
            self._served[kind] -= 1

    def _start(self) -> None:
        now = time.monotonic()
        self._left = min(STARTS, self._left + (now - self._counted) * STARTS_PER_SECOND)
        self._counted = now
        if self._left < 1:
            raise Refused(429, "too many requests at once; try again in a moment")
        self._left -= 1

    async def _checked(self, scope: dict, receive: Callable) -> Callable:
        """Reads a request for work, checks it, and returns what gives it to the application."""
        body = bytearray()
        async for part in _parts(scope, receive, BODY, "1 MB"):
            body += part
        self._check_asked(bytes(body))
        given = False

        async def again() -> dict:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return again

    def _check_asked(self, body: bytes) -> None:
        try:
            asked = json.loads(body)  # as gradio reads it
        except (ValueError, RecursionError):
            raise Refused(400, "the body of this request is no JSON") from None
        if not isinstance(asked, dict) or not asked.keys() <= FIELDS:
            raise Refused(400, f"a request is an object with {', '.join(sorted(FIELDS))}")
        session, data = asked.get("session_hash"), asked.get("data")
        if not isinstance(session, str) or not SESSION.fullmatch(session):
            raise Refused(400, "session_hash is up to 64 letters and digits")
        function = asked.get("fn_index")
        if type(function) is not int or function not in self._inputs:
            raise Refused(400, "fn_index is the number of a function of the page")
        if not isinstance(data, list) or len(data) != self._inputs[function]:
            raise Refused(400, f"data is a list of {self._inputs[function]} values")
        if asked.get("batched") or asked.get("simple_format"):
            raise Refused(400, "batched and simple_format are false")
        files, left = 0, [(value, 1) for value in data]
        while left:
            value, depth = left.pop()
            if depth > DEPTH:
                raise Refused(400, f"the values of a request are at most {DEPTH} deep")
            if isinstance(value, dict) and "path" in value:
                files += 1
                if files > 1 or not self._may_name(value["path"]):
                    raise Refused(400, "a request names one file, which was uploaded here or is an example")
            if isinstance(value, dict | list):
                inner = value.values() if isinstance(value, dict) else value
                left += [(one, depth + 1) for one in inner]

    async def _take(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Passes an upload on, no more of it than is allowed, and deletes what is left of one that failed."""
        most = self._megabytes * 2**20 + FRAME
        parts = _parts(scope, receive, most, f"{self._megabytes} MB")

        async def counted() -> dict:
            try:
                return {"type": "http.request", "body": await anext(parts), "more_body": True}
            except StopAsyncIteration:
                return {"type": "http.request", "body": b"", "more_body": False}

        with self._room.upload():
            await self.app(scope, counted, send)
        await asyncio.to_thread(self._room.tidy)


def _is_plain(name: bytes, value: bytes) -> bool:
    """Whether a header is handed on: no name of the server that only gradio knows, no range that is more than one."""
    name = name.lower()
    return name != b"x-gradio-server" and (name != b"range" or RANGE.fullmatch(value) is not None)


async def _parts(scope: dict, receive: Callable, most: int, told: str) -> AsyncIterator[bytes]:
    """The parts of a body; raises Gone, or Refused once it is known to be too slow or larger than ``most`` bytes."""
    size = 0
    for name, value in scope["headers"]:
        if name.lower() == b"content-length" and value.isdigit():
            size = int(value[:20])
    begun, more, taken = time.monotonic(), True, 0
    while more:
        # who still sends does not read the answer, so a body that is a little too large is read to its end
        if taken > most + BODY or size > most + BODY:
            break
        try:
            async with asyncio.timeout(begun + PATIENCE + taken / SLOWEST - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise Refused(408, "the body of this request comes too slowly") from None
        if message["type"] == "http.disconnect":
            raise Gone
        part, more = message.get("body", b""), message.get("more_body", False)
        taken += len(part)
        if max(size, taken) <= most:
            yield part
    if max(size, taken) > most:
        raise Refused(413, f"the body of this request is too large; at most {told} are taken")


async def _answer(send: Callable, refused: Refused, as_json: bool) -> None:
    """Sends one line; as JSON where the page's script reads it as such."""
    body = json.dumps({"error": refused.why, "detail": refused.why}) if as_json else f"{refused.why}\n"
    kind = b"application/json" if as_json else b"text/plain; charset=utf-8"
    headers = [(b"content-type", kind), (b"x-content-type-options", b"nosniff"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


class LocalPage:
    """Wraps an ASGI application, so that its pages name no other site and the browser loads nothing from one.

    gradio's page has a few addresses of gradio's own site, for previews and as examples; these become empty. The policy
    forbids the scripts of the page to load anything else, and other sites to show the page in a frame. The names in the
    request are those that :class:`Door` has let in.
    """

    POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
    ADDRESS = re.compile(rb'"https?://([^/"\\]*)[^"\\]*"')

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answers one request."""
        headers_in = dict(scope.get("headers", ()))
        own = {headers_in.get(name) for name in (b"host", b"x-forwarded-host")}
        page: list[bytes] = []
        start: dict = {}

        async def pass_on(message: dict) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
                if not any(kind.startswith(b"text/html") for kind in kinds):
                    await send(message)
                else:
                    start = message
            elif message["type"] == "http.response.body" and start:
                page.append(message.get("body", b""))
                if message.get("more_body"):
                    return
                body = self.ADDRESS.sub(lambda found: found[0] if found[1] in own else b'""', b"".join(page))
                anew = (b"content-length", b"content-security-policy")
                headers = [(name, value) for name, value in start["headers"] if name.lower() not in anew]
                # an answer to HEAD has no body, but keeps its length
                if scope["method"] != "HEAD":
                    headers.append((b"content-length", str(len(body)).encode()))
                await send(start | {"headers": [*headers, (b"content-security-policy", self.POLICY)]})
                await send(message | {"body": body})
            else:
                await send(message)

        await self.app(scope, receive, pass_on)
