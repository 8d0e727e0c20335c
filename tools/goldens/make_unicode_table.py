#!/usr/bin/env python3
"""Write src/text/unicode_fix.c: where the Unicode data of the tokenizers library differs from ours.

The library splits with Oniguruma and composes with an old table; apus splits with PCRE2 and composes
with utf8proc, whatever versions are installed. The two tables written here make both independent of
those versions. They are measured on the library itself, not taken from the Unicode database.

Needs the packages tokenizers and regex (newest Unicode data). Run from the repository root.
"""
import unicodedata

import regex
from tokenizers import Regex
from tokenizers.normalizers import NFC, NFD
from tokenizers.pre_tokenizers import Digits, Split, Whitespace

GC = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn".split()
CPS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, CPS))


def matched(pattern):
    """Code points of runs that the library's regex engine matches."""
    split = Split(Regex(f"(?:{pattern})+"), "removed", invert=True)
    return [CPS[i] for _, (a, b) in split.pre_tokenize_str(TEXT) for i in range(a, b)]


def utf8_len(c):
    return len(chr(c).encode())


def categories():
    lib = {}
    for g in GC:
        for c in matched(r"\p{%s}" % g):
            lib[c] = g
    old = {c: unicodedata.category(chr(c)) for c in CPS}
    new = {}
    for g in GC:
        for m in regex.finditer(r"\p{%s}+" % g, TEXT):
            for i in range(*m.span()):
                new[CPS[i]] = g
    return lib, old, new


def category_fixes():
    """(code point, representative of the same category and length that no version disputes)."""
    lib, old, new = categories()
    agreed = {}
    for c in CPS:
        if c >= 0xA0 and c not in (0x17F, 0x180E) and lib[c] == old[c] == new[c]:
            agreed.setdefault((lib[c], utf8_len(c)), c)
    space = set(matched(r"\s"))
    assert space == {c for c in CPS if regex.match(r"\p{White_Space}", chr(c))}, "\\s moved"
    # Non-characters stay unassigned for ever.
    agreed["Cn", 3] = 0xFDD0
    agreed["Cn", 4] = 0x1FFFE
    fixes = [(c, agreed[lib[c], utf8_len(c)]) for c in CPS if not lib[c] == old[c] == new[c]]
    # PCRE2 counts the Mongolian vowel separator among \s, as Unicode did before 6.3.
    fixes.append((0x180E, 0x200B))
    assert lib[0x180E] == lib[0x200B] == "Cf" and 0x180E not in space
    return sorted(fixes)


def inert_for_nfc():
    """Code points that the library's NFC leaves alone though newer data gives them a role."""
    cps = [c for c in CPS if c != 10]
    inert = set()
    for mark in "\u0301\u0316\u3099\u0334\u0327":
        for text in ([f"x{chr(c)}{mark}" for c in cps], [f"x{mark}{chr(c)}" for c in cps]):
            for name, norm in (("NFC", NFC()), ("NFD", NFD())):
                got = norm.normalize_str("\n".join(text)).split("\n")
                for c, g, t in zip(cps, got, text):
                    if g != unicodedata.normalize(name, t):
                        assert g == t, hex(c)
                        inert.add(c)
    for c in cps:
        ch = chr(c)
        if not regex.match(r"\p{ccc=0}", ch) and unicodedata.combining(ch) == 0:
            inert.add(c)
        if regex.match(r"\p{dt=can}", ch) and not unicodedata.decomposition(ch) \
                and not 0xAC00 <= c < 0xD7A4:
            inert.add(c)
    # Not a final consonant, though some versions of utf8proc compose it with a syllable.
    assert NFC().normalize_str("\uac00\u11a7") == "\uac00\u11a7"
    inert.add(0x11A7)
    # Parts of compositions made after the library's table: whole new blocks.
    for lo, hi in ((0x105C0, 0x105FF), (0x11380, 0x113FF), (0x11930, 0x11938), (0x16100, 0x1613F),
                   (0x16D40, 0x16D7F)):
        for c in range(lo, hi + 1):
            assert NFC().normalize_str(chr(c) + "\u0307") == chr(c) + "\u0307"
            inert.add(c)
    return sorted(inert)


def word_and_numeric():
    """\w of the library's second regex engine, and what its Digits step takes for a digit."""
    space = {c for c in CPS if regex.match(r"\p{White_Space}", chr(c))}
    # \w+ and [^\w\s]+ are pieces of their own: a lone character keeps its sort in "a" + c or "." + c.
    text = "".join(f"a{chr(c)}. " for c in CPS if c not in space)
    ends = {span[1] for _, span in Whitespace().pre_tokenize_str(text)}
    word = []
    for i, c in enumerate(c for c in CPS if c not in space):
        at = 4 * i
        if at + 1 not in ends:
            word.append(c)
            assert at + 2 in ends
    text = "".join(f"a{chr(c)}a" for c in CPS)
    ends = {span[1] for _, span in Digits(individual_digits=True).pre_tokenize_str(text)}
    numeric = [c for i, c in enumerate(CPS) if 3 * i + 2 in ends]
    return word, numeric


def ranges(pairs):
    out = []
    for c, v in pairs:
        if out and out[-1][1] == c - 1 and out[-1][2] == v:
            out[-1][1] = c
        else:
            out.append([c, c, v])
    return out


def table(rows, fmt):
    lines, line = [], "   "
    for r in rows:
        cell = " " + fmt(r) + ","
        if len(line) + len(cell) > 100:
            lines.append(line)
            line = "   "
        line += cell
    return "\n".join(lines + [line])


def main():
    fixes = ranges(category_fixes())
    inert = ranges((c, 0) for c in inert_for_nfc())
    word, numeric = (ranges((c, 0) for c in s) for s in word_and_numeric())
    span = lambda r: "{0x%X, 0x%X}" % tuple(r[:2])
    with open("src/text/unicode_fix.c", "w") as f:
        f.write(f"""/* Written by tools/goldens/make_unicode_table.py. Do not edit. */
/* clang-format off */
#include "text/unicode_fix.h"

/* first, last, representative */
const ap_unicode_fix ap_unicode_fixes[] = {{
{table(fixes, lambda r: "{0x%X, 0x%X, 0x%X}" % tuple(r))}
}};
const size_t ap_unicode_n_fixes = sizeof ap_unicode_fixes / sizeof ap_unicode_fixes[0];

/* first, last */
const ap_unicode_range ap_unicode_inert[] = {{
{table(inert, span)}
}};
const size_t ap_unicode_n_inert = sizeof ap_unicode_inert / sizeof ap_unicode_inert[0];

const ap_unicode_range ap_unicode_word[] = {{
{table(word, span)}
}};
const size_t ap_unicode_n_word = sizeof ap_unicode_word / sizeof ap_unicode_word[0];

const ap_unicode_range ap_unicode_numeric[] = {{
{table(numeric, span)}
}};
const size_t ap_unicode_n_numeric = sizeof ap_unicode_numeric / sizeof ap_unicode_numeric[0];
""")
    print(len(fixes), "category ranges,", len(inert), "inert ranges,",
          len(word), "word ranges,", len(numeric), "numeric ranges")


if __name__ == "__main__":
    main()
