"""What the review server answers, and whom it refuses."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.review.fake import BROKEN, FakePictures, FakeSession
from truepair.errors import ConfigError
from truepair.review.server import BODY, IMPORT, _listen, review_app, serve

TOKEN, HOME = "the-secret", "http://127.0.0.1:5000"
SAME = {"origin": HOME, "sec-fetch-site": "same-origin"}


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    return FakeSession(tmp_path)


@pytest.fixture
def stranger(session: FakeSession, tmp_path: Path) -> TestClient:
    app = review_app(session, FakePictures(tmp_path), token=TOKEN, name="here", port=5000)
    return TestClient(app, base_url=HOME, raise_server_exceptions=False)


@pytest.fixture
def client(stranger: TestClient) -> TestClient:
    assert stranger.get("/", params={"token": TOKEN}).status_code == 200
    stranger.headers.update(SAME)
    return stranger


def error(reply: Any, status: int) -> str:
    assert reply.status_code == status, reply.text
    line: str = reply.json()["error"]
    assert line and "\n" not in line
    return line


def said(**fields: Any) -> dict[str, Any]:
    return {"person": "Ada", "key": "0-0", "answer": "yes", "name": "here"} | fields


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/api/next?person=A", "/api/state?person=A",
                                  "/api/picture/0", "/api/export", "/nothing"])  # fmt: skip
@pytest.mark.parametrize("headers", [{}, {"cookie": "truepair-5000=wrong"}, {"authorization": "Bearer wrong"},
                                     {"cookie": "truepair-4999=the-secret"}])  # fmt: skip
def test_nothing_is_answered_without_the_token(stranger: TestClient, path: str, headers: dict[str, str]) -> None:
    assert "open the address that truepair printed" in error(stranger.get(path, headers=headers), 403)


def test_a_token_in_the_address_of_a_call_does_not_count(stranger: TestClient) -> None:
    error(stranger.get("/api/state", params={"person": "A", "token": TOKEN}), 403)
    error(stranger.get("/?token=%FF%00"), 403)


def test_the_address_sets_a_cookie_that_no_script_reads(stranger: TestClient) -> None:
    cookie = stranger.get("/", params={"token": TOKEN}).headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and cookie.startswith("truepair-5000=")
    assert stranger.get("/api/next", params={"person": "Ada"}).json()["question"]["key"] == "0-0"


def test_a_program_states_the_token_in_a_header(stranger: TestClient) -> None:
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert stranger.post("/api/answer", json=said(), headers=bearer).json() == {"kept": "0-0"}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::", "192.168.0.2:5000"])
def test_other_host_names_are_refused(client: TestClient, host: str) -> None:
    assert "127.0.0.1 only" in error(client.get("/api/state?person=A", headers={"host": host}), 421)


def test_a_tunnel_may_have_another_port(client: TestClient) -> None:
    tunnel = {"host": "localhost:9000", "origin": "http://localhost:9000"}
    assert client.get("/api/state?person=A", headers=tunnel).status_code == 200


@pytest.mark.parametrize("headers", [
    {"origin": "http://evil.example"},
    {"origin": "http://127.0.0.1:5001"},
    {"origin": "null"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
])  # fmt: skip
def test_no_other_page_may_ask(client: TestClient, session: FakeSession, headers: dict[str, str]) -> None:
    assert "another page" in error(client.post("/api/answer", json=said(), headers=headers), 403)
    error(client.get("/api/state?person=A", headers=headers), 403)
    assert not session.lines()


def test_a_post_by_cookie_says_where_it_comes_from(client: TestClient) -> None:
    del client.headers["origin"]
    assert "which page" in error(client.post("/api/answer", json=said()), 403)


def test_every_reply_is_closed_to_other_pages_and_scripts(client: TestClient) -> None:
    for path in ("/", "/api/picture/0", "/nothing", "/api/next"):
        headers = client.get(path).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert client.get("/api/state?person=A").headers["cache-control"] == "no-store"


def test_pictures_are_reencoded_at_a_bounded_size(client: TestClient, tmp_path: Path) -> None:
    reply = client.get("/api/picture/0?size=160")
    picture = Image.open(io.BytesIO(reply.content))
    assert picture.format == "JPEG" and picture.size == (160, 120)
    assert "max-age" in reply.headers["cache-control"] and "private" in reply.headers["cache-control"]
    (tmp_path / "0.png").unlink()
    assert client.get("/api/picture/0?size=160").content == reply.content  # kept


@pytest.mark.parametrize(("path", "status"), [
    ("/api/picture/12", 404), ("/api/picture/99999999999999999999", 404), ("/api/picture/-1", 404),
    ("/api/picture/../../etc/passwd", 404), ("/api/picture/..%2f..%2fetc%2fpasswd", 404), ("/page/../server.py", 404),
    ("/server.py", 404), ("/answers.jsonl", 404), ("/api/picture/0?size=99999", 400), ("/api/picture/0?size=-1", 400),
    ("/api/picture/0?size=x", 400),
])  # fmt: skip
def test_no_other_file_is_served(client: TestClient, path: str, status: int) -> None:
    error(client.get(path), status)


def test_a_broken_picture_is_one_line_and_its_pair_can_be_answered(client: TestClient, session: FakeSession) -> None:
    assert "not an image" in error(client.get(f"/api/picture/{BROKEN}"), 400)
    assert client.post("/api/answer", json=said(key="2-2")).status_code == 200
    assert session.lines()[0]["key"] == "2-2"


@pytest.mark.parametrize(("fields", "message"), [
    ({"answer": "perhaps"}, "an answer is one of yes, no"),
    ({"answer": ["yes"]}, "an answer is one of"),
    ({"key": 3}, "needs the key"), ({"key": "9-9-9"}, "there is no pair"),
    ({"person": ""}, "give the name"), ({"person": "a\nb"}, "give the name"), ({"person": None}, "give the name"),
    ({"note": "x" * 2001}, "a note is"), ({"note": 3}, "a note is"),
    ({"seconds": -1}, "seconds is"), ({"seconds": "1"}, "seconds is"), ({"seconds": True}, "seconds is"),
    ({"name": "elsewhere"}, "another review"),
])  # fmt: skip
def test_a_wrong_answer_is_one_line(
    client: TestClient, session: FakeSession, fields: dict[str, Any], message: str
) -> None:
    assert message in error(client.post("/api/answer", json=said(**fields)), 400)
    assert not session.lines()


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(("body", "headers", "message"), [
    (b"{", JSON, "not valid JSON"), (b"[]", JSON, "JSON object"), (b"\xff\xfe", JSON, "not valid JSON"),
    (b"[" * 60000, JSON, "not valid JSON"), (b"{}", {"content-type": "text/plain"}, "application/json"),
    (b" " * (BODY + 1), JSON, "send less"),
    (json.dumps(said(seconds=float("nan"))).encode(), JSON, "seconds is"),
])  # fmt: skip
def test_a_malformed_body_is_one_line(client: TestClient, body: bytes, headers: dict[str, str], message: str) -> None:
    assert message in error(client.post("/api/answer", content=body, headers=headers), 400)


def test_answers_undo_and_what_is_next(client: TestClient, session: FakeSession) -> None:
    client.post("/api/answer", json=said(note="a note", seconds=1.5))
    assert session.lines() == [{"person": "Ada", "key": "0-0", "answer": "yes", "note": "a note", "seconds": 1.5}]
    assert client.get("/api/next?person=Ada&besides=1-1,2-2").json()["question"]["key"] == "3-3"
    assert client.get("/api/next?person=Bo").json()["question"]["key"] == "0-0"
    state = client.get("/api/state?person=Ada").json()
    assert state["answers"]["yes"] == 1 and state["name"] == "here"
    assert client.post("/api/undo", json={"person": "Ada"}).json()["question"]["key"] == "0-0"
    assert client.post("/api/undo", json={"person": "Ada"}).json() == {"question": None}


@pytest.mark.parametrize("precision", [0, 1, "0.9", True, None, 1e999])
def test_a_precision_lies_between_0_and_1(client: TestClient, precision: Any) -> None:
    body = json.dumps({"precision": precision})
    assert "precision" in error(client.post("/api/certify", content=body, headers=JSON), 400)


def test_a_certificate_is_asked_for(client: TestClient, session: FakeSession) -> None:
    assert client.post("/api/certify", json={"precision": 0.9}).status_code == 200 and session.sample == 0.9
    assert "state a lower precision" in error(client.post("/api/certify", json={"precision": 0.999}), 400)


def test_answers_go_out_and_come_in(client: TestClient, tmp_path: Path) -> None:
    client.post("/api/answer", json=said())
    out = client.get("/api/export?format=jsonl")
    assert out.headers["content-disposition"] == 'attachment; filename="answers.jsonl"'
    assert json.loads(out.text)["key"] == "0-0"
    line = json.dumps({"person": "Bo", "key": "1-1", "answer": "no"})
    assert client.post("/api/import?format=jsonl", content=line).status_code == 200
    assert client.get("/api/state?person=Bo").json()["people"]["Bo"] == {"no": 1}
    assert "holds no answers" in error(client.post("/api/import?format=jsonl", content="{"), 400)
    assert "send less" in error(client.post("/api/import?format=jsonl", content=bytes(IMPORT + 1)), 400)
    for path in ("/api/export?format=../x", "/api/export?format=exe"):
        assert "format is one of jsonl" in error(client.get(path), 400)
    error(client.post("/api/import?format=/etc/x", content=line), 400)


def test_figures_that_are_none_are_null(client: TestClient, session: FakeSession) -> None:
    session.state = lambda person: {"value": [float("nan"), 1.0], "far": float("inf")}  # type: ignore[method-assign]
    assert client.get("/api/state?person=A").json() == {"value": [None, 1.0], "far": None, "name": "here"}


def test_a_fault_of_ours_is_one_line(client: TestClient, session: FakeSession) -> None:
    def fail(person: str) -> dict[str, Any]:
        raise RuntimeError("secret words")

    session.state = fail  # type: ignore[method-assign]
    assert "secret" not in error(client.get("/api/state?person=A"), 500)


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} cannot be used"):
            serve(FakeSession(tmp_path), FakePictures(tmp_path), tmp_path, print, port=port, browser=False)
    with pytest.raises(ConfigError, match="port 99999 cannot be used"):
        serve(FakeSession(tmp_path), FakePictures(tmp_path), tmp_path, print, port=99999, browser=False)


def test_who_comes_before_the_server_runs_is_not_refused(tmp_path: Path) -> None:
    import socket

    with _listen(tmp_path, None) as listening:
        socket.create_connection(listening.getsockname(), timeout=60).close()
