#!/usr/bin/env python3
"""The Debian packages and systemd's unit, looked at without installing them: what they hold, what they
need, whether the unit is well-formed and shut in. scripts/try-package installs them.

    test_package.py SOURCE_DIR BUILD_DIR
"""
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

source, build = Path(sys.argv[1]), Path(sys.argv[2])
EXPOSURE = 2.0  # of 10; what systemd-analyze security may give the unit


def run(*command, check=True):
    r = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if check and r.returncode:
        raise AssertionError(f"{command}: exit {r.returncode}\n{r.stdout}{r.stderr}")
    return r


@unittest.skipUnless(shutil.which("dpkg-deb") and shutil.which("dpkg-shlibdeps"), "no dpkg-dev")
class Packages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = Path(tempfile.mkdtemp(prefix="apus-package-"))
        cls.addClassCleanup(shutil.rmtree, cls.tmp)
        run("cpack", "-G", "DEB", "--config", build / "CPackConfig.cmake", "-B", cls.tmp,
            "-D", "CPACK_DEBIAN_COMPRESSION_TYPE=gzip")
        cls.deb = {f.name.split("_")[0]: f for f in cls.tmp.glob("*.deb")}

    def files(self, package):
        """path -> mode and owner"""
        lines = run("dpkg-deb", "-c", self.deb[package]).stdout.splitlines()
        return {f[5].lstrip("."): (f[0], f[1]) for f in (line.split(None, 6) for line in lines)}

    def field(self, package, name):
        return run("dpkg-deb", "-f", self.deb[package], name).stdout.strip()

    def control(self, package, name):
        return run("dpkg-deb", "-I", self.deb[package], name).stdout

    def test_there_are_two(self):
        self.assertEqual(set(self.deb), {"apus", "libapus-dev"})

    def test_files(self):
        for package, wanted in {
            "apus": [r"/usr/bin/apus", r"/usr/lib/(\S+/)?libapus\.so\.\d+\.\d+\.\d+", r"/usr/share/man/man1/apus\.1",
                     r"/usr/share/bash-completion/completions/apus", r"/usr/lib/systemd/system/apus\.service",
                     r"/etc/default/apus", r"/usr/share/apus/models/tiny-qwen/model\.safetensors",
                     r"/usr/share/doc/apus/copyright", r"/usr/share/doc/apus/server\.md",
                     r"/usr/share/doc/apus/examples/serve/nginx\.conf",
                     r"/usr/share/doc/apus/examples/serve/haproxy\.cfg"],
            "libapus-dev": [r"/usr/include/apus/apus\.h", r"/usr/lib/(\S+/)?libapus\.a", r"/usr/lib/(\S+/)?libapus\.so",
                            r"/usr/lib/(\S+/)?pkgconfig/apus\.pc", r"/usr/lib/(\S+/)?cmake/apus/apusConfig\.cmake",
                            r"/usr/share/doc/libapus-dev/copyright"]}.items():
            files = self.files(package)
            for w in wanted:
                self.assertTrue(any(re.fullmatch(w, f) for f in files), f"{package} lacks {w}")
        shared = {f for f in self.files("apus") if not f.endswith("/")} & set(self.files("libapus-dev"))
        self.assertEqual(shared, set())

    def test_modes(self):
        for package in self.deb:
            for f, (mode, owner) in self.files(package).items():
                self.assertEqual(owner, "root/root", f)
                if mode[0] == "l":
                    continue
                runs = mode[0] == "d" or f == "/usr/bin/apus"
                self.assertEqual(mode[1:], "rwxr-xr-x" if runs else "rw-r--r--", f)

    def test_nothing_knows_where_it_was_built(self):
        run("dpkg-deb", "-x", self.deb["apus"], self.tmp / "root")
        run("dpkg-deb", "-x", self.deb["libapus-dev"], self.tmp / "root")
        for f in (self.tmp / "root").rglob("*"):
            if f.is_file() and not f.is_symlink():
                data = f.read_bytes()
                for path in (source, build, self.tmp):
                    self.assertNotIn(str(path).encode(), data, f"{f} holds {path}")
        pc = next((self.tmp / "root").rglob("apus.pc")).read_text()
        self.assertNotIn("rpath", pc)

    def test_metadata(self):
        version = re.search(r"VERSION (\S+)", (source / "CMakeLists.txt").read_text().split("project(")[1])[1]
        for package in self.deb:
            self.assertEqual(self.field(package, "Version"), f"{version}-1")
            self.assertRegex(self.field(package, "Maintainer"), r".+ <.+@.+>")
            first, *rest = self.field(package, "Description").splitlines()
            self.assertTrue(first and rest)
            self.assertTrue(all(len(line) <= 80 for line in rest))
        needs = self.field("apus", "Depends")
        for library in ("libc6", "libyajl2", "libpcre2-8-0"):
            self.assertIn(library, needs)
        self.assertIn(f"apus (= {version}-1)", self.field("libapus-dev", "Depends"))

    def test_scripts(self):
        self.assertEqual(self.control("apus", "conffiles"), "/etc/default/apus\n")
        self.assertIn("ldconfig", self.control("apus", "triggers"))
        for name in ("postinst", "prerm", "postrm"):
            text = self.control("apus", name)
            subprocess.run(["sh", "-n"], input=text, text=True, check=True)
            self.assertNotIn("enable ", text.replace("disable ", ""))
            # without systemd they do nothing: this is what happens in a container
            if not Path("/run/systemd/system").exists():
                r = subprocess.run(["sh", "-s", "configure", ""], input=text, text=True, capture_output=True)
                self.assertEqual((r.returncode, r.stdout + r.stderr), (0, ""))


class Unit(unittest.TestCase):
    unit = source / "server/service/apus.service"

    def settings(self, name):
        return re.findall(rf"^{name}=(.*)$", self.unit.read_text(), flags=re.M)

    def test_settings(self):
        self.assertEqual(self.settings("Type"), ["notify"])
        self.assertEqual(self.settings("EnvironmentFile"), ["-/etc/default/apus"])
        self.assertEqual(self.settings("DynamicUser"), ["yes"])
        words = self.settings("ExecStart")[0].split()
        # words of their own: nothing, if they are not set
        self.assertIn("$APUS_MODEL", words)
        self.assertIn("$APUS_OPTIONS", words)

    def test_defaults_are_all_comments(self):
        for line in (source / "server/service/apus.default").read_text().splitlines():
            self.assertTrue(not line or line.startswith("#"), line)

    def test_command_line(self):
        """The program understands what the unit asks for and tells what systemd waits for."""
        options = re.search(r"^#APUS_OPTIONS=(.*)$", (source / "server/service/apus.default").read_text(), flags=re.M)[1]
        with tempfile.TemporaryDirectory() as tmp:
            line = self.settings("ExecStart")[0].replace("$APUS_MODEL", "").replace("$APUS_OPTIONS", options)
            words = line.replace("%C", tmp).split()[1:]
            Path(tmp, "private/apus").mkdir(parents=True)
            Path(tmp, "apus").symlink_to(f"{tmp}/private/apus")  # as systemd has it with DynamicUser
            told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            told.bind(f"{tmp}/notify")
            told.settimeout(60)
            p = subprocess.Popen([build / "apus", *words, "--port", "0"], stderr=subprocess.DEVNULL,
                                 env={"NOTIFY_SOCKET": f"{tmp}/notify", "PATH": "/usr/bin:/bin"})
            self.addCleanup(p.kill)
            self.assertEqual(told.recv(100), b"READY=1")
            self.assertEqual(len(list(Path(tmp, "apus/prefix").glob("prefix-*"))), 1)
            p.send_signal(signal.SIGTERM)
            self.assertEqual(told.recv(100), b"STOPPING=1")
            self.assertEqual(p.wait(30), 0)
            told.close()

    @unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd")
    def test_systemd_takes_it_and_rates_it(self):
        with tempfile.TemporaryDirectory() as tmp:
            unit = Path(tmp) / "apus.service"
            unit.write_text(self.unit.read_text().replace("ExecStart=apus", f"ExecStart={build}/apus"))
            r = run("systemd-analyze", "--man=no", "verify", unit)
            self.assertEqual(r.stderr, "")
            if "--offline" not in run("systemd-analyze", "--help").stdout:
                return
            r = run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", unit)
            self.assertLessEqual(float(re.search(r"exposure level for apus.service: ([\d.]+)", r.stdout)[1]), EXPOSURE)


class Examples(unittest.TestCase):
    """The programs that stand before the server take the files that show how."""
    folder = source / "examples/serve"

    def certificate(self, tmp):
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=apus.example.org", "-days", "2",
            "-keyout", f"{tmp}/key.pem", "-out", f"{tmp}/cert.pem")

    @unittest.skipUnless(shutil.which("nginx") and shutil.which("openssl"), "no nginx")
    def test_nginx(self):
        with tempfile.TemporaryDirectory() as tmp:
            self.certificate(tmp)
            text = (self.folder / "nginx.conf").read_text()
            text = text.replace("/etc/ssl/apus.crt", f"{tmp}/cert.pem").replace("/etc/ssl/private/apus.key", f"{tmp}/key.pem")
            Path(tmp, "site.conf").write_text(text)
            Path(tmp, "nginx.conf").write_text(f"pid {tmp}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n"
                                               f"include {tmp}/site.conf;\n}}\n")
            r = run("nginx", "-t", "-q", "-c", f"{tmp}/nginx.conf")
            self.assertEqual(r.stderr, "")

    @unittest.skipUnless(shutil.which("haproxy"), "no haproxy")
    def test_haproxy(self):
        with tempfile.TemporaryDirectory() as tmp:
            self.certificate(tmp)
            Path(tmp, "both.pem").write_text(Path(tmp, "cert.pem").read_text() + Path(tmp, "key.pem").read_text())
            text = (self.folder / "haproxy.cfg").read_text().replace("/etc/ssl/private/apus.pem", f"{tmp}/both.pem")
            Path(tmp, "haproxy.cfg").write_text(text)
            r = run("haproxy", "-c", "-f", f"{tmp}/haproxy.cfg")
            self.assertNotIn("WARNING", r.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
