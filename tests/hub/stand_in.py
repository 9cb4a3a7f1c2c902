"""A stand-in for a hub of models on the loopback: repositories in memory, and the requests that are made here."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_of_the_tests"
LICENCES = ("apache-2.0", "mit", "other")


class Answer(Exception):
    """What a request is answered with."""

    def __init__(self, status: int, content: Any = b"", **headers: str) -> None:
        super().__init__(status)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        self.content = content if isinstance(content, bytes) else json.dumps(content).encode()


@dataclass
class Repository:
    """Every commit with all of its files."""

    private: bool = True
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        """Those of the latest commit."""
        return self.commits[self.head]

    def commit(self, files: Mapping[str, bytes]) -> str:
        """The latest is what it says, from now on."""
        revision = hashlib.sha1(f"{len(self.commits)} {id(self)}".encode()).hexdigest()
        self.commits[revision] = dict(files)
        return revision

    def at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        found = self.head if revision == "main" else revision
        if found not in self.commits:
            raise Answer(404, X_Error_Code="RevisionNotFound")
        return found, self.commits[found]


@dataclass
class Hub:
    """A hub that listens.

    Args:
        large: Endings of names of files that are uploaded by the protocol for large files.
        answers: Beginning of a path -> what is said instead of the truth.
        sizes: What is said of files' sizes instead of the truth.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    large: tuple[str, ...] = ()
    answers: dict[str, Answer] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    before_commit: Callable[[], object] = lambda: None

    def add(self, repo: str, files: Mapping[str, bytes], *, private: bool = True) -> Repository:
        made = self.repositories[repo] = Repository(private)
        made.commit(files)
        return made

    def seen(self, repo: str, token: str | None) -> Repository:
        found = self.repositories.get(repo)
        if found is None or (found.private and token != TOKEN):
            raise Answer(404, X_Error_Code="RepoNotFound")
        return found

    # -- what can be asked -------------------------------------------------------------------------------------------

    def info(self, repo: str, token: str | None, revision: str = "main") -> Any:
        found = self.seen(repo, token)
        return {"id": repo, "sha": found.at(revision)[0], "private": found.private}

    def tree(self, repo: str, token: str | None, revision: str) -> Any:
        _, files = self.seen(repo, token).at(revision)
        folders = {str(parent) for name in files for parent in PurePosixPath(name).parents if str(parent) != "."}
        entries: list[dict[str, Any]] = [{"type": "directory", "path": name, "oid": "0" * 40} for name in folders]
        for name, content in files.items():
            size = self.sizes.get(name, len(content))
            entries.append({"type": "file", "path": name, "size": size, "oid": hashlib.sha1(content).hexdigest()})
        return entries

    def file(self, repo: str, token: str | None, revision: str, name: str) -> Answer:
        commit, files = self.seen(repo, token).at(revision)
        if name not in files:
            raise Answer(404, X_Error_Code="EntryNotFound")
        etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
        return Answer(200, files[name], X_Repo_Commit=commit, ETag=etag)

    def create(self, said: Any, token: str | None) -> Any:
        repo = f"{said['organization']}/{said['name']}"
        if token != TOKEN:
            raise Answer(401, {"error": "Invalid username or password."})
        if said["organization"] != "me":
            raise Answer(403, {"error": f"You don't have the rights to create a model under {said['organization']}"})
        if repo in self.repositories:
            raise Answer(409, {"error": "You already created this model repo"})
        private = said.get("private", said.get("visibility") == "private")
        self.add(repo, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        return {"url": f"{self.url}/{repo}"}

    def validate(self, said: Any) -> Any:
        header = yaml.safe_load(said["content"].split("---\n")[1])
        if not isinstance(header, dict) or header.get("license", "other") not in LICENCES:
            raise Answer(400, {"errors": [{"message": f'"license" must be one of {LICENCES}'}]})
        return {"warnings": [] if "license" in header else [{"message": "no license in the card"}]}

    def modes(self, said: Any) -> Any:
        return {
            "files": [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if self.large and each["path"].endswith(self.large) else "regular",
                    "shouldIgnore": False,
                }
                for each in said["files"]
            ]
        }

    def batch(self, said: Any) -> Any:
        upload = {each["oid"]: {"upload": {"href": f"{self.url}/objects/{each['oid']}"}} for each in said["objects"]}
        return {"objects": [{**each, "actions": upload[each["oid"]]} for each in said["objects"]]}

    def commit(self, repo: str, token: str | None, lines: bytes) -> Any:
        self.before_commit()
        found = self.seen(repo, token)
        files = dict(found.files)
        for line in map(json.loads, lines.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    if value.get("parentCommit", found.head) != found.head:
                        raise Answer(412, {"error": "A commit has happened since. Please refresh and try again."})
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        revision = found.head if files == found.files else found.commit(files)
        return {"commitUrl": f"{self.url}/{repo}/commit/{revision}", "commitOid": revision}

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> Answer:
        """To any request."""
        self.requests.append(f"{method} {path}")
        for start, instead in self.answers.items():
            if path.startswith(start):
                raise instead
        repo = r"(?P<repo>[^/]+/[^/]+)"
        routes: dict[str, Callable[..., Any]] = {
            rf"GET /api/models/{repo}": lambda repo: self.info(repo, token),
            rf"GET /api/models/{repo}/revision/(.+)": lambda repo, revision: self.info(repo, token, revision),
            rf"GET /api/models/{repo}/tree/(.+)": lambda repo, revision: self.tree(repo, token, revision),
            rf"(?:GET|HEAD) /{repo}/resolve/([^/]+)/(.+)": lambda repo, *rest: self.file(repo, token, *rest),
            r"POST /api/repos/create": lambda: self.create(json.loads(body), token),
            r"POST /api/validate-yaml": lambda: self.validate(json.loads(body)),
            rf"POST /api/models/{repo}/preupload/main": lambda repo: self.modes(json.loads(body)),
            rf"POST /{repo}\.git/info/lfs/objects/batch": lambda repo: self.batch(json.loads(body)),
            rf"POST /api/models/{repo}/commit/main": lambda repo: self.commit(repo, token, body),
            r"PUT /objects/(\w+)": lambda oid: self.objects.update({oid: body}),
        }
        for route, call in routes.items():
            if found := re.fullmatch(route, f"{method} {path}"):
                content = call(*found.groups())
                return content if isinstance(content, Answer) else Answer(200, content)
        raise Answer(404, {"error": f"{method} {path}"})


@contextmanager
def listening() -> Iterator[Hub]:
    """A hub on a free port of the loopback."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            try:
                answer = hub.answer(self.command, unquote(urlsplit(self.path).path), token, body)
            except Answer as refusal:
                answer = refusal
            self.send_response(answer.status)
            for name, value in ({"Content-Length": str(len(answer.content))} | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.content)

        do_GET = do_HEAD = do_POST = do_PUT = handle_any

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
