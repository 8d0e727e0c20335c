"""Draws pictures and asks about them: what the tiny models learn to see with.

    python pictures.py show --n 12 -o DIR       some training pictures, with question and answer
    python pictures.py eval --seed 2024 --n 40 --family qwen -o DIR
                                                held-out questions, for evaluate.py: DIR/questions.jsonl

A picture is an array of colour numbers and a palette, so that workers hand it on quickly. Shapes and
the colours of shapes are named in the answers; sizes, places, backgrounds and tints vary. Words that a
hash holds out are read in tests only.
"""
import argparse
import json
import os
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import generate
from generate import assistant, held_out, pick, user

# Sides of a picture in cells, as both families cut them: a cell becomes one soft token.
GRIDS = {"qwen": [(4, 4), (3, 5), (5, 3), (4, 6), (6, 4)], "gemma": [(8, 8), (7, 10), (10, 7), (6, 11), (11, 6)]}
CELL = {"qwen": 32, "gemma": 24}      # pixels on a cell's side

COLOURS = {"red": (212, 38, 34), "green": (36, 150, 52), "blue": (36, 72, 208), "yellow": (244, 214, 32),
           "orange": (246, 138, 20), "purple": (132, 44, 160), "black": (16, 16, 16), "white": (250, 250, 250)}
SHAPES = ["circle", "square", "triangle", "star", "ring", "cross"]
BACKGROUNDS = [(210, 210, 206), (196, 210, 220), (224, 206, 186), (120, 126, 132), (70, 78, 92), (182, 200, 176)]
WORDS = sorted({w for w in generate.SORT_WORDS + generate.SECRET if 3 <= len(w) <= 6})
SKILLS = ["colour", "shape", "count", "place", "order", "word"]


# ---------------------------------------------------------------------------------- drawing

def polygon(shape, x, y, r):
    """Corners of a shape around (x, y)."""
    if shape == "square":
        s = r * 0.85
        return [(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)]
    if shape == "triangle":
        return [(x, y - r), (x + 0.95 * r, y + 0.75 * r), (x - 0.95 * r, y + 0.75 * r)]
    if shape == "star":
        at = [(np.pi * i / 5, r * (1.1 if i % 2 == 0 else 0.45)) for i in range(10)]
        return [(x + d * np.sin(a), y - d * np.cos(a)) for a, d in at]
    w = r * 0.36                                              # a cross
    return [(x - w, y - r), (x + w, y - r), (x + w, y - w), (x + r, y - w), (x + r, y + w), (x + w, y + w), (x + w, y + r),
            (x - w, y + r), (x - w, y + w), (x - r, y + w), (x - r, y - w), (x - w, y - w)]


class Scene:
    """A picture in the making: `draw` numbers, and what they mean."""

    def __init__(self, rng, width, height):
        self.rng, self.width, self.height = rng, width, height
        self.image = Image.new("P", (width, height), 0)
        self.draw = ImageDraw.Draw(self.image)
        self.draw.fontmode = "1"                              # no colours between two
        self.palette = [self.tint(pick(rng, BACKGROUNDS), 14)]
        self.things = []                                      # (colour, shape, x, y), x and y from 0 to 1

    def tint(self, rgb, by=10):
        return tuple(min(255, max(0, c + self.rng.randint(-by, by))) for c in rgb)

    def colour(self, rgb):
        self.palette.append(self.tint(rgb))
        return len(self.palette) - 1

    def shape(self, colour, shape, x, y, r):
        """x, y from 0 to 1; r as a part of the shorter side."""
        c, px, py = self.colour(COLOURS[colour]), x * self.width, y * self.height
        r *= min(self.width, self.height)
        if shape in ("circle", "ring"):
            self.draw.ellipse((px - r, py - r, px + r, py + r), fill=c)
            if shape == "ring":
                s = r * 0.55
                self.draw.ellipse((px - s, py - s, px + s, py + s), fill=0)
        else:
            self.draw.polygon(polygon(shape, px, py, r), fill=c)
        self.things.append((colour, shape, x, y))

    def word(self, text):
        """As large as fits, somewhere in the middle."""
        dark = sum(self.palette[0]) < 380
        c = self.colour((245, 245, 245) if dark else (20, 20, 24))
        size = self.rng.uniform(0.62, 0.9) * self.width / (0.62 * max(len(text), 3))
        font = font_of(max(12, int(min(size, self.height * 0.5))))
        left, top, right, bottom = self.draw.textbbox((0, 0), text, font=font)
        x = self.rng.uniform(0.3, 0.7) * max(0, self.width - (right - left)) - left
        y = self.rng.uniform(0.3, 0.7) * max(0, self.height - (bottom - top)) - top
        self.draw.text((x, y), text, fill=c, font=font)

    def picture(self):
        """(numbers u8 [height, width], palette u8 [16, 3])"""
        palette = np.zeros((16, 3), np.uint8)
        palette[:len(self.palette)] = self.palette
        return np.asarray(self.image, np.uint8).copy(), palette


_fonts = {}


def font_of(size):
    if size not in _fonts:
        _fonts[size] = ImageFont.load_default(size)
    return _fonts[size]


def to_image(picture):
    numbers, palette = picture
    return Image.fromarray(palette[numbers])


# ---------------------------------------------------------------------------------- what is asked

def an(colour, shape):
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def different(rng, n):
    """n (colour, shape) pairs without a colour or a shape twice."""
    return list(zip(rng.sample(list(COLOURS), n), rng.sample(SHAPES, n)))


def scattered(rng, scene, things):
    """Each thing in a cell of its own of a grid of 3 x 3 (or fewer)."""
    places = rng.sample([(x, y) for x in range(3) for y in range(3)], len(things))
    for (colour, shape), (x, y) in zip(things, places):
        jitter = lambda: rng.uniform(-0.03, 0.03)
        scene.shape(colour, shape, (x + 0.5) / 3 + jitter(), (y + 0.5) / 3 + jitter(), rng.uniform(0.11, 0.14))


def seen(things):
    return "I see " + generate.join_and([an(c, s) for c, s in things]) + "."


def ask_colour(rng, scene, held):
    things = different(rng, 1 if rng.random() < 0.5 else rng.randint(2, 3))
    if len(things) == 1:
        scene.shape(*things[0], rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.28))
    else:
        scattered(rng, scene, things)
    colour, shape = things[0]
    question = pick(rng, ["What colour is the {s}?", "Which colour does the {s} have?", "Tell me the colour of the {s}."])
    return question.format(s=shape), f"The {shape} is {colour}.", seen(things)


def ask_shape(rng, scene, held):
    things = different(rng, 1 if rng.random() < 0.5 else rng.randint(2, 3))
    if len(things) == 1:
        scene.shape(*things[0], rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.28))
        question = pick(rng, ["What is this?", "What is in the picture?", "What do you see?", "Describe the picture."])
        return question, cap_an(things[0]), seen(things)
    scattered(rng, scene, things)
    colour, shape = things[0]
    question = pick(rng, ["Which shape is {c}?", "What shape is the {c} thing?", "What is {c} here?"])
    return question.format(c=colour), f"The {shape} is {colour}.", seen(things)


def cap_an(thing):
    return generate.cap(an(*thing)) + "."


def ask_count(rng, scene, held):
    shape = pick(rng, SHAPES)
    others = [s for s in SHAPES if s != shape]
    n = rng.randint(1, 6)
    extra = rng.randint(0, min(3, 8 - n)) if rng.random() < 0.5 else 0
    colour = pick(rng, list(COLOURS))
    things = [(colour if rng.random() < 0.5 else pick(rng, list(COLOURS)), shape) for _ in range(n)]
    things += [(pick(rng, list(COLOURS)), pick(rng, others)) for _ in range(extra)]
    scattered(rng, scene, things)
    if extra == 0 and rng.random() < 0.3:
        question = pick(rng, ["How many shapes are there?", "Count the shapes."])
        name = "shape"
    else:
        plural = shape + ("es" if shape == "cross" else "s")
        question = pick(rng, ["How many {p} are there?", "Count the {p}.", "How many {p} do you see?"]).format(p=plural)
        name = shape
    many = name if n == 1 else name + ("es" if name == "cross" else "s")
    thought = "One by one: " + ", ".join(str(i + 1) for i in range(n)) + "."
    return question, f"There {'is' if n == 1 else 'are'} {n} {many}.", thought


PLACES = {"left": (0.2, None), "right": (0.8, None), "top": (None, 0.2), "bottom": (None, 0.8)}


def ask_place(rng, scene, held):
    a, b = different(rng, 2)
    side = pick(rng, list(PLACES))
    other = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[side]
    for thing, where in ((a, side), (b, other)):
        x, y = (v if v is not None else rng.uniform(0.35, 0.65) for v in PLACES[where])
        scene.shape(*thing, x + rng.uniform(-0.04, 0.04), y + rng.uniform(-0.04, 0.04), rng.uniform(0.12, 0.17))
    at = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
    thought = f"The {a[1]} is {at[side]}, the {b[1]} is {at[other]}."
    if rng.random() < 0.5:
        question = pick(rng, ["Where is the {s}?", "On which side is the {s}?"]).format(s=a[1])
        return question, f"The {a[1]} is {at[side]}.", thought
    question = pick(rng, ["What is {w}?", "Which shape is {w}?"]).format(w=at[side])
    return question, cap_an(a), thought


def ask_order(rng, scenes, held):
    things = different(rng, 2)
    for scene, thing in zip(scenes, things):
        scene.shape(*thing, rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65), rng.uniform(0.16, 0.28))
    i = rng.randint(0, 1)
    name = ["first", "second"]
    thought = f"The first picture shows {an(*things[0])}, the second {an(*things[1])}."
    if rng.random() < 0.5:
        question = pick(rng, ["Which picture shows {a}?", "In which picture is {a}?"]).format(a=an(*things[i]))
        return question, f"The {name[i]} picture.", thought
    question = pick(rng, ["What is in the {n} picture?", "What does the {n} picture show?"]).format(n=name[i])
    return question, cap_an(things[i]), thought


def ask_word(rng, scene, held):
    while True:
        text = pick(rng, WORDS)
        if not held and rng.random() < 0.4:                   # letters, not only words, are learned
            text = "".join(pick(rng, "abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 5)))
        if held_out("word|" + text, 8) == held:
            break
    scene.word(text)
    question = pick(rng, ["Which word is in the picture?", "Read the word.", "What is written here?", "What does it say?"])
    return question, text, "The letters are " + " ".join(text) + "."


ASK = {"colour": ask_colour, "shape": ask_shape, "count": ask_count, "place": ask_place, "order": ask_order,
       "word": ask_word}
MIX = {"colour": 0.12, "shape": 0.14, "count": 0.18, "place": 0.14, "order": 0.14, "word": 0.28}


def conversation(rng, size, skill=None, held=False, thinking=None):
    """As generate.conversation, with `pictures` drawn by size() -> (width, height), and the marks of the
    pictures as parts of the user's message."""
    skill = skill or rng.choices(list(MIX), list(MIX.values()))[0]
    thinking = rng.random() < 0.5 if thinking is None else thinking
    scenes = [Scene(rng, *size()) for _ in range(2 if skill == "order" else 1)]
    question, answer, thought = ASK[skill](rng, scenes if skill == "order" else scenes[0], held)
    marks = [{"type": "image"} for _ in scenes]
    said = [{"type": "text", "text": question}]
    message = {"role": "user", "content": marks + said if rng.random() < 0.85 else said + marks}
    messages = [message, assistant(answer, thought)]
    if rng.random() < 0.2:
        messages = [{"role": "system", "content": pick(rng, generate.SYSTEM)}] + messages
    item = generate.settle({"messages": messages, "check": {"kind": "text", "expect": answer}, "skill": skill}, thinking)
    item["pictures"] = [s.picture() for s in scenes]
    return item


def any_size(rng):
    """Sizes as people have them, not only those that the towers are shown."""
    def size():
        short = rng.randint(96, 320)
        long = int(short * rng.uniform(1.0, 1.55))
        return (short, long) if rng.random() < 0.5 else (long, short)
    return size


def grid_size(family, grid):
    rows, columns = grid
    return lambda: (columns * CELL[family], rows * CELL[family])


def eval_items(seed, n, size_of):
    for skill in SKILLS:
        for thinking in (False, True):
            for i in range(n):
                rng = random.Random(f"{seed}/{skill}/{thinking}/{i}")
                yield conversation(rng, size_of(rng), skill, held=True, thinking=thinking)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["show", "eval"])
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--n", type=int, default=12)
    p.add_argument("--family", choices=["qwen", "gemma"], default="qwen")
    p.add_argument("-o", "--output", required=True)
    a = p.parse_args()
    os.makedirs(a.output, exist_ok=True)
    rng = random.Random(a.seed)
    items = eval_items(a.seed, a.n, any_size) if a.what == "eval" else \
        (conversation(rng, grid_size(a.family, pick(rng, GRIDS[a.family]))) for _ in range(a.n))
    with open(os.path.join(a.output, "questions.jsonl"), "w") as f:
        for i, item in enumerate(items):
            names = [os.path.join(a.output, f"{i:04}-{k}.png") for k in range(len(item["pictures"]))]
            for name, picture in zip(names, item["pictures"]):
                to_image(picture).save(name)
            row = {k: item[k] for k in ("skill", "tools", "thinking", "check")}
            row |= {"messages": item["messages"][:-1], "pictures": names}
            if a.what == "show":
                row["answer"] = item["messages"][-1]
            f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
