"""A server to test: started on a free port, stopped at the end, its log at hand."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time


class Server:
    """The program PROGRAM with the model at `model`, ready to be asked."""

    def __init__(self, program, model, *options, wait=True):
        self.log = []
        env = dict(os.environ, NO_COLOR="1")
        self.process = subprocess.Popen([str(program), "serve", str(model), "--port", "0",
                                         *map(str, options)],
                                        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env,
                                        text=True)
        self.port = None
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        deadline = time.time() + 60
        while self.port is None or (wait and not self.ready.is_set()):
            if self.process.poll() is not None or time.time() > deadline:
                self.process.kill()
                raise AssertionError("the server did not start:\n" + "".join(self.log))
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            m = re.search(r"listening on https?://.*:(\d+)(?=$|\"})", line.strip())
            if m:
                self.port = int(m[1])
            if "is ready" in line:
                self.ready.set()

    def stop(self, sig=signal.SIGTERM, timeout=30):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        self.process.wait(timeout)
        self.thread.join(5)
        self.process.stderr.close()
        return self.process.returncode

    def ask(self, method, path, body=None, headers=None, timeout=60):
        """-> status, headers, bytes"""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        h = {"Content-Type": "application/json"} if body is not None else {}
        h.update(headers or {})
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        c.request(method, path, body, {k: v for k, v in h.items() if v is not None})
        r = c.getresponse()
        data = r.read()
        c.close()
        return r.status, dict((k.lower(), v) for k, v in r.getheaders()), data

    def post(self, path, body, status=200, **more):
        """-> the JSON of the answer"""
        got, _, data = self.ask("POST", path, body, **more)
        if got != status:
            raise AssertionError(f"{path}: status {got}, expected {status}: {data[:600]}")
        return json.loads(data)

    def get(self, path, status=200, **more):
        got, _, data = self.ask("GET", path, **more)
        if got != status:
            raise AssertionError(f"{path}: status {got}, expected {status}: {data[:600]}")
        return json.loads(data)

    def events(self, path, body):
        """-> [(event or None, JSON or text of data)] of a stream"""
        status, headers, data = self.ask("POST", path, body)
        if status != 200 or not headers["content-type"].startswith("text/event-stream"):
            raise AssertionError(f"{path}: {status} {headers} {data[:600]}")
        out = []
        for block in data.decode().split("\n\n"):
            name = None
            for line in block.split("\n"):
                if line.startswith("event: "):
                    name = line[7:]
                if line.startswith("data: "):
                    text = line[6:]
                    out.append((name, text if text == "[DONE]" else json.loads(text)))
        return out

    def raw(self, data, timeout=20):
        """Bytes sent as they are -> all that comes back until the end or the timeout."""
        s = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        s.sendall(data)
        out = b""
        try:
            while True:
                piece = s.recv(65536)
                if not piece:
                    break
                out += piece
        except (TimeoutError, ConnectionResetError):
            pass
        s.close()
        return out

    def metric(self, name):
        _, _, data = self.ask("GET", "/metrics")
        for line in data.decode().split("\n"):
            if line.startswith(name + " "):
                return float(line.split()[-1])
        raise AssertionError(f"no metric {name}")
