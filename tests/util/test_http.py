from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request

import pytest

from ray_st.util import http_get
from ray_st.util.http import Redirections

DATA = bytes(range(256)) * 10_000


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.answer(302, Location="/data")
        elif self.path == "/to-file":
            self.answer(302, Location="file:///etc/hostname")
        elif self.path in ("/data", "/short"):
            self.answer(200, **{"Content-Length": str(len(DATA) + (self.path == "/short"))})
            self.wfile.write(DATA)
        elif self.path == "/unknown-length":
            self.answer(200)
            self.wfile.write(DATA)
        else:
            self.send_error(404)

    def answer(self, code: int, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("page", ["data", "moved", "unknown-length"])
def test_a_file_is_downloaded(server: str, page: str, tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file.bin"
    http_get(f"{server}/{page}", str(target))
    assert target.read_bytes() == DATA
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("nothing", "404"),
        ("short", f"ended after {len(DATA)} of {len(DATA) + 1} bytes"),
        ("to-file", "Redirection to url 'file:"),
    ],
)
def test_what_is_not_complete_leaves_no_trace(server: str, page: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"older")
    with pytest.raises(OSError, match=message):
        http_get(f"{server}/{page}", tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == b"older"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://host/file", "host/file", "http:///file"])
def test_only_http(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="http:// or https://"):
        http_get(url, tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_no_server(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_port
    with pytest.raises(OSError, match="was not downloaded"):
        http_get(f"http://127.0.0.1:{port}/data", tmp_path / "file")


def test_a_redirection_never_leaves_https() -> None:
    follow = Redirections().redirect_request
    asked = Request("https://one/file")
    with pytest.raises(OSError, match="redirected to http://two/file"):
        follow(asked, None, 302, "Found", {}, "http://two/file")
    assert follow(asked, None, 302, "Found", {}, "https://two/file").full_url == "https://two/file"
