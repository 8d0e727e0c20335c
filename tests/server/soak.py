#!/usr/bin/env python3
"""Runs that take long, by hand:

    soak.py APUS SOURCE_DIR kill  [TIMES]            kill -9 at random moments; the cache on the disk must open, and
                                                     nothing wrong come out of it
    soak.py APUS SOURCE_DIR load  [SECONDS] [CLIENTS]  clients that ask, leave and send nonsense: memory, pages, answers
    soak.py APUS SOURCE_DIR speed                    requests/s, the server beside apus bench, time to a first token

100,000 random schedules of the library: APUS_SCHEDULES=100000 build-rel/tests/golden/test_schedules FOLDER...
"""
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from serving import Server

APUS, ROOT = sys.argv[1], Path(sys.argv[2])
QWEN, GEMMA = ROOT / "models/tiny-qwen", ROOT / "models/tiny-gemma"
CHAT = "/v1/chat/completions"


def ask(text, **more):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24, "reasoning_effort": "none", **more}


def words(answer):
    return answer["choices"][0]["message"]["content"]


def texts(rng, n):
    """Prompts that begin alike in part."""
    starts = ["Repeat: " + f"apus sings at dawn {i}. " * 30 for i in range(4)]
    return [rng.choice(starts) + f"What is {rng.randrange(50)} + {rng.randrange(50)}?" for _ in range(n)]


def want_of(model, prompts):
    """What each is answered without any cache."""
    s = Server(APUS, model, "--quiet")
    out = {p: words(s.post(CHAT, ask(p))) for p in prompts}
    s.stop()
    return out


# ---------------------------------------------------------------- kill -9


def kill(times):
    rng, wrong, restored, errors = random.Random(1), 0, 0, 0
    for model in (QWEN, GEMMA):
        prompts = texts(rng, 16)
        want = want_of(model, prompts)
        with tempfile.TemporaryDirectory() as cache:
            for i in range(times // 2):
                s = Server(APUS, model, "--quiet", "--cache-disk", cache, "--cache-disk-size", "64")
                for p in rng.sample(prompts, 2):
                    got = s.post(CHAT, ask(p))
                    wrong += words(got) != want[p]
                    restored += got["usage"]["prompt_tokens_details"]["cached_tokens"]
                errors += s.metric("apus_prefix_cache_disk_errors_total")
                stop = threading.Event()

                def busy(p):
                    while not stop.is_set():
                        try:
                            s.post(CHAT, ask(p))
                        except Exception:
                            return
                threads = [threading.Thread(target=busy, args=(rng.choice(prompts) + str(rng.random()),)) for _ in range(2)]
                for t in threads:
                    t.start()
                time.sleep(rng.random() * 0.3)
                s.process.kill()
                stop.set()
                for t in threads:
                    t.join()
                s.stop()
    print(f"killed {times // 2 * 2} times: {wrong} wrong answers, {restored} tokens restored or cached, "
          f"{errors:.0f} records refused; every start opened the cache")
    return wrong


# ---------------------------------------------------------------- load


def rss(s):
    with open(f"/proc/{s.process.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


NONSENSE = [b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"\x16\x03\x01" + b"x" * 300,
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60000,
            b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n",
            b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n"]


def answered(rng, text):
    """A request of some API that takes a while."""
    messages, stream = [{"role": "user", "content": text}], rng.random() < 0.5
    return rng.choice([(CHAT, ask(text, stream=stream, max_tokens=200)),
                       (CHAT, ask(text, stream=stream, max_tokens=200, response_format={"type": "json_object"})),
                       ("/v1/responses", {"input": text, "stream": stream, "max_output_tokens": 200}),
                       ("/v1/messages", {"model": QWEN.name, "messages": messages, "stream": stream, "max_tokens": 200}),
                       ("/api/chat", {"model": QWEN.name, "messages": messages, "stream": stream})])


def client(s, seed, until, want, count):
    rng = random.Random(seed)
    while time.time() < until:
        kind = rng.random()
        p = rng.choice(list(want))
        try:
            if kind < 0.5:
                got = s.post(CHAT, ask(p))
                count["wrong"] += words(got) != want[p]
                count["whole"] += 1
            elif kind < 0.85:
                path, body = answered(rng, p + str(rng.random()))
                data = json.dumps(body).encode()
                c = socket.create_connection(("127.0.0.1", s.port), timeout=30)
                c.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" %
                          (path.encode(), len(data)) + data)
                time.sleep(rng.random() * 0.3)
                c.close()
                count["left"] += 1
            else:
                c = socket.create_connection(("127.0.0.1", s.port), timeout=30)
                c.sendall(rng.choice(NONSENSE))
                time.sleep(rng.random() * 0.2)
                c.close()
                count["nonsense"] += 1
        except AssertionError as e:
            count["refused" if "status 429" in str(e) else "failed"] += 1
        except OSError:
            count["broken"] += 1


def load(seconds, clients):
    prompts = texts(random.Random(2), 24)
    want = want_of(QWEN, prompts)
    s = Server(APUS, QWEN, "--quiet", "--parallel", "8", "--max-connections", "256", "-c", "2048")
    count = dict.fromkeys(("whole", "wrong", "left", "nonsense", "refused", "failed", "broken"), 0)
    until = time.time() + seconds
    threads = [threading.Thread(target=client, args=(s, i, until, want, count)) for i in range(clients)]
    for t in threads:
        t.start()
    marks = []
    while time.time() < until:
        time.sleep(max(1, seconds / 12))
        marks.append(rss(s) // 1024)
    for t in threads:
        t.join()
    deadline = time.time() + 30
    while s.metric("apus_requests_running") + s.metric("apus_requests_waiting") and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    used = s.metric('apus_kv_cache_bytes{use="used"}')
    code = s.stop()
    print(f"{clients} clients, {seconds} s: {count}")
    print(f"RSS in MiB over time: {marks}; bytes of pages in use at rest: {used:.0f}; exit status {code}")
    return count["wrong"] or count["failed"] or used or code


# ---------------------------------------------------------------- speed


def rate(s, clients, seconds, body):
    n, until = [0], time.time() + seconds

    def run():
        while time.time() < until:
            s.post(CHAT, body)
            n[0] += 1
    threads = [threading.Thread(target=run) for _ in range(clients)]
    begin = time.time()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return n[0] / (time.time() - begin)


def first_token(s, text):
    """Seconds to the first piece of an answer."""
    data = json.dumps(ask(text, stream=True, max_tokens=2)).encode()
    c = socket.create_connection(("127.0.0.1", s.port), timeout=120)
    begin = time.time()
    c.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" %
              (CHAT.encode(), len(data)) + data)
    got = b""
    while b'"content":"' not in got:
        piece = c.recv(65536)
        if not piece:
            break
        got += piece
    took = time.time() - begin
    c.close()
    return took


def streams(s, n, tokens):
    """Tokens a second of n answers at a time."""
    def run(i):
        s.ask("POST", CHAT, ask(f"Tell me {i}.", max_tokens=tokens, ignore_eos=True, stream=True), timeout=300)
    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    begin = time.time()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return n * tokens / (time.time() - begin)


def throughput(tokens):
    """In turns, as other things that the machine does come and go."""
    s = Server(APUS, QWEN, "--quiet", "--parallel", "16", "-c", "2048")
    for clients in (1, 16):
        print(f"{clients} clients: {rate(s, clients, 5, ask('What is 12 + 30?')):.1f} requests/s")
    for _ in range(3):
        print("tokens/s: " + ", ".join(f"{n} streams {streams(s, n, tokens):.0f}" for n in (1, 8, 16)), flush=True)
        r = subprocess.run([APUS, "bench", str(QWEN), "-p", "0", "-n", str(tokens), "-r", "1"], capture_output=True, text=True)
        print(r.stdout.strip().split("\n")[-1], flush=True)
    s.stop()


def first_tokens():
    """Of short requests, alone and while a long prompt is computed. The model's context is 8192 tokens."""
    s = Server(APUS, QWEN, "--quiet", "--parallel", "4")
    idle = sorted(first_token(s, f"What is {i} + 30?") for i in range(9))[4]
    busy = []
    for k in range(3):
        text = f"{k} " + "word " * 7000
        t = threading.Thread(target=lambda: s.ask("POST", CHAT, ask(text, max_tokens=1), timeout=300))
        t.start()
        time.sleep(0.1)
        while t.is_alive():
            busy.append(first_token(s, f"What is {len(busy)} + 31?"))
        t.join()
        busy.pop() # it may have been alone
    print(f"time to a first token: {idle * 1000:.0f} ms idle; beside a long prompt, of which a step takes 100 ms at most, "
          f"{[round(b * 1000) for b in busy]} ms")
    s.stop()


def speed():
    throughput(400)
    first_tokens()
    return 0


def main():
    numbers = [int(a) for a in sys.argv[4:]]
    what = sys.argv[3] if len(sys.argv) > 3 else ""
    if what == "kill":
        return kill(*(numbers or [200]))
    if what == "load":
        return load(*(numbers + [600, 64][len(numbers):]))
    if what == "speed":
        return speed()
    print(__doc__)
    return 2


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(1 if main() else 0)
