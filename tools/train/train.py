"""Trains one tiny model from scratch; needs one GPU (a CPU works for a smoke test).

    python train.py qwen --budget 1200 --dir run

The clock is the schedule: learning rate, text length and data mix follow the trained seconds. A run
stopped by --stop goes on from its checkpoint when it is started again with the same --dir. Worker
processes write conversations all the time; a batch that arrives late is replaced by an old one.
"""
import argparse
import math
import os
import queue
import random
import threading
import time

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F

import export
import generate
import pictures
from chatformat import ASSISTANT, END, answer_text, expand, load_tokenizer, parse, judge, render
from model import MARKS, Tiny

TOKENS = int(os.environ.get("TINY_TOKENS", 33792))      # tokens of one batch, whatever its row length
SEEN_LENGTHS = {"qwen": [128, 192], "gemma": [128, 256]}   # of rows with one picture, with two
LENGTHS = [n for n in (64, 128, 192, 256, 384, 512, 704, 1024, 1408, 2112, 2816, 4224) if TOKENS % n == 0]


# ---------------------------------------------------------------------------------- data

class Encoder:
    """Conversation -> (token ids, kind of each token: 1 prompt, 2 answer)."""

    def __init__(self, family):
        self.family, self.tok = family, load_tokenizer(family)
        self.start = self.ids(ASSISTANT[family])
        self.end = self.tok.token_to_id(END[family])

    def ids(self, text):
        return self.tok.encode(text, add_special_tokens=False).ids

    def count(self, texts):
        return [len(e.ids) for e in self.tok.encode_batch(texts, add_special_tokens=False)]

    def prompt(self, item):
        return render(self.family, item["messages"][:-1], item["tools"], item["thinking"])

    def head(self, item):
        """Ids of the prompt, pictures expanded."""
        prompt = self.prompt(item)
        if "grid" in item:
            prompt = expand(self.family, prompt, item["grid"][0] * item["grid"][1])
        return self.ids(prompt)

    def __call__(self, item):
        prompt = self.prompt(item)
        head = self.head(item)
        tail = self.ids(answer_text(self.family, prompt, item["messages"][-1], item["thinking"]))
        kind = [1] * len(head)
        i, s = 0, self.start                              # earlier assistant turns are answers, too
        while i < len(head) - len(s):
            if head[i:i + len(s)] == s:
                i += len(s)
                try:
                    stop = head.index(self.end, i)
                except ValueError:
                    break
                kind[i:stop + 1] = [2] * (stop + 1 - i)
                i = stop
            i += 1
        return head + tail, kind + [2] * len(tail)


def see(rng, family, **kw):
    """A conversation about pictures of one size."""
    grid = generate.pick(rng, pictures.GRIDS[family])
    return {**pictures.conversation(rng, pictures.grid_size(family, grid), **kw), "grid": grid}


def rope_positions(ids, grid):
    """i16 [L, 3]: a picture's tokens count rows and columns from where it begins, and take its longer side."""
    out, at, i = np.zeros((len(ids), 3), np.int16), 0, 0
    rows, columns = grid
    while i < len(ids):
        if ids[i] == MARKS["image"]:
            n = np.arange(rows * columns)
            out[i:i + len(n)] = at + np.stack([0 * n, n // columns, n % columns], -1)
            i, at = i + len(n), at + max(grid)
        else:
            out[i], i, at = at, i + 1, at + 1
    return out


def longest(seconds):
    """Recall texts grow from 300 to 4000 tokens in the first minutes."""
    return int(min(4000, 300 * (4000 / 300) ** min(1.0, max(0.0, seconds - 40) / 140)))


def text_item(rng, enc, seconds, share):
    cap = longest(seconds)
    p_long = share * 170 / (share * 170 + (1 - share) * cap * 0.5)
    if rng.random() >= p_long:
        return generate.conversation(rng)
    u = rng.random()
    size = cap * u if u > 0.35 else math.exp(rng.uniform(math.log(150), math.log(cap)))
    turns = 1 if rng.random() < 0.4 else rng.randint(2, 8)
    return generate.conversation(rng, "recall", tokens=max(120, int(size) - (turns - 1) * 40), count_tokens=enc.count,
                                 turns=turns)


def row_length(family, item, ids):
    """The length of the rows that an item is put in; None: it is too long."""
    lengths = LENGTHS
    if "grid" in item:
        n = len(item["pictures"])
        lengths = SEEN_LENGTHS[family][n - 1:n]
    return next((n for n in lengths if n >= len(ids)), None)


def worker(family, seed, out, clock, share, see_share):
    """Puts batches, as pack makes them, into `out` for ever; see_share of them with pictures."""
    os.environ["RAYON_NUM_THREADS"] = os.environ["TOKENIZERS_PARALLELISM"] = "1"
    torch.set_num_threads(1)
    enc = Encoder(family)
    rng = random.Random(f"train/{family}/{seed}/{time.time_ns()}")
    bins, made = {}, [1, 1]
    while True:
        looks = made[1] < see_share * sum(made)
        item = see(rng, family) if looks else text_item(rng, enc, clock.value, share)
        ids, kind = enc(item)
        length = row_length(family, item, ids)
        if length is None:
            continue
        key = (length, item.get("grid"), len(item.get("pictures", [])))
        rows = bins.setdefault(key, [])
        rows.append((ids, kind, item.get("pictures", [])))
        if len(rows) == TOKENS // length:
            out.put(pack(rows, key))
            bins[key] = []
            made[looks] += 1


def pack(rows, key):
    """Rows padded to the key's length -> (key, ids [rows*length], kinds, what is seen or None). key is (length,
    grid of the pictures, pictures in a row); what is seen is (numbers u8 [N, height, width], palettes u8
    [N, 16, 3], rope positions i16 [rows*length, 3])."""
    length, grid, each = key
    x = torch.zeros(len(rows), length, dtype=torch.int16)
    k = torch.zeros(len(rows), length, dtype=torch.uint8)
    rope = np.zeros((len(rows), length, 3), np.int16)
    for r, (ids, kind, _) in enumerate(rows):
        x[r, :len(ids)] = torch.tensor(ids, dtype=torch.int16)
        k[r, :len(ids)] = torch.tensor(kind, dtype=torch.uint8)
        if each:
            rope[r] = rope_positions(x[r].tolist(), grid)
    seen = None
    if each:
        both = [p for _, _, pictures_of in rows for p in pictures_of]
        seen = np.stack([p[0] for p in both]), np.stack([p[1] for p in both]), rope.reshape(-1, 3)
    return key, x.view(-1).numpy(), k.view(-1).numpy(), seen


class Feed:
    """Fresh batches from the workers; when none is ready, an old one again."""

    MOST = 600                                             # old batches; one with pictures has up to 18 MB

    def __init__(self, family, workers, clock, share, see_share):
        ctx = mp.get_context("fork")
        self.queue = ctx.Queue(maxsize=32)
        self.old, self.fresh, self.again = [], 0, 0
        self.ready = queue.Queue(maxsize=32)
        self.procs = [ctx.Process(target=worker, args=(family, i, self.queue, clock, share, see_share), daemon=True)
                      for i in range(workers)]
        for p in self.procs:
            p.start()
        threading.Thread(target=self.pump, daemon=True).start()

    def pump(self):
        while True:
            key, x, k, seen = self.queue.get()
            seen = seen and tuple(torch.from_numpy(t) for t in seen)
            self.ready.put((key, torch.from_numpy(x), torch.from_numpy(k), seen))

    def get(self):
        try:
            item = self.ready.get(timeout=None if len(self.old) < 24 else 0.002)
            self.fresh += 1
            if len(self.old) < self.MOST:
                self.old.append(item)
            else:
                self.old[random.randrange(self.MOST)] = item
        except queue.Empty:
            item = random.choice(self.old)
            self.again += 1
        return item

    def stop(self):
        for p in self.procs:
            p.terminate()


# ---------------------------------------------------------------------------------- optimiser

def orthogonal(g):
    """Newton-Schulz iteration towards the nearest orthogonal matrix, batched; g [n, r, c]."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    flip = x.shape[-2] > x.shape[-1]
    x = x.transpose(-1, -2) if flip else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        s = x @ x.transpose(-1, -2)
        x = a * x + (b * s + c * s @ s) @ x
    return x.transpose(-1, -2) if flip else x


class Optimiser:
    """Muon for the weight matrices, AdamW for embeddings, norms, routers and the rest."""

    def __init__(self, model, device):
        self.lr = torch.zeros((), device=device)          # relative to the peak rates below
        self.muon_peak, self.adam_peak = 4e-3, 3e-3
        big, slow, rest = {}, [], []
        for name, p in model.named_parameters():
            p.grad = torch.zeros_like(p)
            if any(k in name for k in ("embed_tokens", "lm_head")):
                slow.append(p)
            elif p.dim() >= 2 and not any(k in name for k in ("conv1d", "in_proj_a", "in_proj_b", "router", "mlp.gate.",
                                                              "shared_expert_gate")):
                shape = (p.numel() // p.shape[-1] // p.shape[-2], p.shape[-2], p.shape[-1])
                if "gate_up_proj" in name:
                    shape = (shape[0] * 2, shape[1] // 2, shape[2])
                big.setdefault(shape[1:], []).append((p, shape))
            else:
                rest.append(p)
        self.groups = [(g, torch.zeros(sum(s[0] for _, s in g), *shape, device=device)) for shape, g in big.items()]
        self.adam_lr = torch.zeros((), device=device)
        cuda = device.type == "cuda"
        self.adam = torch.optim.AdamW([{"params": slow, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}],
                                      lr=self.adam_lr if cuda else 1e-3, betas=(0.9, 0.98), eps=1e-9, fused=cuda,
                                      capturable=cuda)
        self.params = list(model.parameters())

    @torch.no_grad()
    def step(self):
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm([p.grad for p in self.params])))
        torch._foreach_mul_([p.grad for p in self.params], (1.0 / norm.clamp(min=1.0)).nan_to_num(0.0))
        for group, moment in self.groups:
            grad = torch.cat([p.grad.reshape(s) for p, s in group])
            moment.lerp_(grad, 0.05)
            u = orthogonal(grad.lerp(moment, 0.95)).float() * (0.2 * max(moment.shape[1:]) ** 0.5)
            at = 0
            for p, s in group:
                rate = self.lr * self.muon_peak
                p.mul_(1 - rate * 0.05).sub_(u[at:at + s[0]].reshape(p.shape) * rate)
                at += s[0]
        self.adam_lr.copy_(self.lr * self.adam_peak)
        self.adam.step()
        torch._foreach_zero_([p.grad for p in self.params])

    def state(self):
        return {"moments": [m for _, m in self.groups], "adam": self.adam.state_dict()}

    def load(self, state):
        for (_, m), s in zip(self.groups, state["moments"]):
            m.copy_(s)
        self.adam.load_state_dict(state["adam"])
        for g in self.adam.param_groups:
            g["lr"] = self.adam_lr if self.lr.is_cuda else 1e-3


def rate(seconds, budget, decay_from):
    """Warm-up, plateau, then linear to nearly zero."""
    if seconds < 15:
        return 0.02 + 0.98 * seconds / 15
    start = decay_from * budget
    return 1.0 if seconds < start else max(0.01, 1 - 0.99 * (seconds - start) / (budget - start))


# ---------------------------------------------------------------------------------- training

def look(numbers, palettes, rope, worn=False):
    """(pixels f32 [N, 3, height, width] from 0 to 1, rope positions) of what is seen; worn: as if resized before."""
    n = torch.arange(numbers.shape[0], device=numbers.device)[:, None, None]
    x = palettes[n, numbers.long()].permute(0, 3, 1, 2).float() / 255
    if worn:
        soft = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        x = torch.lerp(x, soft, torch.rand(x.shape[0], 1, 1, 1, device=x.device))
        x = (x + 0.01 * torch.randn_like(x)).clamp(0, 1)
    return x, rope.long()


class Trainer:
    def __init__(self, family, device, graphs):
        self.family, self.device, self.use_graphs = family, device, graphs
        self.model = Tiny(family, torch.bfloat16 if device.type == "cuda" else torch.float32).to(device)
        self.opt = Optimiser(self.model, device)
        self.ids = torch.zeros(TOKENS, dtype=torch.int64, device=device)
        self.kind = torch.zeros(TOKENS, dtype=torch.int64, device=device)
        self.prompt_weight = torch.zeros((), device=device)
        self.stats = torch.zeros(3, device=device)
        self.graphs, self.pool, self.step_graph = {}, None, None
        self.seen = {}                                     # key -> what is seen, at fixed addresses

    def backward(self, key):
        seen = self.seen[key] if key[2] else None
        answer, prompt, aux = self.model.loss(self.ids, self.kind, TOKENS // key[0], seen and look(*seen, worn=True))
        (answer + self.prompt_weight * prompt + 0.01 * aux).backward()
        self.stats.copy_(torch.stack([answer.detach(), prompt.detach(), aux.detach()]))

    def captured(self, key, work):
        """Run `work`, from the second time on as one recorded GPU graph."""
        if not self.use_graphs:
            return work()
        if key not in self.graphs:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            keep = [p.grad.clone() for p in self.model.parameters()]
            with torch.cuda.stream(side):
                work()
            torch.cuda.current_stream().wait_stream(side)
            for p, g in zip(self.model.parameters(), keep):
                p.grad.copy_(g)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                work()
            self.pool = self.pool or graph.pool()
            self.graphs[key] = graph
        self.graphs[key].replay()

    def batch(self, item):
        key, ids, kind, seen = item
        self.ids.copy_(ids, non_blocking=True)
        self.kind.copy_(kind, non_blocking=True)
        if seen:
            if key not in self.seen:
                self.seen[key] = tuple(torch.empty_like(t, device=self.device) for t in seen)
            for to, t in zip(self.seen[key], seen):
                to.copy_(t, non_blocking=True)
        self.captured(key, lambda: self.backward(key))

    def step(self):
        if not self.use_graphs:
            return self.opt.step()
        if self.step_graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self.opt.step()                            # allocates the states; the gradients are zero after it
            torch.cuda.current_stream().wait_stream(side)
            self.step_graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.step_graph):
                self.opt.step()
            return
        self.step_graph.replay()


def by_rows(family, items, room, device):
    """Items (item, ids, kinds) in whole batches, rows filled up with copies of the last; room: tokens that are added.
    Yields (the batch's items, ids [rows, length], kinds, pictures for Tiny)."""
    bins = {}
    for it, ids, kind in items:
        length = row_length(family, it, ids + [0] * room)
        if length is not None:
            bins.setdefault((length, it.get("grid"), len(it.get("pictures", []))), []).append((it, ids, kind))
    for key, mine in bins.items():
        rows = TOKENS // key[0]
        for at in range(0, len(mine), rows):
            part = mine[at:at + rows]
            full = part + [part[-1]] * (rows - len(part))
            _, x, k, seen = pack([(ids, kind, it.get("pictures", [])) for it, ids, kind in full], key)
            pictures_of = seen and look(*(torch.from_numpy(t).to(device) for t in seen))
            yield (part, torch.from_numpy(x).to(device).long().view(rows, -1), torch.from_numpy(k).to(device).view(rows, -1),
                   pictures_of)


def forced_accuracy(model, items, device):
    """Share of items whose every answer token is the most likely one, given the right tokens before."""
    done = {}
    for part, ids, kind, seen in by_rows(model.family, items, 0, device):
        best = model.logits(ids.view(-1), ids.shape[0], seen).argmax(-1)
        bad = ((best[:, :-1] != ids[:, 1:]) & (kind[:, 1:] == 2)).sum(1).tolist()
        for (it, _, _), b in zip(part, bad):
            done.setdefault((it["skill"], it["thinking"]), []).append(b == 0)
    return {k: sum(v) / len(v) for k, v in done.items()}


@torch.no_grad()
def generate_answers(model, enc, items, device, limit=120):
    """Greedy answers, whole batches at once and without a cache; yields (item, text)."""
    stop = {enc.end, enc.tok.token_to_id("<|tool_response>")}
    heads = [(it, enc.head(it)) for it in items]
    for seen_ones in (False, True):
        room = 48 if seen_ones else limit
        mine = [(it, h, [1] * len(h)) for it, h in heads if ("grid" in it) == seen_ones]
        for part, x, _, seen in by_rows(enc.family, mine, room, device):
            size = torch.tensor([len(h) for _, h, _ in part] + [1] * (x.shape[0] - len(part)), device=device)
            row = torch.arange(x.shape[0], device=device)
            out = []
            for step in range(room):
                best = model.logits(x.view(-1), x.shape[0], seen)[row, size - 1 + step].argmax(-1)
                x[row, size + step] = best
                out.append(best)
                if step % 8 == 7:
                    now = torch.stack(out)[:, :len(part)].t().tolist()
                    if all(any(t in stop for t in r) for r in now):
                        break
            now = torch.stack(out)[:, :len(part)].t().tolist()
            for (it, _, _), r in zip(part, now):
                cut = next((i for i, t in enumerate(r) if t in stop), len(r) - 1)
                yield it, enc.tok.decode(r[:cut + 1], skip_special_tokens=False)


def seen_items(family, seed, n):
    """Held-out questions about pictures of the sizes that are trained."""
    for skill in pictures.SKILLS:
        for thinking in (False, True):
            for i in range(n):
                yield see(random.Random(f"{seed}/{skill}/{thinking}/{i}"), family, skill=skill, held=True, thinking=thinking)


def start_from(model, state):
    """Take over weights; what they lack (eyes, rows of new tokens) stays as it began."""
    own = model.state_dict()
    for name, w in state.items():
        if name in own:
            own[name][tuple(slice(0, n) for n in w.shape)] = w.float()
    model.load_state_dict(own)


def bf16_state(model):
    return {k: v.detach().to(torch.bfloat16).cpu().clone() for k, v in model.state_dict().items()}


def final_test(model, family, enc, device, n, seed):
    """Greedy accuracy per skill and mode of the weights rounded to bfloat16; prints the table."""
    model.load_state_dict({k: v.float() for k, v in bf16_state(model).items()})
    items = list(generate.eval_items(seed, n, enc.count)) + list(seen_items(family, seed, n))
    right, deep, wrong = {}, {}, []
    for it, text in generate_answers(model, enc, items, device):
        content, calls = parse(family, enc.prompt(it), text)
        ok = judge(it["check"], content, calls, it["tools"])
        right.setdefault((it["skill"], it["thinking"]), []).append(ok)
        if it["skill"] == "recall":
            deep.setdefault(min(9, int(it["depth"] * 10)), []).append(ok)
        if not ok:
            wrong.append((it["skill"], it["thinking"], str(it["messages"][-2]["content"])[-80:], text))
    for k, v in sorted(right.items()):
        print(family, "test", k[0], "think" if k[1] else "plain", f"{sum(v)}/{len(v)}", flush=True)
    print(family, "depth", {d: f"{sum(v)}/{len(v)}" for d, v in sorted(deep.items())}, flush=True)
    random.Random(1).shuffle(wrong)
    for w in wrong[:24]:
        print(family, "wrong", w, flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("family", choices=["qwen", "gemma"])
    p.add_argument("--budget", type=float, default=1200, help="seconds of training in all")
    p.add_argument("--stop", type=float, default=1e9, help="stop this call after so many seconds")
    p.add_argument("--decay-from", type=float, default=0.5, help="share of the budget where the rate starts to fall")
    p.add_argument("--dir", required=True, help="checkpoint folder")
    p.add_argument("--out", help="folder for the bfloat16 weights (default: --dir)")
    p.add_argument("--init", help="bfloat16 weights to start from, with a fresh optimiser; \"models\": those in models/")
    p.add_argument("--clock", type=float, default=0, help="with --init: seconds already trained")
    p.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) // 2 - 2))
    p.add_argument("--accumulate", type=int, default=2, help="batches per optimiser step")
    p.add_argument("--long-share", type=float, default=0.4, help="share of tokens in recall texts")
    p.add_argument("--see-share", type=float, default=0.5, help="share of the batches that have pictures")
    p.add_argument("--eager", action="store_true", help="no compilation, no GPU graphs")
    p.add_argument("--peak", type=float, default=1.0, help="factor on the peak rates")
    p.add_argument("--test", type=int, default=0, help="greedy test at the end, questions per skill and mode")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    born = time.time()
    a.out = a.out or a.dir
    os.makedirs(a.dir, exist_ok=True)
    os.makedirs(a.out, exist_ok=True)
    clock = mp.get_context("fork").Value("d", 0.0)
    saved = os.path.join(a.dir, f"{a.family}.pt")
    clock.value = a.clock
    if os.path.exists(saved):
        clock.value = torch.load(saved, map_location="cpu")["seconds"]
    feed = Feed(a.family, a.workers, clock, a.long_share, a.see_share)  # forked before the GPU is touched
    torch.manual_seed(a.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    enc = Encoder(a.family)
    tr = Trainer(a.family, device, graphs=device.type == "cuda" and not a.eager)
    model = tr.model
    step = 0
    if a.init:
        start_from(model, export.published(a.family) if a.init == "models" else torch.load(a.init, map_location=device))
    if os.path.exists(saved):
        state = torch.load(saved, map_location=device)
        model.load_state_dict(state["model"])
        tr.opt.load(state["opt"])
        step = state["step"]
        print(a.family, "resumed at", round(clock.value), "s, step", step, flush=True)
    if device.type == "cuda" and not a.eager:
        model.compile()
    cuda = device.type == "cuda"
    small = list(generate.eval_items(77, 64 if cuda else 2, enc.count, max_tokens=4000 if cuda else 300))
    small = [(it, *enc(it)) for it in small + list(seen_items(a.family, 77, 64 if cuda else 2))]
    print(a.family, "parameters", sum(q.numel() for q in model.parameters()), "ready after", round(time.time() - born), "s", flush=True)
    base, begun = clock.value, time.time()
    shown, tested, sums, count = time.time(), time.time(), torch.zeros(3, device=device), 0
    first, first_fresh = step, 0

    def save():
        torch.save({"model": model.state_dict(), "opt": tr.opt.state(), "seconds": clock.value, "step": step}, saved)
        torch.save(bf16_state(model), os.path.join(a.out, f"{a.family}-bf16.pt"))

    while time.time() - born < a.stop and clock.value < a.budget:
        clock.value = base + time.time() - begun
        warm = min(1.0, 0.1 + (time.time() - begun) / 10)              # a short ramp after every start
        tr.opt.lr.fill_(rate(clock.value, a.budget, a.decay_from) * warm * a.peak)
        tr.prompt_weight.fill_(0.1 if clock.value < 60 else 0.02 if clock.value < 200 else 0.0)
        for _ in range(a.accumulate):
            tr.batch(feed.get())
            sums += tr.stats
            count += 1
        tr.step()
        step += 1
        if step % 50 == 0 and device.type == "cuda":
            torch.cuda.synchronize()
        if time.time() - shown > 15:
            mean = (sums / count).tolist()
            speed = count * TOKENS / (time.time() - shown) / 1e3
            print(f"{a.family} {clock.value:.0f}s step {step} answer {mean[0]:.4f} prompt {mean[1]:.3f} balance {mean[2]:.3f} "
                  f"{speed:.0f} ktok/s fresh {feed.fresh} again {feed.again} longest {longest(clock.value)}", flush=True)
            shown, count = time.time(), 0
            sums.zero_()
        if time.time() - tested > 75:
            acc = forced_accuracy(model, small, device)
            print(a.family, "forced", {f"{k[0]}{'+' if k[1] else '-'}": round(v, 2) for k, v in sorted(acc.items())}, flush=True)
            save()
            tested = shown = time.time()
            count = 0
            sums.zero_()
    if device.type == "cuda":
        torch.cuda.synchronize()
    acc = forced_accuracy(model, small, device)
    print(a.family, f"end {clock.value:.0f}s step {step}", {f"{k[0]}{'+' if k[1] else '-'}": round(v, 3) for k, v in sorted(acc.items())}, flush=True)
    save()
    feed.stop()
    if a.test:
        final_test(model, a.family, enc, device, a.test, 4242)


if __name__ == "__main__":
    main()
