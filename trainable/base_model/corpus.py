"""What the bundled base model reads before it is frozen.

Four families of synthetic text, drawn at random and never repeated:

    rules   [Pm]13&62=42,62&42=84,...      equations under a digit-wise rule; a tag may name it
    lists   a=3;Q=7;...?Q=7;?Q a=7 3;Q-a=7-3=04;Q+2=7+2=09
                                           bindings, look-ups of one to three of them, and
                                           arithmetic on one or two
    sums    3+7=10;6+0=06                  sums of two digits
    copies  3*fkw:fkw,fkw,fkw              words repeated a given number of times
    echoes  fk4w@fk4w@fk4w@...             a random string, again and again

They hold the ingredients of the three built-in tasks and none of the tasks: no chain follows
Generation's rule, no name is ever added to another (Summation), and no count stands where
Repetition has it.

A rule treats the two digits of its operands separately. Each digit has an operation
(sum, difference, product or maximum, taken modulo 9 or 10) and each operation has a
letter, so a tag of two letters names a rule. The Generation task's own rule,
`HELD_OUT_RULE`, is never drawn: the base knows its two halves, each in other company,
but has seen neither a chain that follows the whole nor a tag that names it.

Where tags stand decides which insertion strategies a frozen model can serve, so they
stand everywhere: before or after commas and at every place inside an equation, from the
first equation on or only later. A tag is repeated every one to eight equations, like a
heading, and sometimes it names another rule. So the nearest tag counts, the equations in
between are weaker evidence, and no rule has to be remembered for more than eight of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Digitwise = Callable[[int, int], int]

# The letter's case is the modulus: capitals 9, small letters 10.
OPERATIONS: dict[str, Digitwise] = {
    "A": lambda x, y: (x + y) % 9,
    "D": lambda x, y: abs(x - y) % 9,
    "P": lambda x, y: (x * y) % 9,
    "M": lambda x, y: max(x, y) % 9,
    "a": lambda x, y: (x + y) % 10,
    "d": lambda x, y: abs(x - y) % 10,
    "p": lambda x, y: (x * y) % 10,
    "m": lambda x, y: max(x, y) % 10,
}
HELD_OUT_RULE = "AD"
RULES = tuple(t + u for t in OPERATIONS for u in OPERATIONS if t + u != HELD_OUT_RULE)
SIGNS = "@#&%~^$!"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
NAMES = LETTERS + LETTERS.upper()
DIGITS = "0123456789"
MIXED = LETTERS + DIGITS + SIGNS + "=+-/"
EQUATIONS_MIN, EQUATIONS_MAX = 3, 32

TAG_GAP_MAX = 8  # equations from one tag to the next
TAGGED_SHARE = 0.9  # of the rule documents; the others are short and name no rule
TAGGED_LATE_SHARE = 0.15  # of the tagged ones: the first tag comes a few equations late
SWITCH_SHARE = 0.3  # of the repeated tags: they name another rule
# Where in "44@47=83," a tag may stand: before the equation, behind each of its characters
# but the last, or (BEFORE_COMMA) in front of the comma that opens it.
SPOTS = tuple(range(8))
BEFORE_COMMA = -1
WIDTHS = (64, 128, 192, 256, 384, 512)  # of a batch, in tokens
SPECIAL_TOKENS = 2
FAMILIES = ("rules", "lists", "sums", "copies", "echoes")
COPIES_MAX = 12
SINGLE_SHARE = 0.4  # of the copies: one line alone
DIGITS_SHARE = 0.7  # of the lists: their values are digits; elsewhere letters
LOOK_UP_KINDS = {"?": 0.55, "-": 0.15, "*": 0.15, "+": 0.15}
NAMED_SHARE = 0.7  # of the operands of differences and products; the others are digits


class Document(NamedTuple):
    """A text to read.

    Args:
        closed: the end token follows; a rule document is a window of an endless chain and has
            none.
        given: so many characters at the front are read but not to be predicted.
    """

    text: str
    closed: bool = True
    given: int = 0


def apply_rule(rule: str, left: str, right: str) -> str:
    """Apply a two-letter rule to two two-digit numbers: `("AD", "44", "47") -> "83"`."""
    return "".join(
        str(OPERATIONS[letter](int(x), int(y)))
        for letter, x, y in zip(rule, left, right, strict=True)
    )


def rule_document(rng: np.random.Generator, equations: int) -> Document:
    """Draw a document of `equations` equations, its rule named by tags (or, rarely, not)."""
    rule, sign = _draw(rng, RULES), _draw(rng, SIGNS)
    tagged = rng.random() < TAGGED_SHARE
    if not tagged:
        equations = min(equations, TAG_GAP_MAX)
    next_tag = 0 if rng.random() > TAGGED_LATE_SHARE else int(rng.integers(1, 5))
    spot = None if rng.random() < 0.3 else _spot(rng)  # None: anew for each tag
    at_start = rng.random() < 0.5  # the first tag, wherever the later ones stand
    chained = rng.random() < 0.75
    left, right = _number(rng), _number(rng)
    text = ""
    for index in range(equations):
        tag = ""
        if tagged and index == next_tag:
            if index > 0 and rng.random() < SWITCH_SHARE:
                rule = _draw(rng, RULES)
            tag = f"[{rule}]"
            next_tag += int(rng.integers(1, TAG_GAP_MAX + 1))
        result = apply_rule(rule, left, right)
        place = 0 if index == 0 and at_start else spot
        comma = "," if index > 0 else ""
        equation = f"{left}{sign}{right}={result}"
        text += _insert(comma, equation, tag, _spot(rng) if place is None else place)
        left, right = (right, result) if chained else (_number(rng), _number(rng))
    return Document(text, closed=False)


def _spot(rng: np.random.Generator) -> int:
    return int(rng.choice((BEFORE_COMMA, *SPOTS)))


def _insert(comma: str, equation: str, tag: str, spot: int) -> str:
    """Put a tag at its spot: `("," , "12@34=46", "[Ad]", 2)` -> `",12[Ad]@34=46"`."""
    if spot == BEFORE_COMMA:
        return tag + comma + equation
    return comma + equation[:spot] + tag + equation[spot:]


def list_document(rng: np.random.Generator, bindings: int) -> Document:
    """Draw `bindings` name=value pairs, which are given, then one look-up or more."""
    names = [str(name) for name in rng.choice(list(NAMES), size=bindings, replace=False)]
    alphabet = DIGITS if rng.random() < DIGITS_SHARE else NAMES
    values = {name: _draw(rng, alphabet) for name in names}
    separator = _draw(rng, (";", "\n", ","))
    text = separator.join(f"{name}={values[name]}" for name in names)
    given = len(text)
    # It may end behind any look-up: one that always filled a batch's width taught the base to end
    # at certain places.
    length = int(rng.integers(given, min(4 * given, WIDTHS[-1] - SPECIAL_TOKENS) + 1))
    text += separator + _look_up(rng, names, values)
    while len(line := separator + _look_up(rng, names, values)) + len(text) <= length:
        text += line
    return Document(text, given=given)


def _look_up(rng: np.random.Generator, names: list[str], values: Mapping[str, str]) -> str:
    """One line: `?Q=7`, `?Q a=7 3`, and of digits also `Q-a=7-3=04`, `Q*2=7*2=14`, `3+Q=3+7=10`."""
    kind = str(rng.choice(list(LOOK_UP_KINDS), p=list(LOOK_UP_KINDS.values())))
    if kind == "?" or values[names[0]] not in DIGITS:
        asked = [_draw(rng, names) for _ in range(int(rng.choice((1, 1, 2, 3))))]
        return f"?{' '.join(asked)}={' '.join(values[name] for name in asked)}"
    if kind == "+":  # never two names: that is the Summation task
        operands = [_draw(rng, names), _draw(rng, DIGITS)][:: int(rng.choice((1, -1)))]
    else:
        operands = [_draw(rng, names if rng.random() < NAMED_SHARE else DIGITS) for _ in range(2)]
    x, y = (int(values.get(operand, operand)) for operand in operands)
    result = {"-": abs(x - y), "*": x * y, "+": x + y}[kind]
    return f"{operands[0]}{kind}{operands[1]}={x}{kind}{y}={result:02d}"


def sum_document(rng: np.random.Generator, sums: int) -> Document:
    """Draw `sums` sums of two digits."""
    separator = _draw(rng, (";", "\n", ","))
    pairs = [(int(rng.integers(10)), int(rng.integers(10))) for _ in range(sums)]
    return Document(separator.join(f"{x}+{y}={x + y:02d}" for x, y in pairs))


def copy_document(rng: np.random.Generator, words: int) -> Document:
    """Draw lines that each repeat one word a number of times given in front: `3*ab:ab,ab,ab`."""
    alphabet = _draw(rng, (LETTERS, MIXED, DIGITS + "@="))
    single = rng.random() < SINGLE_SHARE
    lines = []
    while words > 0:
        count = min(words, int(rng.integers(1, COPIES_MAX + 1)))
        word = draw_word(rng, alphabet, 2, 9)
        lines.append(f"{count}*{word}:" + ",".join([word] * count))
        words = 0 if single else words - count
    return Document("\n".join(lines))


def echo_document(rng: np.random.Generator, characters: int) -> Document:
    """Draw a string of `characters`, which is given, and repeat it to fill the document."""
    text = draw_word(rng, NAMES + DIGITS, characters, characters)
    length = _bucket(4 * characters) - SPECIAL_TOKENS
    return Document((text * length)[:length], closed=False, given=characters)


def draw_batch(
    rng: np.random.Generator, tokens: int, shares: Mapping[str, float]
) -> tuple[list[Document], int]:
    """Draw documents of one family and similar length that fill a rectangle of tokens.

    Args:
        tokens: the rectangle's size, a multiple of the longest width.
        shares: how probable each family is.

    Returns:
        The documents and the width that they are to be padded to, which is one of `WIDTHS`:
        as many as `tokens // width` rows hold, or fewer.
    """
    family = str(rng.choice(list(shares), p=list(shares.values())))
    draw: Callable[[np.random.Generator, int], Document]
    if family == "rules":
        size, draw = int(rng.integers(EQUATIONS_MIN, EQUATIONS_MAX + 1)), rule_document
    elif family == "lists":
        size, draw = int(rng.integers(3, 33)), list_document
    elif family == "sums":
        size, draw = int(rng.integers(3, 41)), sum_document
    elif family == "copies":
        size, draw = int(rng.integers(1, 31)), copy_document
    else:
        size, draw = int(rng.integers(6, 49)), echo_document
    documents: list[Document] = []
    width = WIDTHS[0]
    while True:
        document = draw(rng, size)
        wider = max(width, _bucket(len(document.text)))
        if (len(documents) + 1) * wider > tokens:
            return documents, width
        documents.append(document)
        width = wider


def _bucket(characters: int) -> int:
    """The smallest width that holds a text with its specials, or the largest there is."""
    return next((w for w in WIDTHS if characters + SPECIAL_TOKENS <= w), WIDTHS[-1])


def _draw(rng: np.random.Generator, options: tuple[str, ...] | list[str] | str) -> str:
    return options[int(rng.integers(len(options)))]


def _number(rng: np.random.Generator) -> str:
    return f"{int(rng.integers(100)):02d}"


def draw_word(rng: np.random.Generator, alphabet: str, low: int, high: int) -> str:
    """Draw `low` to `high` characters of an alphabet."""
    return "".join(_draw(rng, alphabet) for _ in range(int(rng.integers(low, high + 1))))
