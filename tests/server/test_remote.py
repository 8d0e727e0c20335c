#!/usr/bin/env python3
"""What the server fetches from elsewhere, and from where never.

    test_remote.py REMOTE_GET
"""
import http.server
import os
import subprocess
import sys
import threading
import time
import unittest

PROGRAM = sys.argv[1]
PUBLIC = """8.8.8.8 1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 169.255.0.0
    172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255
    2001:4860:4860::8888 2606:4700::1111 2001:200:: 2003:: 3ffe:: 2a00::1""".split()
INNER = """0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.1 127.255.255.255 169.254.169.254 172.16.0.0
    172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.0 198.19.255.255 198.51.100.1 203.0.113.9 224.0.0.1
    239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::8.8.8.8 ::ffff:8.8.8.8 ::ffff:127.0.0.1 64:ff9b::7f00:1 100::1 fc00::1
    fd00:ec2::254 fe80::1 fec0::1 ff02::1 2001::1 2001:1ff::1 2001:db8::1 2002:7f00:1:: 3fff::1 4000::1""".split()


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    seen = []

    def do_GET(self):
        Hub.seen.append((self.path, dict(self.headers)))
        port = self.server.server_port
        where = {"/there": "/here", "/else": f"http://localhost:{port}/here", "/round": "/round", "/file": "file:///etc/passwd",
                 "/ftp": "ftp://localhost/", "/secret": f"http://me:word@127.0.0.1:{port}/here"}.get(self.path)
        if where:
            self.send_response(302)
            self.send_header("Location", where)
            self.end_headers()
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(100):
                    self.wfile.write(b".")
                    time.sleep(0.05)
            except OSError:
                pass
        elif self.path in ("/here", "/long"):
            self.send_response(200)
            self.end_headers()
            try:
                self.wfile.write(b"\0picture" * (1 if self.path == "/here" else 1000))
            except OSError:
                pass
        else:
            self.send_error(404)

    def log_message(self, *args):
        pass


def get(url, *hosts, most=100, seconds=10, env=None):
    r = subprocess.run([PROGRAM, "get", str(most), str(seconds), url, *hosts], capture_output=True, timeout=60,
                       env=dict(os.environ, **(env or {})))
    return r.returncode, r.stdout, r.stderr.decode().strip()


class Remote(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        threading.Thread(target=cls.hub.serve_forever, daemon=True).start()
        cls.url = f"http://127.0.0.1:{cls.hub.server_port}"

    @classmethod
    def tearDownClass(cls):
        cls.hub.shutdown()
        cls.hub.server_close()

    def refused(self, text, *args, **more):
        rc, out, why = get(*args, **more)
        self.assertEqual((rc, out), (1, b""))
        self.assertIn(text, why)

    def test_addresses(self):
        out = subprocess.run([PROGRAM, "public", *PUBLIC, *INNER], capture_output=True, text=True, check=True).stdout
        self.assertEqual(out.split("\n")[:-1], [a + " public" for a in PUBLIC] + [a + " inner" for a in INNER])

    def test_it_comes(self):
        for hosts in (("*",), ("127.0.0.1",), ("a.example", "127.0.0.1")):
            self.assertEqual(get(self.url + "/here", *hosts), (0, b"\0picture", ""))
        self.assertEqual(get(self.url + "/there", "*")[:2], (0, b"\0picture"))
        self.assertEqual(get(self.url + "/else", "127.0.0.1", "LocalHost")[:2], (0, b"\0picture"))

    def test_hosts(self):
        local = f"http://localhost:{self.hub.server_port}/here"
        for hosts in ((), ("local",), ("*.localhost",), ("ocalhost",), ("localhost.example",)):
            self.refused("fetches nothing from localhost", local, *hosts)
        self.refused("fetches nothing from 127.0.0.1", self.url + "/here", "localhost")
        self.refused("fetches nothing from localhost", self.url + "/else", "127.0.0.1")

    def test_no_proxy_and_no_secret(self):
        Hub.seen.clear()
        proxy = {"http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
        self.assertEqual(get(self.url + "/here", "*", env=proxy)[0], 0)
        self.assertNotIn("Authorization", Hub.seen[0][1])
        self.refused("name or password", self.url.replace("//", "//me:word@") + "/here", "*")
        self.refused("name or password", self.url + "/secret", "*")

    def test_bounds(self):
        self.assertEqual(len(get(self.url + "/long", "*", most=8000)[1]), 8000)
        self.refused("more than 7999 bytes", self.url + "/long", "*", most=7999)
        begin = time.time()
        self.refused("took too long", self.url + "/slow", "*", seconds=0.4)
        self.assertLess(time.time() - begin, 3)
        self.refused("too many redirects", self.url + "/round", "*")

    def test_schemes_and_failures(self):
        self.refused("status 404", self.url + "/none", "*")
        for path in ("/file", "/ftp"):
            rc, out, _ = get(self.url + path, "*")
            self.assertEqual((rc, out), (1, b""))
        for url in ("file:///etc/passwd", "ftp://localhost/", "gopher://localhost/", "http://", "http:///here", "http://a b/"):
            rc, out, _ = get(url, "*")
            self.assertEqual((rc, out), (1, b""), url)
        self.assertEqual(get("http://127.0.0.1:1/", "*")[0], 1)


if __name__ == "__main__":
    if subprocess.run([PROGRAM, "public", "::1"], capture_output=True).returncode == 77:
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
