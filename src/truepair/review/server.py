"""The local server of ``truepair review``: one page, and the session behind it as JSON."""

import json
import math
import secrets
import socket
import tempfile
import threading
import webbrowser
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from truepair.errors import ConfigError, DataError, TruepairError, message_of
from truepair.files import finite
from truepair.review.guard import Guard, refuse

Say = Callable[[str], None]

ANSWERS = ("yes", "no", "unsure", "skip", "same_picture")
FORMATS = {"jsonl": ".jsonl", "csv": ".csv", "labelstudio": ".json"}
"""Formats of answers, and the suffix of a file of each."""

SIDES = (160, 480, 1200)
"""Sizes that pictures are shown at: longest side, pixels."""

BODY, IMPORT = 1 << 16, 1 << 26
"""Largest body of a call, and of a file of answers, bytes."""

_PICTURES_KEPT = 256
_PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/figures.js": ("figures.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Asked(Protocol):
    """A question that can be shown."""

    def to_json(self) -> dict[str, Any]:
        """As JSON."""


class Session(Protocol):
    """What the page needs of a review session; it may be called by several threads at once."""

    def ask(self, person: str, besides: Collection[str] = ()) -> Asked | None:
        """The next question for a person that is none of these keys; None where none is left."""

    def answer(self, person: str, key: str, answer: str, note: str = "", seconds: float | None = None) -> None:
        """Keep an answer, on the disk before it returns; one that is handed in twice is kept once."""

    def undo(self, person: str) -> Asked | None:
        """Take a person's last answer back, and return its question."""

    def state(self, person: str) -> dict[str, Any]:
        """How the review stands."""

    def certify(self, precision: float, confidence: float = 0.95) -> None:
        """Begin a certificate."""

    def import_answers(self, file: Path) -> Any:
        """Take the answers of a file."""

    def export_answers(self, file: Path) -> Any:
        """Write all answers to a file."""


class Pictures(Protocol):
    """Pictures by number."""

    def __len__(self) -> int:
        """How many there are."""

    def image(self, number: int) -> Image.Image:
        """A decoded picture."""


def review_app(session: Session, pictures: Pictures, *, token: str, name: str, port: int = 0) -> Starlette:
    """The server as an ASGI application.

    Args:
        session: answers and judge.
        pictures: of the candidates; no other file is ever read.
        token: without it nothing is answered.
        name: of these candidates; answers that wait in a browser are sent to the review that they were given in.
        port: the cookie is named after it.
    """
    calls = _Calls(session, pictures, name)
    routes = [
        *(Route(path, partial(_static, path), methods=["GET"]) for path in _PAGE),
        Route("/api/next", _told(calls.next), methods=["GET"]),
        Route("/api/state", _told(calls.state), methods=["GET"]),
        Route("/api/answer", _told(calls.answer), methods=["POST"]),
        Route("/api/undo", _told(calls.undo), methods=["POST"]),
        Route("/api/certify", _told(calls.certify), methods=["POST"]),
        Route("/api/picture/{number:int}", _told(calls.picture), methods=["GET"]),
        Route("/api/export", _told(calls.export), methods=["GET"]),
        Route("/api/import", _told(calls.take), methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token, cookie=f"truepair-{port}")],
        exception_handlers={HTTPException: _plain, Exception: _failed},
    )


def serve(
    session: Session, pictures: Pictures, folder: Path, say: Say, *, port: int | None = None, browser: bool = True
) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C.

    Args:
        session: answers and judge.
        pictures: of the candidates.
        folder: of the candidates; the same folder has the same port each time, if it is free, so that a page that was
            left open goes on and hands in what waited there.
        say: prints a line.
        port: where to listen; None for one of its own.
        browser: open the page.

    Raises:
        ConfigError: the port is taken, or not one that may be used.
    """
    listening = _listen(folder, port)
    actual = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)
    app = review_app(session, pictures, token=token, name=name_of(folder), port=actual)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=2))
    address = f"http://127.0.0.1:{actual}/?token={token}"
    say(f"review at {address} (Ctrl-C ends it; every answer is kept at once)")
    if browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn raises it again once all connections are closed
        pass
    finally:
        listening.close()


def name_of(folder: Path) -> str:
    """Name of a folder of candidates, by its place."""
    return f"{zlib.crc32(str(folder.resolve()).encode()):08x}"


def _listen(folder: Path, port: int | None) -> socket.socket:
    """A socket that takes connections from now on: those that come before the server runs wait for it."""
    wanted = 49152 + int(name_of(folder), 16) % 16000 if port is None else port
    for number in (wanted, 0) if port is None else (wanted,):
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", number))
            listening.listen()
        except (OSError, OverflowError) as error:
            listening.close()
            if number == 0 or port is not None:
                raise ConfigError(f"port {number} cannot be used ({error}); give another --port, or none") from error
        else:
            return listening
    raise AssertionError("one of the ports was bound, or refused")


class _Calls:
    """What the page calls."""

    def __init__(self, session: Session, pictures: Pictures, name: str) -> None:
        self.session = session
        self.pictures = pictures
        self.name = name
        self.encoded: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self.lock = threading.Lock()

    async def next(self, request: Request) -> Response:
        """The next question of a person."""
        person = _person(request.query_params.get("person"))
        besides = [key for key in request.query_params.get("besides", "").split(",") if key]
        return await self._question(self.session.ask, person, besides)

    async def state(self, request: Request) -> Response:
        """How the review stands, for a person."""
        person = _person(request.query_params.get("person"))
        state = await run_in_threadpool(self.session.state, person)
        return JSONResponse(finite({**state, "name": self.name}))

    async def answer(self, request: Request) -> Response:
        """Keep an answer; it is on the disk before this returns."""
        said = await _object(request)
        person, key, answer = _person(said.get("person")), said.get("key"), said.get("answer")
        note, seconds = said.get("note", ""), said.get("seconds")
        if said.get("name") != self.name:
            raise ConfigError("the answer is to another review; reload the page")
        if not isinstance(key, str) or not key or len(key) > 60:
            raise DataError("an answer needs the key of its question")
        if answer not in ANSWERS:
            raise DataError(f"an answer is one of {', '.join(ANSWERS)}")
        if not isinstance(note, str) or len(note) > 2000:
            raise DataError("a note is a text of at most 2,000 characters")
        timed = isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds)
        if seconds is not None and not (timed and seconds >= 0):
            raise DataError("seconds is a number of at least 0, or null")
        await run_in_threadpool(self.session.answer, person, key, answer, note, seconds)
        return JSONResponse({"kept": key})

    async def undo(self, request: Request) -> Response:
        """Take the last answer of a person back, and ask it again."""
        said = await _object(request)
        return await self._question(self.session.undo, _person(said.get("person")))

    async def certify(self, request: Request) -> Response:
        """Begin a certificate: its sample is asked next."""
        precision = (await _object(request)).get("precision")
        if isinstance(precision, bool) or not isinstance(precision, int | float) or not 0 < precision < 1:
            raise ConfigError("give a precision between 0 and 1")
        await run_in_threadpool(self.session.certify, float(precision))
        return JSONResponse({"precision": precision})

    async def picture(self, request: Request) -> Response:
        """A picture as a JPEG of one of the sizes of the page."""
        number = int(request.path_params["number"])
        wanted = request.query_params.get("size", str(SIDES[1]))
        if not wanted.isascii() or not wanted.isdigit() or int(wanted) not in SIDES:
            raise DataError(f"size is one of {', '.join(map(str, SIDES))}")
        if number >= len(self.pictures):
            return refuse(404, f"there is no picture {str(number)[:20]}")
        data = await run_in_threadpool(self._encode, number, int(wanted))
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})

    async def export(self, request: Request) -> Response:
        """All answers as a file."""
        kind = request.query_params.get("format", "jsonl")
        data = await run_in_threadpool(self._export, _suffix(kind))
        headers = {"Content-Disposition": f'attachment; filename="answers{_suffix(kind)}"'}
        return Response(data, media_type="application/octet-stream", headers=headers)

    async def take(self, request: Request) -> Response:
        """Add the answers of a file."""
        suffix = _suffix(request.query_params.get("format", ""))
        data = await _body(request, IMPORT)
        await run_in_threadpool(self._import, suffix, data)
        return JSONResponse({"taken": True})

    async def _question(self, ask: Callable[..., Asked | None], *words: Any) -> Response:
        question = await run_in_threadpool(ask, *words)
        return JSONResponse({"question": None if question is None else finite(question.to_json())})

    def _encode(self, number: int, side: int) -> bytes:
        """A picture as a JPEG whose longest side is at most ``side`` pixels; a larger one is never made."""
        with self.lock:
            if (number, side) in self.encoded:
                self.encoded.move_to_end((number, side))
                return self.encoded[number, side]
        picture = self.pictures.image(number).convert("RGB")
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        written = BytesIO()
        picture.save(written, "JPEG", quality=88)  # what the file says of its camera and place is left out
        with self.lock:
            self.encoded[number, side] = written.getvalue()
            while len(self.encoded) > _PICTURES_KEPT:
                self.encoded.popitem(last=False)
        return written.getvalue()

    def _export(self, suffix: str) -> bytes:
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / f"answers{suffix}"
            self.session.export_answers(file)
            return file.read_bytes()

    def _import(self, suffix: str, data: bytes) -> None:
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / f"answers{suffix}"
            file.write_bytes(data)
            self.session.import_answers(file)


def _told(call: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The call, whose user's mistakes are answered as JSON of one line."""

    async def answered(request: Request) -> Response:
        """Answer a request."""
        try:
            return await call(request)
        except TruepairError as error:
            return refuse(400, message_of(error))

    return answered


async def _static(path: str, request: Request) -> Response:
    name, kind = _PAGE[path]
    return Response((files("truepair.review") / "page" / name).read_bytes(), media_type=kind)


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refuse(error.status_code, error.detail)


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of ours: the page says it, and the answers wait; the server prints where it happened."""
    return refuse(500, f"the server failed ({type(error).__name__}); what it printed says why")


async def _body(request: Request, largest: int) -> bytes:
    """The body, read no further than is allowed.

    Raises:
        DataError: it is larger.
    """
    read = bytearray()
    async for part in request.stream():
        read += part
        if len(read) > largest:
            raise DataError(f"more than {largest:,} bytes; send less at once")
    return bytes(read)


async def _object(request: Request) -> dict[str, Any]:
    """The fields of a call.

    Raises:
        DataError: the body is no JSON object.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise DataError("the body must be application/json")
    try:
        said = json.loads(await _body(request, BODY))
    except (ValueError, RecursionError) as error:
        raise DataError("the body is not valid JSON") from error
    if not isinstance(said, dict):
        raise DataError("the body must be a JSON object")
    return said


def _person(name: Any) -> str:
    """A person's name, without spaces around it.

    Raises:
        DataError: there is none, or it has letters that no name has.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > 60 or not name.isprintable():
        raise DataError("give the name of who answers, of at most 60 letters in one line")
    return name.strip()


def _suffix(kind: str) -> str:
    """The suffix of a format.

    Raises:
        ConfigError: there is no such format.
    """
    if kind not in FORMATS:
        raise ConfigError(f"format is one of {', '.join(FORMATS)}")
    return FORMATS[kind]
