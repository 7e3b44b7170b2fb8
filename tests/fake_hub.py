"""A Hugging Face hub on 127.0.0.1, and a cache as huggingface-hub lays it out: what the tests of the hub run against."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = 2000
"""Bytes from which a file is kept under its SHA-256, as with LFS."""


def commit_of(files):
    return hashlib.sha1(repr(sorted((name, hashlib.sha256(content).digest()) for name, content in files.items())).encode()).hexdigest()


def etag_of(content):
    """What the hub calls a file: SHA-256 of a large one, git's blob hash of a small one."""
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lay_out(cache, repo_id, files, revision="main"):
    """Put a repository into a cache folder; returns its snapshot."""
    home = Path(cache) / f"models--{repo_id.replace('/', '--')}"
    commit = commit_of(files)
    snapshot = home / "snapshots" / commit
    for folder in (snapshot, home / "blobs", home / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    for name, content in files.items():
        (home / "blobs" / etag_of(content)).write_bytes(content)
        (snapshot / name).symlink_to(Path("../../blobs") / etag_of(content))
    return snapshot


@dataclass
class Repo:
    files: dict[str, bytes] = field(default_factory=dict)
    branches: set[str] = field(default_factory=lambda: {"main"})
    needs_token: str = ""
    gated: bool = False


class FakeHub:
    """Repositories by name; `seen` are the requests, (method, path). What goes wrong is chosen with the attributes below."""

    def __init__(self):
        self.repos, self.seen, self.commits, self.created = {}, [], [], []
        self.spoil = self.cut_off = ""
        """Names of a file that is sent with one wrong byte, and of one whose transfer breaks off."""
        self.status = 0
        """Answer everything with this."""
        self.writers = set()
        """Tokens that may write."""

    def asked(self, part):
        return [path for _, path in self.seen if part in path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    @property
    def hub(self):
        return self.server.hub

    def answer(self, status=200, content=b"", headers=None):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content)), "X-Repo-Commit": "0" * 40} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def say(self, content, status=200):
        self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def refuse(self, status, code, message=""):
        self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.seen.append((self.command, path))
        if self.hub.status:
            return self.answer(self.hub.status)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not (api or file):
            return self.answer(404)
        repo_id, revision = (api or file)[1], (api or file)[2] or "main"
        repo = self.hub.repos.get(repo_id)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repo is None or (repo.needs_token and token != repo.needs_token):
            return self.refuse(401, "RepoNotFound")
        if repo.gated:
            return self.refuse(403, "GatedRepo", "restricted")
        commit = commit_of(repo.files)
        if revision not in (*repo.branches, commit):
            return self.refuse(404, "RevisionNotFound")
        return self.info(repo_id, repo, commit) if api else self.file(repo, commit, file[3])

    def info(self, repo_id, repo, commit):
        siblings = []
        for name, content in repo.files.items():
            entry = {"rfilename": name, "size": len(content), "blobId": etag_of(content)}
            if len(content) >= LARGE:
                entry["lfs"] = {"sha256": etag_of(content), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        self.say({"id": repo_id, "modelId": repo_id, "sha": commit, "private": False, "siblings": siblings, "tags": [], "downloads": 0})

    def file(self, repo, commit, name):
        content = repo.files.get(name)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        headers = {"ETag": f'"{etag_of(content)}"', "X-Repo-Commit": commit}
        if self.command == "HEAD":
            return self.answer(200, content, headers)
        if name == self.hub.cut_off:
            self.answer(200, content[: len(content) // 2], headers | {"Content-Length": str(len(content))})
            self.close_connection = True
            return None
        if name == self.hub.spoil:
            content = content[:-1] + bytes([content[-1] ^ 1])
        return self.answer(200, content, headers)

    def do_POST(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.seen.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.hub.writers and "validate-yaml" not in path:
            return self.refuse(403, "", "no right to write")
        if path == "/api/validate-yaml":
            return self.say({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        repo_id, what, revision = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|preupload|commit)/(.+)", path).groups()
        repo = self.hub.repos[repo_id]
        if what == "branch":
            repo.branches.add(revision)
            return self.say({})
        if what == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.say({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        return self.commit(repo_id, repo, revision, body)

    def create(self, wanted):
        repo_id = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        self.hub.created.append(wanted | {"repo_id": repo_id})
        existed = repo_id in self.hub.repos
        self.hub.repos.setdefault(repo_id, Repo())
        self.say({"url": f"http://{self.headers['Host']}/{repo_id}", "name": repo_id, "id": "1"}, 409 if existed else 200)

    def commit(self, repo_id, repo, revision, body):
        lines = [json.loads(line) for line in body.splitlines()]
        files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
        repo.files |= files
        said = next(line["value"]["summary"] for line in lines if line["key"] == "header")
        self.hub.commits.append(
            {"repo_id": repo_id, "revision": revision, "files": files, "message": said, "query": urlsplit(self.path).query}
        )
        url = f"http://{self.headers['Host']}/{repo_id}"
        pull = {"pullRequestUrl": f"{url}/discussions/1"} if "create_pr=1" in self.path else {}
        self.say({"success": True, "commitOid": "1" * 40, "commitUrl": f"{url}/commit/{'1' * 40}", **pull})


@contextmanager
def serve():
    """A hub that runs until the block ends; `hub.url` is its HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.hub = hub = FakeHub()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
