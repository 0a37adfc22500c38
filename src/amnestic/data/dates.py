"""The date that chat templates write: one that never changes, in the place of today's.

A template that calls ``strftime_now``, as Llama 3's does, writes another prompt every day, and so gives other numbers.
transformers hands templates nothing but data, so a macro of that name is put in front of the template.
"""

PINNED = "26 Jul 2024"
"""The date that Llama 3's own template falls back to where it cannot ask for today's."""
SHOWN = "2024-07-26"
"""The same, as results name it."""
FORMATS = {
    "a": "Fri",
    "A": "Friday",
    "b": "Jul",
    "h": "Jul",
    "B": "July",
    "c": "Fri Jul 26 00:00:00 2024",
    "C": "20",
    "d": "26",
    "D": "07/26/24",
    "e": "26",
    "f": "000000",
    "F": SHOWN,
    "g": "24",
    "G": "2024",
    "H": "00",
    "I": "12",
    "j": "208",
    "m": "07",
    "M": "00",
    "p": "AM",
    "R": "00:00",
    "S": "00",
    "T": "00:00:00",
    "u": "5",
    "U": "29",
    "V": "30",
    "w": "5",
    "W": "30",
    "x": "07/26/24",
    "X": "00:00:00",
    "y": "24",
    "Y": "2024",
    "z": "",
    "Z": "",
    "-d": "26",
    "-H": "0",
    "-I": "12",
    "-j": "208",
    "-m": "7",
    "-M": "0",
    "-S": "0",
    "-y": "24",
}
"""Conversions of strftime -> what they make of the first moment of that day, whatever the locale."""
_NAME = "strftime_now"


def asks_for_today(template: str) -> bool:
    """Return whether a chat template may write the current date."""
    return _NAME in template


def with_date(template: str, date: str | None = None) -> str:
    """Return `template` with the pinned date, in the format that it asks for; `date` stands there in any format."""
    if not asks_for_today(template):
        return template
    # the line break ends the block and is not written: what follows is the first line of the template, as before
    return f"{{% macro {_NAME}(format) %}}{_formatted() if date is None else date}{{% endmacro %}}\n{template}"


def _formatted() -> str:
    """Return the expression that writes the pinned date; ``%%`` is put aside, so that ``%%d`` stays ``%d``."""
    steps = [("%%", "\\x00"), *((f"%{code}", text) for code, text in FORMATS.items()), ("\\x00", "%")]
    return "{{ format" + "".join(f" | replace('{code}', '{text}')" for code, text in steps) + " }}"
