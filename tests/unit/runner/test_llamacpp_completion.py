"""What llama.cpp is asked for a completion, and what its events are read as."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from headrace_common import catalogue
from headrace_common.errors import ValidationError
from headrace_runner.backends.generation import Finish, Generated, PromptDone, Sampling
from headrace_runner.backends.llamacpp import constraint
from headrace_runner.backends.llamacpp.completion_body import completion_body
from headrace_runner.backends.llamacpp.completion_reader import CompletionReader
from headrace_runner.backends.llamacpp.constraint import Constraint, Constraints, OutputCheck, constraint_of
from headrace_runner.backends.llamacpp.events import EventReader, StreamMalformed

VOCABULARY = {"a": [1], "b": [2], "ab": [1, 2], "🙂": [7, 8, 9], "a🙂": [1, 7, 8, 9]}


async def tokens_of(text: str) -> Sequence[int]:
    return VOCABULARY[text]


def reader(top_logprobs: int | None = None) -> CompletionReader:
    return CompletionReader(tokens_of=tokens_of, top_logprobs=top_logprobs)


def event(text: str, tokens: Sequence[int], predicted: int, **more: Any) -> dict[str, Any]:
    return {"content": text, "tokens": list(tokens), "tokens_predicted": predicted, "stop": False, **more}


async def generated(on: CompletionReader, *events: dict[str, Any]) -> list[Generated]:
    read = [await on.read(each) for each in events]
    assert all(isinstance(part, Generated) for part in read)
    return [part for part in read if isinstance(part, Generated)]


def test_events_come_out_of_whatever_pieces_they_arrive_in() -> None:
    stream = b': ping\n\ndata: {"content":"\xf0\x9f\x99\x82"}\n\n:\n\ndata: {"stop":true}\n\n'
    for size in (1, 2, 7, len(stream)):
        events = EventReader()
        found = [each for at in range(0, len(stream), size) for each in events.feed(stream[at : at + size])]
        assert found == [{"content": "🙂"}, {"stop": True}]


@pytest.mark.parametrize(
    "line",
    [
        b"data: {\n",
        b"data: {} {}\n",
        b"data: \xff\n",
        b"data: [1]\n",
        b"data: " + b"[" * 100_000 + b"\n",
        b"x" * (9 << 20),
    ],
)
def test_a_stream_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(StreamMalformed):
        EventReader().feed(line)


async def test_progress_of_the_prompt_is_told_and_its_token_is_not() -> None:
    said = event("", [0], 0, prompt_progress={"total": 4, "cache": 3, "processed": 4, "time_ms": 1})
    assert await reader().read(said) == PromptDone(computed_tokens=4, cached_tokens=3)


async def test_tokens_that_llama_cpp_leaves_out_are_found_again() -> None:
    first, second = await generated(reader(), event("a", [1], 1), event("🙂", [9], 4))
    assert (first.token_ids, second.token_ids, second.untold_tokens) == ([1], [7, 8, 9], 0)


async def test_tokens_are_found_again_behind_text_that_was_held_back() -> None:
    held, second = await generated(reader(), event("", [1], 1), event("a🙂", [9], 4))
    assert (held.text, held.token_ids) == ("", [1])
    assert (second.text, second.token_ids, second.untold_tokens) == ("a🙂", [7, 8, 9], 0)


async def test_tokens_that_can_t_be_found_count_all_the_same() -> None:
    (forced,) = await generated(reader(), event("🙂", [6], 5))
    assert len(forced.token_ids) + forced.untold_tokens == 5
    # They stand for the text, so that another replica could go on after them.
    assert forced.token_ids == [7, 8, 9]
    cut, last = await generated(reader(), event("a", [1], 1), event("", [], 3, stop=True, stop_type="limit"))
    assert (cut.untold_tokens, last.untold_tokens, last.finish) == (0, 2, Finish.LENGTH)


async def test_the_end_of_text_is_a_token_without_text() -> None:
    end, last = await generated(reader(), event("", [2], 1), event("", [], 1, stop=True, stop_type="eos"))
    assert (end.text, end.token_ids, end.finish) == ("", [2], None)
    assert (last.token_ids, last.untold_tokens, last.finish) == ([], 0, Finish.STOP)


@pytest.mark.parametrize(
    ("stop_type", "finish"),
    [("eos", Finish.STOP), ("word", Finish.STOP), ("limit", Finish.LENGTH), ("none", Finish.STOP)],
)
async def test_why_it_ended(stop_type: str, finish: Finish) -> None:
    (last,) = await generated(reader(), event("", [], 0, stop=True, stop_type=stop_type))
    assert last.finish is finish


async def test_alternatives_are_told_as_far_as_they_were_asked_for() -> None:
    other = {"id": 2, "token": "b", "bytes": [98], "logprob": -2.0}
    said = event(
        "a", [1], 1, completion_probabilities=[{"id": 1, "bytes": [97], "logprob": -0.5, "top_logprobs": [other]}]
    )
    (without,) = await generated(reader(0), said)
    (beside,) = await generated(reader(1), said)
    assert [(each.token_id, each.token, each.logprob, each.top) for each in without.logprobs] == [(1, b"a", -0.5, [])]
    assert [each.token_id for each in beside.logprobs[0].top] == [2]


def test_what_llama_cpp_is_asked_is_exactly_what_the_request_says() -> None:
    sampling = Sampling(
        max_tokens=5, temperature=0.5, top_k=3, seed=9, stop=["x"], logit_bias={7: -100.0}, ignore_end=True
    )
    body = completion_body([1, 2], sampling, context_length=512)
    assert body["prompt"] == [1, 2]
    assert (body["n_predict"], body["temperature"], body["top_k"], body["seed"]) == (5, 0.5, 3, 9)
    assert (body["stop"], body["logit_bias"], body["ignore_eos"], body["n_probs"]) == (["x"], [[7, -100.0]], True, 0)
    # llama.cpp's own defaults would be others.
    assert (body["top_p"], body["min_p"], body["repeat_penalty"]) == (1.0, 0.0, 1.0)
    assert "grammar" not in body and "json_schema" not in body
    # These make a cancel take effect.
    assert body["stream"] and body["return_progress"]
    json.dumps(body, allow_nan=False)


def test_values_with_another_meaning_for_llama_cpp_are_not_passed_on() -> None:
    body = completion_body([1], Sampling(max_tokens=1, seed=2**32 - 1, stop=["", "x"]), context_length=512)
    assert (body["seed"], body["stop"]) == (0, ["x"])


@pytest.mark.parametrize(("asked", "told"), [(1, 1), (510, 510), (511, 510), (1 << 40, 510)])
def test_output_ends_where_the_context_does(asked: int, told: int) -> None:
    body = completion_body([1, 2], Sampling(max_tokens=asked, seed=0), context_length=512)
    assert body["n_predict"] == told


@pytest.mark.parametrize(("asked", "told"), [(None, 0), (0, 1), (1, 1), (20, 20)])
def test_the_chosen_token_has_a_probability_also_where_no_alternatives_are_wanted(asked: int | None, told: int) -> None:
    body = completion_body([1], Sampling(max_tokens=1, seed=0, top_logprobs=asked), context_length=512)
    assert body["n_probs"] == told


@pytest.mark.parametrize(
    "schema",
    [
        "{",
        "[1",
        "5",
        "null",
        "true",
        '{"maxLength": NaN}',
        "[" * 60_000,
        '{"type": "nosuch"}',
        '{"anyOf": [' * 60 + "{}" + "]}" * 60,
        '{"type": "string", "format": "uri"}',
        '{"$ref": "#/nowhere"}',
        '{"$ref": "http://127.0.0.1:1/schema"}',
        '{"type": "string", "pattern": "("}',
    ],
)
def test_a_schema_that_llama_cpp_would_ignore_is_refused(schema: str) -> None:
    pytest.importorskip("llguidance")
    with pytest.raises(ValidationError) as refused:
        constraint_of(Sampling(max_tokens=1, seed=0, json_schema=schema))
    assert refused.value.entry is catalogue.CONSTRAINT_INVALID
    assert refused.value.context == {"field": "sampling.json_schema"}


# llama.cpp's own examples.
JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws # with escapes
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
ARITHMETIC = r"""
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"""
CHESS = r"""
root ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?
"""


EVERY_WAY = 'root ::= root root | [a-z] root | ""'


def fits(grammar: str, text: str) -> bool:
    pytest.importorskip("llguidance")
    try:
        OutputCheck(constraint_of(Sampling(max_tokens=1, seed=0, grammar=grammar))).follow(text, ended=True)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["ye", "", "yesno"]),
        ('root ::= word "ing"\nword ::= [a-z]+', ["going", "singing"], ["ing", "goin"]),
        ('root ::= ("a" | "ab") "bc"?', ["a", "ab", "abc", "abbc"], ["bc"]),
        ("root ::= [^\\n]{2,5} .", ["abc", "ab\n", "é🙂\n"], ["a", "a\nb", "abcdefg"]),
        (r'root ::= "\x41\u00e9\U0001F642\"" [\]-]', ['Aé🙂"]', 'Aé🙂"-'], ['Aé🙂"']),
        ("# all\nroot ::= # one\n (\n x |\n ) #\nx ::= [a-c]+\n", ["", "abc"], ["d"]),
        (JSON, ['{"a": [1, -2.5e7, "x\\n\\u00e9", {"b":null}] }', "{}"], ['{"a":}', "[]", "{"]),
        (ARITHMETIC, ["x=1\n", "x1 *(2-y )=z\nq= \n4\n"], ["x=\n", "x=1"]),
        (
            r'root ::= "\x7f" "a"{0} ("b" | "c"){0,0} "d"*? "e"+{2}',
            ["\x7fee", "\x7fddeee"],
            ["\x7fe", "\x7faee", "\x7fbee"],
        ),
        ('root ::= "a" root? | ' + "(" * 50 + '"b" root?' + ")*?" * 50, ["", "aab", "bbab"], ["c"]),
        (CHESS, ["1. e4 e5\n2. Nf3 Nc6\n10. O-O-O bxc8=Q+\n"], ["1. e4 e5\n", "1. e9 e5\n2. a4 a5\n"]),
    ],
)
def test_a_grammar_means_what_it_means_to_llama_cpp(grammar: str, good: list[str], bad: list[str]) -> None:
    assert [fits(grammar, text) for text in good] == [True] * len(good)
    assert [fits(grammar, text) for text in bad] == [False] * len(bad)


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ("", "no rule named root"),
        ('x ::= "a"', "no rule named root"),
        ("root ::= nowhere", "line 1 names a rule"),
        ('root ::= "b"\n  root2 = "a"', "line 2 has something else than ::="),
        ("root ::= (", "else than )"),
        ('root ::= "a" )', "something that no rule has"),
        ('root ::= "a', 'where " is missing'),
        ("root ::= [a", "where ] is missing"),
        ("root ::= []", "without characters"),
        ("root ::= [z-a]", "comes before"),
        (r'root ::= "\q"', "unknown escape"),
        (r'root ::= "\ud800"', "no character"),
        ('root ::= "a"{3000}', "repetition"),
        ('root ::= "a"{2,1}', "repetition"),
        ('root ::= "a"{', "repetition"),
        ("root ::= <[1]>", "something that no rule has"),
        ('root ::= "a"*****', "something that no rule has"),
        ("root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "nested deeper"),
        ("".join(f"r{index} ::= root\n" for index in range(1000)), "rules"),
        ('%llguidance {}\nstart: "a"', "line 1"),
        # What it stands for has more characters than there are atoms.
        ("root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(90)) + 'r90 ::= "a"?', "complex"),
    ],
)
def test_a_grammar_that_can_t_be_used_is_refused_with_the_place(grammar: str, why: str) -> None:
    pytest.importorskip("llguidance")
    with pytest.raises(ValidationError) as refused:
        constraint_of(Sampling(max_tokens=1, seed=0, grammar=grammar))
    assert refused.value.context == {"field": "sampling.grammar"}
    assert why in refused.value.message and len(refused.value.message) < 120


def test_a_grammar_of_countless_readings_is_followed_all_the_same() -> None:
    assert fits(f"root ::={' x' * 12}\nx ::={' [a-z]*' * 3}", "abc" * 300)
    assert fits(EVERY_WAY, "abc" * 10)
    # As many parts that may be missing as there is room for are no reason to fail, either.
    assert constraint_of(Sampling(max_tokens=1, seed=0, grammar='root ::= "(" root ")" |' + " .?" * 5000))


def test_a_grammar_that_takes_ever_longer_is_given_up() -> None:
    pytest.importorskip("llguidance")
    check = OutputCheck(constraint_of(Sampling(max_tokens=1, seed=0, grammar=EVERY_WAY)))
    with pytest.raises(ValidationError, match="too complex to follow"):
        for _ in range(1000):
            check.follow("abcdefghij", ended=False)


def test_no_word_of_a_library_is_in_what_is_refused() -> None:
    pytest.importorskip("llguidance")
    with pytest.raises(ValidationError) as refused:
        constraint_of(Sampling(max_tokens=1, seed=0, json_schema='{"type": "nosuch"}'))
    assert refused.value.message == (
        "sampling.json_schema can't be used: it is too complex, or no JSON schema of the parts that are supported"
    )
    with pytest.raises(ValidationError, match="a format that is none of date, date-time,"):
        constraint_of(Sampling(max_tokens=1, seed=0, json_schema='{"items": [{"format": "uri"}]}'))
    with pytest.raises(ValidationError, match=r"it is not JSON \(line 2, column 1\)$"):
        constraint_of(Sampling(max_tokens=1, seed=0, json_schema="{\n"))


def test_schemas_that_can_be_used_pass() -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"enum": [1, "x"]}}, "required": ["a"]}
    check = OutputCheck(constraint_of(Sampling(max_tokens=1, seed=0, json_schema=json.dumps(schema))))
    check.follow('{"a":', ended=False)
    check.follow(' "x"}', ended=True)
    # These are values, whatever they look like.
    constraint_of(Sampling(max_tokens=1, seed=0, json_schema='{"const": {"format": "uri"}}'))


async def test_equal_constraints_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance")
    made: list[Sampling] = []

    def counted(sampling: Sampling) -> Constraint:
        made.append(sampling)
        return constraint_of(sampling)

    monkeypatch.setattr(constraint, "constraint_of", counted)
    constraints = Constraints()
    good, bad = (Sampling(max_tokens=1, seed=0, grammar=grammar) for grammar in ('root ::= "a"', "root ::= ("))
    gone = asyncio.ensure_future(constraints.of(good))
    await asyncio.sleep(0)
    gone.cancel()
    for _ in range(2):
        found = await asyncio.gather(*(constraints.of(each) for each in (good, good, bad, bad)), return_exceptions=True)
        assert found[0] is found[1] and isinstance(found[0], Constraint)
        assert all(isinstance(each, ValidationError) for each in found[2:])
    assert len(made) == 2
