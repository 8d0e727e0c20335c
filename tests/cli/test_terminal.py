#!/usr/bin/env python3
"""What a person at a terminal meets: chat in a pseudo-terminal, prompts and options as people type them.

    test_terminal.py APUS SOURCE_DIR
"""
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
from pathlib import Path

APUS = [sys.argv[1]]
ROOT = Path(sys.argv[2])
TINY = ROOT / "models/tiny-qwen"
GEMMA = ROOT / "models/tiny-gemma"
HYBRID = ROOT / "tests/golden/data/q35moe_fused"
COMMANDS = ("run", "chat", "info", "tokenize", "render", "logits", "bench", "perplexity", "quantize", "synth", "pull", "list", "rm")
GREEDY = ["--temp", "0", "--no-think"]
QUESTION = "What is 12 + 30?"


def apus(*args, stdin="", status=0):
    r = subprocess.run(APUS + [a if isinstance(a, bytes) else str(a) for a in args], input=stdin.encode(), capture_output=True, timeout=300)
    out, err = r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")
    if r.returncode != status:
        raise AssertionError(f"{args}: status {r.returncode}, expected {status}\n{out}\n{err}")
    return out, err


if "  serve " in apus("--help")[0]:  # built with its library
    COMMANDS += ("serve",)


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = Path(tempfile.mkdtemp())

    def tearDown(self):
        shutil.rmtree(self.dir)

    def file(self, name, text):
        path = self.dir / name
        path.write_text(text)
        return path


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, args, state, columns=80, **env):
        try:
            self.pid, self.fd = pty.fork()
        except OSError as e:  # no /dev/pts, as in a bare chroot
            raise unittest.SkipTest(str(e))
        if self.pid == 0:
            for name in ("LC_ALL", "LC_CTYPE", "LANG", "VISUAL", "EDITOR"):
                os.environ.pop(name, None)
            os.environ.update(TERM="xterm", XDG_STATE_HOME=str(state), HOME=str(state), **env)
            os.execv(APUS[0], APUS + [str(a) for a in args])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.seen = b""

    def wait(self, text, seconds=60):
        """Everything up to and with `text`, which is bytes or a pattern."""
        pattern = re.compile(text if isinstance(text, bytes) else text.encode(), re.S)
        end = time.time() + seconds
        while time.time() < end:
            m = pattern.search(self.seen)
            if m:
                out, self.seen = self.seen[:m.end()], self.seen[m.end():]
                return out.decode(errors="replace")
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.fd, 65536)
                except OSError:
                    break
        raise AssertionError(f"{text!r} did not come: {self.seen!r}")

    def prompt(self):
        out = self.wait(rb"\x1b\[\?2004h.*?> ")
        self.ready()
        return out

    def ready(self):
        """Until the editor has set up the terminal."""
        while termios.tcgetattr(self.fd)[3] & termios.ICANON:
            time.sleep(0.005)

    def paste(self, text):
        self.type("\x1b[200~" + text + "\x1b[201~")

    def type(self, text):
        os.write(self.fd, text if isinstance(text, bytes) else text.encode())

    def ask(self, text):
        """Type a line, wait for the answer and the next prompt; what came."""
        self.type(text)
        self.type("\r")
        return self.prompt()

    def end(self, status=0):
        while True:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        got = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        if got != status:
            raise AssertionError(f"status {got}, expected {status}")

    def kill(self, sig=signal.SIGKILL):
        os.kill(self.pid, sig)
        self.end(-sig)


def tokens(model, messages, where):
    path = where / "m.json"
    path.write_text(json.dumps(messages))
    return apus("render", model, "--messages", path, "--tokens", "--no-think")[0].split()


@unittest.skipIf(os.environ.get("APUS_EMULATOR"), "terminal tests run natively only")
class Chat(Case):
    def chat(self, *args, model=TINY, **env):
        t = Terminal(["chat", model, *GREEDY, *args], self.dir, **env)
        t.prompt()
        return t

    def sent(self):
        """The last message of the history file, as it was sent."""
        line = (self.dir / "apus/history").read_text().splitlines()[-1]
        return re.sub(r"\\(\d{3})", lambda m: chr(int(m.group(1), 8)), line).replace("\\\\", "\\")

    def test_every_character_arrives(self):
        for env in ({}, {"LANG": "C"}, {"LC_ALL": "POSIX"}, {"LC_ALL": "C.UTF-8"}, {"LANG": "xx_YY.nonsense"}):
            t = self.chat(**env)
            text = "Grüße, мир 世界 🙂 é"
            t.ask(text)
            self.assertEqual(self.sent(), text, env)
            t.type("äöü\x7f\x7f")  # rubbing out takes whole characters
            t.type("b\r")
            t.prompt()
            self.assertEqual(self.sent(), "äb", env)
            t.type(b"\xff\xe4 x\r")  # not UTF-8
            t.prompt()
            t.type("\x04")
            t.end()

    def test_ctrl_c_gives_a_line_up(self):
        t = self.chat()
        t.type("not this")
        t.wait("not this")  # what was not read yet would be dropped by the terminal
        t.type("\x03")
        self.assertNotIn("leaves", t.prompt())
        t.type("\x03")
        self.assertIn("Ctrl-D or /exit leaves", t.prompt())
        self.assertIn("42", t.ask(QUESTION))
        t.type('"""\r')
        t.wait(rb"\. ")
        t.ready()
        t.type("in a block")
        t.wait("in a block")
        t.type("\x03")
        t.prompt()
        self.assertIn("42", t.ask(QUESTION))
        self.assertNotIn("not this", (self.dir / "apus/history").read_text())
        t.type("/exit\r")
        t.end()

    def test_ctrl_c_stops_an_answer(self):
        t = self.chat("--cpumask", "ref", "-c", "4000")
        t.type("Sort these words: " + " ".join(f"w{i * 37 % 100}" for i in range(100)) + "\r")
        t.wait(rb"\n[^\n]+")
        t.type("\x03")
        out = t.prompt()
        self.assertTrue("[stopped" in out or "tok/s" in out, out)
        out = t.ask(QUESTION)
        if "Ctrl-D" in out:  # the answer had ended before, and the key met the prompt
            out = t.prompt()
        self.assertIn("42", out)
        t.type("\x04")
        t.end()

    def test_a_stopped_prompt_keeps_what_was_read(self):
        t = self.chat("--prefill-chunk", "16", "-c", "8192", "-t", "1")
        t.paste("The red fox has the code 12. " * 250)
        t.type("\r")
        t.wait(rb"prefill .* [1-9]\d? %")
        t.type("\x03")
        out = t.prompt()
        m = re.search(r"stopped: (\d+) of (\d+) tokens are read", out)
        self.assertTrue(m, out)
        read, total = int(m.group(1)), int(m.group(2))
        self.assertTrue(16 <= read < total, out)
        t.type("/again\r")
        out = t.wait(r"prompt (\d+) tokens", 120)
        self.assertEqual(int(re.findall(r"prompt (\d+) tokens", out)[-1]), total - read)
        t.prompt()
        t.type("\x04")
        t.end()

    def test_history_outlives_a_crash(self):
        t = self.chat()
        t.ask("first äöü")
        t.ask(QUESTION)
        t.kill()
        t = self.chat()
        t.type("\x1b[A\x1b[A")
        t.wait("first äöü")
        t.type("\r")
        t.prompt()
        t.type("\x04")
        t.end()
        self.assertEqual(os.stat(self.dir / "apus/history").st_mode & 0o777, 0o600)
        self.assertEqual(self.sent(), "first äöü")

    def test_a_paste_is_one_question(self):
        t = self.chat()
        for end in ("\r", "\n", "\r\n"):
            t.paste(end.join(["What is", "12 + 30?", "", "\tyes\x07", ""]))
            out = t.ask("!")
            self.assertEqual(out.count("tok/s"), 2, out)  # one prompt, one answer
            self.assertEqual(self.sent(), "What is\n12 + 30?\n\n\tyes!")
        t.paste("/exit\nis what he said")
        t.ask("")
        self.assertEqual(self.sent(), "/exit\nis what he said")
        t.type("ab\x1b[200~äö\x1b[201~\x1b[D\x1b[200~x\x1b[201~")  # within a line, before the cursor
        t.ask("")
        self.assertEqual(self.sent(), "abäxö")
        t.paste("long line of text " * 1000)
        t.wait("of text")
        t.type("\x03")
        t.prompt()
        t.type("\x04")
        t.end()

    def test_blocks_and_backslashes(self):
        t = self.chat()
        for lines, want in ((['"""What is', '', '12 + 30?"""'], "What is\n\n12 + 30?"),
                            (['"""', 'a', '  b', '"""'], "a\n  b"), (['"""one line"""'], "one line"),
                            (['a\\', 'b\\', 'c'], "a\nb\nc")):
            for line in lines[:-1]:
                t.type(line + "\r")
                t.wait(rb"\x1b\[\?2004h[^>]*\. ")
                t.ready()
            t.ask(lines[-1])
            self.assertEqual(self.sent(), want)
        t.type('/system """be\r')
        t.wait(rb"\. ")
        t.ready()
        self.assertIn("system message set", t.ask('brief"""'))
        t.type("\x04")
        t.end()

    def test_editors(self):
        editor = self.file("ed", '#!/bin/sh\ncat "$2" > "$1.seen"\nprintf "%s\\n\\n12 + 30?\\n" "What is" > "$2"\n')
        editor.chmod(0o755)
        for env in ({"EDITOR": f"{editor} {self.dir}/x"}, {"VISUAL": f"{editor} {self.dir}/x", "EDITOR": "false"}):
            t = self.chat(**env)
            self.assertIn("12 + 30", t.ask("/edit a draft"))
            self.assertEqual(self.sent(), "What is\n\n12 + 30?")
            self.assertEqual((self.dir / "x.seen").read_text(), "a draft")
            t.type("another draft\x18\x05")
            t.prompt()
            self.assertEqual((self.dir / "x.seen").read_text(), "another draft")
            t.type("\x04")
            t.end()
        t = self.chat(EDITOR="false")
        self.assertIn("nothing is sent", t.ask("/edit"))
        t.type("\x04")
        t.end()

    def test_signals_leave_the_terminal_as_it_was(self):
        t = self.chat()
        before = termios.tcgetattr(t.fd)[3]
        self.assertFalse(before & termios.ICANON)
        os.kill(t.pid, signal.SIGTERM)
        t.wait(rb"\x1b\[\?2004l")
        self.assertTrue(termios.tcgetattr(t.fd)[3] & termios.ICANON)
        t.end(-signal.SIGTERM)

    def test_nothing_that_a_model_says_commands_the_terminal(self):
        # The tiny model copies what it is told.
        for c in ("\u009b31m", "\x1b[31m", "\u0085", "\x07", "\x7f"):
            run = Terminal(["run", TINY, "--raw", *GREEDY[:2], "-n", "1", "-p", "x"], self.dir)
            run.wait(rb"tok/s")
            run.end()
            t = Terminal(["tokenize", TINY, "--decode", apus("tokenize", TINY, "a" + c + "b")[0].strip()], self.dir)
            out = t.wait("b\r\n")
            self.assertNotIn(c[0], out)
            self.assertRegex(out, r"a(\^[\[G?]|<U\+00\w\w>)")
            t.end()
            self.assertIn(c, apus("tokenize", TINY, "--decode",  # a pipe gets every byte
                                  apus("tokenize", TINY, "a" + c + "b")[0].strip())[0])
        messages = self.file("c1.json", json.dumps([{"role": "user", "content": "a\u009b2Jb\x1b[2J"}]))
        t = Terminal(["render", TINY, "--messages", messages], self.dir)
        out = t.wait("assistant")
        self.assertNotIn("\u009b", out)
        self.assertNotIn("\x1b[2J", out)
        self.assertIn("a<U+009B>2Jb^[[2J", out)
        t.end()
        t = Terminal(["run", "no\u009b2Jmodel", "x"], self.dir)
        self.assertNotIn("\u009b", t.wait("no such file"))
        t.end(1)


class Conversation(Case):
    """chat from a pipe."""

    def chat(self, *lines, args=(), model=TINY):
        return apus("chat", model, *GREEDY, *args, stdin="".join(x + "\n" for x in lines))

    def test_what_is_no_command_is_answered_with_help(self):
        for word in ("/", "/ foo", "/e", "/ex", "/exi", "/q", "/nonsense", "/new now", "/home/x/y.c", "/exit now"):
            out, _ = self.chat(word, QUESTION)
            self.assertIn("42", out, word)
            self.assertTrue("/system" in out or "takes no text" in out, word)
        self.assertIn("did you mean /edit or /exit?", self.chat("/e")[0])
        self.assertIn("did you mean /system?", self.chat("/sys x")[0])
        for word in ("/exit", "/quit", "/bye"):
            self.assertNotIn("42", self.chat(word, QUESTION)[0])

    def test_a_message_that_begins_with_a_slash(self):
        # What the model was sent is seen in the count of its tokens.
        n = len(tokens(TINY, [{"role": "user", "content": "/exit is a word"}], self.dir))
        out, err = self.chat("//exit is a word")
        self.assertIn(f"prompt {n} tokens", err)
        self.assertTrue(out.strip())

    def test_commands_confirm(self):
        out, _ = self.chat("/new", "/system be brief", "/system", "/system", "/think", "/think on", "/think off",
                           "/think maybe", "/again")
        lines = out.splitlines()
        self.assertEqual(lines, ["a new conversation", "system message set; a new conversation",
                                 "system message removed; a new conversation",
                                 "no system message; a new conversation", "thinking is off", "thinking is on",
                                 "thinking is off", "expected /think on or /think off", "thinking is off",
                                 "nothing was asked yet"])

    def test_a_full_context_says_what_helps(self):
        out, err = self.chat("word " * 300, QUESTION, args=["-c", "128"])
        self.assertRegex(err, r"has \d+ tokens and the context room for 128: /new .*-c N .*up to 8192")
        self.assertIn("42", out)
        out, _ = self.chat("Sort these words: " + "pear apple fig " * 12, args=["-c", "96"])
        self.assertRegex(out, r"context of 96 tokens is full; /new .*-c N .*8192")

    def test_the_shared_prefix_is_not_read_again(self):
        for model in (TINY, GEMMA):
            messages, held, counts, answers = [], [], [], []
            questions = [QUESTION, "What is 7 + 8?", QUESTION]
            for q in questions:
                messages.append({"role": "user", "content": q})
                prompt = tokens(model, messages, self.dir)
                same = 0
                while same < min(len(held), len(prompt) - 1) and held[same] == prompt[same]:
                    same += 1
                counts.append(len(prompt) - same)
                new = apus("run", model, "--ids", self.file("ids", " ".join(prompt)), "--print-ids", "--temp", "0")[0]
                answer = apus("run", model, *GREEDY, "--messages", self.file("q", json.dumps(messages)))[0][:-1]
                held = prompt + new.split()[:-1]  # the last token is not fed
                answers.append(answer)
                messages.append({"role": "assistant", "content": answer})
            out, err = self.chat(*questions, model=model)
            self.assertEqual([int(n) for n in re.findall(r"prompt (\d+) tokens", err)], counts, model)
            self.assertEqual(out, "".join(a + "\n" for a in answers))
            # The same prompt again: all but one token is held.
            out, err = self.chat(QUESTION, "/again", "/again", model=model)
            self.assertEqual([int(n) for n in re.findall(r"prompt (\d+) tokens", err)][1:], [1, 1])
            self.assertEqual(out, (answers[0] + "\n") * 3)
            # Another beginning: nothing is held beyond what is equal.
            out, err = self.chat(QUESTION, "/system You are a helper.", QUESTION, model=model)
            fresh = apus("run", model, *GREEDY, "--system", "You are a helper.", "-p", QUESTION)[0]
            self.assertTrue(out.endswith(fresh), (out, fresh))


class Run(Case):
    def prompt_of(self, text):
        return len(tokens(TINY, [{"role": "user", "content": text}], self.dir))

    def check(self, text, *args, stdin=""):
        """The prompt was that text."""
        want = apus("run", TINY, *GREEDY, "-f", self.file("want", text))
        got = apus("run", TINY, *GREEDY, *args, stdin=stdin)
        self.assertEqual(got[0], want[0])
        self.assertIn(f"prompt {self.prompt_of(text)} tokens", got[1])

    def test_forms(self):
        self.check(QUESTION, QUESTION)
        self.check(QUESTION, "-p", QUESTION)
        self.check("12 + 30 = x\n\nWhat is x?", "-p", "What is x?", stdin="12 + 30 = x\n")
        self.check("12 + 30 = x\n\nWhat is x?", "What is x?", stdin="12 + 30 = x\n\n")
        self.check("12 + 30 = x\n\nWhat is x?", "-f", self.file("f", "What is x?"), stdin="12 + 30 = x")
        self.check(QUESTION, "-p", QUESTION, stdin=" \n")
        want = apus("run", TINY, *GREEDY, "-p", QUESTION)[0]
        for args in (["-m", TINY, QUESTION], ["--model", TINY, "-p", QUESTION], ["-hf", TINY, QUESTION],
                     [TINY, QUESTION, "--temperature=0"]):
            self.assertEqual(apus("run", "--no-think", "--temp", "0", *args)[0], want)
        self.assertIn("42", want)
        self.check(QUESTION, "-", stdin=QUESTION)
        self.assertIn("given with --prompt", apus("run", QUESTION, status=2)[1])

    def test_standard_input_that_holds_nothing_is_not_waited_for(self):
        for stdin in (subprocess.DEVNULL,):
            r = subprocess.run(APUS + ["run", str(TINY), "-p", QUESTION, *GREEDY], stdin=stdin, capture_output=True,
                               timeout=60)
            self.assertIn(b"42", r.stdout)
        p = subprocess.Popen(APUS + ["run", str(TINY), "-p", QUESTION, *GREEDY], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertIn(b"waiting for standard input", p.stderr.readline())
        out, _ = p.communicate(b"", timeout=60)
        self.assertIn(b"42", out)

    def test_an_empty_prompt(self):
        for args, stdin in ((["-p", ""], ""), ([""], ""), ([], ""), ([], " \n"), (["-f", self.file("e", "")], ""),
                            (["--raw"], ""), (["-p", ""], "text")):
            _, err = apus("run", TINY, *args, stdin=stdin, status=2)
            self.assertIn("the prompt is empty", err, args)

    def test_cut_answers_are_told(self):
        _, err = apus("run", TINY, "-p", QUESTION, "--think", "--temp", "0", "-n", "3")
        self.assertIn("cut after 3 tokens, all of them spent on thinking", err)
        _, err = apus("run", TINY, "-p", QUESTION, *GREEDY, "-n", "3")
        self.assertIn("cut after 3 tokens; -n N allows more", err)
        _, err = apus("run", TINY, "-p", "Sort these words: " + "pear apple fig " * 12, *GREEDY, "-c", "96")
        self.assertIn("context of 96 tokens is full, -c N makes it larger, up to 8192", err)
        self.assertNotIn("cut", apus("run", TINY, "-p", QUESTION, *GREEDY)[1])

    def test_the_answer_comes_before_the_speed(self):
        r = subprocess.run(APUS + ["run", str(TINY), "-p", QUESTION, *GREEDY], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertRegex(r.stdout.decode(), r"42\n.*tok/s\n$")

    def test_stop_texts(self):
        whole = apus("run", TINY, "-p", QUESTION, *GREEDY)[0]
        self.assertEqual(apus("run", TINY, "-p", QUESTION, *GREEDY, "--stop", "=")[0], whole.split("=")[0] + "\n")
        self.assertEqual(apus("run", TINY, "-p", QUESTION, *GREEDY, "--stop", "zzz", "--stop", "30 =")[0],
                         whole.split("30 =")[0] + "\n")
        self.assertEqual(apus("run", TINY, "-p", QUESTION, *GREEDY, "--stop", "zzz", "--stop", "42!")[0], whole)
        out = json.loads(apus("run", TINY, "-p", QUESTION, *GREEDY, "--stop", " = ", "--json")[0])
        self.assertEqual(out["finish_reason"], "stop")
        self.assertEqual(out["message"]["content"], whole.split(" = ")[0])
        apus("run", TINY, "-p", QUESTION, "--stop", "", status=2)
        self.assertIn("stop string 0: expected UTF-8", apus("run", TINY, "-p", QUESTION, "--stop", b"\xff", status=1)[1])

    def test_stop_texts_end_what_was_asked_for(self):
        thinking = json.loads(apus("run", TINY, "-p", QUESTION, "--think", "--temp", "0", "--json")[0])["message"]
        word = next(w for w in thinking["reasoning_content"].split() if w not in thinking["content"])
        again = json.loads(apus("run", TINY, "-p", QUESTION, "--think", "--temp", "0", "--json", "--stop", word)[0])
        self.assertEqual(again["message"], thinking)  # thoughts are not the answer
        raw = ["run", TINY, "--raw", "-p", "The word apus is", "--temp", "0", "-n", "20", "--ignore-eos"]
        whole = apus(*raw)[0]
        at = len(whole) // 2
        self.assertEqual(apus(*raw, "--stop", whole[at:at + 5])[0], whole[:whole.index(whole[at:at + 5])])
        ids = apus(*raw, "--print-ids")[0].split()
        some = apus(*raw, "--print-ids", "--stop", whole[at:at + 5])[0].split()
        self.assertTrue(0 < len(some) < len(ids) and some == ids[:len(some)], (some, ids))

    def test_messages_and_tools(self):
        tools = self.file("t.json", json.dumps([{"type": "function", "function": {
            "name": "weather", "description": "the weather", "parameters": {
                "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]))
        messages = [{"role": "user", "content": "What is the weather in Paris?"}]
        path = self.file("msgs.json", json.dumps(messages))
        n = len(apus("render", TINY, "--messages", path, "--tools", tools, "--tokens", "--no-think")[0].split())
        out, err = apus("run", TINY, "--messages", path, "--tools", tools, *GREEDY, "--json")
        self.assertIn(f"prompt {n} tokens", err)
        self.assertEqual(json.loads(out)["message"]["role"], "assistant")
        apus("run", TINY, "--messages", path, "-p", "x", status=2)
        apus("run", TINY, "--messages", path, "--system", "x", status=2)

    def test_templates(self):
        template = self.file("t.jinja", "{{ greeting }}: {{ messages[0].content }}")
        messages = self.file("m2.json", json.dumps([{"role": "user", "content": "hi"}]))
        args = ["--chat-template-file", template, "--chat-template-kwargs", '{"greeting": "Ho"}']
        self.assertEqual(apus("render", TINY, "--messages", messages, *args)[0], "Ho: hi")
        n = len(apus("tokenize", TINY, "--no-bos", "Ho: hi")[0].split())
        self.assertIn(f"prompt {n} tokens", apus("run", TINY, "hi", "-n", "1", *args)[1])
        self.assertIn("t.jinja", apus("render", TINY, "--messages", messages, "--chat-template-file",
                                      self.file("t.jinja", "{% if %}"), status=1)[1])
        _, err = apus("render", TINY, "--messages", messages, "--chat-template-kwargs", "{", status=1)
        self.assertIn("--chat-template-kwargs: line 1", err)

    def test_prompt_cache(self):
        cache, long = self.dir / "cache", "The red fox has the code 12. " * 20
        want = apus("run", TINY, long + QUESTION, *GREEDY)
        first = apus("run", TINY, long + QUESTION, *GREEDY, "--prompt-cache", cache)
        self.assertEqual(first[0], want[0])
        again = apus("run", TINY, long + QUESTION, *GREEDY, "--prompt-cache", cache)
        self.assertEqual(again[0], want[0])
        self.assertIn("prompt 1 tokens", again[1])
        other = apus("run", TINY, long + "What is 7 + 8?", *GREEDY, "--prompt-cache", cache)
        self.assertEqual(other[0], apus("run", TINY, long + "What is 7 + 8?", *GREEDY)[0])
        self.assertLess(int(re.search(r"prompt (\d+) tokens", other[1])[1]), 40)
        text = self.file("notes.txt", "mine")  # what is no cache is never written over
        apus("run", TINY, QUESTION, *GREEDY, "--prompt-cache", text, status=1)
        self.assertEqual(text.read_text(), "mine")

    def test_seeds_and_contexts(self):
        a = apus("run", TINY, QUESTION, "--temp", "2", "-n", "8", "-s", "-1")
        seed = re.search(r"seed (\d+)", a[1])[1]
        self.assertEqual(apus("run", TINY, QUESTION, "--temp", "2", "-n", "8", "-s", seed)[0], a[0])
        self.assertEqual(json.loads(apus("info", TINY, "--json", "-c", "0")[0])["memory"]["ctx"], 8192)
        self.assertIn("42", apus("run", TINY, QUESTION, *GREEDY, "-c", "0")[0])


class Options(Case):
    def test_help_fits_80_columns(self):
        for args in ([], *[[c] for c in COMMANDS]):
            for line in apus(*args, "--help")[0].splitlines():
                self.assertLessEqual(len(line), 80, (args, line))

    def test_ignored_options_are_not_in_help(self):
        for command, absent in (("tokenize", "threads cpumask prefill-chunk ctx precision kv temp seed"),
                                ("render", "threads cpumask prefill-chunk ctx precision kv temp"),
                                ("quantize", "cpumask prefill-chunk ctx precision kv temp"),
                                ("synth", "cpumask prefill-chunk ctx precision kv temp"),
                                ("logits", "temp system think"), ("bench", "temp think"), ("info", "temp think")):
            text = apus(command, "--help")[0]
            for option in absent.split():
                self.assertNotIn(f"--{option}", re.sub(r"'apus.*?'", "", text), command)
                _, err = apus(command, f"--{option}", "1", status=2)
                self.assertIn(f"'{command}' has no use for it", err)

    def test_help_completion_and_manual_agree(self):
        manual = (ROOT / "docs/man/apus.1").read_text().replace("\\-", "-")
        for command in COMMANDS:
            listed = set(re.findall(r"^  (?:-\w,|   ) (--[\w-]+)", apus(command, "--help")[0], re.M))
            script = f"source {ROOT}/cli/completion.bash; COMP_WORDS=(apus {command} --); COMP_CWORD=2; _apus; " \
                     "printf '%s\\n' \"${COMPREPLY[@]}\""
            r = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
            self.assertEqual(set(r.stdout.split()), listed, (command, r.stderr))
            missing = [o for o in listed - {"--help"} if not re.search(rf"Fl -{o[2:]}\b(?!-)", manual)]
            self.assertEqual(missing, [], command)

    def test_answers_of_a_form(self):
        schema = '{"type": "object", "properties": {"sum": {"type": "integer", "maximum": 99}}, "required": ["sum"]}'
        for form in (["--json-schema", schema], ["-jf", self.file("schema.json", schema)]):
            out = apus("run", TINY, QUESTION, *GREEDY, "--json", *form)[0]
            doc = json.loads(json.loads(out)["message"]["content"])
            self.assertTrue(list(doc) == ["sum"] and isinstance(doc["sum"], int) and doc["sum"] <= 99, out)
        out = apus("run", TINY, QUESTION, "--temp", "0", "--raw", "--grammar", self.file("g", 'root ::= "yes" | "no"'))[0]
        self.assertIn(out.strip().removeprefix(QUESTION).strip(), ("yes", "no"))
        for form, status, word in ((["--grammar", "root ::= x"], 1, "rule 'x'"), (["--json-schema", '{"not": {}}'], 1, "#/not"),
                                   (["--grammar", "nosuch"], 1, "nosuch"),
                                   (["--grammar", 'root ::= "a"', "--json-schema", "{}"], 2, "choose one")):
            self.assertIn(word, apus("run", TINY, "x", *form, status=status)[1])

    def test_habits_are_answered(self):
        for args, words in ((["-ngl", "99"], "--device"), (["--n-gpu-layers", "1"], "--device"),
                            (["-ctk", "q8_0"], "--kv"), (["-ctv=f16"], "--kv"), (["--logit-bias", "1+1"], "penalt"),
                            (["-fa", "on"], "leave it out"), (["--format", "x"], "--json-schema"), (["--interactive"], "apus chat"),
                            (["-temp", "1"], "--temp"), (["--draft", "4"], "--speculate N"), (["-md", "x"], "--speculate"),
                            (["--tensor-parallel-size", "2"], "--device"),
                            (["--reasoning-budget", "0"], "--no-think")):
            _, err = apus("run", TINY, "-p", "x", *args, status=2)
            self.assertIn(words, err, args)
            self.assertIn(args[0].split("=")[0], err)
        for args, words in ((["--stop", "x"], "option of run"), (["--tools", "x"], "run"),
                            (["--prompt-cache", "x"], "option of run")):
            self.assertIn(words, apus("chat", TINY, *args, status=2)[1])
        self.assertIn("-m is --messages here", apus("render", "-m", "x", status=2)[1])

    def test_habits_are_understood(self):
        want = apus("run", TINY, QUESTION, *GREEDY, "--system", "Be brief.")[0]
        for args in (["-sys", "Be brief."], ["--system-prompt", "Be brief."], ["--system=Be brief.", "-b", "64"],
                     ["-sys", "Be brief.", "-ub", "32", "--ctx-size", "512", "--repeat-penalty", "1"],
                     ["-sys", "Be brief.", "--max_tokens", "100", "--batch-size", "16"], ["-sys", "Be brief.", "--max-new-tokens", "100"]):
            self.assertEqual(apus("run", TINY, QUESTION, *GREEDY, *args)[0], want, args)

    def test_messages_speak_of_options(self):
        for args, words in ((["run", TINY, "x", "-c", "99999999"], "--ctx: expected 0 to 8192"),
                            (["run", HYBRID, "--ids", self.file("i", "1 2 99999"), "--print-ids"], "token 2"),
                            (["run", TINY, "x", "--top-p", "0"], "top-p"),
                            (["run", TINY, "word " * 300, "-c", "64"], "-c N makes it larger")):
            _, err = apus(*args, status=1)
            self.assertIn(words, err)
            self.assertNotRegex(err, r"apus_|feed 0|\w\[\d|settings")


class Sizes(Case):
    def table(self, model, *args):
        return {r["type"]: r for r in json.loads(apus("info", model, "--json", *args)[0])["quantised"]}

    def test_the_table_is_what_quantize_writes(self):
        for model in (TINY, GEMMA, HYBRID):
            table = self.table(model)
            for to in ("q8_0", "q4_k", "q2_k"):
                path = self.dir / "x.gguf"
                out, _ = apus("quantize", model, path, "--to", to)
                got = json.loads(apus("info", path, "--json")[0])
                if model != GEMMA:  # which holds a table of angles besides
                    self.assertEqual(got["weight_bytes"], table[to]["weights_bytes"], (model, to))
                self.assertAlmostEqual(got["weight_bytes"], table[to]["weights_bytes"], delta=4096)
                bits = got["weight_bytes"] * 8 / got["params_total"]
                self.assertRegex(out, rf"x\.gguf: [\d.]+ [KM]iB, {bits:.2f} bits a weight\n$")
                self.assertNotIn("quantised", got)
                path.unlink()
        out, _ = apus("quantize", TINY, self.dir / "x", "--to", "mlx4")
        self.assertRegex(out, r"x: [\d.]+ MiB, [\d.]+ bits a weight\n$")
        data = (self.dir / "x/model.safetensors").read_bytes()
        n = struct.unpack("<Q", data[:8])[0]
        self.assertEqual(len(data) - 8 - n, self.table(TINY)["mlx4"]["weights_bytes"])

    def test_a_configuration_tells_what_fits(self):
        table = self.table(ROOT / "models/configs/Qwen3.6-35B-A3B")
        self.assertLess(table["q4_k"]["total_bytes"], 24 << 30)
        self.assertGreater(table["q5_k"]["total_bytes"], 24 << 30)
        more = self.table(ROOT / "models/configs/Qwen3.6-35B-A3B", "-c", "0")
        self.assertGreater(more["q4_k"]["total_bytes"], table["q4_k"]["total_bytes"])
        self.assertEqual(more["q4_k"]["weights_bytes"], table["q4_k"]["weights_bytes"])
        out, _ = apus("info", ROOT / "models/configs/Qwen3.6-35B-A3B")
        self.assertRegex(out, r"q4_k +4\.\d+ +19\.\d+ GiB +20\.\d+ GiB")

    def test_names_of_types(self):
        for name, bits in (("Q4_K_M", "q4_k"), ("q4_k_s", "q4_k"), ("Q8_0", "q8_0"), ("q3_K_L", "q3_k"), ("Q6_K", "q6_k"),
                           ("BF16", "bf16"), ("MLX4", "mlx4")):
            a, b = (self.dir / f"{x}{'' if bits == 'mlx4' else '.gguf'}" for x in "ab")
            apus("quantize", TINY, a, "--to", name)
            apus("quantize", TINY, b, bits)  # as the third argument, too
            read = lambda p: (p / "model.safetensors" if p.is_dir() else p).read_bytes()
            self.assertEqual(read(a), read(b), name)
            for p in (a, b):
                shutil.rmtree(p) if p.is_dir() else p.unlink()
        for name in ("q4", "4", "int4", "4bit"):
            self.assertIn("q4_k in a GGUF file and mlx4", apus("quantize", TINY, self.dir / "x", "--to", name, status=2)[1])

    def test_synth_tells_the_size(self):
        out, _ = apus("synth", ROOT / "models/configs/Qwen3.5-4B", self.dir / "y.gguf", "--to", "q2_k", "--layers", "1")
        self.assertRegex(out, r"y\.gguf: [\d.]+ MiB, [\d.]+ bits a weight\n$")


if __name__ == "__main__":
    emulator = os.environ.get("APUS_EMULATOR")
    if emulator:
        APUS = emulator.split(";") + APUS
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=1)
