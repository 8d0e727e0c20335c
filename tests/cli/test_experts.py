#!/usr/bin/env python3
"""Mixtures of experts in less memory than they take: the same tokens with every budget, what is told, and what is
refused.

    test_experts.py APUS SOURCE_DIR
"""
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

APUS = shlex.split(os.environ.get("APUS_EMULATOR", "").replace(";", " ")) + [sys.argv[1]]
ROOT = Path(sys.argv[2])


def apus(*args, status=0, **env):
    r = subprocess.run(APUS + [str(a) for a in args], stdin=subprocess.DEVNULL, capture_output=True, timeout=300,
                       env={**os.environ, **env})
    out, err = r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")
    if r.returncode != status:
        raise AssertionError(f"{args}: status {r.returncode}, expected {status}\n{out}\n{err}")
    return out, err


def peak(*args):
    """Largest resident size of a run, in bytes."""
    pid = os.spawnv(os.P_NOWAIT, APUS[0], APUS + [str(a) for a in args])
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, args
    return usage.ru_maxrss * 1024


class Experts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = Path(tempfile.mkdtemp())
        os.environ["XDG_CACHE_HOME"] = str(cls.dir / "cache")
        config = json.loads((ROOT / "models/tiny-qwen/config.json").read_text())
        text = config.get("text_config", config)
        text.update(num_experts=64, num_experts_per_tok=4, moe_intermediate_size=256, num_hidden_layers=4)
        text.pop("layer_types", None)
        (cls.dir / "config.json").write_text(json.dumps(config))
        cls.model = cls.dir / "model.gguf"
        apus("synth", cls.dir / "config.json", cls.model, "--to", "q4_k")
        cls.ids = cls.dir / "ids"
        cls.ids.write_text(" ".join(str(7 * i % 500 + 3) for i in range(150)))
        cls.args = ["--ids", cls.ids, "--print-ids", "-n", "12", "--temp", "0", "--ignore-eos", "-c", "512", "-t", "2",
                    "--prefill-chunk", "64"]
        cls.want, _ = apus("run", cls.model, *cls.args)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def least(self, *more):
        """Megabytes below which a run is refused."""
        _, err = apus("run", self.model, *self.args, *more, "--memory", "1M", status=1)
        found = re.search(r"at least ([0-9.]+) are needed", err)
        self.assertTrue(found, err)
        return int(float(found[1]) * 1000) + 1

    def test_budgets(self):
        least = self.least()
        seen = set()
        for more in (0, 1, 3, 8, 15, 100):
            out, err = apus("run", self.model, *self.args, "--memory", f"{least + more}M")
            self.assertEqual(out, self.want, more)
            found = re.search(r"for (\d+) of 256 experts", err)
            if found:
                seen.add(int(found[1]))
                self.assertRegex(err, r"experts: [0-9.]+ % of those chosen were in memory, [0-9.]+ GB read")
            elif more < 100:
                self.fail(err)
            else:
                self.assertNotIn("experts", err)  # all of it fits
        self.assertGreater(len(seen), 3)
        self.assertLess(min(seen), 20)

    def test_recall(self):
        """A second run begins with the experts of the first; a file that is damaged changes nothing."""
        (self.dir / "warm").mkdir()
        few = self.dir / "few"
        few.write_text("5 9 33")
        args = [few if a == self.ids else a for a in self.args]
        want, _ = apus("run", self.model, *args)
        args += ["--memory", f"{self.least() + 8}M"]
        read = re.compile(r"([0-9.]+) % of those chosen were in memory")

        def hits(*more):
            out, err = apus("run", self.model, *args, *more, XDG_CACHE_HOME=str(self.dir / "warm"))
            self.assertEqual(out, want)
            return float(read.search(err)[1])

        cold = hits("--no-recall")
        self.assertEqual(list((self.dir / "warm").iterdir()), [])
        self.assertLess(hits(), cold + 10)  # guesses come in time or not
        (kept,) = (self.dir / "warm/apus").iterdir()
        self.assertGreater(hits(), cold + 15)
        data = kept.read_bytes()
        for damaged in (b"", data[:30], data[:-16], data[:-1] + bytes([data[-1] ^ 1]), data[:20] + b"\xff" * 16 + data[36:]):
            kept.write_bytes(damaged)
            self.assertLess(hits(), cold + 10)
            self.assertEqual(len(kept.read_bytes()) % 16, len(data) % 16)  # written anew
        kept.unlink()
        kept.mkdir()  # neither read nor written
        self.assertLess(hits(), cold + 10)
        self.assertEqual([p.name for p in kept.parent.iterdir()], [kept.name])

    def test_router_skew(self):
        """Experts that are chosen unevenly are found in memory more often; the file depends on the seed alone."""
        found = {}
        config = self.dir / "config.json"
        for skew in ("0", "1.2"):
            path = self.dir / f"skew{skew}.gguf"
            apus("synth", config, path, "--to", "q4_k", "--router-skew", skew, "-t", "3")
            args = [*self.args, "--no-recall", "-n", "60", "--prefill-chunk", "8", "--memory", f"{self.least() + 8}M"]
            _, err = apus("run", path, *args)
            found[skew] = float(re.search(r"([0-9.]+) % of those chosen were in memory", err)[1])
        self.assertEqual((self.dir / "skew0.gguf").read_bytes(), self.model.read_bytes())
        self.assertGreater(found["1.2"], found["0"] + 10)
        again = self.dir / "again.gguf"
        apus("synth", config, again, "--to", "q4_k", "--router-skew", "1.2", "-t", "1")
        self.assertEqual(again.read_bytes(), path.read_bytes())
        apus("synth", config, self.dir / "folder", "--to", "bf16", "--router-skew", "1", "--layers", "1")
        _, err = apus("synth", config, self.dir / "mlx", "--to", "mlx4", "--router-skew", "1", status=1)
        self.assertIn("router_skew: expected routers of plain numbers", err)
        _, err = apus("synth", config, again, "--to", "q4_k", "--router-skew", "5", status=2)
        self.assertIn("--router-skew", err)

    def test_too_small(self):
        _, err = apus("run", self.model, *self.args, "--memory", f"{self.least() - 4}M", status=1)
        self.assertEqual(len(err.splitlines()), 1)
        for word in ("weights for every token", "sessions and steps", "one expert", "ctx"):
            self.assertIn(word, err)

    def test_memory_is_kept(self):
        least = self.least()
        own = peak("--version")  # of the program and its libraries
        for more in (2, 8):
            budget = (least + more) * 1000000
            used = peak("run", self.model, *self.args, "--memory", budget)
            if not os.environ.get("APUS_SANITIZED"):
                self.assertLess(used - own, budget * 1.02)

    @unittest.skipIf(os.environ.get("APUS_SANITIZED") or os.environ.get("APUS_EMULATOR"), "limits of other programs")
    def test_without_a_budget(self):
        """What does not fit into the process's limit comes from disk by itself."""
        limit = (self.least() + 14) << 20
        r = subprocess.run(APUS + ["run", self.model, *self.args], stdin=subprocess.DEVNULL, capture_output=True,
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)), timeout=300)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(r.stdout.decode(), self.want)
        self.assertRegex(r.stderr.decode(), r"for \d+ of 256 experts")

    def test_repack(self):
        beside, other = Path(f"{self.model}.experts"), self.dir / "other"
        budget = f"{self.least() + 6}M"
        apus("repack", self.model, beside, "-t", "3")
        apus("repack", self.model, other, "-t", "1")
        self.assertEqual(beside.read_bytes(), other.read_bytes())
        for args in ([], ["--experts", other]):
            out, err = apus("run", self.model, *self.args, "--memory", budget, *args)
            self.assertEqual(out, self.want)
            self.assertNotIn("not used", err)
        # it is these records that are read: one that is damaged, or cut off, fails
        data = bytearray(other.read_bytes())
        for at in range(8192, len(data), 4096):
            data[at] ^= 1
        other.write_bytes(data)
        _, err = apus("run", self.model, *self.args, "--memory", budget, "--experts", other, status=1)
        self.assertRegex(err, r"other: the checksum of expert \d+ of layer \d+ is wrong")
        _, err = apus("repack", self.model, other, status=1)
        self.assertIn("exists", err)
        apus("repack", self.model, other, "--force")
        self.assertEqual(beside.read_bytes(), other.read_bytes())
        for keep in (100, 4096, 5000, len(data) // 2):
            other.write_bytes(beside.read_bytes()[:keep])
            _, err = apus("run", self.model, *self.args, "--memory", budget, "--experts", other, status=1)
            self.assertRegex(err, "other: .*repack")
        # another model's is refused if it was named, and told if it was found
        apus("synth", self.dir / "config.json", self.dir / "second.gguf", "--to", "q4_k", "--seed", "2")
        shutil.copy(beside, self.dir / "second.gguf.experts")
        _, err = apus("run", self.dir / "second.gguf", *self.args, "--memory", budget)
        self.assertRegex(err, "second.gguf.experts: has the experts of another model.*it is not used")
        _, err = apus("run", self.dir / "second.gguf", *self.args, "--memory", budget, "--experts", beside, status=1)
        self.assertIn("has the experts of another model", err)
        beside.unlink()
        _, err = apus("repack", ROOT / "tests/golden/data/q3", self.dir / "dense", status=1)
        self.assertIn("is no mixture of experts", err)
        self.assertEqual([p for p in self.dir.iterdir() if p.name.startswith(".") or p.name == "dense"], [])
        _, err = apus("repack", self.model, status=2)
        self.assertIn("DST is missing", err)

    def test_words(self):
        for bad in ("8X", "", "-1", "G", "0", "1e30G"):
            _, err = apus("run", self.model, "-p", "x", "--memory", bad, status=2)
            self.assertIn("--memory: expected a size such as 8G", err)
        _, err = apus("run", self.model, *self.args, "--memory", "900000G", status=1)
        self.assertRegex(err, "--memory: .* were allowed, .* are available")
        # a model without experts is loaded whole or refused
        _, err = apus("run", ROOT / "tests/golden/data/q3", "--ids", self.ids, "-n", "1", "--memory", "1M", status=1)
        self.assertRegex(err, "are available|may be used")

    def test_bench(self):
        budget = f"{self.least('-c', '64') + 8}M"
        out, _ = apus("bench", self.model, "-p", "32", "-n", "4", "-r", "2", "-c", "64", "--prefill-chunk", "64", "-t", "1",
                      "--memory", budget, "-o", "json")
        for row in json.loads(out)["rows"]:
            x = row["experts"]
            self.assertEqual(x["experts"], 256)
            self.assertTrue(0 < x["resident"] < 256)
            self.assertTrue(0 <= x["hit_share"] <= 1)
            self.assertLessEqual(x["read_ahead_used"], x["read_ahead"])
            if row["test"] == "pp":
                self.assertGreater(x["read_ahead_used"], 0)
                self.assertGreater(x["read_gb"], 0)
                self.assertLess(x["hit_share"], 1)
            self.assertIn(x["io"], ("io_uring", "threads"))
        out, _ = apus("bench", self.model, "-p", "0", "-n", "4", "-r", "1", "-c", "64", "--prefill-chunk", "64", "-t", "1",
                      "--memory", budget)
        self.assertRegex(out, r"\d+ of 256 experts in memory, the others read by")
        out, _ = apus("bench", self.model, "-p", "0", "-n", "4", "-r", "1", "-c", "64", "-t", "1", "-o", "json")
        self.assertNotIn("experts", json.loads(out)["rows"][0])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
