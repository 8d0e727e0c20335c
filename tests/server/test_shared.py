#!/usr/bin/env python3
"""Servers that share prefixes through Redis: what one has read the other begins with and says the same; and a Redis
that is gone, slow, locked or full of nonsense is a cache without anything in it.

    test_shared.py APUS SOURCE_DIR
"""
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from serving import Server

APUS, ROOT = sys.argv[1], Path(sys.argv[2])
MODELS = [ROOT / "models/tiny-qwen", ROOT / "models/tiny-gemma"]
CHAT = "/v1/chat/completions"
REDIS = shutil.which("redis-server") or shutil.which("valkey-server")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Redis:
    def __init__(self, *options):
        self.port, self.options, self.folder = free_port(), options, tempfile.mkdtemp()
        self.socket = f"{self.folder}/socket"
        self.start()

    def start(self):
        self.process = subprocess.Popen([REDIS, "--port", str(self.port), "--unixsocket", self.socket, "--save", "", "--dir", self.folder,
                                         *self.options], stdout=subprocess.DEVNULL)
        deadline = time.time() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                assert time.time() < deadline
                time.sleep(0.02)

    def command(self, *words):
        """-> the first line of the answer, and its bytes if it has any"""
        s = socket.create_connection(("127.0.0.1", self.port))
        f = s.makefile("rwb")
        f.write(b"*%d\r\n" % len(words))
        for w in words:
            w = w if isinstance(w, bytes) else str(w).encode()
            f.write(b"$%d\r\n%s\r\n" % (len(w), w))
        f.flush()
        line = f.readline().strip()
        if line[:1] == b"$" and line != b"$-1":
            line = f.read(int(line[1:]))
        elif line[:1] == b"*":
            line = [f.read(int(f.readline()[1:]) + 2)[:-2] for _ in range(int(line[1:]))]
        f.close()
        s.close()
        return line

    def keys(self):
        return self.command("KEYS", "apus:*")

    def stop(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


def ask(i, **more):
    text = f"{i}. Repeat: " + "apus sings at dawn. " * 25 + "What is 12 + 30?"
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 20, **more}


def words(answer):
    m = answer["choices"][0]["message"]
    return m.get("reasoning_content"), m["content"]


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


@unittest.skipUnless(REDIS, "no redis-server")
class Shared(unittest.TestCase):
    def redis(self, *options):
        r = Redis(*options)
        self.addCleanup(shutil.rmtree, r.folder)
        self.addCleanup(r.stop)
        return r

    def serve(self, redis, *options, model=MODELS[0], address=None):
        s = Server(APUS, model, "--cache-redis", address or f"127.0.0.1:{redis.port}", "--threads", "1", *options)
        self.addCleanup(s.stop, signal.SIGKILL)
        return s

    def wait_for(self, check, seconds=10):
        deadline = time.time() + seconds
        while not check():
            self.assertLess(time.time(), deadline)
            time.sleep(0.02)

    def filled(self, redis, server, i):
        """The answer to prompt i, when what it left behind has arrived."""
        got = server.post(CHAT, ask(i))
        before = -1
        while before != len(redis.keys()) or before == 0:
            before = len(redis.keys())
            time.sleep(0.15)
        return got

    def test_two_servers(self):
        for model in MODELS:
            r = self.redis()
            one, two = self.serve(r, model=model), self.serve(r, model=model, address=f"unix:{r.socket}")
            cold = self.filled(r, one, 1)
            self.assertEqual(cached(cold), 0)
            warm = two.post(CHAT, ask(1))
            self.assertGreaterEqual(cached(warm), (warm["usage"]["prompt_tokens"] - 1) // 64 * 64)
            self.assertEqual(words(warm), words(cold))
            self.assertGreater(two.metric("apus_prefix_cache_store_tokens_total"), 0)
            self.assertGreater(one.metric("apus_prefix_cache_store_written_bytes_total"), 0)
            # the conversation goes on at either
            more = ask(1)
            more["messages"] += [{"role": "assistant", "content": cold["choices"][0]["message"]["content"]},
                                 {"role": "user", "content": "What is apus?" + " And what else?" * 20}]
            a, b = one.post(CHAT, more), None
            time.sleep(0.5)
            b = two.post(CHAT, more)
            self.assertEqual(words(a), words(b))
            self.assertEqual(two.metric("apus_prefix_cache_store_errors_total"), 0)
            # another model of the same place takes nothing of it
            other = self.serve(r, model=MODELS[model == MODELS[0]])
            self.assertEqual(cached(other.post(CHAT, ask(1))), 0)

    def test_records_do_not_stay_for_ever(self):
        r = self.redis()
        self.filled(r, self.serve(r, "--cache-redis-ttl", "7"), 1)
        for key in r.keys():
            self.assertIn(int(r.command("TTL", key)[1:]), range(1, 8))

    def test_records_that_are_not_what_they_should_be(self):
        r = self.redis()
        want = self.filled(r, self.serve(r), 1)
        keys = r.keys()
        records = {k: r.command("GET", k) for k in keys}
        self.assertGreater(len(keys), 3)

        def spoil(change):
            for i, k in enumerate(keys):
                r.command("SET", k, change(i, records[k]))
            s = self.serve(r)
            got = s.post(CHAT, ask(1))
            self.assertEqual(words(got), words(want))
            s.stop()
            return cached(got)
        self.assertGreater(spoil(lambda i, d: d), 0)
        self.assertEqual(spoil(lambda i, d: d[:len(d) // 2]), 0)
        self.assertEqual(spoil(lambda i, d: d[:len(d) // 2] + bytes([d[len(d) // 2] ^ 1]) + d[len(d) // 2 + 1:]), 0)
        self.assertEqual(spoil(lambda i, d: b""), 0)
        self.assertEqual(spoil(lambda i, d: d + b"x" * 1000000), 0)
        self.assertEqual(spoil(lambda i, d: os.urandom(len(d))), 0)
        self.assertEqual(spoil(lambda i, d: records[keys[(i + 1) % len(keys)]]), 0)
        for k in keys:  # of another type
            r.command("DEL", k)
            r.command("LPUSH", k, "x")
        self.assertEqual(words(self.serve(r).post(CHAT, ask(1))), words(want))

    def test_gone_and_back(self):
        r = self.redis()
        s = self.serve(r)
        want = self.filled(r, s, 1)
        r.stop()
        begin = time.time()
        other = self.serve(r)  # starts without it
        self.assertEqual(words(other.post(CHAT, ask(1))), words(want))
        s.post(CHAT, ask(2))
        self.assertLess(time.time() - begin, 10)
        self.assertEqual(sum("--cache-redis" in line for line in other.log), 1, other.log)
        r.start()
        time.sleep(5.2)  # it is left alone for some seconds
        other.post(CHAT, ask(3))
        self.wait_for(lambda: r.keys())
        self.assertTrue(any("it is there again" in line for line in other.log))

    def test_frozen(self):
        r = self.redis()
        s = self.serve(r)
        want = self.filled(r, s, 1)
        other = self.serve(r)
        r.process.send_signal(signal.SIGSTOP)
        begin = time.time()
        self.assertEqual(words(other.post(CHAT, ask(1))), words(want))
        first = time.time() - begin
        begin = time.time()
        for i in range(4, 8):
            other.post(CHAT, ask(i))
        self.assertLess(first, 20)
        self.assertLess(time.time() - begin, 20)  # nobody waits for it any more
        self.assertTrue(any("it does not answer" in line for line in other.log), other.log)

    def test_full(self):
        r = self.redis("--maxmemory", "2mb", "--maxmemory-policy", "noeviction")
        s = self.serve(r)
        first = s.post(CHAT, ask(1))
        for i in range(2, 8):
            s.post(CHAT, ask(i))
        self.assertEqual(words(s.post(CHAT, ask(1))), words(first))

    def test_passwords(self):
        r = self.redis("--requirepass", "correct horse")
        with tempfile.TemporaryDirectory() as tmp:
            good, user, bad = Path(tmp, "good"), Path(tmp, "user"), Path(tmp, "bad")
            good.write_text("correct")
            user.write_text("default correct horse\n")
            bad.write_text("wrong\n")
            for file, taken in ((user, True), (bad, False), (good, False)):
                s = self.serve(r, "--cache-redis-password-file", file)
                s.post(CHAT, ask(1))
                s.stop()
                told = any("the password is not taken" in line for line in s.log)
                self.assertEqual(told, not taken, s.log)
            self.assertFalse(any("horse" in line or "wrong" in line for line in s.log))

    def test_settings(self):
        def fails(*options):
            r = subprocess.run([APUS, "serve", str(MODELS[0]), "--port", "0", *options], capture_output=True, text=True, timeout=60)
            self.assertEqual(r.returncode, 1)
            return r.stderr
        for address in ("", ":", ":1", "host:0", "host:65536", "host:x", "[::1", "unix:", "x" * 400):
            self.assertIn("expected HOST:PORT or unix:PATH", fails("--cache-redis", address), address)
        self.assertIn("No such file", fails("--cache-redis", "localhost", "--cache-redis-password-file", "/nowhere/file"))
        self.assertIn("expected a line", fails("--cache-redis", "localhost", "--cache-redis-password-file", "/dev/null"))


if __name__ == "__main__":
    if not REDIS:
        print("redis-server is not installed")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
