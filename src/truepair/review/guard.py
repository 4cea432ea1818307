"""Who may ask the review server: the browser it opened, on this machine, and no other page."""

import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Names under which a browser of this machine asks; others are those of a page that had its name led here."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Lets a request through that names the token, comes to this machine's own name, and from no other page.

    The token comes once in the address of the page, then as a cookie that no script reads and no other site sends; a
    program may state it as ``Authorization: Bearer TOKEN``.

    Args:
        app: what it guards.
        token: the secret.
        cookie: name of the cookie; cookies are shared by all ports of a machine, so that it names the port.
    """

    def __init__(self, app: ASGIApp, *, token: str, cookie: str) -> None:
        self.app = app
        self.token = token
        self.cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        named = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0] if scope["path"] == "/" else ""
        by_address = bool(named) and self._is_token(named)

        async def send_guarded(message: Message) -> None:
            """Send a part of the answer, with the headers that keep others out."""
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
                if by_address:
                    headers.append("Set-Cookie", f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        refusal = self._refusal(scope, by_address)
        await (refusal or self.app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, by_address: bool) -> Response | None:
        """Why a request is refused; None where it is not."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name_of(host) not in LOCAL:
            return refuse(421, f"this server answers on 127.0.0.1 only, not as {host[:80] or 'a host without a name'}")
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        by_header = bool(bearer) and self._is_token(bearer)
        if not (by_address or by_header or self._is_token(self._cookie_of(headers))):
            return refuse(403, "the token is missing or of an earlier start; open the address that truepair printed")
        # Pages of other ports of this machine are of the same *site*: their requests carry the cookie.
        site = headers.get("sec-fetch-site", "none")
        opens_page = scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("same-origin", "none") and not opens_page:
            return refuse(403, "another page asked; only the page of this server may")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return refuse(403, "another page asked; only the page of this server may")
        if scope["method"] not in ("GET", "HEAD") and origin is None and not by_header:
            return refuse(403, "a request that changes something must say which page it comes from")
        return None

    def _cookie_of(self, headers: Headers) -> str:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return ""
        return found.value if found is not None else ""

    def _is_token(self, word: str) -> bool:
        return secrets.compare_digest(word.encode("utf-8", "surrogatepass"), self.token.encode())


def refuse(status: int, line: str) -> Response:
    """An error as JSON: one line."""
    return JSONResponse({"error": line}, status)


def _name_of(host: str) -> str:
    """The name of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
