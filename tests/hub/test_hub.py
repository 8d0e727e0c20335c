#!/usr/bin/env python3
"""Models by name: apus pull, list and rm, and commands that fetch what they need, against a stand-in hub.

    test_hub.py APUS SOURCE_DIR
"""
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from standin import Hub, git_sha1  # noqa: E402

APUS = [p for p in os.environ.get("APUS_EMULATOR", "").split(";") if p] + [os.path.abspath(sys.argv[1])]
ROOT = Path(sys.argv[2]).resolve()
TINY = ROOT / "models/tiny-qwen"
MB = 1 << 20


def noise(n, seed=1):
    return random.Random(seed).randbytes(n)


def tiny_files():
    return {p.name: p.read_bytes() for p in TINY.iterdir() if p.suffix in (".json", ".jinja", ".safetensors")}


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = Path(tempfile.mkdtemp())
        self.cache = self.dir / "hub"
        self.hub = Hub()

    def tearDown(self):
        self.hub.close()
        shutil.rmtree(self.dir)

    def env(self, **more):
        e = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        e |= {"HF_HOME": str(self.dir), "HF_ENDPOINT": self.hub.url, "HOME": str(self.dir),
              "HF_HUB_DOWNLOAD_TIMEOUT": "5", "no_proxy": "*"}
        return {k: v for k, v in (e | more).items() if v is not None}

    def start(self, *args, **env):
        return subprocess.Popen(APUS + [str(a) for a in args], env=self.env(**env), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def apus(self, *args, status=0, **env):
        p = self.start(*args, **env)
        out, err = (b.decode(errors="replace") for b in p.communicate(timeout=120))
        self.assertEqual(p.returncode, status, f"{args}\n{out}\n{err}")
        self.out, self.err = out, err
        return out

    def fails(self, *args, says, **env):
        self.apus(*args, status=1, **env)
        for s in [says] if isinstance(says, str) else says:
            self.assertIn(s, self.err)
        self.assertEqual(len(self.err.strip().splitlines()[-1:]), 1)

    def repo(self, name="acme/tiny"):
        return self.cache / ("models--" + name.replace("/", "--"))

    def names(self, repo, commit, name="acme/tiny"):
        top = self.repo(name) / "snapshots" / commit
        return sorted(str(p.relative_to(top)) for p in top.rglob("*") if not p.is_dir())

    def leftovers(self, name="acme/tiny"):
        return [p.name for p in self.repo(name).rglob("*") if re.search(r"incomplete|tmp|\.X", p.name)]


class Layout(Case):
    def test_as_the_hubs_own_programs_lay_it_out(self):
        files = tiny_files() | {"README.md": b"# tiny", ".gitattributes": b"x", "pytorch_model.bin": noise(1000)}
        commit = self.hub.add("acme/tiny", files)
        out = self.apus("pull", "acme/tiny")
        snap = self.repo() / "snapshots" / commit
        self.assertEqual(out, f"{snap}\n")
        self.assertEqual((self.repo() / "refs/main").read_text(), commit)
        self.assertEqual(self.names("acme/tiny", commit), sorted(tiny_files()))
        for name, data in tiny_files().items():
            link, f = snap / name, self.hub.repos["acme/tiny"]["commits"][commit][name]
            self.assertEqual(os.readlink(link), f"../../blobs/{f.etag}")
            self.assertEqual(link.read_bytes(), data)
            self.assertEqual((self.repo() / "blobs" / f.etag).stat().st_mode & 0o111, 0)
        self.assertTrue((self.cache / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06"))
        self.assertEqual(self.leftovers(), [])
        self.assertEqual(self.hub.asked("pytorch_model"), [])

    def test_a_second_pull_fetches_nothing(self):
        self.hub.add("acme/tiny", tiny_files())
        self.apus("pull", "acme/tiny")
        self.hub.log.clear()
        self.apus("pull", "acme/tiny")
        self.assertEqual(self.hub.asked("/resolve/") + self.hub.asked("/content/"), [])
        self.assertNotIn("fetch", self.err)

    def test_what_is_new_of_it(self):
        a = self.hub.add("acme/tiny", tiny_files())
        self.apus("pull", "acme/tiny")
        b = self.hub.add("acme/tiny", tiny_files() | {"generation_config.json": b'{"top_k": 5}'})
        self.hub.log.clear()
        self.apus("pull", "acme/tiny")
        self.assertEqual([r["path"].rsplit("/", 1)[1] for r in self.hub.asked("/resolve/")], ["generation_config.json"])
        self.assertEqual((self.repo() / "refs/main").read_text(), b)
        self.assertTrue((self.repo() / "snapshots" / a / "model.safetensors").exists())

    def test_revisions(self):
        a = self.hub.add("acme/tiny", tiny_files(), rev="v1/beta")
        self.hub.add("acme/tiny", tiny_files() | {"generation_config.json": b"{}"})
        self.apus("pull", "acme/tiny@v1/beta")
        self.assertEqual((self.repo() / "refs/v1/beta").read_text(), a)
        self.assertFalse((self.repo() / "refs/main").exists())
        self.apus("pull", f"acme/tiny@{a}")
        self.apus("run", f"acme/tiny@{a}", "Hello", "-n", "1", "--offline")
        self.apus("run", "acme/tiny@v1/beta", "Hello", "-n", "1", "--offline")
        self.fails("pull", "acme/tiny@v9", says="acme/tiny@v9: the hub has no such revision")

    def test_a_name_without_blobs_in_the_list(self):
        """Hubs that do not know ?blobs=true tell hashes and sizes in headers."""
        self.hub.bare_listing = True
        commit = self.hub.add("acme/tiny", tiny_files())
        self.apus("pull", "acme/tiny")
        self.assertEqual(self.names("acme/tiny", commit), sorted(tiny_files()))
        for r in self.hub.asked(method="HEAD"):
            self.assertEqual(r["port"], self.hub.hub.server_port)

    def test_dry_run(self):
        self.hub.add("acme/tiny", tiny_files())
        self.assertEqual(self.apus("pull", "acme/tiny", "--dry-run"), "")
        self.assertIn("model.safetensors", self.err)
        self.assertFalse(self.cache.exists())

    def test_folders_of_a_repository(self):
        files = {"UD-Q2_K/m-UD-Q2_K-00001-of-00002.gguf": b"one", "UD-Q2_K/m-UD-Q2_K-00002-of-00002.gguf": b"two"}
        commit = self.hub.add("acme/tiny", files)
        out = self.apus("pull", "acme/tiny:UD-Q2_K")
        first = self.repo() / "snapshots" / commit / "UD-Q2_K/m-UD-Q2_K-00001-of-00002.gguf"
        self.assertEqual(out, f"{first}\n")
        self.assertTrue(os.readlink(first).startswith("../../../blobs/"))
        self.assertEqual(first.read_bytes(), b"one")

    def test_empty_files(self):
        files = tiny_files() | {"vocab.txt": b""}
        commit = self.hub.add("acme/tiny", files)
        self.apus("pull", "acme/tiny")
        self.assertEqual((self.repo() / "snapshots" / commit / "vocab.txt").read_bytes(), b"")


class Selection(Case):
    QUANTS = {"m-Q4_K_M.gguf": b"q4", "m-Q8_0.gguf": b"q8", "big/m-BF16-00001-of-00002.gguf": b"b1",
              "big/m-BF16-00002-of-00002.gguf": b"b2", "mmproj-F32.gguf": b"p32", "mmproj-BF16.gguf": b"p16",
              "imatrix.gguf": b"im", "README.md": b"r", "config.json": b"{}", "m-Q5_K_M-00001-of-00002.gguf": b"5"}

    def pulled(self, name):
        shutil.rmtree(self.cache, ignore_errors=True)
        self.apus("pull", name)
        return self.names("acme/tiny", next((self.repo() / "snapshots").iterdir()).name)

    def test_of_gguf_files_one_type(self):
        self.hub.add("acme/tiny", self.QUANTS)
        self.assertEqual(self.pulled("acme/tiny:Q8_0"), ["m-Q8_0.gguf", "mmproj-BF16.gguf"])
        self.assertEqual(self.pulled("acme/tiny:q8_0@main"), ["m-Q8_0.gguf", "mmproj-BF16.gguf"])
        self.assertEqual(self.pulled("acme/tiny@main:Q8_0"), ["m-Q8_0.gguf", "mmproj-BF16.gguf"])
        self.assertEqual(self.pulled("acme/tiny"), ["m-Q4_K_M.gguf", "mmproj-BF16.gguf"])
        self.assertEqual(self.pulled("acme/tiny/m-Q8_0.gguf"), ["m-Q8_0.gguf", "mmproj-BF16.gguf"])
        self.assertEqual(self.pulled("acme/tiny:BF16"), ["big/m-BF16-00001-of-00002.gguf",
                                                         "big/m-BF16-00002-of-00002.gguf", "mmproj-BF16.gguf"])
        self.assertEqual(self.pulled("acme/tiny/mmproj-F32.gguf"), ["mmproj-F32.gguf"])
        self.fails("pull", "acme/tiny:Q6_K", says=['no GGUF file for "Q6_K"', "Q4_K_M, Q8_0"])
        self.fails("pull", "acme/tiny:Q5_K_M", says="1 of the 2 parts")

    def test_the_shards_that_the_index_names(self):
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
        files = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode(),
                 "model-00001-of-00002.safetensors": b"1", "model-00002-of-00002.safetensors": b"2",
                 "consolidated.safetensors": b"c", "tokenizer.json": b"{}", "merges.txt": b"m", "pytorch_model.bin": b"p",
                 "pytorch_model.bin.index.json": b"{}", "onnx/model.onnx": b"o", "original/params.json": b"x",
                 "additional_chat_templates/tool_use.jinja": b"j", "chat_template.jinja": b"t", "model.gguf": b"g"}
        self.hub.add("acme/tiny", files)
        self.assertEqual(self.pulled("acme/tiny"), [
            "additional_chat_templates/tool_use.jinja", "chat_template.jinja", "config.json", "merges.txt",
            "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
            "tokenizer.json"])
        self.assertEqual(self.pulled("acme/tiny/model.gguf"), ["model.gguf"])
        files.pop("model-00002-of-00002.safetensors")
        self.hub.add("acme/tiny", files)
        self.fails("pull", "acme/tiny", says="names model-00002-of-00002.safetensors, which is not in the repository")

    def test_several_types_and_none_named(self):
        self.hub.add("acme/tiny", {"m-Q8_0.gguf": b"8", "m-Q5_K_M.gguf": b"5"})
        self.fails("pull", "acme/tiny", says=["several GGUF files", "Q8_0, Q5_K_M"])

    def test_no_model(self):
        self.hub.add("acme/tiny", {"pytorch_model.bin": b"x", "config.json": b"{}"})
        self.fails("pull", "acme/tiny", says="no model that apus reads")
        self.fails("pull", "acme/tiny:Q4_K_M", says="no GGUF file in the repository")

    def test_names_that_are_none(self):
        for name in ("tiny", "../tiny", "acme/..", "acme/tiny@", "acme/tiny:", "acme/tiny@../x", "acme/tiny/x/../y.gguf",
                     "/abs/olute", "acme/tiny:a/../b.gguf", "acme/ti ny", "acme/tiny@main@main", "http://x/y"):
            self.apus("pull", name, status=2)
            self.assertIn("not a name of the form", self.err)
            self.apus("rm", "--yes", name, status=2)
        self.assertEqual(self.hub.log, [])


class Transfers(Case):
    def big(self, n=40 * MB + 12345):
        self.data = noise(n)
        return self.hub.add("acme/tiny", {"m-Q8_0.gguf": self.data})

    def check(self, commit):
        self.assertEqual((self.repo() / "snapshots" / commit / "m-Q8_0.gguf").read_bytes(), self.data)
        self.assertEqual(self.leftovers(), [])

    def partial(self):
        return next((self.repo() / "blobs").glob("*.incomplete"), None)

    def test_ranges_side_by_side(self):
        self.hub.delay = 0.002
        commit = self.big()
        self.apus("pull", "acme/tiny")
        self.check(commit)
        self.assertGreater(self.hub.most_running, 2)
        # the hub is asked once for where it is
        self.assertEqual(len(self.hub.asked("/resolve/")), 1)
        self.assertEqual(len({r["path"] for r in self.hub.asked("/content/")}), 1)

    def test_a_hub_without_ranges(self):
        self.hub.ranges = False
        commit = self.big()
        self.apus("pull", "acme/tiny")
        self.check(commit)
        self.assertEqual(self.hub.most_running, 1)

    def test_a_hub_without_ranges_that_cuts(self):
        self.hub.ranges = False
        self.hub.cuts = [30 * MB, 10 * MB, 35 * MB]
        commit = self.big()
        self.apus("pull", "acme/tiny")
        self.check(commit)

    def test_cuts_are_gone_on_from(self):
        self.hub.cuts = [5 * MB, 100, 3 * MB, 0, 7 * MB]
        commit = self.big()
        self.apus("pull", "acme/tiny")
        self.check(commit)
        sent = sorted(int(re.match(r"bytes=(\d+)-", r["range"])[1]) for r in self.hub.asked("/content/"))
        self.assertTrue(any(at % (8 * MB) for at in sent), sent)

    def test_a_later_run_goes_on(self):
        commit = self.big()
        self.hub.keep_cutting = 0
        self.hub.cuts = [3 * MB]
        self.fails("pull", "acme/tiny", says="acme/tiny: m-Q8_0.gguf:")
        self.assertEqual(self.partial().stat().st_size, 3 * MB)
        self.assertFalse((self.repo() / "refs/main").exists())
        self.hub.keep_cutting = None
        self.hub.log.clear()
        self.apus("pull", "acme/tiny")
        self.check(commit)
        self.assertTrue(any(r["range"].startswith(f"bytes={3 * MB}-") for r in self.hub.asked("/content/")))

    def test_what_another_program_left(self):
        commit = self.big()
        etag = self.hub.repos["acme/tiny"]["commits"][commit]["m-Q8_0.gguf"].etag
        blob = self.repo() / "blobs" / (etag + ".incomplete")
        for left in (self.data[:1000], b"not what it is" * 1000, self.data, self.data + b"longer", b""):
            shutil.rmtree(self.cache, ignore_errors=True)
            blob.parent.mkdir(parents=True)
            blob.write_bytes(left)
            self.apus("pull", "acme/tiny")
            self.check(commit)

    def test_a_wrong_checksum(self):
        self.big()
        self.hub.spoil = lambda d: d[:-1] + bytes([d[-1] ^ 1])
        self.fails("pull", "acme/tiny", says="another checksum")
        self.assertEqual(os.listdir(self.repo() / "blobs"), [])
        self.assertFalse((self.repo() / "snapshots").exists())

    def test_a_wrong_checksum_of_a_small_file(self):
        self.hub.add("acme/tiny", tiny_files())
        self.hub.spoil = lambda d: bytes([d[0] ^ 1]) + d[1:]
        self.fails("pull", "acme/tiny", says="another checksum")

    def test_wrong_lengths(self):
        self.big(3 * MB)
        for spoil in (lambda d: d + b"more", lambda d: d[:-5], lambda d: b""):
            shutil.rmtree(self.cache, ignore_errors=True)
            self.hub.spoil = spoil
            self.apus("pull", "acme/tiny", status=1)
            self.assertEqual(list(self.repo().glob("blobs/*")), list(self.repo().glob("blobs/*.incomplete")))
            self.hub.ranges = not self.hub.ranges

    def test_busy_for_a_while(self):
        commit = self.big(MB)
        self.hub.fail_first = [503, 429, 500]
        self.apus("pull", "acme/tiny")
        self.check(commit)

    def test_addresses_that_expire(self):
        self.hub.expire_after = 2
        commit = self.big()
        self.apus("pull", "acme/tiny")
        self.check(commit)
        self.assertGreater(len(self.hub.asked("/resolve/")), 1)

    def test_a_stop_keeps_what_came(self):
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            shutil.rmtree(self.cache, ignore_errors=True)
            self.hub.delay = 0.05
            commit = self.big(20 * MB)
            p = self.start("pull", "acme/tiny")
            until = time.time() + 30
            while time.time() < until and not (self.partial() and self.partial().stat().st_size > 200000):
                time.sleep(0.02)
            p.send_signal(sig)
            err = p.communicate(timeout=20)[1].decode()
            self.assertEqual(p.returncode, -sig)
            if sig != signal.SIGKILL:
                self.assertIn("the same command goes on", err)
            size = self.partial().stat().st_size
            self.assertEqual(self.partial().read_bytes(), self.data[:size])
            self.hub.delay = 0
            self.hub.log.clear()
            self.apus("pull", "acme/tiny")
            self.check(commit)
            self.assertTrue(any(r["range"].startswith(f"bytes={size}-") for r in self.hub.asked("/content/")))

    def test_two_at_once(self):
        self.hub.delay = 0.005
        commit = self.big(10 * MB)
        ps = [self.start("pull", "acme/tiny") for _ in range(3)]
        said = b""
        for p in ps:
            said += p.communicate(timeout=60)[1]
            self.assertEqual(p.returncode, 0)
        self.check(commit)
        self.assertIn(b"another process fetches m-Q8_0.gguf", said)
        self.assertEqual(sum(1 for r in self.hub.asked("/resolve/")), 1)

    def test_no_room(self):
        def huge(answer):
            answer["siblings"][0] |= {"size": 1 << 55, "lfs": {"sha256": "0" * 64, "size": 1 << 55}}
            return answer
        self.big(1000)
        self.hub.listing = huge
        self.fails("pull", "acme/tiny", says=["are to be fetched, and", "has room for"])
        self.assertEqual(self.hub.asked("/resolve/"), [])

    def test_a_cache_that_cannot_be_written(self):
        self.big(1000)
        (self.dir / "file").write_text("")
        self.fails("pull", "acme/tiny", HF_HUB_CACHE=str(self.dir / "file/hub"), says="cannot be made")

    def test_a_hub_that_is_not_there(self):
        self.fails("pull", "acme/tiny", HF_ENDPOINT="http://127.0.0.1:9", says="out of reach")
        self.fails("pull", "acme/tiny", HF_ENDPOINT="ftp://127.0.0.1", says="HF_ENDPOINT")

    def test_a_hub_that_says_nothing(self):
        self.big(MB)
        self.hub.silence = 60
        began = time.time()
        self.apus("pull", "acme/tiny", status=1, HF_HUB_DOWNLOAD_TIMEOUT="1")
        self.assertLess(time.time() - began, 50)


class Hostile(Case):
    def test_names_that_leave_the_folder(self):
        for name in ("../../../evil.json", "/etc/evil.json", "a/../../evil.json", "a//b.json", "./x.json", "a\\b.json",
                     "a\nb.json", "x/.", "..", "", "é" * 400 + ".json", "a" * 300 + ".json", 7, None, "nul\0.json"):
            def listing(answer):
                answer["siblings"].append({"rfilename": name, "size": 4, "blobId": git_sha1(b"evil")})
                return answer
            self.hub.add("acme/tiny", tiny_files())
            self.hub.listing = listing
            self.fails("pull", "acme/tiny", says="no name below a folder")
        self.assertFalse(self.cache.exists())

    def test_lists_that_are_none(self):
        commit = self.hub.add("acme/tiny", tiny_files())
        for listing in (b"", b"<html>", b"[", b"[]", b"{}", b"null", b'{"sha": 1}', b'{"sha":"main","siblings":[]}',
                        b"[" * 100000, b'{"a":' * 100000, json.dumps({"sha": "../../x", "siblings": []}).encode(),
                        b'{"sha":"\xff"}'):
            self.hub.listing = listing
            self.apus("pull", "acme/tiny", status=1)
            self.assertIn("acme/tiny", self.err)
        for sibling in ({"size": -1}, {"size": 1e300}, {"size": 10 ** 30}, {"blobId": "../../x"}, {"lfs": {"sha256": "../x"}},
                        {"lfs": {"sha256": "g" * 64}}, {"lfs": []}):
            def listing(answer):
                for s in answer["siblings"]:
                    s.update(sibling)
                return answer
            self.hub.listing = listing
            p = self.start("pull", "acme/tiny")
            p.communicate(timeout=60)
            self.assertIn(p.returncode, (0, 1))
        self.assertEqual({p.name for p in self.dir.iterdir()} - {"hub"}, set())
        self.hub.listing = {"sha": "0" * 40, "siblings": []}
        self.fails("pull", f"acme/tiny@{commit}", says="the hub answered with 0000")

    def test_a_list_without_end(self):
        self.hub.add("acme/tiny", tiny_files())
        self.hub.listing = b'{"sha":"' + b"a" * (65 * MB)
        self.fails("pull", "acme/tiny", says="more than")

    def test_hashes_that_are_none(self):
        self.hub.bare_listing = True
        self.hub.add("acme/tiny", {"m-Q8_0.gguf": b"x"})
        self.hub.repos["acme/tiny"]["commits"].popitem()[1]["m-Q8_0.gguf"].etag = "../../../evil"
        commit = self.hub.add("acme/tiny", {"m-Q8_0.gguf": b"y"})
        self.hub.repos["acme/tiny"]["commits"][commit]["m-Q8_0.gguf"].etag = "../../../evil"
        self.fails("pull", "acme/tiny", says="no checksum")

    def test_redirects_without_end(self):
        self.hub.add("acme/tiny", tiny_files())
        self.hub.redirect = lambda h: h.path
        self.fails("pull", "acme/tiny", says="redirects")

    def test_redirects_to_files(self):
        self.hub.add("acme/tiny", tiny_files())
        for to in ("file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x", ""):
            self.hub.redirect = lambda h, to=to: to
            self.apus("pull", "acme/tiny", status=1)
            self.assertEqual(list(self.cache.rglob("blobs/*")), list(self.cache.rglob("*.incomplete")))

    def test_links_in_the_way(self):
        commit = self.hub.add("acme/tiny", tiny_files())
        outside = self.dir / "outside"
        outside.write_text("mine")
        blobs = self.repo() / "blobs"
        blobs.mkdir(parents=True)
        f = self.hub.repos["acme/tiny"]["commits"][commit]["config.json"]
        os.symlink(outside, blobs / (f.etag + ".incomplete"))
        self.apus("pull", "acme/tiny", status=1)
        self.assertEqual(outside.read_text(), "mine")


class Access(Case):
    def setUp(self):
        super().setUp()
        self.hub.add("acme/tiny", tiny_files())
        self.hub.token = "hf_secret"

    def sent(self):
        return {r["auth"] for r in self.hub.log if r["port"] == self.hub.hub.server_port}

    def test_the_token_goes_to_the_hub_alone(self):
        self.apus("pull", "acme/tiny", HF_TOKEN="hf_secret")
        self.assertEqual(self.sent(), {"Bearer hf_secret"})
        content = [r for r in self.hub.log if r["port"] == self.hub.content.server_port]
        self.assertTrue(content)
        self.assertEqual({r["auth"] for r in content}, {None})

    def test_not_to_another_port_of_the_same_host(self):
        self.hub.content_url = "http://127.0.0.1:%d" % self.hub.content.server_port
        self.test_the_token_goes_to_the_hub_alone()

    def test_token_files(self):
        (self.dir / "token").write_text("hf_secret\n")
        self.apus("pull", "acme/tiny")
        (self.dir / "other").write_text("  hf_secret")
        self.apus("pull", "acme/tiny", HF_TOKEN_PATH=str(self.dir / "other"))
        self.apus("pull", "acme/tiny", HF_TOKEN="wrong", status=1)
        self.fails("pull", "acme/tiny", HF_HUB_DISABLE_IMPLICIT_TOKEN="1", says="HF_TOKEN")
        self.fails("pull", "acme/tiny", HF_TOKEN="a\nX-Evil: b", says="characters that no token has")

    def test_what_to_do(self):
        self.fails("pull", "acme/tiny", says=["HF_TOKEN", "no such repository, or it is private"])
        self.hub.gated = True
        self.fails("pull", "acme/tiny", says=["agree to its terms", self.hub.url + "/acme/tiny", "HF_TOKEN"])
        self.fails("pull", "acme/tiny", HF_TOKEN="wrong", says=["does not take the token"])
        self.hub.token = None
        self.hub.fail_first = [403]
        self.fails("pull", "acme/tiny", HF_TOKEN="right", says=["refuses this to the owner of the token", "ask for access"])
        self.fails("pull", "acme/none", HF_TOKEN="right", says="no such repository")
        self.assertNotIn("right", self.err)


class OnDemand(Case):
    def setUp(self):
        super().setUp()
        self.hub.add("acme/tiny", tiny_files())

    def test_run_fetches_what_it_needs(self):
        out = self.apus("run", "acme/tiny", "Who are you?", "--no-think", "-n", "20")
        self.assertTrue(out.strip())
        self.assertRegex(self.err, r"acme/tiny: 0\.\d\d GB in \d+ files, 0\.\d\d GB of it to fetch")
        self.hub.log.clear()
        self.assertEqual(self.apus("run", "acme/tiny", "Who are you?", "--no-think", "-n", "20"), out)
        self.assertEqual(self.hub.log, [])

    def test_offline(self):
        for args, env in ((["--offline"], {}), ([], {"HF_HUB_OFFLINE": "1"}), ([], {"TRANSFORMERS_OFFLINE": "yes"})):
            self.fails("run", "acme/tiny", "Hi", *args, **env, says="keeps it from being fetched")
        self.fails("pull", "acme/tiny", HF_HUB_OFFLINE="1", says="HF_HUB_OFFLINE is set")
        self.assertEqual(self.hub.log, [])
        self.apus("pull", "acme/tiny")
        self.apus("run", "acme/tiny", "Hi", "-n", "1", HF_HUB_OFFLINE="1")

    def test_others_tell_how(self):
        self.fails("info", "acme/tiny", says="'apus pull acme/tiny' fetches it")
        self.assertEqual(self.hub.log, [])
        self.fails("info", "acme/tiny/x", says="no such file")

    def test_a_model_that_lacks_a_part_is_fetched_again(self):
        self.apus("pull", "acme/tiny")
        commit = (self.repo() / "refs/main").read_text()
        f = self.hub.repos["acme/tiny"]["commits"][commit]["model.safetensors"]
        (self.repo() / "blobs" / f.etag).unlink()
        self.apus("run", "acme/tiny", "Hi", "-n", "1")
        self.assertEqual(len(self.hub.asked("/content/")) > 1, True)

    def test_paths_come_first(self):
        (self.dir / "acme").mkdir()
        shutil.copytree(TINY, self.dir / "acme/tiny")
        p = subprocess.run(APUS + ["run", "acme/tiny", "Hi", "-n", "1"], cwd=self.dir, env=self.env(),
                           capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertEqual(self.hub.log, [])

    def test_a_bar_on_a_terminal(self):
        self.hub.delay = 0.01
        pid, fd = pty.fork()
        if pid == 0:
            os.execve(APUS[0], APUS + ["pull", "acme/tiny"], self.env(TERM="xterm"))
        said = b""
        while True:
            try:
                b = os.read(fd, 65536)
            except OSError:
                break
            if not b:
                break
            said += b
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        os.close(fd)
        self.assertRegex(said, rb"\r[\d.]+ of [\d.]+ MB at [\d.]+ MB/s[^\r]*\[#*\.*\] +\d+ %")


class ListAndRm(Case):
    def listed(self):
        return {e["name"]: e for e in json.loads(self.apus("list", "--json"))}

    def test_every_name_can_be_used(self):
        a = self.hub.add("acme/tiny", tiny_files(), rev="old")
        self.hub.add("acme/tiny", tiny_files() | {"generation_config.json": b"{}"})
        self.apus("pull", "acme/tiny@old")
        self.apus("pull", "acme/tiny")
        (self.repo() / "refs/old").unlink()
        all = self.listed()
        self.assertEqual(set(all), {"acme/tiny", f"acme/tiny@{a}"})
        for name, e in all.items():
            self.apus("info", name)
            self.assertEqual(e["repo"], "acme/tiny")
            self.assertTrue(e["complete"])
            self.assertEqual(e["size"], (TINY / "model.safetensors").stat().st_size)
            self.assertRegex(e["modified"], r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
            self.assertTrue(Path(e["path"]).is_dir())
        out = self.apus("list")
        self.assertRegex(out, r"^NAME +TYPE +SIZE +MODIFIED\n")
        self.assertRegex(out, r"\nacme/tiny +\w+ +\d+\.\d\d MiB +20\d\d-")

    def test_gguf_files(self):
        files = {"m-Q4_K_M.gguf": b"q4", "m-Q8_0.gguf": b"q8", "o/m-Q8_0.gguf": b"other", "plain.gguf": b"p",
                 "f/m-BF16-00001-of-00002.gguf": b"b1", "f/m-BF16-00002-of-00002.gguf": b"b2", "mmproj-F16.gguf": b"m"}
        self.hub.add("acme/tiny", files)
        for n in ("acme/tiny:Q4_K_M", "acme/tiny/m-Q8_0.gguf", "acme/tiny/o/m-Q8_0.gguf", "acme/tiny/plain.gguf",
                  "acme/tiny:BF16"):
            self.apus("pull", n)
        all = self.listed()
        self.assertEqual({n: (e["quant"], e["size"]) for n, e in all.items()}, {
            "acme/tiny:Q4_K_M": ("Q4_K_M", 2), "acme/tiny/m-Q8_0.gguf": ("Q8_0", 2),
            "acme/tiny/o/m-Q8_0.gguf": ("Q8_0", 5), "acme/tiny/plain.gguf": (None, 1), "acme/tiny:BF16": ("BF16", 4)})
        self.apus("rm", "--yes", "acme/tiny:BF16")
        self.assertEqual(len(self.listed()), 4)
        self.assertEqual(len(list((self.repo() / "blobs").iterdir())), 5)
        for n in list(self.listed()):
            self.apus("rm", "--yes", n)
        self.assertEqual(self.listed(), {})
        self.assertFalse(self.repo().exists())

    def test_shared_contents_stay(self):
        a = self.hub.add("acme/tiny", tiny_files(), rev="a")
        b = self.hub.add("acme/tiny", tiny_files() | {"generation_config.json": b"{}"})
        self.hub.add("acme/other", tiny_files())
        for n in ("acme/tiny@a", "acme/tiny", "acme/other"):
            self.apus("pull", n)
        before = len(list((self.repo() / "blobs").iterdir()))
        self.apus("rm", "--yes", "acme/tiny@main")
        self.assertFalse((self.repo() / "snapshots" / b).exists())
        self.assertFalse((self.repo() / "refs/main").exists())
        self.assertEqual(len(list((self.repo() / "blobs").iterdir())), before - 1)
        self.apus("run", f"acme/tiny@{a}", "Hi", "-n", "1", "--offline")
        self.apus("rm", "--yes", "acme/tiny")
        self.assertFalse(self.repo().exists())
        self.apus("run", "acme/other", "Hi", "-n", "1", "--offline")

    def test_nothing_outside_goes(self):
        commit = self.hub.add("acme/tiny", tiny_files())
        self.apus("pull", "acme/tiny")
        outside = self.dir / "outside"
        outside.mkdir()
        (outside / "keep").write_text("mine")
        os.symlink(outside, self.repo() / "snapshots" / commit / "folder")
        os.symlink(outside / "keep", self.repo() / "blobs" / ("0" * 64))
        os.symlink("../../../../outside/keep", self.repo() / "snapshots" / commit / "x.json")
        self.apus("rm", "--yes", f"acme/tiny@{commit}")
        self.assertEqual((outside / "keep").read_text(), "mine")
        self.apus("rm", "--yes", "acme/tiny") if self.repo().exists() else None
        self.assertEqual((outside / "keep").read_text(), "mine")
        self.fails("rm", "--yes", "acme/tiny", says="not in the cache")

    def test_asks(self):
        self.hub.add("acme/tiny", tiny_files())
        self.apus("pull", "acme/tiny")
        self.apus("rm", "acme/tiny", status=2)
        self.assertIn("--yes", self.err)
        for answer, gone in ((b"n\n", False), (b"y\n", True)):
            pid, fd = pty.fork()
            if pid == 0:
                os.execve(APUS[0], APUS + ["rm", "acme/tiny"], self.env(TERM="xterm"))
            said = b""
            while b"[y/N]" not in said:
                said += os.read(fd, 1000)
            self.assertIn(b"MiB", said)
            os.write(fd, answer)
            os.waitpid(pid, 0)
            os.close(fd)
            self.assertEqual(self.repo().exists(), not gone)

    def test_not_while_it_is_fetched(self):
        self.hub.add("acme/tiny", {"m-Q8_0.gguf": noise(4 * MB)})
        self.hub.delay = 0.1
        p = self.start("pull", "acme/tiny")
        while not list(self.cache.rglob("*.incomplete")):
            time.sleep(0.02)
        self.fails("rm", "--yes", "acme/tiny", says="another process is fetching it")
        self.hub.delay = 0
        p.communicate(timeout=60)
        self.assertEqual(p.returncode, 0)

    def test_an_empty_cache(self):
        self.assertEqual(self.apus("list"), "")
        self.assertIn("apus pull", self.err)
        self.assertEqual(self.listed(), {})


def hub_python():
    """A Python that has huggingface_hub; None: there is none."""
    for python in (sys.executable, os.environ.get("APUS_REFERENCE_PYTHON")):
        if python and subprocess.run([python, "-c", "import huggingface_hub"], capture_output=True).returncode == 0:
            return python
    return None


class WithHuggingfaceHub(Case):
    def setUp(self):
        super().setUp()
        self.python = hub_python()
        if not self.python:
            self.skipTest("no Python with huggingface_hub; APUS_REFERENCE_PYTHON may name one")

    def theirs(self, code, **env):
        p = subprocess.run([self.python, "-c", "from huggingface_hub import *\n" + code], capture_output=True,
                           env=self.env(HF_HUB_DISABLE_XET="1", **env), timeout=120)
        self.assertEqual(p.returncode, 0, p.stderr.decode())
        return p.stdout.decode().strip()

    def test_they_read_what_we_wrote(self):
        commit = self.hub.add("acme/tiny", tiny_files())
        self.apus("pull", "acme/tiny")
        self.hub.log.clear()
        snap = self.theirs("print(snapshot_download('acme/tiny'))", HF_HUB_OFFLINE="1")
        self.assertEqual(snap, str(self.repo() / "snapshots" / commit))
        self.theirs("hf_hub_download('acme/tiny', 'model.safetensors')")
        self.assertEqual(self.hub.asked("/content/"), [])
        self.assertEqual(self.theirs("c = scan_cache_dir(); print(len(c.repos), len(c.warnings), c.size_on_disk)"),
                         f"1 0 {sum(len(d) for d in tiny_files().values())}")

    def test_we_read_what_they_wrote(self):
        commit = self.hub.add("acme/tiny", tiny_files() | {"README.md": b"# x"})
        self.theirs("for f in %r: hf_hub_download('acme/tiny', f)" % sorted(tiny_files()))
        self.assertEqual([p.name for p in (self.repo() / "snapshots").iterdir()], [commit])
        self.hub.log.clear()
        self.apus("run", "acme/tiny", "Hi", "-n", "1")
        self.assertEqual(self.hub.log, [])
        self.assertEqual([e["name"] for e in json.loads(self.apus("list", "--json"))], ["acme/tiny"])
        self.apus("pull", "acme/tiny")
        self.assertEqual(self.hub.asked("/content/"), [])
        self.apus("rm", "--yes", "acme/tiny")
        self.assertEqual(self.theirs("print(len(scan_cache_dir().repos))"), "0")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
