"""Writes a grammar in GBNF as one that llguidance can follow.

llama.cpp's own engine for GBNF follows each way to read a text by itself: of an ambiguous grammar, a short one too,
there are more than it ever ends with, and all sequences stand still meanwhile. llguidance has bounds. There, text is
read in pieces that are as long as possible. A grammar whose rules don't refer to themselves is a single piece, and
means exactly the same. In others a piece ends before what refers to itself, and before what may be missing at its end,
such as white space. An output always fits the grammar, but where a piece could end earlier than at its longest some
texts never come.

llguidance's own `gbnf_to_lark` won't do: it makes each rule a piece, so `word "ing"` after `word ::= [a-z]+` makes no
text at all, and neither does the arithmetic of llama.cpp's examples; hexadecimal escapes and line ends in literals
and names that differ in `-` and `_` only are errors, and those quote the grammar.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

HEADER = "%llguidance {}"
_RULES_MAX = 500
_DEPTH_MAX = 50
_TIMES_MAX = 2000
_SUFFIXES_MAX = 4
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class GbnfInvalid(ValueError):
    """It is no GBNF; the message says where and why."""


@dataclass(frozen=True, slots=True)
class _Leaf:
    text: str
    """As Lark writes it."""


@dataclass(frozen=True, slots=True)
class _Ref:
    rule: str
    line: int


@dataclass(frozen=True, slots=True)
class _Repeat:
    item: _Item
    times: str


@dataclass(frozen=True, slots=True)
class _Choice:
    options: list[list[_Item]] = field(default_factory=list["list[_Item]"])


_Item: TypeAlias = _Leaf | _Ref | _Repeat | _Choice
_EMPTY = _Leaf('""')


def to_lark(text: str) -> str:
    """The same grammar in llguidance's Lark.

    Raises:
        GbnfInvalid: It is no GBNF, or larger than what can be followed.
    """
    rules = _Parser(text).rules()
    if "root" not in rules:
        raise GbnfInvalid("it has no rule named root")
    for rule in rules.values():
        for ref in _refs(rule):
            if ref.rule not in rules:
                raise GbnfInvalid(f"line {ref.line} names a rule that is not defined")
    return _Writer(rules).grammar()


class _Parser:
    """Reads one text from its beginning to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def rules(self) -> dict[str, _Choice]:
        found: dict[str, _Choice] = {}
        self._space(newlines=True)
        while self._next():
            name = self._name()
            self._space()
            self._take("::=")
            self._space(newlines=True)
            found[name] = self._choice()
            if self._next() not in ("", "\r", "\n"):
                raise self._wrong("something that no rule has")
            self._space(newlines=True)
            if len(found) > _RULES_MAX:
                raise GbnfInvalid(f"it has more than {_RULES_MAX} rules")
        return found

    def _choice(self) -> _Choice:
        nested = self._depth > 0
        options = [self._sequence(nested)]
        while self._next() == "|":
            self._at += 1
            self._space(newlines=True)
            options.append(self._sequence(nested))
        return _Choice(options)

    def _sequence(self, nested: bool) -> list[_Item]:
        items: list[_Item] = []
        while item := self._item():
            self._space(newlines=nested)
            for _ in range(_SUFFIXES_MAX):
                times = self._times()
                self._space(newlines=nested)
                # Lark has no item that never comes.
                item = _EMPTY if times in ("{0}", "{0,0}") else _Repeat(item, times) if times else item
            items.append(item)
        return items

    def _item(self) -> _Item | None:
        first = self._next()
        if first == '"':
            return _Leaf(json.dumps("".join(self._characters('"'))))
        if first == "[":
            return self._class()
        if first == ".":
            self._at += 1
            return _Leaf("/(?s:.)/")
        if first == "(":
            return self._group()
        return _Ref(self._name(), self._line()) if first in _NAME and first else None

    def _group(self) -> _Choice:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise GbnfInvalid(f"it is nested deeper than {_DEPTH_MAX}")
        self._take("(")
        self._space(newlines=True)
        choice = self._choice()
        self._take(")")
        self._depth -= 1
        return choice

    def _class(self) -> _Leaf:
        negated = self._text.startswith("[^", self._at)
        self._at += negated
        ranges = ""
        characters = self._characters("]")
        for character in characters:
            ranges += f"\\x{{{ord(character):x}}}"
            if self._next() == "-" and not self._text.startswith("-]", self._at):
                self._at += 1
                last = next(characters, "")
                if last < character:
                    raise self._wrong("a range whose end comes before its beginning")
                ranges += f"-\\x{{{ord(last):x}}}"
        if not ranges:
            raise self._wrong("a class without characters")
        return _Leaf(f"/[{'^' if negated else ''}{ranges}]/")

    def _characters(self, end: str) -> Iterator[str]:
        """Those up to `end`, which is taken too, as the one before them is."""
        self._at += 1
        while (character := self._next()) != end:
            if not character:
                raise self._wrong(f"its end, where {end} is missing")
            self._at += 1
            yield self._escaped() if character == "\\" else character
        self._at += 1

    def _escaped(self) -> str:
        kind = self._next()
        self._at += 1
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        digits = self._text[self._at : self._at + _HEX_DIGITS.get(kind, 0)]
        if not digits or len(digits) < _HEX_DIGITS[kind] or not _HEXADECIMAL.issuperset(digits):
            raise self._wrong("an unknown escape")
        self._at += len(digits)
        value = int(digits, 16)
        if value > 0x10FFFF or 0xD800 <= value < 0xE000:
            raise self._wrong("an escape that is no character")
        return chr(value)

    def _times(self) -> str:
        first = self._next()
        if first in ("*", "+", "?"):
            self._at += 1
            return first
        if first != "{":
            return ""
        end = self._text.find("}", self._at)
        least, comma, most = (part.strip() for part in self._text[self._at + 1 : max(end, 0)].partition(","))
        self._at = end + 1
        counts = [count for count in (least, most) if count]
        known = least and all(count.isascii() and count.isdecimal() and len(count) < 9 for count in counts)
        if end < 0 or not known or max(map(int, counts)) > _TIMES_MAX or int(counts[0]) > int(counts[-1]):
            raise GbnfInvalid(f"it has a repetition that is none from 0 to {_TIMES_MAX} times")
        most = most and str(int(most))
        return f"{{{int(least)},{most}}}" if comma else f"{{{int(least)}}}"

    def _name(self) -> str:
        start = self._at
        while self._next() in _NAME and self._next():
            self._at += 1
        if start == self._at:
            raise self._wrong("something else than the name of a rule")
        return self._text[start : self._at]

    def _space(self, *, newlines: bool = False) -> None:
        blank = " \t\r\n" if newlines else " \t"
        while character := self._next():
            if character == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif character in blank:
                self._at += 1
            else:
                return

    def _take(self, what: str) -> None:
        if not self._text.startswith(what, self._at):
            raise self._wrong(f"something else than {what}")
        self._at += len(what)

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _wrong(self, what: str) -> GbnfInvalid:
        return GbnfInvalid(f"line {self._line()} has {what}")


class _Writer:
    """Writes rules down: those that never get back to themselves as pieces, whose names are in capitals."""

    def __init__(self, rules: dict[str, _Choice]) -> None:
        self._rules = rules
        self._names = {name: f"R{number}" for number, name in enumerate(rules)}
        self._lines: list[str] = []
        self._empty = _growing(rules, _may_be_empty)
        self._pieces = _growing(rules, _has_only)
        if "root" not in self._pieces:
            self._pieces = _growing(rules, lambda rule, pieces: _has_only(rule, pieces) and not self._ends_open(rule))

    def grammar(self) -> str:
        for name, rule in self._rules.items():
            self._line(self._name(name), self._choice(rule, whole=name in self._pieces))
        return "\n".join([HEADER, f"start: {self._name('root')}", *self._lines, ""])

    def _name(self, rule: str) -> str:
        return self._names[rule] if rule in self._pieces else self._names[rule].lower()

    def _choice(self, choice: _Choice, *, whole: bool) -> str:
        return " | ".join(self._sequence(option, whole=whole) for option in choice.options)

    def _sequence(self, items: list[_Item], *, whole: bool) -> str:
        """With `whole` it is inside of a piece already; otherwise neighbours that can be one are made one."""
        written: list[str] = []
        piece: list[_Item] = []
        for item in items:
            if whole or not _has_only(item, self._pieces):
                written += [*self._piece(piece), self._item(item, whole=whole)]
                piece = []
            else:
                piece.append(item)
        return " ".join([*written, *self._piece(piece)]) or '""'

    def _ends_open(self, rule: _Choice) -> bool:
        """Whether it has something, at whose end something may be missing."""
        ends = any(len(option) > 1 and _may_be_empty(option[-1], self._empty) for option in rule.options)
        return ends and not _may_be_empty(rule, self._empty)

    def _piece(self, items: list[_Item]) -> list[str]:
        end = len(items)
        while end > 1 and _may_be_empty(items[end - 1], self._empty):
            end -= 1
        return [self._joined(part) for part in (items[:end], *([item] for item in items[end:])) if part]

    def _joined(self, items: list[_Item]) -> str:
        if len(items) == 1 and isinstance(items[0], _Leaf | _Ref | _Choice):
            return self._item(items[0], whole=True)
        written = self._sequence(items, whole=True)
        return self._line(f"P{len(self._lines)}", written)

    def _item(self, item: _Item, *, whole: bool) -> str:
        match item:
            case _Leaf(text):
                return text
            case _Ref(rule):
                return self._name(rule)
            case _Repeat(repeated, times):
                written = self._item(repeated, whole=whole)
                return f"({written}){times}"
            case _Choice():
                # Lark's depth of brackets is less than llama.cpp's.
                written = self._choice(item, whole=whole)
                return self._line(f"P{len(self._lines)}" if whole else f"p{len(self._lines)}", written)

    def _line(self, name: str, written: str) -> str:
        """Has a line of its own for what is written; its name."""
        self._lines.append(f"{name}: {written}")
        return name


def _growing(rules: dict[str, _Choice], belongs: Callable[[_Choice, set[str]], bool]) -> set[str]:
    """The rules that belong to a set because of others that do."""
    found: set[str] = set()
    while more := {name for name, rule in rules.items() if name not in found and belongs(rule, found)}:
        found |= more
    return found


def _has_only(item: _Item, rules: set[str]) -> bool:
    return all(ref.rule in rules for ref in _refs(item))


def _may_be_empty(item: _Item, empty: set[str]) -> bool:
    match item:
        case _Leaf(text):
            return text == '""'
        case _Ref(rule):
            return rule in empty
        case _Repeat(repeated, times):
            return times in ("*", "?") or times.startswith("{0") or _may_be_empty(repeated, empty)
        case _Choice(options):
            return any(all(_may_be_empty(part, empty) for part in option) for option in options)


def _refs(item: _Item) -> Iterator[_Ref]:
    if isinstance(item, _Ref):
        yield item
    elif isinstance(item, _Repeat):
        yield from _refs(item.item)
    elif isinstance(item, _Choice):
        for option in item.options:
            for part in option:
                yield from _refs(part)
