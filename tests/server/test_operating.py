#!/usr/bin/env python3
"""What who runs a server needs of it: TLS, the log. Answers are scripted (scripted.c).

    test_operating.py PROGRAM SOURCE_DIR
"""
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from serving import Server

PROGRAM, ROOT = sys.argv[1], Path(sys.argv[2])
QWEN = ROOT / "models/tiny-qwen"
CHAT = "/v1/chat/completions"


def say(text, **more):
    return {"model": "tiny-qwen", "messages": [{"role": "user", "content": f"say:</think>\n\n{text}"}], **more}


def make_certificate(folder, name="server"):
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    key.chmod(0o600)
    return cert, key


@unittest.skipUnless(shutil.which("openssl"), "no openssl")
class Tls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.tmp)
        cls.cert, cls.key = make_certificate(cls.tmp)
        cls.server = Server(PROGRAM, QWEN, "--tls-cert", cls.cert, "--tls-key", cls.key, "--header-timeout", "2")
        cls.addClassCleanup(cls.server.stop)

    def context(self):
        return ssl.create_default_context(cafile=str(self.cert))

    def connection(self):
        return http.client.HTTPSConnection("localhost", self.server.port, timeout=30, context=self.context())

    def test_it_says_so(self):
        self.assertTrue(any(line.startswith("apus serve: listening on https://127.0.0.1:") for line in self.server.log))
        self.assertFalse(any("chmod" in line for line in self.server.log))

    def test_whole_answers_on_one_connection(self):
        c = self.connection()
        for i in range(3):
            c.request("POST", CHAT, json.dumps(say(f"number {i}")), {"Content-Type": "application/json"})
            got = json.load(c.getresponse())
            self.assertEqual(got["choices"][0]["message"]["content"], f"number {i}")
        c.close()

    def test_streams(self):
        c = self.connection()
        c.request("POST", CHAT, json.dumps(say("one two three " * 500, stream=True)), {"Content-Type": "application/json"})
        data = c.getresponse().read().decode()
        c.close()
        text = "".join(json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
                       for line in data.split("\n") if line.startswith("data: {"))
        self.assertEqual(text.strip(), ("one two three " * 500).strip())
        self.assertTrue(data.rstrip().endswith("[DONE]"))

    def test_origins_of_https(self):
        own = f"https://localhost:{self.server.port}"
        for origin, status in ((own, 200), ("https://evil.example", 403)):
            c = self.connection()
            c.request("GET", "/health", headers={"Origin": origin})
            self.assertEqual(c.getresponse().status, status)
            c.close()

    def test_old_versions_are_refused(self):
        for version, taken in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)):
            x = self.context()
            x.set_ciphers("DEFAULT:@SECLEVEL=0")
            try:
                x.minimum_version = x.maximum_version = version
                with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as s, x.wrap_socket(s, server_hostname="localhost"):
                    self.assertTrue(taken, version)
            except (ssl.SSLError, ConnectionError):
                self.assertFalse(taken, version)

    def test_plain_http_gets_nothing(self):
        self.assertNotIn(b"HTTP/1.1 200", self.server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"))

    def test_handshakes_that_never_end(self):
        """hold nobody up, and are closed"""
        silent = [socket.create_connection(("127.0.0.1", self.server.port), timeout=20) for _ in range(20)]
        for s in silent[:10]:
            s.sendall(b"\x16\x03\x01")
        c = self.connection()
        c.request("GET", "/health")
        self.assertEqual(c.getresponse().status, 200)
        for s in silent:
            try:
                while s.recv(100):
                    pass
            except ConnectionError:
                pass
            s.close()

    def test_who_leaves_ends_the_request(self):
        s = self.context().wrap_socket(socket.create_connection(("127.0.0.1", self.server.port), timeout=20), server_hostname="localhost")
        data = json.dumps({"messages": [{"role": "user", "content": "hold(20000):x"}]}).encode()
        s.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                  % (CHAT.encode(), len(data)) + data)
        time.sleep(0.3)
        s.close()
        deadline = time.time() + 10
        while time.time() < deadline and not any("status=499" in line for line in self.server.log):
            time.sleep(0.05)
        self.assertTrue(any("status=499" in line for line in self.server.log))

    # ---- what is wrong is told before anything else is done

    def fails(self, *options, status=1):
        r = subprocess.run([PROGRAM, "serve", str(QWEN), "--port", "0", *map(str, options)], capture_output=True, text=True, timeout=60)
        self.assertEqual(r.returncode, status, r.stderr)
        self.assertNotIn("listening", r.stderr)
        return r.stderr

    def test_one_without_the_other(self):
        self.assertIn("--tls-cert needs --tls-key", self.fails("--tls-cert", self.cert, status=2))
        self.assertIn("--tls-key needs --tls-cert", self.fails("--tls-key", self.key, status=2))

    def test_files_that_are_not_there_or_not_what_they_should_be(self):
        text, big, locked = self.tmp / "text", self.tmp / "big", self.tmp / "locked.key"
        text.write_text("no PEM")
        big.write_bytes(b"x" * (2 << 20))
        subprocess.run(["openssl", "pkey", "-in", self.key, "-aes128", "-passout", "pass:secret", "-out", locked], check=True)
        other_cert, other_key = make_certificate(self.tmp, "other")
        for cert, key, words in ((self.tmp / "none", self.key, "none: No such file"), (self.cert, self.tmp / "none", "none: No such file"),
                                 (self.key, self.cert, "found a private key"), (self.cert, self.cert, "found a certificate"),
                                 (text, self.key, "BEGIN CERTIFICATE"), (self.cert, text, "BEGIN PRIVATE KEY"),
                                 (self.tmp, self.key, "expected a file"), (self.cert, big, "expected a file of at most"),
                                 (self.cert, locked, "the key has a password")):
            message = self.fails("--tls-cert", cert, "--tls-key", key)
            self.assertIn(words, message)
            self.assertNotIn("PRIVATE KEY-----\n", message)
            self.assertEqual(len(message.strip().splitlines()), 1, message)
        # what GnuTLS alone can tell
        broken = self.tmp / "broken.crt"
        broken.write_text(self.cert.read_text().replace("M", "?", 3))
        for cert, key in ((other_cert, self.key), (broken, self.key)):
            message = self.fails("--tls-cert", cert, "--tls-key", key)
            self.assertIn(f"apus serve: --tls-cert {cert}: ", message)
            self.assertIn("GnuTLS", message)

    def test_a_key_that_others_can_read(self):
        key = self.tmp / "open.key"
        shutil.copy(self.key, key)
        key.chmod(0o644)
        s = Server(PROGRAM, QWEN, "--tls-cert", self.cert, "--tls-key", key)
        self.addCleanup(s.stop)
        self.assertTrue(any("open.key" in line and "0644" in line and "chmod 600" in line for line in s.log), s.log)


class Log(unittest.TestCase):
    SECRET = "the content of a message"

    def start(self, *options):
        s = Server(PROGRAM, QWEN, *options)
        self.addCleanup(s.stop)
        return s

    def requests(self, s, n):
        """The lines of n requests."""
        deadline = time.time() + 10
        while time.time() < deadline:
            lines = [line for line in s.log if "request" in line and "method" in line]
            if len(lines) >= n:  # they are written when the client may know its answer already
                return sorted(lines, key=lambda line: int(re.search(r"""request(?:=|":")(\d+)|$""", line)[1] or 0))
            time.sleep(0.02)
        raise AssertionError("".join(s.log))

    def test_text(self):
        s = self.start()
        s.post(CHAT, say(self.SECRET))
        s.ask("GET", "/no where?\"x=1".replace(" ", "%20"))
        one, two = self.requests(s, 2)
        self.assertRegex(one, r"^time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z request=1 method=POST path=/v1/chat/completions status=200 "
                              r"ms=\d+\.\d prompt=\d+ cached=0 generated=\d+ finish=stop\n$")
        self.assertIn("path=/no%20where status=404", two)
        self.assertNotIn(self.SECRET, "".join(s.log))

    def test_json(self):
        s = self.start("--log-format", "json")
        s.post(CHAT, say(self.SECRET))
        s.ask("GET", '/a%22%5C%0a%C3%A4%ff')
        s.post(CHAT, {"messages": [], "bogus": 1}, status=400)
        lines = [json.loads(line) for line in self.requests(s, 3)]
        self.assertEqual([r["status"] for r in lines], [200, 404, 400])
        self.assertEqual(set(lines[0]), {"time", "request", "method", "path", "status", "ms", "prompt", "cached", "generated", "finish"})
        self.assertRegex(lines[0]["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(lines[0]["request"], "1")
        self.assertIsInstance(lines[0]["ms"], (int, float))
        self.assertEqual(lines[1]["path"], "/a%22\\%0a%c3%a4%ff")
        self.assertNotIn(self.SECRET, "".join(s.log))
        # all else that the server says is of the same form
        said = [json.loads(line) for line in s.log if line.startswith("{") and "message" in json.loads(line)]
        self.assertTrue(any(x["level"] == "info" and x["message"].startswith("listening on ") for x in said))
        self.assertFalse(any(line.startswith("apus serve:") for line in s.log), s.log)

    def test_other_forms_are_refused(self):
        r = subprocess.run([PROGRAM, "serve", str(QWEN), "--log-format", "xml"], capture_output=True, text=True)
        self.assertEqual(r.returncode, 2)
        self.assertIn("expected text or json, found 'xml'", r.stderr)

    def test_names_of_requests(self):
        s = self.start("--log-format", "json")
        for given, taken in (("3f2a-B.c_9", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("a\"b", False),
                             ("", False), ("\u00e4", False), ("a=b", False)):
            _, headers, _ = s.ask("GET", "/health", headers={"X-Request-Id": given.encode("utf-8").decode("latin-1")})
            name = headers["x-request-id"]
            self.assertTrue(name == given if taken else name.isdigit(), (given, name))
            deadline = time.time() + 5
            while name not in (logged := {json.loads(line)["request"] for line in self.requests(s, 1)}) and time.time() < deadline:
                time.sleep(0.02)
            self.assertIn(name, logged)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
