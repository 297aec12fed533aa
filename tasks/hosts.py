"""Under which names the page of app.py answers: the check of Host and Origin that keeps other sites out."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
ANY = {"0.0.0.0", "::", "[::]"}
PORTS = {"http": 80, "https": 443}
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(?::([0-9]{1,5}))?")
READS = {"GET", "HEAD", "OPTIONS"}


class Refused(Exception):  # noqa: N818 (not an error of the server)
    """A request that is not served.

    Args:
        status: of the answer in HTTP.
        why: one line for who asked.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


def origin_of(text: str) -> tuple[str, str, int]:
    """Scheme, host and port of an origin, as in ``https://name.example:8443``; ValueError for anything else."""
    wrong = f"--allow_origin {text}: is an origin as a browser shows it, as in https://name.example:8443"
    scheme, _, rest = text.lower().removesuffix("/").partition("://")
    found = HOST.fullmatch(rest)
    if scheme not in PORTS or not found:
        raise ValueError(wrong)
    return scheme, found[1], int(found[2] or PORTS[scheme])


class Names:
    """The names of one server.

    What is promised of every request, whatever its path:

    - ``Host`` is a name of this server, with its port. So a site whose name an attacker points at this machine (DNS
      rebinding) gets nothing. If it listens on this machine alone, its names are 127.0.0.1, localhost and [::1]; if on
      one address or name, that one; if on all addresses, localhost and every address written in numbers, because those
      cannot be pointed elsewhere. Every other name must be allowed, also the one that the machine calls itself, which
      may come from the network.
    - ``X-Forwarded-Host``, if a proxy sends it, is such a name, too.
    - ``Origin``, if a browser sends it, is the one of the page itself or is allowed. Browsers send it with everything
      that changes something. So no other site can upload or start work, neither by a script nor by a form, whose origin
      may be ``null``.
    - A browser that sends ``Sec-Fetch-Site`` asks from the page itself, or follows a link to it.

    Programs that are no browser send neither of the last two, and are served.

    Args:
        host, port: where it listens.
        allowed: further origins, such as the one of a proxy.

    Raises:
        ValueError: one of ``allowed`` is no origin.
    """

    def __init__(self, host: str, port: int, allowed: Sequence[str] = ()) -> None:
        self._host, self._port = host.lower(), port
        self._allowed = {origin_of(text) for text in allowed}

    def check(self, method: str, headers: Mapping[str, Sequence[str]]) -> None:
        """Raises Refused for a request under another name or from another site.

        Args:
            method: GET, POST, …; of a websocket GET.
            headers: names in small letters, each with its values.
        """
        hosts = headers.get("host", ())
        if len(hosts) != 1:
            raise Refused(400, "a request has one Host")
        # gradio believes the first of several
        forwarded = [name.strip() for value in headers.get("x-forwarded-host", ()) for name in value.split(",")]
        scheme = "https" if "https" in headers.get("x-forwarded-proto", ()) else "http"
        for header, name in [("Host", hosts[0]), *(("X-Forwarded-Host", name) for name in forwarded)]:
            if not self._reached(name):
                raise Refused(421, _mend(f"{header} {_shown(name)}", f"{scheme}://{name}"))
        origins = headers.get("origin", ())
        for origin in origins:
            if not self._from_here(origin, [*hosts, *forwarded]):
                raise Refused(403, _mend(f"requests from {_shown(origin)}", origin))
        site = headers.get("sec-fetch-site", ["none"])
        link = method in READS and list(headers.get("sec-fetch-dest", ())) == ["document"]
        if not origins and not link and any(where not in ("none", "same-origin") for where in site):
            raise Refused(403, "another site asked for this; only the page itself may")

    def _reached(self, name: str) -> bool:
        found = HOST.fullmatch(name.lower())
        if not found:
            return False
        return any(self._is_own(scheme, found[1], int(found[2] or standard)) for scheme, standard in PORTS.items())

    def _is_own(self, scheme: str, host: str, port: int) -> bool:
        if (scheme, host, port) in self._allowed:
            return True
        if scheme != "http" or port != self._port:
            return False
        if self._host in LOOPBACK | {"::1"}:
            return host in LOOPBACK
        if self._host not in ANY:
            return host in (self._host, f"[{self._host}]")
        try:
            return host == "localhost" or bool(ipaddress.ip_address(host.strip("[]")))
        except ValueError:
            return False

    def _from_here(self, origin: str, names: Sequence[str]) -> bool:
        try:
            found = origin_of(origin)
        except ValueError:
            return False
        if found in self._allowed:
            return True
        # its own, and of its own names the one under which it was asked
        return self._is_own(*found) and urlsplit(origin.lower()).netloc in [name.lower() for name in names]


def _mend(what: str, origin: str) -> str:
    refused = f"this page does not answer to {what}"
    try:
        scheme, host, port = origin_of(origin)
    except ValueError:
        return refused
    return f"{refused}; if that is right, start it with --allow_origin {scheme}://{host}:{port}"


def _shown(value: str) -> str:
    return ascii(value[:100])
