#!/usr/bin/env python3
"""The rules of the house (docs/architecture.md), checked: who may include whom, what only one folder
may use, headers that compile alone, prefixed symbols, unique file names, a tidy root, public functions
called with NULL.

    check_rules.py SOURCE_DIR CC BUILD_DIR
"""
import re
import subprocess
import sys
from pathlib import Path

root, cc, build = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
errors = []

# layer -> layers it may include (besides itself and the public header)
LAYERS = {
    "base": set(),
    "media": {"base"},
    "tensor": {"base"},
    "file": {"base", "media", "tensor"},
    "text": {"base", "tensor"},
    "kern": {"base", "tensor"},
    "state": {"base", "tensor", "kern"},
    "model": {"base", "media", "tensor", "kern", "file"},
    "engine": {"base", "media", "tensor", "kern", "file", "text", "state", "model"},
    "make": {"base", "tensor", "file", "engine"},
}
ROOT_FILES = {
    ".ci", ".clang-format", ".clang-tidy", ".gitignore", "CHANGELOG.md", "CMakeLists.txt",
    "CMakePresets.json", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "bench", "cli",
    "SECURITY.md", "cmake", "docs", "examples", "hub", "include", "models", "scripts", "server", "setup", "src", "tests",
    "tools",
}
MAX_LINES = 1500
# where architectures are named: the enumeration, and a row for each
FAMILY_ROWS = {"src/file/config.h", "src/file/family.c", "src/model/passes.c"}


def tracked():
    out = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True)
    if out.returncode == 0 and out.stdout:
        return [root / f for f in out.stdout.splitlines() if (root / f).exists()]
    return [p for p in root.rglob("*") if p.is_file() and not p.relative_to(root).parts[0].startswith("build")]


def code_only(text):
    """Comments and string literals blanked."""
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', " ", text, flags=re.S)


files = tracked()
names = {}
for f in files:
    rel = f.relative_to(root)
    if rel.parts[0] not in ROOT_FILES:
        errors.append(f"{rel}: unknown file in the root")
    if f.suffix not in (".c", ".h", ".cu"):
        continue
    raw = f.read_text(encoding="utf-8")
    code = code_only(raw)
    if raw.count("\n") > MAX_LINES and "table" not in f.name:
        errors.append(f"{rel}: {raw.count(chr(10))} lines, at most {MAX_LINES}")
    if "\t" in raw or re.search(r"[ \t]+\n", raw):
        errors.append(f"{rel}: tab or trailing space")
    if rel.parts[0] == "src":
        if rel.name in names:
            errors.append(f"{rel}: same file name as {names[rel.name]}")
        names[rel.name] = rel
        layer = rel.parts[1]
        for inc in re.findall(r'^\s*#\s*include\s+"([^"]+)"', raw, flags=re.M):
            first = inc.split("/")[0]
            if first in LAYERS and first != layer and first not in LAYERS[layer]:
                errors.append(f"{rel}: {layer} may not include {inc}")
        if re.search(r"\b(printf|fprintf|puts|exit|abort|getenv)\s*\(", code):
            errors.append(f"{rel}: printf, exit, abort and getenv are not for src/")
        if layer != "base" and re.search(r"#\s*include\s+<(sys/|unistd|fcntl|pthread)", raw):
            if not (rel.name == "session_file.c"):
                errors.append(f"{rel}: only src/base talks to the operating system")
        if re.search(r"\bAP_ARCH_[A-Z]", code) and str(rel) not in FAMILY_ROWS:
            errors.append(f"{rel}: asks for an architecture; families differ by their rows ({', '.join(sorted(FAMILY_ROWS)[1:])})")
    if re.search(r"#\s*include\s+<(\w*intrin|arm_neon|amxintrin)\.h>", raw) and rel.parts[:3] != ("src", "kern", "cpu"):
        errors.append(f"{rel}: intrinsics only in src/kern/cpu")
    if re.search(r"#\s*include\s+<\w*(intrin|arm_neon)\.h>", raw) and rel.parts[3:4] not in (("x86",), ("arm",)):
        if rel.parts[0] == "src":
            errors.append(f"{rel}: intrinsics only in x86/ and arm/")
    if rel.parts[0] in ("cli", "server", "hub") and re.search(r'#\s*include\s+"(base|tensor|file|text|kern|state|model|engine|make)/', raw):
        errors.append(f"{rel}: programs see include/apus only")

for f in files:
    rel = f.relative_to(root)
    if f.suffix != ".h" or rel.parts[0] not in ("include", "src", "cli", "server", "hub") or rel.parts[3:4] in (("x86",), ("arm",)) or rel.name.endswith("_body.h"):
        continue
    r = subprocess.run([cc, "-std=c11", "-fsyntax-only", "-D_POSIX_C_SOURCE=200809L", "-D_DEFAULT_SOURCE",
                        f"-I{root}/include", f"-I{root}/src", f"-I{root}/cli", f"-I{root}/server", f"-I{root}/hub", "-x", "c", str(f)],
                       capture_output=True, text=True)
    if r.returncode:
        errors.append(f"{rel}: does not compile alone: {r.stderr.strip().splitlines()[0]}")

# docs/architecture.md: the table of folders names what is there, and nothing else; a folder inside another
# one may stand in that one's row
page = (root / "docs/architecture.md").read_text(encoding="utf-8")
rows = dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", page, flags=re.M))
for path in rows:
    if not (root / path).is_dir():
        errors.append(f"docs/architecture.md: there is no folder {path}")
for d in {f.relative_to(root).parent for f in files if f.suffix in (".c", ".cu")}:
    if d.parts[0] in ("src", "cli", "server", "hub") and str(d) not in rows and f"`{d.name}`" not in rows.get(str(d.parent), ""):
        errors.append(f"docs/architecture.md: the table of folders lacks {d}")

# docs/abi.md: structs carry their size, and none lies inside another, so that each can grow
header = re.sub(r"/\*.*?\*/", "", (root / "include/apus/apus.h").read_text(encoding="utf-8"), flags=re.S)
for body, name in re.findall(r"typedef struct \w+ \{(.*?)\n\} (\w+);", header, flags=re.S):
    if name != "apus_diag" and not body.lstrip().startswith("size_t size;"):
        errors.append(f"apus.h: {name} does not begin with size_t size")
    structs = "|".join(re.findall(r"typedef struct (\w+)", header))
    for field in re.findall(rf"^\s*(?:const )?(?:struct )?(?:{structs}) \w+.*;", body, flags=re.M):
        errors.append(f"apus.h: {name} holds a struct by value: {field.strip()}")

# every public function is called with NULL
public = "".join((root / "include/apus" / h).read_text(encoding="utf-8") for h in ("apus.h", "apus_unstable.h"))
tried = code_only((root / "tests/unit/api/test_null.c").read_text(encoding="utf-8"))
for name in re.findall(r"^APUS_API [^(;]*?(\w+)\(", public, flags=re.M):
    if not re.search(rf"\b{name}\(", tried):
        errors.append(f"tests/unit/api/test_null.c: {name} is not called with NULL")

for lib in sorted(build.glob("src/*/libap_*.a")):
    out = subprocess.run(["nm", "-g", "--defined-only", str(lib)], capture_output=True, text=True).stdout
    for line in out.splitlines():
        part = line.split()
        if len(part) == 3 and not re.match(r"(ap_|apus_|__|_)", part[2]):
            errors.append(f"{lib.name}: global symbol {part[2]} has no ap_ or apus_ prefix")

for e in sorted(set(errors)):
    print(e)
print(f"{len(files)} files, {len(set(errors))} violations")
sys.exit(1 if errors else 0)
