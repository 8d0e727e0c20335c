#!/usr/bin/env python3
"""scripts/check-device with the processors as the device: what it runs, what it reports, when it fails.

    test_check_device.py BUILD SOURCE_DIR
"""
import json
import os
import stat
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

BUILD, ROOT = Path(sys.argv[1]).resolve(), Path(sys.argv[2])

NCU = """#!/bin/sh
while [ "$1" != "${1#--}" ]; do case $1 in --csv) shift ;; *) shift 2 ;; esac; done
"$@" >/dev/null || exit
echo '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device",\
"CC","Section Name","Metric Name","Metric Unit","Metric Value"'
for ns in 1,000 3,000; do
    echo '"0","1","apus","host","void product<(int)4, (bool)1>(int, const float *)","1","7","(512, 1, 1)","(132, 1, 1)","0",\
"9.0","metrics","gpu__time_duration.sum","ns","'$ns'"'
done
"""


class CheckDevice(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.dir = Path(self.scratch.name)
        self.ncu = self.dir / "ncu"
        self.ncu.write_text(NCU)
        self.ncu.chmod(self.ncu.stat().st_mode | stat.S_IXUSR)
        (self.dir / "models").mkdir()

    def tearDown(self):
        self.scratch.cleanup()

    def check(self, *steps, **variables):
        env = {**os.environ, "DEVICE": "cpu", "BUILD": str(BUILD), "MODELS": str(self.dir / "models"), "RESULTS": str(self.dir),
               "LOGS": str(self.dir / "logs"), "NCU": str(self.ncu), "CONFIGS": "tiny", "MORE": "", "JOBS": "2", **variables}
        return subprocess.run([ROOT / "scripts/check-device", *steps], env=env, capture_output=True, text=True, timeout=250,
                              stdin=subprocess.DEVNULL)

    def report(self):
        (path,) = self.dir.glob("*.json")
        return json.loads(path.read_text()), path.with_suffix(".md").read_text()

    def test_measures_and_reports(self):
        subprocess.run([BUILD / "apus", "quantize", ROOT / "models/tiny-qwen", self.dir / "models/tiny-q4_k.gguf", "--to", "q4_k"],
                       check=True, capture_output=True)
        r = self.check("streams", "kernels", "bench", "greedy", PROMPTS="16,24,32", DEPTHS="40", STREAMS="1,3", TOKENS="4")
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)
        self.assertLess(r.stdout.index("== greedy"), r.stdout.index("== bench"), "the important first")
        whole, page = self.report()
        tests = {(run["run"], row["test"], row["n"], row["depth"]) for run in whole["speed"] for row in run["rows"]}
        self.assertLessEqual({("bench_tiny", "pp", 24, 0), ("bench_tiny", "tg", 4, 0), ("bench_deep_tiny", "tg", 4, 40),
                              ("bench_high_tiny", "pp", 32, 0)}, tests)
        self.assertEqual([row["n"] for row in whole["streams"][0]["streams"]], [1, 3])
        self.assertEqual(whole["kernels"][0]["times"],
                         [{"kernel": "product<4, 1>", "grid": "(132, 1, 1)", "launches": 2, "us": 2.0, "all_us": 4.0}])
        self.assertTrue(all(c["status"] == "ok" for c in whole["checks"]))
        self.assertIn("| bench_tiny | cpu | fast | pp24 |", page)

    def test_compares_versions(self):
        subprocess.run([BUILD / "apus", "quantize", ROOT / "models/tiny-qwen", self.dir / "models/tiny-q4_k.gguf", "--to", "q4_k"],
                       check=True, capture_output=True)
        new = self.dir / "new"
        new.symlink_to(BUILD)
        r = self.check("versions", PROMPTS="16,24", DEPTHS="40", STREAMS="2", TOKENS="4", ROUNDS="2", KCHECK="--op norm",
                       VERSIONS=f"old={BUILD} new={new}@answers,streams")
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)
        whole, page = self.report()
        self.assertEqual([run["run"] for run in whole["speed"]],
                         ["prompts_old_1_tiny", "answers_old_1_tiny", "answers_new_1_tiny", "prompts_old_2_tiny",
                          "answers_old_2_tiny", "answers_new_2_tiny"])
        self.assertEqual([run["precision"] for run in whole["streams"]], ["old", "new", "old", "new"])
        self.assertLessEqual({"kcheck_version_old", "golden_version_new"}, {c["name"] for c in whole["checks"]})

    def test_tells_of_what_failed(self):
        (self.dir / "models/tiny-q4_k.gguf").write_bytes(b"GGUF")
        r = self.check("bench", "greedy", LIMIT="60")
        self.assertEqual(r.returncode, 1, r.stdout + r.stderr)
        whole, page = self.report()
        self.assertEqual({c["name"]: c["status"] for c in whole["checks"]}["bench_tiny"], "failed (1)")
        self.assertIn("| bench_tiny | failed (1) |", page)

    def test_leaves_out_what_comes_too_late(self):
        r = self.check("greedy", LIMIT="3")
        self.assertEqual(r.returncode, 1, r.stdout + r.stderr)
        self.assertEqual({c["status"] for c in self.report()[0]["checks"]}, {"no time left"})

    def test_knows_no_other_steps(self):
        r = self.check("kchek")
        self.assertEqual(r.returncode, 2)
        self.assertIn('no step "kchek"', r.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
