#!/usr/bin/env python3
"""What commands write: nothing of anybody is lost, whatever stands in the way or ends the program.

    test_outputs.py APUS SOURCE_DIR
"""
import os
import resource
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

APUS = shlex.split(os.environ.get("APUS_EMULATOR", "").replace(";", " ")) + [sys.argv[1]]
ROOT = Path(sys.argv[2])
TINY = ROOT / "models/tiny-qwen"
CONFIG = ROOT / "models/configs/Qwen3.6-35B-A3B"
MODEL = ROOT / "tests/golden/data/q35moe_fused"
TEXT = "What is 12 + 34? 12 + 34 = 46. " * 40


def forms(base):
    """command -> (arguments before the name of the result, after it, is it a folder, standard input)"""
    text = base / "text"
    text.write_text(TEXT)
    return {
        "logits": (["logits", MODEL, "--ids", "-", "-o"], [], False, "1 2 3 " * 20),
        "perplexity": (["perplexity", TINY, "-f", text, "--ctx", "64", "--kl-base"], [], False, ""),
        "quantize file": (["quantize", TINY], ["--to", "q4_k"], False, ""),
        "quantize folder": (["quantize", TINY], ["--to", "mlx4"], True, ""),
        "synth file": (["synth", TINY], ["--to", "q4_k"], False, ""),
        "synth folder": (["synth", TINY], [], True, ""),
    }


class Outputs(unittest.TestCase):
    def setUp(self):
        self.base = Path(tempfile.mkdtemp())
        self.dir = self.base / "results"
        self.dir.mkdir()
        self.forms = forms(self.base)

    def tearDown(self):
        shutil.rmtree(self.base)

    def name(self, form):
        return self.dir / ("out.gguf" if form.endswith(" file") else "out")

    def start(self, form, out, *more, **how):
        before, after, _, _ = self.forms[form]
        words = [str(w) for w in APUS + before + [out] + after + list(more)]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **how)

    def run_form(self, form, out, *more, status=0, **how):
        p = self.start(form, out, *more, **how)
        _, err = p.communicate(self.forms[form][3].encode(), timeout=300)
        err = err.decode()
        self.assertEqual(p.returncode, status, (form, err))
        if status:
            self.assertEqual(err.count("\n"), 1, (form, err))
        return err

    def listing(self):
        return sorted(os.listdir(self.dir))

    def snapshot(self, path):
        s = os.lstat(path)
        data = os.readlink(path) if stat.S_ISLNK(s.st_mode) else path.read_bytes() if stat.S_ISREG(s.st_mode) else None
        return s.st_ino, s.st_mode, data

    def test_what_is_in_the_way_stays(self):
        target = self.base / "precious"
        target.write_text("precious")
        sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(sock.close)

        def regular(p): p.write_text("somebody's")
        def folder(p): p.mkdir()
        def full(p): p.mkdir(); (p / "config.json").write_text("{}"); (p / "thesis.tex").write_text("x")
        def link(p): p.symlink_to(target)
        def dangling(p): p.symlink_to(self.base / "nothing")
        def loop(p): p.symlink_to(p)
        def to_device(p): p.symlink_to("/dev/null")
        def to_folder(p): p.symlink_to(self.base)
        def bind(p):
            here = os.getcwd()
            os.chdir(p.parent)  # names of sockets are short
            sock.bind(p.name)
            os.chdir(here)

        for form, (_, _, is_folder, _) in self.forms.items():
            out = self.name(form)
            makers = [(f, ("--force",)) for f in (os.mkfifo, link, dangling, loop, to_device, to_folder)]
            makers += [(f, ()) for f in (os.mkfifo, link, dangling)]
            makers += [(regular, ("--force",) if is_folder else ())] if form != "perplexity" else []
            makers += [(folder, ("--force",)), (folder, ()), (full, ("--force",))]
            makers += [(bind, ("--force",))] if form == "logits" else []
            for make, more in makers:
                make(out)
                before = self.snapshot(out)
                err = self.run_form(form, out, *more, status=1)
                self.assertIn(str(out), err)
                self.assertEqual(self.snapshot(out), before, (form, make.__name__))
                self.assertEqual(self.listing(), [out.name])
                self.assertEqual(target.read_text(), "precious")
                shutil.rmtree(out) if out.is_dir() and not out.is_symlink() else out.unlink()

    def test_devices(self):
        for dev in ("/dev/null", "/dev/full", "/dev/stdout"):
            before = os.lstat(dev)
            for form in ("logits", "perplexity"):
                self.run_form(form, dev, "--force", status=1)
            self.assertEqual(os.lstat(dev).st_ino, before.st_ino)

    def test_refused_before_any_work(self):
        out = self.name("logits")
        out.write_text("somebody's")
        for form in self.forms:
            path = self.name(form)
            path.write_text("somebody's")
            before, after, _, _ = self.forms[form]
            words = [str(w) for w in APUS + [before[0], self.base / "no model"] + before[2:] + [path] + after]
            if form == "perplexity":
                path.unlink()
                path.mkdir()
            r = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL)
            self.assertEqual(r.returncode, 1)
            self.assertIn(path.name.encode(), r.stderr)
            self.assertNotIn(b"no model", r.stderr)
            path.rmdir() if path.is_dir() else path.unlink()

    def test_force_replaces(self):
        for form in self.forms:
            out = self.name(form)
            self.run_form(form, out)
            good = self.content(out)
            if form != "perplexity":  # that one compares
                err = self.run_form(form, out, status=1)
                self.assertIn("--force", err)
            if out.is_dir():
                (out / "config.json").write_text("old")
                (out / "model-00001-of-00002.safetensors").write_text("old")
            else:
                out.write_text("old")
            self.run_form(form, out, "--force")
            self.assertEqual(self.content(out), good)
            self.assertEqual(self.listing(), [out.name])
            shutil.rmtree(out) if out.is_dir() else out.unlink()

    def content(self, out):
        return {p.name: p.read_bytes() for p in ([out] if out.is_file() else out.iterdir())}

    def test_source_is_not_replaced(self):
        model = self.base / "model"
        shutil.copytree(TINY, model)
        for f in model.iterdir():
            if f.suffix not in (".json", ".safetensors", ".jinja"):
                f.unlink()
        before = self.content(model)
        for args in (["quantize", model, model, "--to", "mlx4"], ["synth", model, model, "--to", "bf16"],
                     ["synth", model / "config.json", str(model) + "/", "--to", "bf16"]):
            r = subprocess.run([str(a) for a in APUS + args + ["--force"]], capture_output=True)
            self.assertNotEqual(r.returncode, 0)
            self.assertEqual(self.content(model), before)

    def test_what_is_read_is_not_replaced(self):
        """Ids, texts and pictures, and files of a model's folder: also with --force."""
        model, ids, text = self.base / "whole", self.base / "ids", self.base / "text"
        shutil.copytree(TINY, model)
        ids.write_text("1 2 3")
        text.write_text("some words to score " * 200)
        before = self.content(model)
        weights = model / "model.safetensors"
        for args in (["logits", model, "--ids", ids, "-o", ids], ["logits", model, "--ids", ids, "-o", weights],
                     ["patches", CONFIG, text, "-o", text],
                     ["logits", weights, "--ids", ids, "-o", model / "../whole/model.safetensors"],
                     ["perplexity", model, "-f", text, "--kl-base", text],
                     ["repack", model, model / "config.json"], ["repack", model, weights]):
            was = ids.read_text(), text.read_text()
            r = subprocess.run([str(a) for a in APUS + args + ["--force"]], capture_output=True)
            self.assertEqual(r.returncode, 1, args)
            self.assertRegex(r.stderr, b"is (the source itself|a file of the source)")
            self.assertEqual((ids.read_text(), text.read_text()), was)
            self.assertEqual(self.content(model), before)

    def test_permissions(self):
        for form in ("logits", "synth folder"):
            for mask, want in ((0o022, 0o644), (0o077, 0o600)):
                out = self.name(form)
                self.run_form(form, out, preexec_fn=lambda: os.umask(mask))
                for p in [out] if out.is_file() else list(out.iterdir()):
                    self.assertEqual(p.stat().st_mode & 0o777, want)
                if out.is_dir():
                    self.assertEqual(out.stat().st_mode & 0o777, want | (0o111 & ~mask))
                shutil.rmtree(out) if out.is_dir() else out.unlink()

    def limited(self, size):
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def test_full_disk(self):
        for form in self.forms:
            for size in (0, 5000):
                err = self.run_form(form, self.name(form), status=1, preexec_fn=self.limited(size))
                self.assertIn("too large", err)
                self.assertNotIn(".apus-", err)
                self.assertEqual(self.listing(), [])

    def wait_for_start(self, p):
        end = time.time() + 60
        while time.time() < end and p.poll() is None:
            if any(".apus-" in n for n in self.listing()):
                return
            time.sleep(0.001)
        self.fail("nothing was begun")

    def slow(self, form):
        """Begun and not going to end by itself: reads from us, or writes some hundred megabytes."""
        if form == "logits":
            return self.start(form, self.name(form))
        words = [str(w) for w in APUS + ["synth", CONFIG, self.name(form), "--to", "bf16", "--layers", "1"]]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def test_signals_leave_nothing(self):
        for form in ("logits", "synth file", "synth folder"):
            for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGINT, signal.SIGQUIT,
                        signal.SIGALRM, signal.SIGUSR1, signal.SIGXCPU):
                p = self.slow(form)
                self.wait_for_start(p)
                p.send_signal(sig)
                p.communicate(timeout=60)
                if sig == signal.SIGINT:
                    self.assertIn(p.returncode, (-sig, 128 + sig))
                else:
                    self.assertEqual(p.returncode, -sig)
                self.assertEqual(self.listing(), [], (form, sig))

    def test_killed_runs_are_cleaned_up_after(self):
        lookalikes = [".out.apus-0123456789abcdef", ".out.gguf.apus-0123456789abcdef"]
        for form in ("logits", "synth file", "synth folder"):
            p = self.slow(form)
            self.wait_for_start(p)
            p.kill()
            p.communicate()
            self.assertEqual(len(self.listing()), 1)
            for name in lookalikes:  # nobody's lock: somebody else's folder
                (self.dir / name).mkdir(mode=0o700)
                (self.dir / name / "letter").write_text("x")
            (self.dir / ".out.apus-0123456789abcde0").write_text("x")
            (self.dir / "out.part").write_text("x")
            out = self.name(form)
            self.run_form(form, out)
            self.assertEqual(self.listing(), sorted(lookalikes + [".out.apus-0123456789abcde0", "out.part", out.name]))
            for name in lookalikes:
                self.assertEqual((self.dir / name / "letter").read_text(), "x")
            shutil.rmtree(self.dir)
            self.dir.mkdir()

    def test_two_at_once(self):
        p = self.slow("logits")
        self.wait_for_start(p)
        out = self.name("logits")
        self.run_form("logits", out)
        good = out.read_bytes()
        _, err = p.communicate(b"7 8 9 10")
        self.assertEqual(p.returncode, 1)
        self.assertIn(b"meanwhile", err)
        self.assertEqual(out.read_bytes(), good)
        self.assertEqual(self.listing(), ["out"])

    def test_long_names(self):
        for n in (200, 231, 232, 255):
            out = self.dir / ("n" * n)
            self.run_form("logits", out)
            self.assertEqual(self.listing(), [out.name])
            out.unlink()
        self.run_form("logits", self.dir / ("n" * 256), status=1)
        for bad in ("", self.dir / "none" / "out", str(self.dir) + "/new/", str(self.dir) + "/.", str(self.base / "text") + "/out"):
            self.run_form("logits", bad, status=1)
        self.assertEqual(self.listing(), [])


unittest.main(argv=sys.argv[:1] + sys.argv[3:])
