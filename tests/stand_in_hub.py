"""A stand-in for the Hugging Face Hub: the routes by which a client creates, lists and commits.

Files are kept by branch. Large files (*.safetensors) go by git LFS's batch route, others in the
commit itself. Xet is not spoken: tests switch it off in the client.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_stand_in"


class StandInHub:
    """A hub in threads of this process, with the account `me`."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}  # repo -> branch -> path -> content
        self.private: dict[str, bool] = {}
        self.uploads = 0  # of large files
        self.requests: list[str] = []
        self.fail: str | None = None  # requests whose path holds it are refused with 500
        self.objects: dict[str, bytes] = {}  # large files by SHA-256
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def create(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Create a repository."""
        name = f"{body.get('organization') or 'me'}/{body['name']}"
        answer = {"url": f"{self.address}/{name}", "name": name}
        if name in self.repos:
            return 409, answer | {"error": "You already created this model repo"}
        self.repos[name] = {"main": {".gitattributes": b""}}
        self.private[name] = body.get("private", body.get("visibility") == "private")
        return 200, answer

    def commit(self, repo: str, branch: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        """Apply a commit's operations."""
        files = self.repos[repo][branch]
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        return 200, {"commitUrl": f"{self.address}/{repo}/commit/{'0' * 40}", "commitOid": "0" * 40}


class _Handler(BaseHTTPRequestHandler):
    state: StandInHub

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.state.uploads += 1
        self.state.objects[hashlib.sha256(body).hexdigest()] = body
        self._send(200, {})

    def _answer(self, body: bytes) -> None:
        path = self.path.split("?")[0]
        self.state.requests.append(path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid username or password."})
        if self.state.fail is not None and self.state.fail in path:
            return self._send(500, {"error": "out of order"})
        return self._send(*self._route(path, body))

    def _route(self, path: str, body: bytes) -> tuple[int, Any]:
        hub = self.state
        if path == "/api/repos/create":
            return hub.create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"objects": [self._batch(o) for o in json.loads(body)["objects"]]}
        _, _, _, owner, name, *rest = path.split("/")
        repo = f"{owner}/{name}"
        if repo not in hub.repos:
            return 404, {"error": "Repository not found"}
        match rest:
            case []:
                return 200, {"id": repo, "sha": "0" * 40}
            case ["branch", branch]:
                if branch in hub.repos[repo]:
                    return 409, {"error": "Reference already exists"}
                hub.repos[repo][branch] = dict(hub.repos[repo]["main"])
                return 200, {}
            case ["tree", branch]:
                files = hub.repos[repo][branch].items()
                return 200, [
                    {"type": "file", "path": file, "size": len(content), "oid": "0" * 40}
                    for file, content in files
                ]
            case ["preupload", _]:
                return 200, {"files": [self._mode(f) for f in json.loads(body)["files"]]}
            case ["commit", branch]:
                lines = [json.loads(line) for line in body.splitlines()]
                return hub.commit(repo, branch, lines)
        return 404, {"error": f"no route {path}"}

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def _batch(self, entry: dict[str, Any]) -> dict[str, Any]:
        known = entry["oid"] in self.state.objects
        href = f"{self.state.address}/lfs/{entry['oid']}"
        return entry if known else entry | {"actions": {"upload": {"href": href}}}

    def _send(self, status: int, answer: Any) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
