"""What the bundled base model reads before it is frozen.

Four families of synthetic text, drawn at random and never repeated:

    rules   [Pm]13&62=42,62&42=84,...      equations under a digit-wise rule; a tag may name it
    lists   a=3;Q=7;...?Q=7;?Q a=7 3       bindings, look-ups of one to three of them
    sums    3+7=10;6+0=06                  sums of two digits
    copies  3*fkw:fkw,fkw,fkw              words repeated a given number of times

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
MIXED = LETTERS + "0123456789" + SIGNS + "=+-/"
EQUATIONS_MIN, EQUATIONS_MAX = 3, 32

TAG_GAP_MAX = 8  # equations from one tag to the next
TAGGED_SHARE = 0.9  # of the rule documents; the others are short and name no rule
TAGGED_LATE_SHARE = 0.15  # of the tagged ones: the first tag comes a few equations late
SWITCH_SHARE = 0.3  # of the repeated tags: they name another rule
# Where in "44@47=83," a tag may stand: before the equation, behind each of its characters
# but the last, or (BEFORE_COMMA) in front of the comma that opens it.
SPOTS = tuple(range(8))
BEFORE_COMMA = -1
FAMILIES = ("rules", "lists", "sums", "copies")
COPIES_MAX = 12
CHARACTERS_MAX = 480  # of a document with look-ups: it fits the context with its specials


def apply_rule(rule: str, left: str, right: str) -> str:
    """Apply a two-letter rule to two two-digit numbers: `("AD", "44", "47") -> "83"`."""
    return "".join(
        str(OPERATIONS[letter](int(x), int(y)))
        for letter, x, y in zip(rule, left, right, strict=True)
    )


def rule_document(rng: np.random.Generator, equations: int) -> str:
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
    return text


def _spot(rng: np.random.Generator) -> int:
    return int(rng.choice((BEFORE_COMMA, *SPOTS)))


def _insert(comma: str, equation: str, tag: str, spot: int) -> str:
    """Put a tag at its spot: `("," , "12@34=46", "[Ad]", 2)` -> `",12[Ad]@34=46"`."""
    if spot == BEFORE_COMMA:
        return tag + comma + equation
    return comma + equation[:spot] + tag + equation[spot:]


def list_document(rng: np.random.Generator, bindings: int) -> str:
    """Draw `bindings` name=value pairs, then about two look-ups per name."""
    names = [str(name) for name in rng.choice(list(NAMES), size=bindings, replace=False)]
    values = {name: str(rng.integers(10)) for name in names}
    separator = _draw(rng, (";", "\n", ","))
    text = separator.join(f"{name}={values[name]}" for name in names)
    for _ in range(2 * len(names)):
        asked = [_draw(rng, names) for _ in range(int(rng.choice((1, 1, 1, 2, 3))))]
        found = " ".join(values[name] for name in asked)
        look_up = f"{separator}?{' '.join(asked)}={found}"
        if len(text) + len(look_up) > CHARACTERS_MAX:
            break
        text += look_up
    return text


def sum_document(rng: np.random.Generator, sums: int) -> str:
    """Draw `sums` sums of two digits."""
    separator = _draw(rng, (";", "\n", ","))
    pairs = [(int(rng.integers(10)), int(rng.integers(10))) for _ in range(sums)]
    return separator.join(f"{x}+{y}={x + y:02d}" for x, y in pairs)


def copy_document(rng: np.random.Generator, words: int) -> str:
    """Draw lines that each repeat one word a number of times given in front: `3*ab:ab,ab,ab`."""
    alphabet = _draw(rng, (LETTERS, MIXED))
    lines = []
    while words > 0:
        count = min(words, int(rng.integers(1, COPIES_MAX + 1)))
        word = draw_word(rng, alphabet, 2, 9)
        lines.append(f"{count}*{word}:" + ",".join([word] * count))
        words -= count
    return "\n".join(lines)


def draw_batch(
    rng: np.random.Generator, tokens: int, shares: Mapping[str, float]
) -> list[tuple[str, bool]]:
    """Draw documents of one family and similar length, about `tokens` characters in all.

    Args:
        shares: how probable each family is.

    Returns:
        Pairs (text, closed): a closed document ends with the end token; a rule document is
        a window of an endless chain and does not.
    """
    family = str(rng.choice(list(shares), p=list(shares.values())))
    draw: Callable[[np.random.Generator, int], str]
    if family == "rules":
        size, draw = int(rng.integers(EQUATIONS_MIN, EQUATIONS_MAX + 1)), rule_document
    elif family == "lists":
        size, draw = int(rng.integers(3, 33)), list_document
    elif family == "sums":
        size, draw = int(rng.integers(3, 41)), sum_document
    else:
        size, draw = int(rng.integers(3, 31)), copy_document
    texts: list[str] = []
    while not texts or sum(map(len, texts)) + len(texts[-1]) <= tokens:
        texts.append(draw(rng, size))
    return [(text, family != "rules") for text in texts]


def _draw(rng: np.random.Generator, options: tuple[str, ...] | list[str] | str) -> str:
    return options[int(rng.integers(len(options)))]


def _number(rng: np.random.Generator) -> str:
    return f"{int(rng.integers(100)):02d}"


def draw_word(rng: np.random.Generator, alphabet: str, low: int, high: int) -> str:
    """Draw `low` to `high` characters of an alphabet."""
    return "".join(_draw(rng, alphabet) for _ in range(int(rng.integers(low, high + 1))))
