#!/usr/bin/env python3
"""Golden files of the template tests, made with Jinja2 as transformers sets it up.

    make_template_goldens.py snippets  > tests/unit/template/data/snippets.jsonl
    make_template_goldens.py official DIR > tests/unit/template/data/official.jsonl

snippets: small templates that exercise the language, each with Jinja2's output or {"error": true}.
official: conversations rendered with the official templates found in DIR; only the FNV-1a hash of
each expected text is kept. Needs jinja2 and transformers.
"""
import copy
import json
import random
import sys
from pathlib import Path

VARS = {
    "s": "Hello, World", "u": "Zürich – naïve 😀 ß ÆØÅ", "empty": "", "ws": " \t\n x y \u00a0\u2003\n",
    "n": 7, "neg": -3, "f": 2.5, "big": 12345678901234567890, "t": True, "fa": False, "none": None,
    "l": [3, 1, 2], "words": ["b", "A", "c", "B", "a"], "nested": [[1, [2, 3]], {"k": [None, True]}],
    "d": {"b": 1, "A": 2, "c": 3}, "mixed": [1, "a", 2.5, None, True, [1], {"x": 1}],
    "people": [{"name": "Bo", "age": 30, "tags": ["x"]}, {"name": "al", "age": 25, "tags": []},
               {"name": "Cy", "age": 30, "tags": ["y", "z"], "on": True}],
    "method_names": {"items": [1], "keys": "k", "get": 5, "update": 6, "other": 7},
    "quotes": "it's \"quoted\" \\ back\nslash\ttab\u0001\u007f\u00ad\u200b", "html": "<a href='x'>&\"</a>",
    "floats": [0.1, 1e16, 1e-5, 123456789.125, 1e22, -0.0, 3.0, 1.5e300, 5e-324, 0.0001, 1e15],
    "messages": [{"role": "system", "content": " sys "}, {"role": "user", "content": "hi"},
                 {"role": "assistant", "content": "yo"}, {"role": "user", "content": "bye"}],
    "add_generation_prompt": True, "bos_token": "<s>",
}

EXPRS = r"""
1 + 2|1 - 2|2 * 3|7 / 2|7 // 2|-7 // 2|7 // -2|7 % 3|-7 % 3|7 % -3|2 ** 10|2 ** -1|-2 ** 2|2 ** 3 ** 2
7.5 // 2|-7.5 // 2|7.5 % 2|-7.5 % 2|7.5 % -2|1e3|1_000|0x1F|0b101|0o17|1.5e-7|1e16|1e15|123456789012345.6
1 / 0|1 // 0|1 % 0|1.0 / 0|0 ** -1|'a' + 1|'a' + none|none + 1|1 + true|true + true|'a' * 3|3 * 'ab'|'a' * -1
[1] * 3|[1] + [2]|(1,) + (2, 3)|[1] + (2,)|'a' ~ 1 ~ none ~ 2.0 ~ [1, 'x']|1 ~ 2 + 3|-n|+n|-'a'|not n|not not n
1 == 1.0|1 == true|'1' == 1|[1, 2] == [1, 2]|(1, 2) == [1, 2]|{'a': 1} == {'a': 1.0}|none == false|undefd == undefd2
1 < 2 < 3|1 < 3 < 2|1 < 2 > 0 == true|'a' < 'b'|'a' < 1|[1, 2] < [1, 3]|[1] < [1, 0]|none < 1|1.5 >= 1|f != 2.5
1 in [1, 2]|'a' in 'cat'|'' in 'x'|'a' in d|'b' in d|1 not in [1]|'x' in none|1 in 'a'|none in [none]|'a' in undefd
[1] in [[1]]|n in range(10)|n is in [7]|'k' in d.keys()|3 in d.values()|('b', 1) in d.items()
1 and 2|0 and 2|0 or 2|'' or 'x'|none or false|[] or {}|n and s|not s or t|t and not fa|1 or undefd.x
'yes' if t else 'no'|'yes' if fa|('yes' if fa) is defined|1 if 0 else 2 if 0 else 3|('a' if t else 'b') ~ 'c'
s[0]|s[-1]|s[100]|s[1:4]|s[:-1]|s[::-1]|s[::2]|s[10:2:-2]|s[-3:]|s[5:2]|u[0:8]|u[::-1]|u[7]|u[-12:-3]|u[16]
l[0]|l[-1]|l[5]|l[1:]|l[::-1]|l[:2]|l['x']|l[1.0]|l[true]|range(10)[2:8:2]|range(5)[::-1]|range(5)[-1]|(1,2,3)[1:]
s['x']|d['b']|d['zz']|d.b|d.zz|d['zz'].x|d.zz.x|undefd.x|undefd['x']|none.x|none['x']|n.x|s.x|d[[1]]|d[none]|{1: 'a'}[1.0]
method_names['items']|method_names.get('items')|method_names.other|method_names.update
method_names.update is defined|method_names['update']|method_names.keys()|l.append(1)|d.pop('b')|d.clear
s[1:'a']|undefd[1:]|d[1:]|n[0]|s[none:none]|s[true:3]|l[::0]|messages[1:][0].role|messages[-1]['content']
none[1:]|5[::2]|{}[1:]|'abc'['a':]|none['a':]|none[1:] is defined|none[1:] or 'z'|d['zz'][1:]
[1, 'a', none, true, 1.0, [], {}, (), (1,), {'a': (1, 2)}]|{'a': 1, 'b': [1]}|{}|()|(1,)|[[]]|{1: 2, none: 3, true: 4}
quotes|[quotes]|[u]|['\'']|['"']|['\'"']|["\n\t\r\\\x00\x7f"]|['\u00e9\u200b\U0001F600\u2028']
'a\nb\tc\\d\'e\"f'|'\x41\u00e9\101'|'\q\8'|'\é'|'a' 'b' "c"|"it's"|'say "x"'
floats|floats[0]|floats[1] + 1|0.1 + 0.2|1e22 * 10|100 * 1.1|3.0|1.0 * 3|10 ** 15 * 1.0|2.0 ** 0.5|big|-floats[5]
big == 12345678901234567890|big > 5|[big]|big|string
s.upper()|s.lower()|s.title()|s.capitalize()|s.swapcase()|u.upper()|u.lower()|u.title()|'ΑΣ ΑΣΑ'.lower()|'ŉ ß ﬁ'.upper()
'ﬁne ǆ'.title()|'ﬁne'.capitalize()|'İ'.lower()|"they're bill's".title()|'ab12cd'.title()
s.split(',')|s.split()|ws.split()|ws.split(none, 1)|s.split('l', 1)|s.split('l', maxsplit=2)|s.split('')|s.rsplit('l', 1)
ws.rsplit(none, 1)|'a,b,c'.rsplit(',')|'a,b'.split(',')[0]|''.split()|''.split(',')|'a\nb\r\nc\x0bd\n'.splitlines()
'a\nb\r\nc'.splitlines(true)|'a\u2028b\x85c'.splitlines()|ws.strip()|ws.lstrip()|ws.rstrip()|'xxaxx'.strip('x')
'abcba'.strip('ab')|'éaé'.strip('é')|s.strip(none)|s.strip(1)|s.startswith('He')|s.startswith(('x', 'H'))|s.endswith('ld')
s.startswith('l', 2)|s.endswith('o', 0, 5)|s.startswith(1)|s.find('o')|s.find('z')|s.rfind('o')|s.find('o', 5)|s.find('')
u.find('😀')|u.rfind('n')|s.index('W')|s.index('z')|s.count('l')|s.count('')|'aaaa'.count('aa')|s.replace('l', 'L')
s.replace('l', 'L', 1)|s.replace('', '-')|''.replace('', 'x')|s.replace('o', '')|s.replace('zz', 'y')|s.replace('l')
'-'.join(['a', 'b'])|'-'.join([1])|'-'.join('abc')|''.join([])|'a'.center(5)|'ab'.center(5, '*')|'a'.ljust(3) ~ '|'
'a'.rjust(3, '0')|'7'.zfill(3)|'-7'.zfill(4)|'a\tb'.expandtabs(4)|s.partition(',')|s.partition('z')|s.rpartition('o')
s.removeprefix('He')|s.removesuffix('ld')|'abc'.isalpha()|'1'.isdigit()|'a1'.isalnum()|' '.isspace()|''.isspace()
'Ab'.istitle()|'AB'.isupper()|'ab1'.islower()|'1'.islower()|'½'.isnumeric()|'²'.isdigit()|'²'.isdecimal()|'a b'.isidentifier()
'é'.isascii()|'ß'.casefold()|s.nothing()|'{} {}'.format(1, 'a')|'{1} {0}'.format(1, 2)|'{a} {b!r}'.format(a=1, b='x')
'{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}|{:,}|{:x}|{:%}'.format('a', 'b', 'c', 42, 3.14159, 1234567, 255, 0.5)
'{0[a]} {0[b][1]} {1.x}'.format({'a': 1, 'b': [1, 2]}, {'x': 'y'})|'{'.format()|'{}'.format()|'{{}}'.format()|'{:d}'.format('a')
'%s %s' % (1, 'a')|'%s' % 'x'|'%d %5.2f|%-5s|%05d|%x|%r|%%' % (3, 2.5, 'ab', 42, 255, 'q')|'%(a)s' % {'a': none}|'%s' % none|'%d' % 'x'
'%s %s' % 1|'%s' % (1, 2)|'%s' % [1, 2]|'%s-%s'|format('a', 2)|'%(x)s'|format(x=1)|'%c' % 65|'%+d % d' % (5, 5)|'%e' % 12345.678|'%g' % 0.00001
l|length|s|length|u|length|d|length|n|length|none|length|undefd|length|range(4)|length|l|count|(l|map('string'))|length
l|first|l|last|[]|first|[]|last|s|first|s|last|d|first|d|last|undefd|first|undefd|last|none|first|(l|reverse)|first
l|sort|l|sort(reverse=true)|words|sort|words|sort(case_sensitive=true)|words|sort(true)|people|sort(attribute='age')|map(attribute='name')|list
people|sort(attribute='age,name')|map(attribute='name')|list|people|sort(attribute='age', reverse=true)|map(attribute='name')|list|mixed|sort|d|sort
words|unique|list|words|unique(true)|list|people|unique(attribute='age')|map(attribute='name')|list|l|min|l|max|words|min|words|max|[]|min|people|max(attribute='age')
l|sum|people|sum(attribute='age')|l|sum(start=10)|[]|sum|['a']|sum|[[1],[2]]|sum(start=[])|l|join|l|join(',')|people|join('-', attribute='name')|undefd|join(',')|d|join|none|join
d|dictsort|d|dictsort(true)|d|dictsort(false, 'value')|d|dictsort(reverse=true)|d|dictsort(by='x')|l|dictsort|undefd|dictsort|{'b': 1, 'B': 2, 'a': 3}|dictsort
d|items|list|d.items()|list|d.items()|d.keys()|list|d.values()|list|undefd|items|list|d.items()|length|d.items()[0]|d|list|s|list|undefd|list|none|list
l|map('string')|list|words|map('upper')|list|people|map(attribute='name')|list|people|map(attribute='tags.0')|list|people|map(attribute='on', default=false)|list|people|map(attribute='tags')|map('length')|list
words|map('replace', 'a', 'z')|list|l|map('nofilter')|list|l|map|list|[]|map|list|words|map('default', 'x')|list|[1.5, 2.5]|map('round')|map('int')|list
l|select('odd')|list|l|select('>', 1)|list|l|reject('equalto', 1)|list|[0, 1, '', 'a', none]|select|list|[0, 1, '']|reject|list|people|selectattr('on')|map(attribute='name')|list
people|selectattr('age', 'equalto', 30)|map(attribute='name')|list|people|rejectattr('age', 'eq', 30)|list|length|people|selectattr('on', 'defined')|list|length|messages|selectattr('role', 'equalto', 'system')|list
messages|selectattr('role', 'in', ['user', 'system'])|list|length|messages|rejectattr('role', '==', 'system')|first|('x' if messages|selectattr('role', 'equalto', 'nope') else 'y')|messages|selectattr('role')|list|length
l|reverse|list|s|reverse|d|reverse|list|(l|map('int'))|reverse|list|none|reverse|l|batch(2)|list|l|batch(2, 'x')|list|range(7)|slice(3)|list|range(7)|slice(3, 'f')|list|range(3)|list
people|groupby('age')|map('first')|list|people|groupby('age')|length|(people|groupby('age'))[0][1]|length
s|upper|s|lower|s|title|"foo-bar (baz) [q] it's"|title|s|capitalize|u|upper|none|upper|n|upper|['Ab']|upper|undefd|upper|s|string|n|string|none|string|[1]|string
ws|trim|'xxaxx'|trim('x')|n|trim|none|trim|undefd|trim|s|replace('l', 'L')|s|replace('l', 'L', 1)|n|replace('7', 8)|s|replace('o', 0)|s|center(20)|s|truncate(5)|s|truncate(8, true, '..', 0)|s|truncate(9, false, '…', 0)|'a b c'|truncate(4, leeway=0)
'a\nb\n\nc'|indent|'a\nb\n\nc'|indent(2, true)|'a\nb\n\nc'|indent(2, blank=true)|'a\nb'|indent('>>')|n|indent|s|wordcount|undefd|default('x')|none|default('x')|none|default('x', true)|''|default('x', boolean=true)|undefd|d|0|d(5, true)
undefd.x|default('y')|d.zz|default('y')|d.zz.y|default('z')|html|e|html|escape|html|safe|(html|safe) ~ '<'|(html|safe) + '<'|'<' + (html|safe)|html|e|e|(html|safe)|string is escaped|[html|safe]|html|safe|upper|html|forceescape
'5'|int|'5.7'|int|'x'|int|'x'|int(3)|5.9|int|-5.9|int|none|int|'0x1F'|int(0, 16)|'ff'|int(base=16)|' 12 '|int|'1_000'|int|true|int|[]|int|'1e3'|int|'5'|float|'x'|float|'x'|float(1.5)|5|float|none|float|'inf'|float|'-1.5e3'|float|undefd|int
2.5|round|3.5|round|2.567|round(2)|2.5|round(0, 'ceil')|2.1|round(method='ceil')|2.9|round(method='floor')|2.123|round(2, 'floor')|5|round|15|round(-1)|25|round(-1)|2.675|round(2)|1234.5|round(-2)|none|round|'a'|round|n|round(2)|-2.5|round|0.5|round|round
neg|abs|-2.5|abs|true|abs|'a'|abs|n|attr('x')|d|attr('b')
d|tojson|l|tojson|nested|tojson|mixed|tojson|quotes|tojson|u|tojson|u|tojson(ensure_ascii=true)|html|tojson|none|tojson|true|tojson|1.0|tojson|1e16|tojson|floats|tojson|big|tojson|(1, 2)|tojson|undefd|tojson|range(3)|tojson|d.items()|tojson
nested|tojson(indent=2)|d|tojson(indent=4)|[]|tojson(indent=2)|{}|tojson(indent=2)|{'a': []}|tojson(indent=1)|d|tojson(separators=(',', ':'))|d|tojson(sort_keys=true)|nested|tojson(indent='\t')|d|tojson(indent=0)|{1: 1, none: 2, true: 3, 1.5: 4}|tojson|d|tojson(true)|{(1, 2): 1}|tojson
n is odd|n is even|n is divisibleby 7|n is divisibleby(2)|n is defined|undefd is defined|undefd is undefined|d.zz is defined|none is none|none is defined|s is string|n is number|t is number|t is integer|f is float|f is integer|n is integer|t is boolean|n is boolean|d is mapping|l is mapping|l is sequence|s is sequence|d is sequence|n is sequence|undefd is sequence|none is sequence
l is iterable|s is iterable|n is iterable|none is iterable|undefd is iterable|d is iterable|undefd is mapping|undefd is string|t is true|fa is false|1 is true|'abc' is lower|'ABC' is upper|n is eq 7|n is equalto(7)|n is ne 7|n is gt 5|n is lessthan 5|n is sameas 7|n is not odd|none is not none|n is not defined|'upper' is filter|'odd' is test|'nope' is filter|range is callable|n is callable
s is string and n is number|not s is string|not (s is string) or n is odd|n is divisibleby 7 and t|n is in [1, 7]|x is defined or y is defined|s is string is true|d.items() is sequence|d.items() is iterable|range(3) is sequence|(l|map('int')) is sequence|loop is defined|messages is iterable and messages is not mapping
range(5)|range(1, 5)|range(5, 1, -2)|range(0)|range(3)|list|range(1, 10, 4)|list|range(0, 10, 0)|range('a')|range(1000000)|range()|range(2.0)|range(3) == range(0, 3)|dict(a=1, b=2)|dict({'a': 1}, b=2)|dict([['a', 1]])|dict()|dict(1)
namespace(a=1).a|namespace({'a': 2}).a|namespace(a=1)['a']|namespace(_x=1)|namespace().zz|'a' in namespace(a=1)|raise_exception('boom')|raise_exception()|strftime_now('')|strftime_now('%%')|nofn()|s()|n(1)|d.get('b')|d.get('zz')|d.get('zz', 5)|d.get()|d.get([1])|d.copy()|l.count(1)|l.index(2)|l.index(9)|l.copy()
(1, 2, 3)|(1, 2)[0]|[1, 2,]|{'a': 1,}|(1)|((1, 2), 3)|[1, 2][0]|{'a': {'b': [5]}}.a.b[0]|[[1, 2], [3]][0][1]|'abc'[1]|{'x': 'y'}['x']|s.upper().lower()[0:3]|people[0].name.upper()|people.0.name|l.1
'é' < 'f'|'Z' < 'a'|'😀' > 'z'|'a' == 'a' != 'b'|[1, 'a'] == [1, 'a']|1 == 1 == 1.0 == true|2 not in [1] in [[1]]|5 > 4 > 3 > 2|(n if n else s)|[n, s][1]|n.__class__|s.__len__|d.__class__ is defined
"""

TEMPLATES = [
    "  {% if true %}\n  x\n  {% endif %}\n y", "a\n  {%- if true -%}\n  x  \n  {%- endif -%}\n b",
    "a {%+ if true +%} b {%+ endif %} c", "  {# c #}\n x {# d\n e #} y\n  {#- f -#}  z", "{{ 1 }}\n{{ 2 }}\n",
    "x\n\n", "x\r\ny\rz\r\n", "{% raw %}{{ x }} {% if %}{% endraw %}", "  {%- raw -%}  a  {%- endraw -%}  b",
    "{% raw %}\n a\n{% endraw %}\nb", "a{{- 1 -}}  b", "a  {{+ 1 }}", "{{ '}}' }}{{ \"%}\" }}", "{{ {'a': {'b': 1}}['a'] }}",
    "  {{ 1 }}\n  {% set x = 1 %}\n  y", "\t{% if 1 %}\n\tz\n\t{% endif %}\n", "a{# x -#}\n\n b", "{#- -#}", "a {##} b",
    "{% if 0 %}a{% elif 1 %}b{% else %}c{% endif %}", "{% if 0 %}a{% elif 0 %}b{% elif 0 %}c{% else %}d{% endif %}",
    "{% for x in l %}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for x in [] %}a{% else %}empty{% endfor %}", "{% for x in undefd %}a{% else %}e{% endfor %}", "{% for x in none %}a{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3)), (4, [5, 6])] %}{{ a }}{{ b }}{{ c }};{% endfor %}",
    "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [[1, 2, 3]] %}{% endfor %}", "{% for a, b in ['xy', 'zw'] %}{{ b }}{{ a }}{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ loop.last }} {% else %}none{% endfor %}",
    "{% for x in l if x > 5 %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in words %}{{ loop.index }} {{ loop.index0 }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.first }} {{ loop.last }} {{ loop.length }} {{ loop.previtem }} {{ loop.nextitem }} {{ loop.depth }} {{ loop.cycle('x', 'y') }}\n{% endfor %}",
    "{% for x in [1,1,2,2,1] %}{{ loop.changed(x) }}{% endfor %}", "{{ loop }}", "{% for x in l %}{{ loop.nope is defined }}{% endfor %}",
    "{% for x in l %}{% for y in words[:2] %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{{ loop.index }};{% endfor %}",
    "{% for x in l %}{% set outer = loop %}{% for y in [1, 2] %}{{ outer.index }}.{{ loop.index }} {% endfor %}{% endfor %}",
    "{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in [1,2] %}{% for y in [1,2,3] %}{% if y == 2 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}|{% endfor %}",
    "{% break %}", "{% continue %}", "{% for x in [1] %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "{% for x in [] %}{% else %}{% break %}{% endfor %}", "{% for c in 'añ😀' %}[{{ c }}]{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 1 %}{{ x }} {% endfor %}{{ x }}",
    "{% set ns = namespace(x=1) %}{% for i in [1, 2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace() %}{% set ns.a = [1] %}{% set ns.a = ns.a + [2] %}{{ ns.a }}{{ ns.b is defined }}",
    "{% set ns.x = 1 %}", "{% set d.x = 1 %}", "{% set ns = namespace() %}{% set ns._x = 1 %}", "{% set ns = namespace(a=1) %}{{ ns }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = [1, 2, 3] %}", "{% set (a, b), c = (1, 2), 3 %}{{ a }}{{ b }}{{ c }}", "{% set x = 1, 2 %}{{ x }}",
    "{% set x %}a{{ n }}b{% endset %}[{{ x }}]", "{% set x | upper %}abc{% endset %}{{ x }}", "{% set x | trim | replace('a', 'b') %} aa {% endset %}[{{ x }}]",
    "{% set x %}{% set y = 5 %}{% endset %}{{ y is defined }}", "{% if 1 %}{% set q = 5 %}{% endif %}{{ q }}", "{% if 0 %}{% set q = 5 %}{% endif %}{{ q is defined }}",
    "{% set true = 1 %}", "{% set 1 = 2 %}", "{% set x.y.z = 2 %}", "{% set %}", "{% set x = %}", "{% for loop in l %}{% endfor %}", "{% for x in l %}{% set loop = 1 %}{% endfor %}",
    "{% for i in [1] %}{{ s }}{% endfor %}{% set s = 2 %}{{ s }}", "{{ s }}{% set s = 2 %}{{ s }}", "{% for i in [1] %}{% set s = s ~ '!' %}{{ s }}{% endfor %}{{ s }}",
    "{% for i in [1] %}{% set s = 'x' %}{{ s }}{% endfor %}{{ s }}", "{% if t %}{% set s = 'x' %}{% endif %}{{ s }}", "{% if fa %}{% set s = 'x' %}{% endif %}{{ s }}",
    "{% macro m() %}{{ s }}{% endmacro %}{{ m() }}{% set s = 'later' %}{{ m() }}", "{% macro m() %}{{ zz }}{% endmacro %}{% set zz = 1 %}{{ m() }}{% for zz in [5] %}{{ m() }}{% endfor %}",
    "{% macro m(a, b=2, c=a) %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(1, c=5) }} {{ m(b=1, a=9) }} {{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m(a) %}{{ a }}|{{ varargs }}|{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}", "{% macro m(a, b=1, c) %}{% endmacro %}",
    "{% macro fact(n) %}{% if n > 1 %}{{ n * (fact(n - 1)|int) }}{% else %}1{% endif %}{% endmacro %}{{ fact(10) }}",
    "{% macro m() %}  x\n {% endmacro %}[{{ m() }}]{{ m()|trim }}{{ m() is string }}", "{{ m() }}{% macro m() %}x{% endmacro %}", "{% macro m() %}x{% endmacro %}{{ m.name }}",
    "{% macro m(x) %}<{{ caller() }}{{ x }}>{% endmacro %}{% call m(1) %}in{{ n }}{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% macro m(x) %}{% set x = x + 1 %}{{ x }}{% endmacro %}{{ m(1) }}{{ m(2) }}",
    "{% filter upper %}abc{{ s }}{% endfilter %}", "{% filter replace('a', 'b') | upper %}aba{% endfilter %}", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}", "{% with %}{% set q = 1 %}{% endwith %}{{ q is defined }}",
    "{% with a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}{% endwith %}", "{% generation %}x{{ n }}{% endgeneration %}", "{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q is defined }}",
    "{% print n, s %}", "{{ n, s }}", "{{ 1, }}", "{{ }}", "{{ () }}", "{% if %}{% endif %}", "{% if n, s %}x{% endif %}", "{% endif %}", "{% if 1 %}", "{% for x in l %}", "{% nope %}", "{{ x", "{% x", "{# x", "{{ 'x }}", "{{ 1 +}}", "{{ (1 }}", "{{ 1) }}", "{{ [1} }}", "{{ a b }}", "{{ x | }}", "{{ x | nope }}", "{{ x is nope }}", "{% if 0 %}{{ x | nope }}{% endif %}ok", "{% if 1 %}{{ x | nope }}{% endif %}ok", "{{ 1 if 1 else (2 | nope) }}", "{{ (2 | nope) if 0 else 1 }}", "{% if 0 %}{% for x in l %}{{ x | nope }}{% endfor %}{% endif %}ok", "{{ n ! s }}", "{{ n & s }}", "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{{ @ }}", "{{ 'a' is string if t }}",
    "{{ f(*[1]) }}", "{{ '{} {}'.format(*['a', 'b']) }}", "{{ '{a}'.format(**{'a': 1}) }}", "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 3, 'b': 4}) }}{{ m(1, *[2]) }}", "{{ dict(a=1, a=2) }}", "{{ dict(a=1, 2) }}", "{{ range(*[1], 2) }}",
    "{% for x in people|sort(attribute='name') %}{{ x.name }}{% endfor %}", "{% for x in l|reverse %}{{ x }}{{ loop.last }}{% endfor %}", "{% for x in people|selectattr('on', 'defined') %}{{ x.name }}{{ loop.length }}{% endfor %}",
    "{% set g = l|map('string') %}{{ g|join(',') }}{{ g|join(',') }}", "{% for a, b in people|groupby('age') %}{{ a }}:{{ b|map(attribute='name')|join('+') }};{% endfor %}", "{% for g in people|groupby('age') %}{{ g[0] }}{{ g[1]|length }};{% endfor %}",
    "{% for row in l|batch(2) %}{{ row }}{% endfor %}", "{% for item in [{'c': [{'c': []}, {'c': []}]}] recursive %}<{{ loop.depth }}{{ loop(item.c) }}>{% endfor %}", "{% for x in l %}{{ loop([]) }}{% endfor %}",
    "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' + m['content'] | trim + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}",
    "{% set loop_messages = messages[1:] if messages[0]['role'] == 'system' else messages %}{% for m in loop_messages %}{{ loop.index0 }}{{ m.role[0] }}{% endfor %}",
    "{%- for m in messages -%}\n  {%- if m.role == 'user' -%}\n    U: {{ m.content }}\n  {%- elif m.role == 'assistant' -%}\n    A: {{ m.content }}\n  {%- endif -%}\n{%- endfor -%}\n",
    "{% set ns = namespace(i=-1) %}{% for m in messages[::-1] %}{% set i = messages|length - 1 - loop.index0 %}{% if ns.i < 0 and m.role == 'user' %}{% set ns.i = i %}{% endif %}{% endfor %}{{ ns.i }}",
    "{% for m in messages %}{% if loop.previtem is defined and loop.previtem.role == 'user' %}[{{ m.role }}]{% endif %}{% if loop.nextitem %}>{% endif %}{% endfor %}",
    "{{ messages | tojson(indent=2) }}", "{{ people | map(attribute='tags') | list | tojson }}", "{% set x = {'a': 1} %}{% set y = dict(x, **{'b': 2}) %}{{ y }}", "{% set x = [] %}{% for i in l %}{% set x = x + [i] %}{% endfor %}{{ x }}",
    "{% set a = [1] %}{% set _ = a.append(2) %}{{ a }}", "{{ d.update({'x': 1}) }}", "{% do d.update({}) %}", "{% set s2 %}\n  {{ s }}\n{% endset %}{{ s2 }}|", "{%- set x = 1 -%}   {{- x -}}   y", "{% if t %}\n\n  a\n\n{% endif %}\n\nb", "a{% if t %} b{% endif %} c\n  {% if t %}d{% endif %}\n",
    "{{ '\n' }}x{{ '\\n' }}", "{{ \"a\\\nb\" }}", "{{ 'x' * 3 ~ 'y' }}", "{{- 'a' }} \n {{ 'b' -}} \n c", "{{ n\n+\n1 }}", "line1\n{{ undefd.x }}", "é{{ 'é' | length }}{# ü #}😀", "{{ é }}{% set é = 1 %}{{ é }}",
    "{% for x in [1,2,3] if x is odd %}{{ x }}{{ loop.nextitem }}{% endfor %}", "{% for x in l recursive %}{{ x }}{% endfor %}", "{% for x in [0] %}{% if x %}{% elif not x %}{% for y in [1] %}{{ x }}{{ y }}{% endfor %}{% endif %}{% endfor %}", "{% if t -%} x {%- else -%} y {%- endif %}", "{%if t%}x{%endif%}", "{%-if t-%}x{%-endif-%}", "{{1}}{{2}}", "{% set x=1%}{{x}}", "{%- macro a(b) -%} {{- b -}} {%- endmacro -%} {{ a(1) }}", "{% set x = 5 %}{% macro m(y=x) %}{{ y }}{% endmacro %}{{ m() }}{% set x = 6 %}{{ m() }}",
    "{% set c = namespace(n=0) %}{% macro inc() %}{% set c.n = c.n + 1 %}{{ c.n }}{% endmacro %}{{ inc() }}{{ inc() }}", "{% for i in range(3) %}{% set x = i %}{% if i == 1 %}{{ x is defined }}{% endif %}{% endfor %}{{ x is defined }}", "{% for i in range(2) %}{{ y is defined }}{% set y = i %}{{ y }}{% endfor %}",
    "{% set x = 'a' if fa %}{{ x is defined }}[{{ x }}]", "{{ ('a' if fa) + 'b' }}", "{{ ('a' if fa) ~ 'b' }}", "{% for x in 'ab' %}{{ loop.index }}{% for x in 'cd' %}{{ x }}{% endfor %}{{ x }}{% endfor %}", "{{ {'a': 1, 'a': 2} }}", "{{ {'x': 1}.x }}", "{{ ({'x': 1}).items() | list }}", "{{ '' }}{{ none }}{{ undefd }}{{ true }}",
]


def split_exprs(text):
    """Expressions are separated by | only where nothing else would parse; a filter has no space."""
    out = []
    for line in text.strip().split("\n"):
        out.append(line)
    return out


def pieces(line):
    """Split a line of EXPRS at the bars that stand between expressions.

    A bar stands for a filter when the next word is a filter's name directly followed by (, | or the
    end; all others separate. Bars inside quotes, brackets and braces never separate."""
    import jinja2
    filters = set(jinja2.Environment().filters) | {"tojson"}
    parts, depth, quote, start, i = [], 0, None, 0, 0
    while i < len(line):
        c = line[i]
        if quote:
            if c == "\\":
                i += 1
            elif c == quote:
                quote = None
        elif c in "'\"":
            quote = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "|" and depth == 0:
            word = ""
            j = i + 1
            while j < len(line) and (line[j].isalnum() or line[j] == "_"):
                word += line[j]
                j += 1
            after = line[j:j + 1]
            is_filter = (word in filters or word in ("nofilter", "nope")) and after in ("", "|", "(") \
                and word not in ("d",) or (word == "d" and line[start:i].startswith(("undefd", "0")))
            if not is_filter:
                parts.append(line[start:i])
                start = i + 1
        i += 1
    parts.append(line[start:])
    return parts


def snippets():
    out = []
    for line in split_exprs(EXPRS):
        out += ["{{ " + e + " }}" for e in pieces(line)]
    return out + TEMPLATES


def compiled(text):
    from transformers.utils.chat_template_utils import _compile_jinja_template
    return _compile_jinja_template(text)


def render(text, variables):
    """Jinja2's output, or None where it raises."""
    try:
        return compiled(text).render(**copy.deepcopy(variables))
    except Exception:
        return None


# ---------------------------------------------------------------- conversations

WORDS = ["hello", "Zürich", "naïve café", "你好，世界", "😀👩‍👩‍👧", "  padded  ", "", "line1\nline2", "tab\there",
         "<|im_end|>", "</think>", "<think>x</think>\n\ny", "<tool_call>", "quote \"x\" 'y' \\z", "\u00a0nbsp\u2003",
         "<|channel>thought\nabc<channel|>def", "<turn|>", "a<channel|>b", "العربية", "\u200bzero", "é", "x" * 300,
         "<tool_response>\n1\n</tool_response>", "{\"a\": 1}", "\r\n", "1", "None", "ǅ ŉ ß ﬁ", "\n\nlead", "trail\n\n"]
TYPES = ["string", "integer", "number", "boolean", "array", "object", "null", "STRING"]


class Maker:
    """Conversations. One seed in four is wild: it may hold what templates refuse."""

    def __init__(self, seed):
        self.r = random.Random(seed)
        self.wild = seed % 4 == 0

    def odd(self, share):
        return self.wild and self.r.random() < share

    def text(self, n=3):
        return " ".join(self.r.choice(WORDS) for _ in range(self.r.randint(0, n)))

    def word(self):
        return self.r.choice(["city", "unit", "query", "Max", "alpha", "Zeta", "ünit", "items", "with space", "n_1", "description", "type"])

    def value(self, depth=2):
        k = self.r.randint(0, 8 if depth else 6)
        return [self.text(2), self.r.randint(-10 ** 6, 10 ** 12), self.r.choice([0.5, 1.0, 1e-7, 1e22, -3.25]), True, False,
                None, self.r.choice(WORDS)][k] if k < 7 else \
            ([self.value(depth - 1) for _ in range(self.r.randint(0, 3))] if k == 7
             else {self.word(): self.value(depth - 1) for _ in range(self.r.randint(0, 3))})

    def schema(self, depth=3):
        s = {"type": self.r.choice(TYPES)}
        if self.r.random() < .1:
            s["type"] = ["string", "null"]
        if self.r.random() < .7:
            s["description"] = self.text(2)
        if self.r.random() < .3:
            s["enum"] = self.r.choice([["a", "b"], ["ü", "x y"], [1, 2.5], [], [{"k": "v"}, None, True]])
        if self.r.random() < .15:
            s["nullable"] = self.r.random() < .7
        if self.r.random() < .1:
            s["default"] = self.value(1)
        if depth and s["type"] == "array" and self.r.random() < .8:
            s["items"] = self.schema(depth - 1)
        if depth and s["type"] == "object" and self.r.random() < .8:
            s["properties"] = {self.word(): self.schema(depth - 1) for _ in range(self.r.randint(0, 3))}
            if self.r.random() < .6:
                s["required"] = [self.word() for _ in range(self.r.randint(0, 2))]
        if self.r.random() < .1:
            del s["type"]
        return s

    def tool(self):
        f = {"name": self.r.choice(["get_weather", "search-web", "a.b", "f"])}
        if not self.odd(.1):
            f["description"] = self.text(2)
        if self.r.random() < .9:
            p = {"type": "object", "properties": {self.word(): self.schema() for _ in range(self.r.randint(0, 4))}}
            if self.r.random() < .6:
                p["required"] = [self.word() for _ in range(self.r.randint(0, 3))]
            f["parameters"] = p
        if self.r.random() < .1:
            f["response"] = {"type": self.r.choice(["object", "string"]), "description": self.text(1)}
        return {"type": "function", "function": f} if not self.odd(.1) else f

    def content(self):
        k = self.r.random()
        if k < .7:
            return self.text(4)
        if k < .9:
            parts = []
            for _ in range(self.r.randint(0, 3)):
                parts.append(self.r.choice([{"type": "text", "text": self.text(2)}, {"type": "text", "text": self.text(2)},
                                            {"type": "image", "url": "x"}, {"type": "image_url", "image_url": {"url": "u"}},
                                            {"type": "video"}] + [{"type": "audio"}] * self.wild))
            return parts
        return None if k < .95 else ""

    def call(self, i):
        args = {self.word(): self.value() for _ in range(self.r.randint(0, 4))}
        f = {"name": self.r.choice(["get_weather", "search-web", "f"]), "arguments": args}
        if self.odd(.2):
            f["arguments"] = json.dumps(args, ensure_ascii=False)
        if self.odd(.1):
            del f["arguments"]
        c = {"type": "function", "id": f"call_{i}", "function": f}
        return f if self.odd(.1) else c

    def variables(self):
        msgs = []
        if self.r.random() < .5:
            msgs.append({"role": "developer" if self.odd(.4) else "system",
                         "content": self.content() if self.wild else self.text(4)})
        for turn in range(self.r.randint(0 if self.odd(.2) else 1, 4)):
            msgs.append({"role": "user", "content": self.content() if self.wild or turn else "q " + self.text(3)})
            for hop in range(self.r.randint(0, 2)):
                m = {"role": "assistant", "content": self.content()}
                if self.r.random() < .4:
                    m[self.r.choice(["reasoning_content", "reasoning", "reasoning_content"])] = self.r.choice([self.text(3), "", None])
                if self.r.random() < .5:
                    m["tool_calls"] = [self.call(f"{turn}{hop}{i}") for i in range(self.r.randint(0, 2))]
                msgs.append(m)
                for c in m.get("tool_calls", []):
                    if self.r.random() < .8:
                        body = self.r.choice([self.text(3), self.text(3), self.value(2), json.dumps(self.value(2)), [{"type": "text", "text": self.text(2)}]])
                        t = {"role": "tool", "content": body}
                        if self.r.random() < .7:
                            t["tool_call_id"] = c.get("id", "?")
                        if self.r.random() < .4:
                            t["name"] = c.get("name", "f")
                        msgs.append(t)
                if self.r.random() < .1:
                    m["tool_responses"] = [{"name": "f", "response": self.value(2)}]
            if self.odd(.1):
                msgs.append({"role": self.r.choice(["system", "critic", "model"]), "content": self.content()})
        v = {"messages": msgs, "tools": [self.tool() for _ in range(self.r.randint(0, 3))] if self.r.random() < .5 else None,
             "documents": None, "add_generation_prompt": self.r.random() < .7, "bos_token": "<bos>", "eos_token": "<eos>"}
        if self.r.random() < .6:
            v["enable_thinking"] = self.r.random() < .5
        if self.r.random() < .1:
            v["add_vision_id"] = True
        if self.r.random() < .1:
            v["preserve_thinking"] = True
        return v


def fnv(text):
    h = 0xCBF29CE484222325
    for b in text.encode("utf-8"):
        h = (h ^ b) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def dumps(v):
    return json.dumps(v, ensure_ascii=False, separators=(",", ":"))


def main():
    if sys.argv[1] == "snippets":
        print(dumps({"vars": VARS}))
        for s in snippets():
            r = render(s, VARS)
            print(dumps({"t": s, "ok": r} if r is not None else {"t": s, "error": True}))
    elif sys.argv[1] == "official":
        texts = {p.name: p.read_text(encoding="utf-8") for p in sorted(Path(sys.argv[2]).glob("*.jinja"))}
        for seed in range(150):
            v = Maker(seed).variables()
            hashes = {n: render(t, v) for n, t in texts.items()}
            print(dumps({"vars": v, "fnv": {n: None if r is None else fnv(r) for n, r in hashes.items()}}))


if __name__ == "__main__":
    main()
