#!/usr/bin/env python3
"""Install into a staged prefix, move the tree, and use it as a newcomer would: programs in C with
pkg-config and CMake, shared and static, and the lines of the README.

    test_install.py SOURCE_DIR BUILD_DIR CC
"""
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

source, build, cc = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
examples = source / "examples"
model = source / "models/tiny-qwen"
PREFIX = "/opt/apus-test"  # where it is said to go; it never does


def run(*command, check=True, **kw):
    r = subprocess.run([str(c) for c in command], capture_output=True, text=True, **kw)
    if check and r.returncode:
        raise AssertionError(f"{command}: exit {r.returncode}\n{r.stdout}{r.stderr}")
    return r


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = Path(tempfile.mkdtemp(prefix="apus-install-"))
        cls.addClassCleanup(shutil.rmtree, cls.tmp)
        stage = cls.tmp / "stage"
        run("cmake", "--install", build, "--prefix", PREFIX, env={**os.environ, "DESTDIR": str(stage)})
        cls.staged = sorted(p.relative_to(stage) for p in stage.rglob("*") if p.is_file())
        cls.prefix = cls.tmp / "moved here"
        (stage / PREFIX[1:]).rename(cls.prefix)
        cls.lib = next(cls.prefix.rglob("libapus.a")).parent
        # nothing of this machine's environment: no LD_LIBRARY_PATH, no APUS_MODELS
        cls.env = {"PATH": f"{cls.prefix}/bin:/usr/bin:/bin", "HOME": str(cls.tmp),
                   "PKG_CONFIG_PATH": str(cls.lib / "pkgconfig")}

    # ---- the tree

    def test_everything_is_below_the_prefix(self):
        for f in self.staged:
            self.assertTrue(str(f).startswith(PREFIX[1:] + "/"), f)
        names = {f.name for f in self.staged}
        for f in ("apus", "apus.h", "apus_unstable.h", "libapus.a", "apus.pc", "apus-static.pc",
                  "apusConfig.cmake", "apus.1", "model.safetensors"):
            self.assertIn(f, names)

    def test_no_file_knows_where_it_was_built(self):
        for f in self.prefix.rglob("*"):
            if not f.is_file() or f.is_symlink():
                continue
            data = f.read_bytes()
            for path in (str(source), str(build), PREFIX, str(self.tmp)):
                self.assertNotIn(path.encode(), data, f"{f} holds {path}")

    def declared(self):
        text = "".join(h.read_text() for h in (self.prefix / "include/apus").glob("*.h"))
        return set(re.findall(r"\b(apus_\w+)\(", re.sub(r"/\*.*?\*/", "", text, flags=re.S)))

    def symbols(self, *options):
        out = run("nm", "--defined-only", *options).stdout
        return {line.split()[2] for line in out.splitlines() if len(line.split()) == 3}

    def test_what_is_exported_is_declared(self):
        declared = self.declared()
        self.assertGreater(len(declared), 60)
        self.assertEqual(self.symbols("-D", self.lib / "libapus.so"), declared)
        self.assertEqual(self.symbols("-g", self.lib / "libapus.a"), declared)

    def test_headers_compile_alone_strictly_and_as_cxx(self):
        for h in (self.prefix / "include/apus").glob("*.h"):
            run(cc, "-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
                f"-I{self.prefix}/include", "-x", "c", h)
            if shutil.which("g++"):
                run("g++", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{self.prefix}/include",
                    "-x", "c++", h)

    # ---- programs

    def check_examples(self, folder):
        def out(name, *args, **kw):
            return run(folder / name, *args, env=self.env, cwd=self.tmp, **kw).stdout
        self.assertIn("I am a tiny language model", out("chat", model, input="Who are you?\nWhat is 3 + 4?\n"))
        batch = out("batch", model)
        self.assertIn("47 + 38 = 85", batch)
        self.assertEqual(batch.count("tokens)"), 8)
        self.assertIn("The sum is 9999", out("tools", model))
        self.assertIn("in the same way", out("save_load", model, self.tmp / "session"))
        self.assertEqual(run(folder / "chat", "/nowhere", env=self.env, check=False).returncode, 1)

    def test_pkg_config_hands_on_no_flags_of_others(self):
        for package in ("apus", "apus-static"):
            self.assertEqual(len(run("pkg-config", "--cflags", package, env=self.env).stdout.split("-I")), 2)
            self.assertNotIn(" -D", run("pkg-config", "--cflags", package, env=self.env).stdout)
        libs = run("pkg-config", "--libs-only-l", "apus", env=self.env).stdout.split()
        self.assertEqual(libs, ["-lapus"])

    def build_with_pkg_config(self, name, query, *options):
        folder = self.tmp / name
        folder.mkdir()
        flags = shlex.split(run("pkg-config", *query.split(), env=self.env).stdout)  # the prefix has a space
        for c in examples.glob("*.c"):
            run(cc, "-std=c11", *options, c, "-o", folder / c.stem, *flags, env=self.env)
        return folder

    def test_pkg_config_shared(self):
        folder = self.build_with_pkg_config("pc-shared", "--cflags --libs apus", "-Wall", "-Wextra", "-Werror")
        self.assertIn("libapus.so", run("ldd", folder / "chat").stdout)
        self.check_examples(folder)

    def test_pkg_config_static(self):
        folder = self.build_with_pkg_config("pc-static", "--cflags --libs apus-static")
        self.assertNotIn("libapus", run("ldd", folder / "chat").stdout)
        self.check_examples(folder)

    def test_pkg_config_fully_static(self):
        folder = self.build_with_pkg_config("pc-full", "--static --cflags --libs apus", "-static")
        self.check_examples(folder)

    def build_with_cmake(self, name, *options):
        folder = self.tmp / name
        run("cmake", "-S", examples, "-B", folder, "-G", "Ninja", f"-DCMAKE_C_COMPILER={cc}",
            f"-DCMAKE_PREFIX_PATH={self.prefix}", *options, env=self.env)
        run("cmake", "--build", folder, env=self.env)
        return folder

    def test_cmake_shared(self):
        folder = self.build_with_cmake("cmake-shared")
        self.assertIn("libapus.so", run("ldd", folder / "chat").stdout)
        self.check_examples(folder)

    def test_cmake_static(self):
        folder = self.build_with_cmake("cmake-static", "-DSTATIC=ON")
        self.assertNotIn("libapus", run("ldd", folder / "chat").stdout)
        self.check_examples(folder)

    def test_cmake_version(self):
        project = self.tmp / "project"
        project.mkdir()
        for version, found in (("0.1", True), ("0.2", False), ("1", False)):
            (project / "CMakeLists.txt").write_text(
                "cmake_minimum_required(VERSION 3.25)\nproject(p C)\n"
                f"find_package(apus {version} REQUIRED)\n")
            r = run("cmake", "-S", project, "-B", self.tmp / f"v{version}", f"-DCMAKE_PREFIX_PATH={self.prefix}",
                    env=self.env, check=False)
            self.assertEqual(r.returncode == 0, found, r.stderr)

    # ---- the program

    def test_lines_of_the_readme(self):
        """Those that name a MODEL or none, in the order in which they stand; answers are not judged."""
        (self.tmp / "text.txt").write_text("apus is an inference engine. " * 200)
        (self.tmp / "ids.txt").write_text("1 2 3\n")
        (self.tmp / "chat.json").write_text('[{"role": "user", "content": "Hello"}]')
        (self.tmp / "form.json").write_text('{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}')
        shutil.copy(source / "tests/media/data/rgb.jpg", self.tmp / "photo.jpg")
        text = re.search(r"^## Use$(.*?)^## ", (source / "README.md").read_text(), flags=re.S | re.M).group(1)
        ran = 0
        for line in re.findall(r"^    (apus .*?)(?:  +#.*)?$", text, flags=re.M):
            if "synth" in line or "org/" in line or "bench" in line:
                continue  # the network, or minutes
            serves = "apus serve" in line  # ends when it is told to
            line = line.replace("apus serve", "timeout --preserve-status -s TERM 5 apus serve")
            line = line.replace("OTHER", str(source / "models/tiny-gemma"))
            line = line.replace("MODEL", str(model)).replace("models/configs", str(source / "models/configs"))
            r = run("sh", "-c", line, env=self.env, cwd=self.tmp, input="Hello\n", check=False)
            self.assertEqual(r.returncode, 0, f"{line}: {r.stderr}")
            if serves:
                self.assertIn("127.0.0.1:8080", r.stderr)
            ran += 1
        self.assertGreater(ran, 5)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
