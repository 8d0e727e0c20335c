"""The two chat formats: rendering by the models' own templates, the text of an answer, and parsing.

A *family* is "qwen" or "gemma". Rendering uses the same Jinja settings as Hugging Face does, so that
the training text is exactly what an engine feeds.
"""
import json
import os
import re

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models")
MODEL_DIR = {"qwen": os.path.join(ROOT, "tiny-qwen"), "gemma": os.path.join(ROOT, "tiny-gemma")}
END = {"qwen": "<|im_end|>", "gemma": "<turn|>"}
ASSISTANT = {"qwen": "<|im_start|>assistant\n", "gemma": "<|turn>model\n"}

# begin, end, picture, video: ids from 1,536 on (model.MARKS)
MEDIA = {"qwen": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
         "gemma": ["<|image>", "<image|>", "<|image|>", "<|video|>"]}

_cache = {}


def load_tokenizer(family):
    """The folder's tokenizer, with the marks of pictures."""
    from tokenizers import AddedToken, Tokenizer
    tok = Tokenizer.from_file(os.path.join(MODEL_DIR[family], "tokenizer.json"))
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in MEDIA[family]])
    return tok


def expand(family, text, tokens):
    """A mark in the rendered text for each picture -> as many as it has tokens, as the processors do."""
    begin, end, mark, _ = MEDIA[family]
    many = mark * tokens
    return text.replace(mark, many if family == "qwen" else begin + many + end)


def render(family, messages, tools, thinking, generate=True):
    """The prompt text of a conversation."""
    if family not in _cache:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.Undefined)
        env.filters["tojson"] = lambda x, **kw: json.dumps(x, ensure_ascii=False)
        with open(os.path.join(MODEL_DIR[family], "chat_template.jinja")) as f:
            _cache[family] = env.from_string(f.read())
    return _cache[family].render(messages=messages, tools=tools or None, enable_thinking=thinking,
                                 add_generation_prompt=generate, bos_token="<bos>")


def answer_text(family, prompt, message, thinking):
    """What the model must write after `prompt` to say `message`, end token included."""
    calls = [c["function"] for c in message.get("tool_calls") or []]
    if family == "qwen":
        text = message["reasoning_content"] + "\n</think>\n\n" if thinking else ""
        text += message["content"]
        for i, c in enumerate(calls):
            text += ("\n" if i else "\n\n" if message["content"] else "") + f"<tool_call>\n<function={c['name']}>\n"
            for k, v in c["arguments"].items():
                text += f"<parameter={k}>\n{v if isinstance(v, str) else json.dumps(v)}\n</parameter>\n"
            text += "</function>\n</tool_call>"
        return text + END[family]
    text = ""
    if thinking:
        text = "" if prompt.endswith("<|channel>thought\n") else "<|channel>thought\n"
        text += message["reasoning_content"] + "\n<channel|>"
    if calls:
        for c in calls:
            fields = ",".join(f'{k}:<|"|>{v}<|"|>' if isinstance(v, str) else f"{k}:{json.dumps(v)}"
                              for k, v in sorted(c["arguments"].items()))
            text += f"<|tool_call>call:{c['name']}{{{fields}}}<tool_call|>"
        return text + "<|tool_response>"
    return text + message["content"] + END[family]


def parse(family, prompt, text):
    """(content, [(name, arguments as text or numbers)]) of an answer; `text` has its special tokens."""
    calls = []
    if family == "qwen":
        if prompt.endswith("<think>\n"):
            if "</think>" not in text:
                return "", []
            text = text.split("</think>", 1)[1]
        text = text.split("<|im_end|>")[0]
        for block in re.findall(r"<tool_call>(.*?)</tool_call>", text, re.S):
            name = re.search(r"<function=([^>\n]+)>", block)
            args = re.findall(r"<parameter=([^>\n]+)>\n(.*?)\n</parameter>", block, re.S)
            calls.append((name.group(1) if name else "", dict(args)))
        return re.sub(r"<tool_call>.*?</tool_call>", "", text, flags=re.S).strip(), calls
    if prompt.endswith("<|channel>thought\n"):
        if "<channel|>" not in text:
            return "", []
        text = text.split("<channel|>", 1)[1]
    text = re.sub(r"<\|channel>.*?<channel\|>", "", text, flags=re.S)
    text = text.split("<turn|>")[0].split("<|tool_response>")[0]
    for name, body in re.findall(r"<\|tool_call>call:([^{]*)\{(.*?)\}<tool_call\|>", text, re.S):
        args = {}
        for key, quoted, bare in re.findall(r'([^:,{}]+):(?:<\|"\|>(.*?)<\|"\|>|([^,]*))(?:,|$)', body, re.S):
            args[key] = quoted if quoted or not bare else json_or_text(bare)
        calls.append((name, args))
    return re.sub(r"<\|tool_call>.*?<tool_call\|>", "", text, flags=re.S).strip(), calls


def json_or_text(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def judge(check, content, calls, tools):
    """True if the answer is exactly right (see README.md)."""
    kind, want = check["kind"], check.get("expect")
    if kind == "text":
        return content == want and not calls
    if kind == "number":
        numbers = re.findall(r"-?\d+", re.sub(r"(\d)\s*-\s*(\d)", r"\1 \2", content))
        return not calls and bool(numbers) and int(numbers[-1]) == want
    if kind == "json":
        got = json_or_text(content)
        return not calls and isinstance(got, dict) and got == want and list(got) == list(want)
    if kind == "call":
        if len(calls) != 1 or calls[0][0] != check["name"]:
            return False
        properties = next((t["function"]["parameters"]["properties"] for t in tools
                           if t["function"]["name"] == check["name"]), {})
        got = {k: json_or_text(v) if isinstance(v, str) and properties.get(k, {}).get("type") != "string" else v
               for k, v in calls[0][1].items()}
        return got == check["arguments"] and not content
    raise ValueError(kind)
