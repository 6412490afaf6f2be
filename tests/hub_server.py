"""A model hub on this machine, which speaks as much of the Hub's protocol as making repositories and committing needs."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Commit:
    """What was committed, where, and with which token."""

    repository: str
    revision: str
    message: str
    files: dict[str, bytes]
    token: str


@dataclass
class Hub:
    """What the server was asked for.

    Args:
        refuses: Whether commits are refused.
    """

    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)
    refuses: bool = False
    address: str = ""

    def files(self, repository: str) -> set[str]:
        """The paths of a repository's files."""
        return {path for commit in self.commits if commit.repository == repository for path in commit.files}

    def create(self, wish: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Makes a repository; its owner is "me" unless the request says otherwise."""
        name = f"{wish.get('organization') or 'me'}/{wish['name']}"
        known = name in self.repositories
        self.repositories.setdefault(name, wish)
        return 409 if known else 200, {"url": f"{self.address}/{name}"}

    def commit(self, repository: str, revision: str, body: bytes, token: str) -> tuple[int, dict[str, Any]]:
        """Takes a commit."""
        if self.refuses:
            return 403, {"error": "no space left for you"}
        lines = [json.loads(line) for line in body.splitlines()]
        message = next(line["value"]["summary"] for line in lines if line["key"] == "header")
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        self.commits.append(Commit(repository, revision, message, files, token))
        number = f"{len(self.commits):040d}"
        return 200, {"commitUrl": f"{self.address}/{repository}/commit/{number}", "commitOid": number}


def serve(hub: Hub) -> ThreadingHTTPServer:
    """A server for a hub, on a free port of this machine; not started yet."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = _answer(hub, self.path, body, self.headers.get("Authorization", ""))
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    return server


def _answer(hub: Hub, path: str, body: bytes, authorization: str) -> tuple[int, dict[str, Any]]:
    match path.strip("/").split("/"):
        case ["api", "repos", "create"]:
            return hub.create(json.loads(body))
        case ["api", "validate-yaml"]:
            return 200, {"errors": [], "warnings": []}
        case ["api", "models", owner, name, "preupload", _]:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        case ["api", "models", owner, name, "commit", revision]:
            return hub.commit(f"{owner}/{name}", revision, body, authorization.removeprefix("Bearer "))
    return 404, {"error": f"no such place: {path}"}
