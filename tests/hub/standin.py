"""A stand-in for the Hugging Face hub: what programs that fetch models ask of it, and what may go wrong.

    hub = Hub(); hub.add("acme/tiny", {"config.json": b"{}", "model.safetensors": b"..."})
    HF_ENDPOINT=hub.url

Large files (LFS) are redirected to a second server, the content's, on another port."""
import hashlib
import json
import re
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LFS = (".safetensors", ".gguf", ".bin")


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class File:
    def __init__(self, name, data):
        self.name, self.data = name, data
        self.lfs = name.endswith(LFS)
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.blob_id = git_sha1(data)
        self.etag = self.sha256 if self.lfs else self.blob_id

    def sibling(self):
        s = {"rfilename": self.name, "size": len(self.data), "blobId": self.blob_id}
        if self.lfs:
            s["lfs"] = {"sha256": self.sha256, "size": len(self.data), "pointerSize": 134}
        return s


class Hub:
    def __init__(self):
        self.repos = {}       # name -> {"refs": {rev: commit}, "commits": {commit: {name: File}}}
        self.log = []         # of requests: dicts
        self.token = None     # asked for, if set
        self.gated = False
        self.cuts = []        # bytes after which the next answers with content end
        self.keep_cutting = None
        self.ranges = True    # content answers to Range
        self.spoil = None     # bytes -> bytes of contents
        self.listing = None   # what /api/models answers instead, or a function of that
        self.bare_listing = False  # names alone, as without ?blobs=true
        self.silence = 0      # seconds before any answer
        self.delay = 0        # seconds per 64 KiB of content
        self.fail_first = []  # status codes of the next answers
        self.redirect = None  # where /resolve leads instead
        self.expire_after = None  # answers of the content server by one address
        self.lock = threading.Lock()
        self.running = self.most_running = 0
        self.hub = self.serve(HubHandler)
        self.content = self.serve(ContentHandler)
        self.url = "http://127.0.0.1:%d" % self.hub.server_port
        self.content_url = "http://localhost:%d" % self.content.server_port

    def serve(self, handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.state = self
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def close(self):
        for s in (self.hub, self.content):
            s.shutdown()
            s.server_close()

    def add(self, name, files, rev="main"):
        """A commit of these files; rev moves to it."""
        made = {n: File(n, d) for n, d in files.items()}
        commit = hashlib.sha1(json.dumps(sorted((f.name, f.etag) for f in made.values())).encode()).hexdigest()
        repo = self.repos.setdefault(name, {"refs": {}, "commits": {}})
        repo["commits"][commit] = made
        repo["refs"][rev] = commit
        return commit

    def asked(self, part="", method=None):
        return [r for r in self.log if part in r["path"] and (method is None or r["method"] == method)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def note(self):
        self.hub = self.server.state
        with self.hub.lock:
            self.hub.log.append({"method": self.command, "path": self.path, "host": self.headers.get("Host", ""),
                                 "port": self.server.server_port, "range": self.headers.get("Range"),
                                 "auth": self.headers.get("Authorization")})
        time.sleep(self.hub.silence)

    def say(self, status, body=b"", headers=None):
        self.send_response(status)
        for k, v in (headers or {}).items():
            self.send_header(k, v)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def send_file(self, file, headers):
        hub, data = self.hub, file.data
        if hub.spoil and self.command != "HEAD":
            data = hub.spoil(data)
        status, part = 200, data
        m = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range") or "")
        if m and hub.ranges:
            first = int(m[1])
            last = min(int(m[2]) if m[2] else len(data) - 1, len(data) - 1)
            if first >= len(data):
                return self.say(416, headers={"Content-Range": f"bytes */{len(data)}"})
            status, part = 206, data[first:last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        headers["Content-Length"] = str(len(part))
        headers["Accept-Ranges"] = "bytes"
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k, v)
        self.end_headers()
        if self.command == "HEAD":
            return
        with hub.lock:
            cut = hub.cuts.pop(0) if hub.cuts else hub.keep_cutting
            hub.running += 1
            hub.most_running = max(hub.most_running, hub.running)
        try:
            end = len(part) if cut is None else min(cut, len(part))
            for at in range(0, end, 65536):
                self.wfile.write(part[at:min(at + 65536, end)])
                if hub.delay:
                    time.sleep(hub.delay)
            if end < len(part):
                self.close_connection = True
        except OSError:
            self.close_connection = True
        finally:
            with hub.lock:
                hub.running -= 1


class HubHandler(Handler):
    def refuse(self, status, code):
        self.say(status, b'{"error":"no"}', {"X-Error-Code": code, "Content-Type": "application/json"})

    def do_GET(self):
        self.note()
        hub = self.hub
        if hub.fail_first:
            return self.say(hub.fail_first.pop(0), b"later")
        path = urllib.parse.urlsplit(self.path).path
        api = re.match(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?$", path)
        get = re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path)
        m = api or get
        if not m:
            return self.say(404, b"what?")
        if hub.token and self.headers.get("Authorization") != "Bearer " + hub.token:
            return self.refuse(401, "GatedRepo" if hub.gated else "RepoNotFound")
        repo = hub.repos.get(m[1])
        if not repo:
            return self.refuse(404 if self.headers.get("Authorization") else 401, "RepoNotFound")
        rev = urllib.parse.unquote(m[2] or "main")
        commit = repo["refs"].get(rev, rev)
        if commit not in repo["commits"]:
            return self.refuse(404, "RevisionNotFound")
        files = repo["commits"][commit]
        if api:
            return self.list_files(m[1], commit, files)
        file = files.get(urllib.parse.unquote(m[3]))
        if not file:
            return self.refuse(404, "EntryNotFound")
        self.resolve(commit, file)

    def list_files(self, repo, commit, files):
        siblings = [f.sibling() for f in files.values()]
        if self.hub.bare_listing or "blobs=true" not in self.path:
            siblings = [{"rfilename": s["rfilename"]} for s in siblings]
        answer = {"id": repo, "sha": commit, "gated": self.hub.gated, "private": False, "tags": [],
                  "downloads": 1, "siblings": siblings}
        if self.hub.listing is not None:
            answer = self.hub.listing(answer) if callable(self.hub.listing) else self.hub.listing
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.say(200, body, {"Content-Type": "application/json"})

    def resolve(self, commit, file):
        headers = {"X-Repo-Commit": commit}
        if self.hub.redirect:
            to = self.hub.redirect
            return self.say(302, headers={"Location": to(self) if callable(to) else to})
        if not file.lfs:
            headers["ETag"] = f'"{file.etag}"'
            return self.send_file(file, headers)
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data)),
                    "Location": f"{self.hub.content_url}/content/{file.sha256}?sign={time.monotonic_ns()}"}
        self.say(302, headers=headers)


class ContentHandler(Handler):
    uses = {}

    def do_GET(self):
        self.note()
        hub = self.hub
        if hub.expire_after is not None:
            n = self.uses[self.path] = self.uses.get(self.path, 0) + 1
            if n > hub.expire_after:
                return self.say(403, b"expired")
        if hub.fail_first:
            return self.say(hub.fail_first.pop(0), b"later")
        want = self.path.split("?")[0].rsplit("/", 1)[1]
        for repo in hub.repos.values():
            for files in repo["commits"].values():
                for f in files.values():
                    if f.sha256 == want:
                        return self.send_file(f, {"ETag": '"of-the-content-server"'})
        self.say(404)
