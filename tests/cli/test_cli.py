#!/usr/bin/env python3
"""The program as scripts use it: forms, outputs, exit codes, and one clear sentence for bad input.

    test_cli.py APUS SOURCE_DIR
"""
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

APUS = [sys.argv[1]]
ROOT = Path(sys.argv[2])
GOLDEN = ROOT / "tests/golden/data"
TINY = ROOT / "models/tiny-qwen"
HYBRID = GOLDEN / "q35moe_fused"
GEMMA = GOLDEN / "g4_moe6"


def apus(*args, stdin="", status=0, env=None):
    e = dict(os.environ, **(env or {}))
    r = subprocess.run(APUS + [a if isinstance(a, bytes) else str(a) for a in args], input=stdin.encode() if isinstance(stdin, str) else stdin,
                       capture_output=True, env=e, timeout=300)
    out, err = r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")
    if r.returncode != status:
        raise AssertionError(f"{args}: status {r.returncode}, expected {status}\n{out}\n{err}")
    return out, err


def read_safetensors(path):
    data = Path(path).read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    return header, data[8 + n:]


def write_safetensors(path, header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = Path(tempfile.mkdtemp())

    def tearDown(self):
        shutil.rmtree(self.dir)

    def ids(self, n, vocab=100, name="ids.txt"):
        path = self.dir / name
        path.write_text(" ".join(str(7 * i * i % vocab) for i in range(n)))
        return path

    def copy(self, model=GOLDEN / "q35moe_split"):
        to = self.dir / "model"
        shutil.copytree(model, to)
        return to


class Usage(Case):
    def test_help_and_version(self):
        out, _ = apus("--help")
        for command in ("run", "chat", "info", "tokenize", "render", "logits"):
            self.assertIn(command, out)
            self.assertIn("usage: apus " + command, apus(command, "--help")[0])
        self.assertRegex(apus("--version")[0], r"^apus \d+\.\d+\.\d+\n$")

    def test_mistakes_are_status_2(self):
        for args in ([], ["frobnicate"], ["run", "--frobnicate"], ["run", "a", "b", "c"], ["run", "--temp", "hot"],
                     ["run", "--top-p", "2"], ["run", "-n"], ["run", "--cpumask", "mmx", HYBRID, "-p", "x"],
                     ["tokenize"], ["render", TINY], ["logits", HYBRID], ["run", "-p", "a", "-f", "b"],
                     ["run", "--threads", "0"], ["run", "--think", "--no-think", "-p", "x"]):
            _, err = apus(*args, status=2)
            self.assertTrue(err.strip(), args)


class Ids(Case):
    def test_the_same_ids_with_every_setting(self):
        for model in (HYBRID, GEMMA):
            ids = self.ids(90)
            args = ["run", model, "--ids", ids, "--print-ids", "-n", "12", "--temp", "0", "--ignore-eos"]
            first, err = apus(*args)
            self.assertEqual(len(first.split()), 12)
            self.assertIn("tok/s", err)
            for more in (["--threads", "1"], ["--threads", "2"], ["--prefill-chunk", "1"], ["--prefill-chunk", "7"],
                         ["--prefill-chunk", "64"], ["--cpumask", "ref"], ["--device", "cpu"], ["--ctx", "128"]):
                self.assertEqual(apus(*args, *more)[0], first, more)

    def test_guesses_do_not_show(self):
        once = [7 + i * 11 % 50 for i in range(40)]
        for model in (HYBRID, GEMMA, TINY):
            ids = self.dir / "repeated.txt"
            ids.write_text(" ".join(map(str, once * 3)))
            for way in (["--temp", "0"], ["--temp", "0.7", "--seed", "4", "--repetition-penalty", "0.8"]):
                args = ["run", model, "--ids", ids, "--print-ids", "-n", "90", "--ignore-eos", *way]
                first, err = apus(*args, "--speculate", "off")
                self.assertNotIn("guesses", err)
                for how in ("auto", "ngram", "1", "14"):
                    self.assertEqual(apus(*args, "--speculate", how)[0], first, (model, how))
        self.assertIn("guesses came true", apus(*args, "--speculate", "14")[1])
        for bad in ("15", "0", "mpt", "3x", ""):
            err = apus("run", TINY, "x", "--speculate", bad, status=2)[1]
            self.assertIn("--speculate: expected auto, off, ngram, mtp or a number of 1 to 14, found '%s'" % bad, err)
        apus("logits", TINY, "--speculate", "off", status=2)
        self.assertIn("no head for further tokens", apus("run", TINY, "x", "--speculate", "mtp", status=1)[1])

    def test_guesses_obey_a_schema(self):
        schema = self.dir / "schema.json"
        schema.write_text('{"type":"array","items":{"enum":["red","green","blue"]},"minItems":4,"maxItems":9}')
        for way in (["--temp", "0"], ["--temp", "1", "--seed", "3"]):
            args = ["run", TINY, "Colours?", "--json-schema", schema, "-n", "120", "--no-think", *way]
            first, _ = apus(*args, "--speculate", "off")
            self.assertTrue(set(json.loads(first)) <= {"red", "green", "blue"}, first)
            for how in ("auto", "ngram", "1", "14"):
                self.assertEqual(apus(*args, "--speculate", how)[0], first, (way, how))
            self.assertIn("guesses came true", apus(*args, "--speculate", "14")[1])

    def test_seed_decides_sampling(self):
        args = ["run", HYBRID, "--ids", self.ids(5), "--print-ids", "-n", "20", "--temp", "1.5", "--ignore-eos"]
        a, b, c = apus(*args, "--seed", "1")[0], apus(*args, "--seed", "1")[0], apus(*args, "--seed", "2")[0]
        self.assertEqual(a, b)
        self.assertNotEqual(a, c)

    def test_ids_from_stdin_and_json(self):
        out, _ = apus("run", HYBRID, "--ids", "-", "--print-ids", "-n", "3", "--temp", "0", "--ignore-eos", "--json",
                      stdin="1 2\n3\t4")
        answer = json.loads(out)
        self.assertEqual(len(answer["ids"]), 3)
        self.assertEqual(answer["usage"]["prompt_tokens"], 4)
        self.assertEqual(answer["finish_reason"], "length")

    def test_logits_file(self):
        ids, pos, out = self.ids(40), self.dir / "pos.txt", self.dir / "out.safetensors"
        apus("logits", GEMMA, "--ids", ids, "-o", out)
        header, data = read_safetensors(out)
        vocab = json.loads((GEMMA / "config.json").read_text())["vocab_size"]
        self.assertEqual(header["logits"]["dtype"], "F32")
        self.assertEqual(header["logits"]["shape"], [40, vocab])
        self.assertEqual(len(data), 40 * vocab * 4)
        pos.write_text("39 0 17 17")
        some = self.dir / "some.safetensors"
        apus("logits", GEMMA, "--ids", ids, "--positions", pos, "-o", some, "--prefill-chunk", "7")
        _, rows = read_safetensors(some)
        size = vocab * 4
        for i, p in enumerate((39, 0, 17, 17)):
            self.assertEqual(rows[i * size:(i + 1) * size], data[p * size:(p + 1) * size], p)
        self.assertEqual(list(self.dir.glob("*.part")), [])

    def test_bad_ids(self):
        bad = self.dir / "bad.txt"
        for text, fragment in (("1 2 x", "found 'x'"), ("", "found none"), ("99999", "99999"), ("-1", "-1"),
                               ("1 99999999999999999999", "expected whitespace-separated integers")):
            bad.write_text(text)
            _, err = apus("run", HYBRID, "--ids", bad, "--print-ids", "-n", "1", status=1)
            self.assertIn(fragment, err)
        self.assertIn("cannot open", apus("run", HYBRID, "--ids", self.dir / "none", "--print-ids", status=1)[1])
        _, err = apus("run", HYBRID, "--ids", self.ids(50), "--print-ids", "--ctx", "20", status=1)
        self.assertRegex(err, r"50.*20")
        pos = self.dir / "pos.txt"
        pos.write_text("50")
        _, err = apus("logits", HYBRID, "--ids", self.ids(50), "--positions", pos, "-o", self.dir / "o", status=1)
        self.assertIn("50", err)

    def test_output_that_cannot_be_written(self):
        _, err = apus("logits", HYBRID, "--ids", self.ids(4), "-o", self.dir / "no/such/dir.safetensors", status=1)
        self.assertIn("dir.safetensors", err)
        if Path("/dev/full").exists():
            for words in (["info", str(HYBRID)], ["--help"], ["help"], ["--version"], ["run", "--help"]):
                with open("/dev/full", "w") as full:
                    r = subprocess.run(APUS + words, stdout=full, stderr=subprocess.PIPE)
                self.assertEqual(r.returncode, 1, words)
                self.assertIn(b"standard output", r.stderr)


class Info(Case):
    def test_text_and_json(self):
        for model in sorted(p for p in GOLDEN.iterdir() if p.is_dir()):
            info = json.loads(apus("info", model, "--json")[0])
            self.assertGreater(info["params_total"], 0, model)
            self.assertLessEqual(info["params_active"], info["params_total"])
            m = info["memory"]
            parts = m["weights_bytes"] + m["kv_bytes"] + m["state_bytes"] + m["scratch_bytes"]
            parts += m["other_bytes"]
            self.assertEqual(m["total_bytes"], parts)
            self.assertIn(info["architecture"], apus("info", model)[0])

    def test_json_has_no_control_characters(self):
        odd = self.dir / "a\x01\x1b\x7f\x80\x9b\x9f\xa0b"
        self.copy().rename(odd)
        out = apus("info", odd, "--json")[0]
        self.assertEqual([c for c in out if c != "\n" and (c < " " or "\x7f" <= c < "\xa0")], [])
        self.assertEqual(json.loads(out)["path"], str(odd))


class BadModels(Case):
    """A damaged model gives status 1 and one sentence that names what is wrong."""

    def fails(self, model, *fragments):
        for command in (["info", model], ["run", model, "--ids", self.ids(3), "--print-ids", "-n", "1"]):
            _, err = apus(*command, status=1)
            lines = [x for x in err.strip().splitlines() if x]
            self.assertEqual(len(lines), 1, err)
            for f in fragments:
                self.assertIn(f, err)

    def config(self, **changes):
        model = self.copy()
        path = model / "config.json"
        config = json.loads(path.read_text())
        for key, value in changes.items():
            if value is KeyError:
                config.pop(key, None)
            else:
                config[key] = value
        path.write_text(json.dumps(config))
        return model

    def test_missing(self):
        self.fails(self.dir / "nothing", "nothing")
        self.fails("some-org/some-repo", "some-org/some-repo")
        model = self.copy()
        (model / "config.json").unlink()
        self.fails(model, "config.json")

    def test_config(self):
        self.fails(self.config(model_type="llama", architectures=["LlamaForCausalLM"]), "llama")

    def test_config_rope(self):
        model = self.config()
        path = model / "config.json"
        config = json.loads(path.read_text())
        rope = config.get("rope_parameters") or config.get("rope_scaling")
        rope["rope_type"] = "quantum"
        path.write_text(json.dumps(config))
        self.fails(model, "quantum")

    def test_config_numbers(self):
        for change, fragment in (({"hidden_size": -8}, "hidden_size"), ({"num_hidden_layers": 0}, "num_hidden_layers"),
                                 ({"num_attention_heads": "many"}, "num_attention_heads"),
                                 ({"vocab_size": 10 ** 15}, "vocab_size"), ({"hidden_act": "swish9"}, "swish9"),
                                 ({"num_experts_per_tok": 10 ** 6}, "num_experts_per_tok")):
            self.fails(self.config(**change), fragment)
            shutil.rmtree(self.dir / "model")

    def test_config_not_json(self):
        model = self.copy()
        (model / "config.json").write_text('{"model_type": ')
        self.fails(model, "config.json")

    def test_wrong_shape_and_type(self):
        model = self.copy()
        path = next(model.glob("*.safetensors")) if not (model / "model.safetensors").exists() else model / "model.safetensors"
        header, data = read_safetensors(path)
        name = next(k for k in header if k.endswith("input_layernorm.weight"))
        shape = header[name]["shape"]
        header[name]["shape"] = [shape[0] // 2, 2]
        write_safetensors(path, header, data)
        good = json.dumps(header)
        name2 = next(k for k in header if k.endswith("embed_tokens.weight"))
        header[name2]["shape"] = header[name2]["shape"][::-1]
        write_safetensors(path, header, data)
        self.fails(model, "embed_tokens.weight", path.name)
        header = json.loads(good)
        header[name2]["dtype"] = "I16"
        write_safetensors(path, header, data)
        self.fails(model, "embed_tokens.weight")

    def test_missing_tensor(self):
        model = self.copy()
        path = model / "model.safetensors"
        header, data = read_safetensors(path)
        name = next(k for k in header if k.endswith("layers.0.post_attention_layernorm.weight"))
        header[name + "_gone"] = header.pop(name)
        write_safetensors(path, header, data)
        self.fails(model, name)

    def test_truncated_and_lying(self):
        model = self.copy()
        path = model / "model.safetensors"
        whole = path.read_bytes()
        for damage in (whole[:-1], whole[:100], whole[:4], b"", whole + b"x", struct.pack("<Q", 2 ** 60) + whole[8:],
                       struct.pack("<Q", len(whole)) + whole[8:], whole[:8] + b"[" + whole[9:]):
            path.write_bytes(damage)
            self.fails(model, "model.safetensors")

    def test_pointers_of_git(self):
        """What a clone without the extension for large files leaves."""
        for name in ("model.safetensors", "config.json"):
            model = self.copy()
            (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
            self.fails(model, f"{name}: is a pointer of Git LFS")
            shutil.rmtree(model)

    def test_names_in_sentences(self):
        model = self.copy()
        text = json.loads((model / "config.json").read_text())
        for value, want in (({"mode": "odd"}, "quantization.mode: "),
                            ({"bits": 4, "lm_head": {"bits": "x"}}, "quantization.lm_head.bits: ")):
            (model / "config.json").write_text(json.dumps({**text, "quantization": value}))
            self.fails(model, want)
        (model / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(text).encode())
        self.fails(model, "byte order mark")

    def test_index_leaving_the_folder(self):
        model = self.copy()
        (model / "model.safetensors").rename(self.dir / "outside.safetensors")
        header, _ = read_safetensors(self.dir / "outside.safetensors")
        index = {"weight_map": {k: "../outside.safetensors" for k in header if k != "__metadata__"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        self.fails(model, "../outside.safetensors")

    def test_no_tokenizer(self):
        _, err = apus("tokenize", HYBRID, "hello", status=1)
        self.assertIn("tokenizer.json", err)
        _, err = apus("run", HYBRID, "-p", "hello", status=1)


@unittest.skipUnless((TINY / "model.safetensors").exists(), "the tiny models are not there")
class Tiny(Case):
    def test_default_model_is_found_and_named(self):
        out, err = apus("run", "-p", "Hello!", "--temp", "0", "--no-think", "-n", "40")
        self.assertTrue(out.strip())
        self.assertIn("built-in", err)

    def test_forms_of_the_prompt_agree(self):
        (self.dir / "p.txt").write_text("What is 12 + 30?")
        want = apus("run", TINY, "-p", "What is 12 + 30?", "--temp", "0", "--no-think")[0]
        self.assertEqual(apus("run", TINY, "-f", self.dir / "p.txt", "--temp", "0", "--no-think")[0], want)
        self.assertEqual(apus("run", TINY, "--temp", "0", "--no-think", stdin="What is 12 + 30?")[0], want)
        answer = json.loads(apus("run", TINY, "-p", "What is 12 + 30?", "--temp", "0", "--no-think", "--json")[0])
        self.assertEqual(answer["message"]["content"].strip(), want.strip())
        self.assertEqual(answer["message"]["role"], "assistant")

    def test_prompts_that_cannot_be(self):
        latin, empty = self.dir / "latin.txt", self.dir / "empty.jinja"
        latin.write_bytes(b"caf\xe9")
        empty.write_text("{# nothing #}")
        _, err = apus("run", TINY, "-f", latin, status=1)
        self.assertIn("latin.txt: byte 4 (E9) is not UTF-8", err)
        _, err = apus("run", TINY, "hi", "--system", b"\xed\xa0\x80", status=1)
        self.assertIn("--system: byte 1 (ED) is not UTF-8", err)
        _, err = apus("run", TINY, "hi", "--chat-template-file", empty, status=1)
        self.assertIn("the chat template makes an empty prompt", err)

    def test_advice_that_cannot_be_read(self):
        model = self.dir / "model"
        shutil.copytree(TINY, model)
        (model / "generation_config.json").unlink()
        (model / "generation_config.json").mkdir()
        _, err = apus("run", model, "hi", "-n", "1")
        self.assertIn("generation_config.json: is a folder, expected a file; the file is left out", err)

    def test_tokenize_round_trip(self):
        text = "Hello, Wörld! 🙂 <|im_end|> 12345\n\n  x"
        ids = apus("tokenize", TINY, text)[0]
        self.assertEqual(apus("tokenize", TINY, "--decode", ids.strip())[0], text)
        self.assertEqual(apus("tokenize", TINY, stdin=text)[0], ids)
        self.assertEqual(apus("tokenize", TINY, "--decode", stdin=ids)[0], text)
        markers = "<|im_end|><think></think><tool_call> </tool_response>"
        ids = apus("tokenize", TINY, "--no-special", markers)[0]
        self.assertEqual(apus("tokenize", TINY, "--decode", ids.strip())[0], markers)
        for marker in ("<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_response>"):
            self.assertNotIn(apus("tokenize", TINY, marker)[0].strip(), ids.split())
        broken = apus("tokenize", TINY, stdin=b"a\xff\xc3b")[0]
        self.assertEqual(apus("tokenize", TINY, "--decode", stdin=broken)[0], "a\ufffd\ufffdb")

    def test_render_and_run_agree(self):
        messages = self.dir / "m.json"
        messages.write_text(json.dumps([{"role": "user", "content": "What is 12 + 30?"}]))
        text = apus("render", TINY, "--messages", messages, "--no-think")[0]
        self.assertIn("What is 12 + 30?", text)
        ids = apus("render", TINY, "--messages", messages, "--no-think", "--tokens")[0]
        self.assertEqual(apus("tokenize", TINY, "--no-bos", stdin=text)[0], ids)
        (self.dir / "ids").write_text(ids)
        new = apus("run", TINY, "--ids", self.dir / "ids", "--print-ids", "--temp", "0")[0]
        content = apus("tokenize", TINY, "--decode", stdin=new)[0]
        self.assertEqual(content.strip(), apus("run", TINY, "-p", "What is 12 + 30?", "--temp", "0", "--no-think")[0].strip())

    def test_what_people_say_is_text(self):
        """A marker in a message is no marker: the prompt is that of the same characters as text."""
        for model, marker in ((TINY, "<|im_end|>"), (TINY, "<think>"), (ROOT / "models/tiny-gemma", "<turn|>")):
            said = f"What is 12 + {marker}30?"
            m = self.dir / "said.json"
            m.write_text(json.dumps([{"role": "user", "content": said}]))
            guarded = apus("render", model, "-m", m, "--tokens", "--guarded")[0].split()
            read = apus("render", model, "-m", m, "--tokens")[0].split()
            self.assertGreater(len(guarded), len(read), marker)
            self.assertEqual(apus("render", model, "-m", m, "--guarded"), apus("render", model, "-m", m))
            for args in (["-p", said], ["--messages", m]):
                answer = json.loads(apus("run", model, *args, "-n", "1", "--json")[0])
                self.assertEqual(answer["usage"]["prompt_tokens"], len(guarded), marker)
            told = apus("chat", model, "-n", "1", "-c", "512", stdin=said + "\n")
            self.assertIn(f"prompt {len(guarded)} tokens", "".join(told), marker)

    def test_bad_messages_and_templates(self):
        bad = self.dir / "m.json"
        for text in ("", "{", "{}", '[{"content": "x"}]', "[1]", '"x"'):
            bad.write_text(text)
            _, err = apus("render", TINY, "--messages", bad, status=1)
            self.assertTrue(err.strip())
        bad.write_text(json.dumps([{"role": "user", "content": "x"}]))
        model = self.dir / "model"
        shutil.copytree(TINY, model)
        for template, fragment in (("{% for i in range(10 ** 9) %}{% for j in range(10 ** 9) %}x{% endfor %}{% endfor %}", ""),
                                   ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", ""),
                                   ("{{ raise_exception('no such luck') }}", "no such luck"), ("{% if %}", "line 1"),
                                   ("{{ " + "(" * 100000, "")):
            (model / "chat_template.jinja").write_text(template)
            start = time.time()
            _, err = apus("render", model, "--messages", bad, status=1)
            self.assertIn(fragment, err)
            self.assertLess(time.time() - start, 60)

    def test_chat_from_a_pipe(self):
        out, _ = apus("chat", TINY, "--temp", "0", "--no-think", stdin="What is 12 + 30?\n/new\n/help\n/nonsense\n/exit\n")
        self.assertIn("42", out)
        self.assertIn("/system", out)
        self.assertIn("unknown command", out)

    @unittest.skipIf(os.environ.get("APUS_EMULATOR"), "terminal test runs natively only")
    def test_chat_on_a_terminal(self):
        try:
            pid, fd = pty.fork()
        except OSError as e:  # no /dev/pts, as in a bare chroot
            self.skipTest(str(e))
        if pid == 0:
            os.environ.update(TERM="xterm", XDG_STATE_HOME=str(self.dir))
            os.execv(APUS[0], APUS + ["chat", str(TINY), "--temp", "0", "--no-think"])

        def wait_for(text, seconds=60, then=b""):
            seen, end = b"", time.time() + seconds
            while time.time() < end:
                if select.select([fd], [], [], 0.2)[0]:
                    try:
                        seen += os.read(fd, 65536)
                    except OSError:
                        break
                if text in seen and then in seen.split(text, 1)[1]:
                    time.sleep(0.5)  # the editor drops keys until it has set up the terminal
                    return seen
            raise AssertionError(f"{text!r} did not come: {seen!r}")
        wait_for(b"> ")
        os.write(fd, b"What is 12 + 31?\x7f\x7f0?\n")  # edited before it is sent
        wait_for(b"tok/s", then=b"> ")
        os.write(fd, b"\x04")
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        self.assertTrue((self.dir / "apus/history").exists())

    def test_contexts_that_do_not_fit_are_refused_before_loading(self):
        copy = self.dir / "endless"
        shutil.copytree(TINY, copy)
        config = json.loads((copy / "config.json").read_text())
        config.get("text_config", config)["max_position_embeddings"] = 1 << 28
        (copy / "config.json").write_text(json.dumps(config))
        ids = self.dir / "few_ids.txt"
        ids.write_text("1 2 3")
        text = self.dir / "long.txt"
        text.write_text("word " * 2000)
        ctx = ["--ctx", 1 << 28, "--kv", "f32"]
        for args in (["run", copy, "-p", "x", *ctx], ["chat", copy, *ctx], ["bench", copy, *ctx],
                     ["perplexity", copy, "-f", text, *ctx],
                     ["logits", copy, "--ids", ids, "-o", self.dir / "l.safetensors", *ctx],
                     ["run", copy, "--ids", ids, "-n", 1 << 28, "--kv", "f32"],
                     ["run", copy, "-p", "x", "-n", 1 << 28, "--kv", "f32"],
                     ["run", copy, "-f", text, "-n", 1 << 28, "--kv", "f32"]):
            _, err = apus(*args, status=1)
            self.assertIn("GB are available, of which the weights take 0.01", err, args)
            self.assertRegex(err, r"would fit: ctx \d+", args)
        # what the model was not made for is refused as early
        _, err = apus("run", TINY, "-p", "x", "--ctx", 1 << 28, status=1)
        self.assertIn("expected 0 to 8192", err)

    def test_interrupt_stops_a_run(self):
        p = subprocess.Popen(APUS + ["run", str(TINY), "-p", "hi", "--ignore-eos", "--ctx", "8000", "--cpumask", "ref"],
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        p.stdout.read(1)
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=60)
        self.assertEqual(p.returncode, 130)


if __name__ == "__main__":
    emulator = os.environ.get("APUS_EMULATOR")
    if emulator:
        APUS = emulator.split(";") + APUS
    unittest.main(argv=sys.argv[:1], verbosity=1)
