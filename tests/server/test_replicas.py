#!/usr/bin/env python3
"""Three servers behind HAProxy, set up by examples/serve/haproxy.cfg: a conversation stays with one of them, one
is restarted, one is killed, and no request is lost that had not begun to be answered.

    test_replicas.py APUS SOURCE_DIR
"""
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from serving import Server

APUS, ROOT = sys.argv[1], Path(sys.argv[2])
QWEN = ROOT / "models/tiny-qwen"
CHAT = "/v1/chat/completions"
CLIENTS = 12


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ask(text, **more):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "reasoning_effort": "none", "max_tokens": 40, **more}


class Proxy:
    """HAProxy as the example sets it up, before servers at these ports."""

    def __init__(self, folder, ports):
        self.port = free_port()
        text = (ROOT / "examples/serve/haproxy.cfg").read_text()
        text = re.sub(r"^    bind :8443.*\n", "", text, flags=re.M).replace("127.0.0.1:8090", f"127.0.0.1:{self.port}")
        for name, port in zip("abc", ports):
            text = re.sub(rf"^    server {name} .*$", f"    server {name} 127.0.0.1:{port}", text, flags=re.M)
        path = Path(folder, "haproxy.cfg")
        path.write_text(text)
        self.process = subprocess.Popen(["haproxy", "-db", "-f", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(self, body, headers=None, path=CHAT):
        """-> status, headers, body; the status is None if the answer ends before its time"""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        r = None
        try:
            c.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
            r = c.getresponse()
            return r.status, dict((k.lower(), v) for k, v in r.getheaders()), r.read()
        except (http.client.HTTPException, OSError):
            return None, r and r.status, b""
        finally:
            c.close()


@unittest.skipUnless(shutil.which("haproxy"), "no haproxy")
class Replicas(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.tmp)
        self.ports = [free_port() for _ in range(3)]
        self.servers = [self.start(p) for p in self.ports]
        self.proxy = Proxy(self.tmp, self.ports)
        self.addCleanup(self.proxy.process.wait)
        self.addCleanup(self.proxy.process.kill)
        deadline = time.time() + 30
        while self.proxy.ask(ask("Hello", max_tokens=1))[0] != 200:
            self.assertLess(time.time(), deadline)
            time.sleep(0.1)

    def start(self, port):
        s = Server(APUS, QWEN, "--port", port, "--threads", "1", "--cache-ram", "64")
        self.addCleanup(s.stop, signal.SIGKILL)
        return s

    def who(self, headers):
        """Which server answered: the one that has the request in its log."""
        name = f"request={headers['x-request-id']} "
        deadline = time.time() + 10
        while time.time() < deadline:
            for i, s in enumerate(self.servers):
                if any(name in line for line in s.log):
                    return i
            time.sleep(0.01)
        raise AssertionError(f"{name} is in no log")

    # ---- one conversation, one replica

    def test_conversations_stay_where_they_are_known(self):
        text = "Repeat: " + "apus sings at dawn. " * 20
        system = {"role": "system", "content": "You are one of many that begin alike. " * 5}
        used = set()
        for i in range(8):
            session = ask(f"{i} {text}"), {"X-Session-Id": f"session-{i}"}
            other = ask(f"{i} again {text}"), {"X-Session-Id": f"session-{i}"}
            key = ask(f"{i} keyed {text}", prompt_cache_key=f"key-{i}"), {}
            begun = ask(""), {}
            begun[0]["messages"] = [system, {"role": "user", "content": f"{i} {text}"}]
            longer = json.loads(json.dumps(begun[0])), {}
            longer[0]["messages"] += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "more"}]
            for first, second, same_prompt in ((session, session, True), (session, other, False), (key, key, True),
                                               (begun, begun, True), (begun, longer, True)):
                at = []
                for body, headers in (first, second):
                    status, got, data = self.proxy.ask(body, headers)
                    self.assertEqual(status, 200, data)
                    at.append(self.who(got))
                self.assertEqual(at[0], at[1], (first, second))
                used.add(at[0])
                if same_prompt:
                    self.assertGreater(json.loads(data)["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        self.assertEqual(used, {0, 1, 2})

    def test_users_of_anthropics_api(self):
        for i in range(4):
            at = set()
            for text in ("one", "two", "three"):
                status, headers, data = self.proxy.ask({"model": "tiny-qwen", "max_tokens": 5, "metadata": {"user_id": f"user-{i}"},
                                                        "messages": [{"role": "user", "content": text}]}, path="/v1/messages")
                self.assertEqual(status, 200, data)
                at.add(self.who(headers))
            self.assertEqual(len(at), 1)

    def test_figures_are_not_for_everybody(self):
        c = http.client.HTTPConnection("127.0.0.1", self.proxy.port)
        c.request("GET", "/metrics")
        self.assertEqual(c.getresponse().status, 403)
        c.close()

    # ---- under load

    def load(self, seconds, during, stream=False):
        """Clients ask for so long; during() runs in between. -> [(status or None, headers or status, text)]"""
        end, out = time.time() + seconds, []
        want = json.loads(self.proxy.ask(ask("What is 12 + 30?"))[2])["choices"][0]["message"]["content"]

        def client(k):
            i = 0
            while time.time() < end:
                out.append((want, *self.proxy.ask(ask("What is 12 + 30?", stream=stream), {"X-Session-Id": f"{k}-{i}"})))
                i += 1
        threads = [threading.Thread(target=client, args=(k,)) for k in range(CLIENTS)]
        for t in threads:
            t.start()
        time.sleep(seconds / 4)
        during()
        for t in threads:
            t.join()
        self.assertGreater(len(out), 5 * CLIENTS)
        return out

    def check_whole(self, out):
        for want, status, _, data in out:
            self.assertEqual(status, 200, data)
            self.assertEqual(json.loads(data)["choices"][0]["message"]["content"], want)

    def finds_its_way_back(self, i):
        """A server that was started anew gets requests again."""
        self.servers[i] = self.start(self.ports[i])
        deadline = time.time() + 20
        for n in range(10000):
            _, headers, _ = self.proxy.ask(ask("Hello", max_tokens=1), {"X-Session-Id": f"back-{n}"})
            if self.who(headers) == i:
                return
            self.assertLess(time.time(), deadline)

    def test_one_is_ended(self):
        ended = []
        out = self.load(4, lambda: ended.append(self.servers[1].stop(signal.SIGTERM)))
        self.assertEqual(ended, [0])
        self.check_whole(out)
        self.finds_its_way_back(1)

    def test_one_is_killed(self):
        out = self.load(4, lambda: self.servers[2].stop(signal.SIGKILL))
        self.check_whole(out)
        self.finds_its_way_back(2)

    def test_one_is_killed_while_answers_stream(self):
        out = self.load(4, lambda: self.servers[0].stop(signal.SIGKILL), stream=True)
        cut = [o for o in out if o[1] is None or b"[DONE]" not in o[3]]
        self.assertLessEqual(len(cut), CLIENTS)
        for _, status, begun, data in cut:
            self.assertEqual(status or begun, 200)  # what is lost had begun


if __name__ == "__main__":
    if not shutil.which("haproxy"):
        print("haproxy is not installed")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
