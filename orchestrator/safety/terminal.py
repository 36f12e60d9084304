r"""Text that does nothing to a terminal: what could move its cursor is shown instead.

    "\x1b[2J evil"   becomes   "␛[2J evil"

Rows, names and messages come from others' files. What they print may not clear the screen, hide
a line, turn a text around or pass for markup.
"""

from __future__ import annotations

import re

_TURNING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_LINES = (0x2028, 0x2029)
_REPLACED = {
    **dict.fromkeys((*range(0x80, 0xA0), *_TURNING, *_LINES, *range(0xD800, 0xE000)), 0xFFFD),
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
}
# Beside those that JSON escapes anyway.
_JSON_SPARES = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """The text with each control character as one that can be seen; lines and tabs stay."""
    return text.translate(_REPLACED)


def harmless_json(text: str) -> str:
    """JSON that means the same, and holds no control character that JSON itself would leave."""
    return _JSON_SPARES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
