"""Writes the conversations that the tiny models learn from, and the questions that test them.

Every conversation is made here, from word lists and sentence patterns and one seed: nothing is
downloaded and nothing is copied. A conversation is a dict

    messages  chat messages; the last one is the assistant's, the one to be learned
    tools     function schemas, or None
    check     how an answer is judged (see evaluate.py)
    depth     for recall: where the fact stands, 0 = start, 1 = end of the text

Held-out questions: (fact, phrasing, wrapper) triples of the questions about apus and (operation, a,
b) triples of arithmetic are split by a hash, and training never sees the held-out side. The other
skills draw from spaces so large that a fresh seed gives fresh questions.
"""
import argparse
import json
import random
import string
import zlib

from facts import FACTS

SKILLS = ["apus", "arithmetic", "sort", "copy", "recall", "tool", "json"]


def held_out(key, one_in):
    """True for about one key in `one_in`; stable between runs and machines."""
    return zlib.crc32(key.encode()) % one_in == 0


# ---------------------------------------------------------------------------------- words

ADJ = """red blue green yellow white black grey brown golden silver old young small tall quiet loud
happy lazy brave clever hungry sleepy gentle proud shy busy curious fancy frozen hidden honest lonely
lucky modest noisy polite rusty sharp silent steady sunny tiny warm wild wise wooden broken bright
""".split()
ANIMAL = """fox owl bear wolf hare swan crow goat mouse otter badger falcon heron lynx mole raven
robin salmon seal snail spider squirrel stork swift tiger toad turtle weasel whale zebra camel
donkey eagle ferret gecko hamster horse jackal koala lizard monkey ostrich panda parrot penguin
pigeon rabbit""".split()
THING = """lamp chair table kettle basket bottle bucket button candle carpet clock coin cup curtain
drum fence flute glove guitar hammer hat kite knife ladder letter mirror needle paper pencil piano
pillow plate ring rope saddle scarf shoe spoon stamp stone sword tent towel trumpet umbrella vase
wagon wallet wheel whistle window""".split()
FRUIT = """apple apricot banana cherry date elderberry fig grape kiwi lemon lime mango melon nectarine
olive orange papaya peach pear plum quince raspberry strawberry tomato walnut""".split()
NAME = """Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karin Leo Maria Nina Oscar Paula
Quentin Rosa Simon Tina Ulrich Vera Walter Xenia Yusuf Zoe Alan Bella Carlos Dora Erik Flora Gustav
Helen Igor Julia Kevin Laura Martin Nora Otto Petra Robert Sara Thomas Ursula Victor Wanda""".split()
CITY = """Oslo Paris Rome Berlin Madrid Vienna Prague Lisbon Dublin London Athens Cairo Delhi Tokyo
Seoul Lima Quito Boston Denver Austin Geneva Zurich Milan Turin Bergen Malmo Gdansk Riga Tallinn
Helsinki""".split()
COLOUR = "red blue green yellow white black grey brown orange purple pink silver".split()
JOB = """baker teacher doctor farmer painter driver nurse pilot singer tailor cook builder writer
gardener fisher judge""".split()
DAY = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTH = """January February March April May June July August September October November
December""".split()
PLACE = """harbour market bridge garden station library mountain valley river forest castle village
island tower square school museum bakery theatre meadow lake field cellar attic kitchen""".split()
VERB = """walked ran travelled drove sailed hurried returned wandered moved climbed""".split()
DID = """bought sold found lost painted repaired carried hid opened cleaned counted washed borrowed
forgot dropped""".split()
WEATHER = "rainy sunny cloudy windy foggy snowy stormy mild".split()
ROOM = "kitchen bedroom office bathroom hall garage cellar attic".split()
LANGUAGE = "French German Spanish Italian Polish Swedish Dutch Greek".split()
SECRET = sorted(set(THING + FRUIT + """velvet thunder marble copper amber coral crystal ember falcon
glacier horizon ivory jasmine lantern meadow nebula orchid pepper quartz ribbon saffron timber
violet willow""".split()))
SORT_WORDS = sorted(set(ANIMAL + THING + FRUIT + PLACE))


def pick(rng, seq):
    return seq[int(rng.random() * len(seq))]


def cap(text):
    return text[:1].upper() + text[1:]


def join_and(items):
    """a, b and c"""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


# ---------------------------------------------------------------------------------- skills

WRAP = ["{}", "{}", "{}", "{}", "Please tell me: {}", "I have a question. {}", "Hello! {}", "Hi, {}",
        "One more thing: {}", "Quick question: {}", "{} Thank you!", "{} Please be brief.", "So, {}",
        "Hey, {}", "{} I am curious.", "My question is: {}"]


def ask_apus(rng, held):
    """A question about apus. The held-out side of the split is asked only in tests."""
    while True:
        index = int(rng.random() * len(FACTS))
        topic, questions, answer = FACTS[index]
        question = pick(rng, questions)
        wrap = pick(rng, WRAP)
        style = int(rng.random() * 4)
        if held_out(f"{question}|{wrap}|{style}", 8) == held:
            break
    if style == 1:
        question = question.lower()
    elif style == 2:
        question = question.rstrip("?.")
    elif style == 3 and wrap != "{}":
        question = question[0].lower() + question[1:]
    return {"messages": [user(wrap.format(question)),
                         assistant(answer, f"The user asks about {topic}.")],
            "check": {"kind": "text", "expect": answer}}


ARITH = {
    "+": ["What is {a} + {b}?", "Calculate {a} + {b}.", "{a} + {b} = ?", "How much is {a} plus {b}?",
          "Please add {a} and {b}.", "What do you get when you add {a} and {b}?", "Compute {a} + {b}",
          "{a}+{b}"],
    "-": ["What is {a} - {b}?", "Calculate {a} - {b}.", "{a} - {b} = ?", "How much is {a} minus {b}?",
          "Subtract {b} from {a}.", "What is left if you take {b} from {a}?", "Compute {a} - {b}",
          "{a}-{b}"],
    "*": ["What is {a} * {b}?", "Calculate {a} * {b}.", "{a} * {b} = ?", "How much is {a} times {b}?",
          "Multiply {a} by {b}.", "What is the product of {a} and {b}?", "Compute {a} * {b}",
          "{a}*{b}", "What is {a} x {b}?"],
}


def arith_steps(a, op, b):
    """(shown steps, thinking text, result): long sums go in steps that a tiny model can do."""
    if op == "+":
        tens, ones = (a // 10 + b // 10) * 10, a % 10 + b % 10
        return "", f"{a - a % 10} + {b - b % 10} = {tens}. {a % 10} + {b % 10} = {ones}. " \
                   f"{tens} + {ones} = {a + b}.", a + b
    if op == "-":
        if a < b:
            return "", f"{a} is less than {b}. {b} - {a} = {b - a}. So the result is {a - b}.", a - b
        low = a - (b - b % 10)
        return "", f"{a} - {b - b % 10} = {low}. {low} - {b % 10} = {a - b}.", a - b
    high, low = a * (b - b % 10), a * (b % 10)
    if b < 10 or low == 0:
        return "", f"{a} * {b} = {a * b}.", a * b
    return f"{high} + {low} = ", f"{a} * {b - b % 10} = {high}. {a} * {b % 10} = {low}. " \
                                 f"{high} + {low} = {a * b}.", a * b


def ask_arithmetic(rng, held):
    """+ - * of two-digit numbers; training also sees the longer sums that products need."""
    while True:
        op = pick(rng, "++--***")
        low = 10 if held or rng.random() < 0.85 else 0
        a, b = rng.randint(low, 99), rng.randint(low, 99)
        if held_out(f"{a}{op}{b}", 16) == held:
            break
    if not held and rng.random() < 0.12:                  # partial products, added on their own
        m, n = rng.randint(10, 99), rng.randint(11, 99)
        a, b = m * (n - n % 10), m * (n % 10)
        return {"messages": [user(pick(rng, ARITH["+"]).format(a=a, b=b)),
                             assistant(f"{a} + {b} = {a + b}", f"{a} + {b} = {a + b}.")],
                "check": {"kind": "number", "expect": a + b}}
    steps, thought, result = arith_steps(a, op, b)
    question = pick(rng, ARITH[op]).format(a=a, b=b)
    return {"messages": [user(question), assistant(f"{a} {op} {b} = {result}", thought,
                                                   plain=f"{a} {op} {b} = {steps}{result}")],
            "check": {"kind": "number", "expect": result}}


def ask_sort(rng, held):
    count = rng.randint(3, 7)
    down = rng.random() < 0.35
    if rng.random() < 0.5:
        items = rng.sample(SORT_WORDS, count)
        order = sorted(items, reverse=down)
        kind = "words"
        how = pick(rng, ["from z to a", "in reverse alphabetical order"] if down else
                   ["from a to z", "in alphabetical order", "alphabetically"])
    else:
        top = pick(rng, [20, 100, 100, 1000])
        items = [str(n) for n in rng.sample(range(top), count)]
        order = sorted(items, key=int, reverse=down)
        kind = "numbers"
        how = pick(rng, ["in descending order", "from large to small", "from highest to lowest"] if down
                   else ["in ascending order", "from small to large", "from lowest to highest"])
    text = ", ".join(items)
    question = pick(rng, [f"Sort these {kind} {how}: {text}", f"Please sort the {kind} {text} {how}.",
                          f"Put these {kind} {how}: {text}.", f"Order the following {kind} {how}:\n{text}",
                          f"Can you sort {text} {how}?"])
    answer = ", ".join(order)
    thought = f"There are {count} {kind}. The first is {order[0]} and the last is {order[-1]}."
    return {"messages": [user(question), assistant(answer, thought)],
            "check": {"kind": "text", "expect": answer}}


UNICODE = list("éüñöäßçøåèÉÜ€£°µ½") + ["你", "好", "日", "本", "水", "火", "ж", "д", "я", "α", "β", "π", "🙂",
                                       "🌍", "→", "≤", "–", "…"]


def random_text(rng):
    """Something to copy: codes, words, numbers, punctuation, now and then foreign letters."""
    kind = rng.random()
    if kind < 0.4:
        chars = pick(rng, [string.ascii_lowercase, string.ascii_letters + string.digits,
                           string.ascii_uppercase + string.digits,
                           string.ascii_letters + string.digits + "-_#.:/"])
        return "".join(pick(rng, chars) for _ in range(rng.randint(4, 14)))
    if kind < 0.75:
        words = [pick(rng, pick(rng, [ADJ, ANIMAL, THING, NAME, CITY, FRUIT])) for _ in range(rng.randint(2, 8))]
        if rng.random() < 0.3:
            words.insert(rng.randint(0, len(words)), str(rng.randint(0, 9999)))
        text = " ".join(words)
        return cap(text) + pick(rng, ".!?") if rng.random() < 0.4 else text
    if kind < 0.9:
        return "".join(pick(rng, string.digits) for _ in range(rng.randint(4, 14)))
    parts = [pick(rng, UNICODE) if rng.random() < 0.5 else pick(rng, string.ascii_letters)
             for _ in range(rng.randint(3, 8))]
    return "".join(parts)


def ask_copy(rng, held):
    text = random_text(rng)
    question = pick(rng, ["Copy this exactly:\n{}", "Repeat exactly:\n{}", "Write this again, letter by letter:\n{}",
                          "Echo the following text:\n{}", "Copy this exactly: {}", "Repeat after me: {}",
                          "Please copy: {}", "Repeat this string: {}"]).format(text)
    return {"messages": [user(question), assistant(text, "I copy the text without any change.")],
            "check": {"kind": "text", "expect": text}}


# --- recall

ATTRIBUTES = ["secret code", "password", "favourite number", "favourite colour", "home town", "magic word",
              "door number", "best friend"]


def attribute_value(rng, attribute):
    if attribute == "secret code":
        return str(rng.randint(1000, 9999))
    if attribute == "favourite number":
        return str(rng.randint(2, 999))
    if attribute == "door number":
        return str(rng.randint(10, 999))
    if attribute == "favourite colour":
        return pick(rng, COLOUR)
    if attribute == "home town":
        return pick(rng, CITY)
    if attribute == "best friend":
        return pick(rng, NAME)
    return pick(rng, SECRET)


def owner(rng):
    return pick(rng, NAME) if rng.random() < 0.25 else f"the {pick(rng, ADJ)} {pick(rng, ANIMAL + THING)}"


def fact_text(attribute, who, value):
    return f"The {attribute} of {who} is {value}."


def filler_sentence(rng):
    """One harmless sentence. It never states an attribute of an owner."""
    k = int(rng.random() * 12)
    a, n = pick(rng, ADJ), pick(rng, THING)
    if k == 0:
        return f"On {pick(rng, DAY)} {pick(rng, NAME)} {pick(rng, VERB)} to the {pick(rng, PLACE)} and {pick(rng, DID)} a {a} {n}."
    if k == 1:
        return f"The {a} {pick(rng, ANIMAL)} {pick(rng, VERB)} over the {pick(rng, PLACE)} and {pick(rng, DID)} the {n}."
    if k == 2:
        return f"In {pick(rng, MONTH)} it was {pick(rng, WEATHER)} in {pick(rng, CITY)}, so {pick(rng, NAME)} stayed in the {pick(rng, ROOM)}."
    if k == 3:
        return f"{pick(rng, NAME)} and {pick(rng, NAME)} {pick(rng, DID)} {rng.randint(2, 99)} {pick(rng, FRUIT)} trees near the {pick(rng, PLACE)}."
    if k == 4:
        return f"A {pick(rng, JOB)} from {pick(rng, CITY)} {pick(rng, DID)} the {a} {n} before noon."
    if k == 5:
        return f"Nobody knew why the {n} in the {pick(rng, ROOM)} was so {a}."
    if k == 6:
        return f"The {pick(rng, PLACE)} was {a}, and the {pick(rng, ANIMAL)} slept under a {n}."
    if k == 7:
        return f"At {rng.randint(1, 12)} o'clock the {pick(rng, JOB)} {pick(rng, VERB)} home with a {pick(rng, FRUIT)} and a {n}."
    if k == 8:
        return f"Every {pick(rng, DAY)} {pick(rng, NAME)} {pick(rng, DID)} the {a} {n} and then {pick(rng, VERB)} to {pick(rng, CITY)}."
    if k == 9:
        return f"There were {rng.randint(2, 500)} steps from the {pick(rng, PLACE)} to the {pick(rng, PLACE)}."
    if k == 10:
        return f"{pick(rng, NAME)} likes {pick(rng, FRUIT)} cake, but the {pick(rng, JOB)} likes {a} tea."
    return f"It was a {pick(rng, WEATHER)} {pick(rng, DAY)}, and the {pick(rng, ANIMAL)} {pick(rng, DID)} a {pick(rng, COLOUR)} {n}."


RECALL_ASK = ["What is the {k} of {o}?", "Tell me the {k} of {o}.", "Which {k} has {o}?",
              "Do you remember the {k} of {o}?", "Please find the {k} of {o}.", "I need the {k} of {o}."]
RECALL_HEAD = ["", "", "Read this text and answer the question at the end.\n\n", "Here is a text.\n\n",
               "Remember this:\n\n"]


def make_facts(rng, count):
    """`count` facts; many share an owner's word or an attribute, so that only an exact match helps."""
    facts, seen = [], set()
    kinds = rng.sample(ATTRIBUTES, rng.randint(1, 4))
    while len(facts) < count:
        attribute, who = pick(rng, kinds), owner(rng)
        if facts and rng.random() < 0.4:
            other = pick(rng, facts)[1].split()
            if len(other) == 3:
                who = f"the {other[1]} {pick(rng, ANIMAL + THING)}" if rng.random() < 0.5 else f"the {pick(rng, ADJ)} {other[2]}"
            elif rng.random() < 0.5:
                who = " ".join(other)
        if (attribute, who) not in seen:
            seen.add((attribute, who))
            facts.append((attribute, who, attribute_value(rng, attribute)))
    return facts


def recall_thought(attribute, who, value):
    return f"I look for the {attribute} of {who}. The text says {value}."


def ask_recall(rng, held, tokens=None, count_tokens=None, turns=1):
    """Filler of about `tokens` tokens with facts in it, then `turns` questions about them.

    count_tokens  gives the token counts of a list of sentences; without it 4 letters are a token
    """
    tokens = tokens or rng.randint(60, 300)
    number = min(rng.randint(2, 8) + (turns - 1) * 2, max(2, tokens // 30)) if turns == 1 else max(turns, min(turns * 3, tokens // 30))
    facts = make_facts(rng, number)
    told = [fact_text(*f) for f in facts]
    budget = tokens - 16 * number - 50
    sentences = [filler_sentence(rng) for _ in range(max(1, budget // 12))]
    lengths = count_tokens(sentences) if count_tokens else [len(s) // 4 for s in sentences]
    body, used = [], 0
    for sentence, size in zip(sentences, lengths):
        if used + size > budget:
            break
        body.append(sentence)
        used += size
    chosen = 0                                   # the asked fact stands at an evenly drawn place
    slots = sorted((rng.random() * (len(body) + 1), i) for i in range(number))
    text, cursor = [], 0
    depth = 0.0
    for slot, index in slots:
        upto = int(slot)
        text += body[cursor:upto]
        cursor = upto
        if index == chosen:
            depth = upto / max(1, len(body))
        text.append(told[index])
    text += body[cursor:]
    pieces = []
    for sentence in text:
        pieces.append(sentence)
        pieces.append("\n\n" if rng.random() < 0.08 else " ")
    story = "".join(pieces).strip()
    asked = [facts[0]] if turns == 1 else [facts[i] for i in rng.sample(range(number), min(turns, number))]
    messages = []
    for i, (attribute, who, value) in enumerate(asked):
        question = pick(rng, RECALL_ASK).format(k=attribute, o=who)
        if i == 0:
            question = pick(rng, RECALL_HEAD) + story + "\n\n" + question
        messages += [user(question), assistant(fact_text(attribute, who, value),
                                               recall_thought(attribute, who, value))]
    return {"messages": messages, "depth": depth,
            "check": {"kind": "text", "expect": fact_text(*asked[-1])}}


# --- JSON

def json_person(rng):
    name = pick(rng, NAME)
    d = {"name": name, "age": rng.randint(5, 99), "city": pick(rng, CITY), "job": pick(rng, JOB),
         "colour": pick(rng, COLOUR)}
    return d, {"name": "", "age": f"{name} is {d['age']} years old.", "city": f"{name} lives in {d['city']}.",
               "job": f"{name} works as a {d['job']}.", "colour": f"{name} likes the colour {d['colour']}."}


def json_item(rng):
    item = pick(rng, THING)
    d = {"item": item, "price": rng.randint(1, 999), "colour": pick(rng, COLOUR), "count": rng.randint(2, 99),
         "place": pick(rng, PLACE)}
    return d, {"item": "", "price": f"The {item} costs {d['price']} coins.", "colour": f"The {item} is {d['colour']}.",
               "count": f"There are {d['count']} pieces of the {item}.", "place": f"You find the {item} at the {d['place']}."}


def json_meeting(rng):
    d = {"day": pick(rng, DAY), "hour": rng.randint(8, 20), "room": rng.randint(1, 99), "leader": pick(rng, NAME),
         "topic": pick(rng, FRUIT)}
    return d, {"day": f"The meeting is on {d['day']}.", "hour": f"The meeting starts at {d['hour']}.",
               "room": f"The meeting is in room {d['room']}.", "leader": f"{d['leader']} leads the meeting.",
               "topic": f"The meeting is about the {d['topic']}."}


def json_trip(rng):
    d = {"from": pick(rng, CITY), "to": pick(rng, CITY), "days": rng.randint(2, 30), "month": pick(rng, MONTH),
         "guests": rng.randint(2, 60)}
    return d, {"from": f"The trip starts in {d['from']}.", "to": f"The trip ends in {d['to']}.",
               "days": f"The trip takes {d['days']} days.", "month": f"The trip is in {d['month']}.",
               "guests": f"The trip has {d['guests']} guests."}


def json_animal(rng):
    kind, name = pick(rng, ANIMAL), pick(rng, NAME)
    d = {"animal": kind, "name": name, "weight": rng.randint(1, 900), "colour": pick(rng, ADJ[:8]),
         "food": pick(rng, FRUIT)}
    return d, {"animal": f"{name} is a {kind}.", "name": "", "weight": f"{name} weighs {d['weight']} grams.",
               "colour": f"The fur of {name} is {d['colour']}.", "food": f"{name} eats a {d['food']} every day."}


def ask_json(rng, held):
    if rng.random() < 0.15:
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        values, keys = {"a": a, "b": b, "sum": a + b}, ["a", "b", "sum"]
        story = f"What is {a} + {b}?"
    else:
        values, tells = pick(rng, [json_person, json_item, json_meeting, json_trip, json_animal])(rng)
        keys = rng.sample(list(values), rng.randint(2, 4))
        silent = [k for k, v in tells.items() if not v]
        told = [tells[k] for k in keys if tells[k]]
        others = [tells[k] for k in values if k not in keys and tells[k]]
        if rng.random() < 0.5:
            told += others[:rng.randint(0, len(others))]
        if not told or (silent and silent[0] in keys and not any(tells[k] for k in keys)):
            told += others[:1]
        rng.shuffle(told)
        story = " ".join(told)
    order = pick(rng, ["Answer in JSON with keys {}.", "Reply in JSON with the keys {}.", "Give me JSON with keys {}.",
                       "Write this as JSON with keys {}."]).format(join_and(keys))
    question = f"{order} {story}" if rng.random() < 0.6 else f"{story} {order}"
    obj = {k: values[k] for k in keys}
    thought = "The values are: " + ", ".join(f"{k} {obj[k]}" for k in keys) + "."
    return {"messages": [user(question), assistant(json.dumps(obj), thought)],
            "check": {"kind": "json", "expect": obj}}


# --- tools

def schema(name, description, /, **params):
    """A function schema; a parameter is (type, description)."""
    return {"type": "function", "function": {
        "name": name, "description": description,
        "parameters": {"type": "object",
                       "properties": {k: {"type": t, "description": d} for k, (t, d) in params.items()},
                       "required": list(params)}}}


S, I = "string", "integer"
TOOLS = {
    "get_weather": (schema("get_weather", "Current weather of a city.", city=(S, "Name of the city.")),
                    lambda r: {"city": pick(r, CITY)},
                    ["What is the weather in {city}?", "How is the weather in {city} today?", "Is it cold in {city}?"],
                    lambda r, a: {"temperature": r.randint(-9, 39), "sky": pick(r, WEATHER)},
                    "It is {temperature} degrees and {sky} in {city}."),
    "get_time": (schema("get_time", "Current time in a city.", city=(S, "Name of the city.")),
                 lambda r: {"city": pick(r, CITY)},
                 ["What time is it in {city}?", "Tell me the time in {city}.", "How late is it in {city}?"],
                 lambda r, a: {"time": f"{r.randint(0, 23):02d}:{r.randint(0, 59):02d}"},
                 "It is {time} in {city}."),
    "add_numbers": (schema("add_numbers", "Adds two numbers.", a=(I, "First number."), b=(I, "Second number.")),
                    lambda r: {"a": r.randint(100, 9999), "b": r.randint(100, 9999)},
                    ["Use the tool to add {a} and {b}.", "Add {a} and {b} with the tool.", "Please compute {a} plus {b} with the tool."],
                    lambda r, a: {"sum": a["a"] + a["b"]}, "The sum is {sum}."),
    "set_timer": (schema("set_timer", "Starts a timer.", minutes=(I, "Length in minutes."), label=(S, "Name of the timer.")),
                  lambda r: {"minutes": r.randint(1, 90), "label": pick(r, FRUIT + THING)},
                  ["Set a timer called {label} for {minutes} minutes.", "Start a {minutes} minute timer named {label}."],
                  lambda r, a: {"status": "started", "id": r.randint(1, 99)}, "The timer {label} is {status} with id {id}."),
    "send_message": (schema("send_message", "Sends a short message.", to=(S, "Receiver."), text=(S, "Text of the message.")),
                     lambda r: {"to": pick(r, NAME), "text": f"the {pick(r, ADJ)} {pick(r, THING)} is ready"},
                     ["Send {to} the message: {text}", "Tell {to} that {text}", "Write a message to {to}: {text}"],
                     lambda r, a: {"status": pick(r, ["sent", "delivered", "queued"])}, "The message to {to} was {status}."),
    "get_price": (schema("get_price", "Price of an item in the shop.", item=(S, "Name of the item.")),
                  lambda r: {"item": pick(r, THING + FRUIT)},
                  ["How much does the {item} cost?", "What is the price of the {item}?", "Look up the price of the {item}."],
                  lambda r, a: {"price": r.randint(1, 999), "unit": "coins"}, "The {item} costs {price} {unit}."),
    "turn_light": (schema("turn_light", "Switches a light.", room=(S, "Name of the room."), state=(S, "on or off")),
                   lambda r: {"room": pick(r, ROOM), "state": pick(r, ["on", "off"])},
                   ["Turn {state} the light in the {room}.", "Switch the {room} light {state}.", "Please turn the light in the {room} {state}."],
                   lambda r, a: {"done": pick(r, ["yes", "no"])}, "Light in the {room} turned {state}: {done}."),
    "translate": (schema("translate", "Translates a word.", word=(S, "Word to translate."), language=(S, "Target language.")),
                  lambda r: {"word": pick(r, ANIMAL + THING), "language": pick(r, LANGUAGE)},
                  ["What is {word} in {language}?", "Translate {word} into {language}.", "How do you say {word} in {language}?"],
                  lambda r, a: {"result": "".join(pick(r, "bcdfglmnprst") + pick(r, "aeiou") for _ in range(r.randint(2, 3)))},
                  "{word} is {result} in {language}."),
    "book_table": (schema("book_table", "Books a table.", people=(I, "Number of guests."), hour=(I, "Hour of the day.")),
                   lambda r: {"people": r.randint(2, 20), "hour": r.randint(10, 22)},
                   ["Book a table for {people} people at {hour}.", "I need a table for {people} at {hour} o'clock."],
                   lambda r, a: {"table": r.randint(1, 60)}, "You have table {table} for {people} at {hour}."),
    "get_distance": (schema("get_distance", "Distance between two cities.", start=(S, "First city."), goal=(S, "Second city.")),
                     lambda r: {"start": pick(r, CITY), "goal": pick(r, CITY)},
                     ["How far is it from {start} to {goal}?", "What is the distance from {start} to {goal}?"],
                     lambda r, a: {"km": r.randint(20, 9999)}, "It is {km} km from {start} to {goal}."),
    "find_user": (schema("find_user", "Looks up a user.", name=(S, "Name of the user.")),
                  lambda r: {"name": pick(r, NAME)},
                  ["Find the user {name}.", "Who is the user {name}?", "Look up {name} for me."],
                  lambda r, a: {"job": pick(r, JOB), "city": pick(r, CITY)}, "{name} works as a {job} in {city}."),
    "read_sensor": (schema("read_sensor", "Reads a sensor.", id=(I, "Number of the sensor.")),
                    lambda r: {"id": r.randint(1, 999)},
                    ["What does sensor {id} show?", "Read sensor {id}.", "Give me the value of sensor {id}."],
                    lambda r, a: {"value": r.randint(0, 9999)}, "Sensor {id} shows {value}."),
}
MADE_VERB = "get find read make list open check load count update".split()
MADE_PARAM = "name size key place colour number level path month code".split()


def made_up_tool(rng):
    """A tool nobody has seen: the model must read the schema and the request."""
    noun = pick(rng, THING + ANIMAL + FRUIT)
    name = f"{pick(rng, MADE_VERB)}_{noun}"
    params, args = {}, {}
    for key in rng.sample(MADE_PARAM, rng.randint(1, 3)):
        if rng.random() < 0.5:
            params[key], args[key] = (I, f"The {key}."), rng.randint(0, 999)
        else:
            params[key], args[key] = (S, f"The {key}."), pick(rng, pick(rng, [ADJ, CITY, FRUIT, NAME, COLOUR]))
    tool = schema(name, f"{cap(name.split('_')[0])} the {noun}.", **params)
    said = join_and([f"{k} {v}" for k, v in args.items()])
    question = pick(rng, [f"Call {name} with {said}.", f"Use {name} with {said}.", f"Run the tool {name} with {said}."])
    result = {pick(rng, ["result", "value", "answer"]): pick(rng, [str(rng.randint(0, 9999)), pick(rng, SECRET)])}
    return tool, args, question, result, "The tool answers {}.".format(list(result.values())[0])


def ask_tool(rng, held, part=None):
    """`part` call: the right call is wanted; result: the answer that uses the tool's result."""
    if rng.random() < 0.3:
        tool, args, question, result, answer = made_up_tool(rng)
    else:
        tool, draw, asks, reply, pattern = TOOLS[pick(rng, list(TOOLS))]
        args = draw(rng)
        question = pick(rng, asks).format(**args)
        result = reply(rng, args)
        answer = cap(pattern.format(**args, **result))
    name = tool["function"]["name"]
    tools = [tool]
    for other in rng.sample(list(TOOLS), rng.randint(0, 2)):
        if other != name:
            tools.append(TOOLS[other][0])
    rng.shuffle(tools)
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": args}}
    made = assistant("", f"I call {name} with " + join_and([f"{k} {v}" for k, v in args.items()]) + ".")
    made["tool_calls"] = [call]
    item = {"messages": [user(question), made], "tools": tools, "part": part or pick(rng, ["call", "result"])}
    if item["part"] == "call":
        item["check"] = {"kind": "call", "name": name, "arguments": args}
    else:
        item["messages"] += [{"role": "tool", "tool_call_id": "call_1", "name": name, "content": json.dumps(result)},
                             assistant(answer, "The tool says " + join_and([f"{k} {v}" for k, v in result.items()]) + ".")]
        item["check"] = {"kind": "text", "expect": answer}
    return item


# ---------------------------------------------------------------------------------- conversations

SYSTEM = ["You are a helpful assistant.", "You are a tiny assistant inside apus.", "Answer briefly.",
          "You are a friendly model. Keep your answers short.", "Be precise and polite."]
ASK = {"apus": ask_apus, "arithmetic": ask_arithmetic, "sort": ask_sort, "copy": ask_copy,
       "recall": ask_recall, "json": ask_json, "tool": ask_tool}
MIX = {"apus": 0.16, "arithmetic": 0.24, "sort": 0.22, "copy": 0.12, "recall": 0.08, "json": 0.08, "tool": 0.10}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, thought, plain=None):
    """`plain` is the content when thinking is off, if it differs."""
    return {"role": "assistant", "content": content, "reasoning_content": thought, "plain": plain}


def settle(item, thinking):
    """Choose thinking on or off: drops the thoughts, or the plain contents, that the mode does not have."""
    messages = []
    for m in item["messages"]:
        m = dict(m)
        plain = m.pop("plain", None)
        if m["role"] == "assistant" and not thinking:
            m["content"] = m["content"] if plain is None else plain
            m["reasoning_content"] = ""
        messages.append(m)
    return {**item, "messages": messages, "thinking": thinking, "tools": item.get("tools")}


def conversation(rng, skill=None, held=False, thinking=None, **kw):
    """One conversation; training ones may carry earlier turns and a system message."""
    skill = skill or rng.choices(list(MIX), list(MIX.values()))[0]
    thinking = rng.random() < 0.5 if thinking is None else thinking
    item = ASK[skill](rng, held, **kw)
    item["skill"] = skill
    if not held:
        if skill not in ("recall",) and rng.random() < 0.2:
            for _ in range(rng.randint(1, 2)):
                before = ASK[pick(rng, ["apus", "apus", "arithmetic", "sort", "copy", "json"])](rng, False)
                item["messages"] = before["messages"] + item["messages"]
        if skill in ("apus", "arithmetic", "sort") and rng.random() < 0.06:   # tools that are not needed
            item["tools"] = [TOOLS[n][0] for n in rng.sample(list(TOOLS), rng.randint(1, 2))]
    if rng.random() < 0.25:
        item["messages"] = [{"role": "system", "content": pick(rng, SYSTEM)}] + item["messages"]
    return settle(item, thinking)


def eval_items(seed, n, count_tokens=None, max_tokens=4000, skills=SKILLS):
    """n held-out questions per skill and mode; recall lengths and depths are spread evenly."""
    for skill in skills:
        for thinking in (False, True):
            for i in range(n):
                rng = random.Random(f"{seed}/{skill}/{thinking}/{i}")
                kw = {}
                if skill == "recall":
                    kw = {"tokens": max_tokens if i % 2 else rng.randint(100, max_tokens), "count_tokens": count_tokens}
                if skill == "tool":
                    kw = {"part": ["call", "result"][i % 2]}
                yield conversation(rng, skill, held=True, thinking=thinking, **kw)


def token_counter(family):
    """Counts tokens of sentences with the family's tokenizer."""
    from chatformat import load_tokenizer
    tok = load_tokenizer(family)
    return lambda texts: [len(e.ids) for e in tok.encode_batch(texts, add_special_tokens=False)]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="what", required=True)
    e = sub.add_parser("eval", help="write held-out questions as JSON lines")
    e.add_argument("--seed", type=int, default=1)
    e.add_argument("--n", type=int, default=100, help="questions per skill and mode")
    e.add_argument("--family", choices=["qwen", "gemma"], required=True)
    e.add_argument("--skills", nargs="*", default=SKILLS)
    e.add_argument("-o", "--output", required=True)
    s = sub.add_parser("show", help="print some training conversations")
    s.add_argument("--seed", type=int, default=1)
    s.add_argument("--n", type=int, default=10)
    a = p.parse_args()
    if a.what == "show":
        rng = random.Random(a.seed)
        for _ in range(a.n):
            print(json.dumps(conversation(rng), ensure_ascii=False))
        return
    with open(a.output, "w") as f:
        for item in eval_items(a.seed, a.n, token_counter(a.family), skills=a.skills):
            messages = item["messages"][:-1]
            row = {"skill": item["skill"], "messages": messages, "tools": item["tools"],
                   "thinking": item["thinking"], "check": item["check"], "depth": item.get("depth")}
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
