"""Rendered rows to ids: what is learned, closed, cut, left out and counted, in few calls of the tokenizer."""

from __future__ import annotations

import pytest

from farss.datasets.rendered import Rendered
from farss.errors import DataError
from farss.model.encoding import encode, encode_prompts, encode_rows


def text(asked: str, answer: str, *, apart: bool = False, **more) -> Rendered:
    learned = ((len(asked), len(asked + answer)),)
    return Rendered(asked + answer, learned, divided=len(asked) if apart else None, **more)


def apart(row):
    return text(*row, apart=True)


def joined(row):
    return text(*row)


class WithBos:
    """A tokenizer that opens every text with BOS unless told not to, as Gemma's does, and cannot say places."""

    is_fast = False

    def __init__(self, tokenizer):
        self.tokenizer, self.calls, self.texts = tokenizer, 0, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, texts, add_special_tokens=True):
        self.calls, self.texts = self.calls + 1, self.texts + len(texts)
        ids = self.tokenizer(texts)["input_ids"]
        return {"input_ids": [[self.tokenizer.bos_token_id, *row] if add_special_tokens else row for row in ids]}


@pytest.mark.parametrize("formatter", [apart, joined])
@pytest.mark.parametrize("slow", [False, True])
def test_a_row_is_closed_and_its_answer_learned(tiny_tokenizer, formatter, slow):
    tokenizer = WithBos(tiny_tokenizer) if slow else tiny_tokenizer
    one, two = encode_rows([("ab", "cde"), ("ab", "cd<eos>")], tokenizer, formatter, 100)
    assert tiny_tokenizer.decode(one.prompt_ids) == ("<bos>ab" if slow else "ab")
    assert tiny_tokenizer.decode(one.response_ids) == "cde<eos>"
    assert tiny_tokenizer.decode(two.response_ids) == "cd<eos>"  # not doubled


@pytest.mark.parametrize("formatter", [apart, joined])
@pytest.mark.parametrize("first", ["ab", "<bos>ab"])
def test_each_row_opens_with_one_bos_whatever_the_others_do(tiny_tokenizer, formatter, first):
    rows = encode_rows([(first, "cd"), ("ef", "gh")], WithBos(tiny_tokenizer), formatter, 100)
    assert [tiny_tokenizer.decode(row.prompt_ids) for row in rows] == ["<bos>ab", "<bos>ef"]
    assert [tiny_tokenizer.decode(row.response_ids) for row in rows] == ["cd<eos>", "gh<eos>"]


def test_what_a_chat_template_wrote_is_neither_opened_nor_closed(tiny_tokenizer):
    (row,) = encode([text("ab", "cd\n", opened=True, closed=True)], WithBos(tiny_tokenizer), 100).examples
    assert tiny_tokenizer.decode(row.ids) == "abcd\n"


def test_several_parts_are_learned_where_they_stand(tiny_tokenizer):
    for tokenizer in (tiny_tokenizer, WithBos(tiny_tokenizer)):
        row = Rendered("abcdefg", ((1, 3), (5, 6)), opened=True, closed=True)
        (example,) = encode([row], tokenizer, 100).examples
        assert [tiny_tokenizer.decode(answer) for _, answer in example.answers()] == ["bc", "f"]


def test_the_first_token_of_a_text_is_not_learned(tiny_tokenizer):
    (example,) = encode([Rendered("abc", ((0, 3),))], tiny_tokenizer, 100).examples
    assert tiny_tokenizer.decode(example.response_ids) == "bc<eos>"  # nothing predicts it
    (example,) = encode([Rendered("abc", ((0, 3),))], WithBos(tiny_tokenizer), 100).examples
    assert tiny_tokenizer.decode(example.response_ids) == "abc<eos>"


@pytest.mark.case("answers cut short are counted")
def test_rows_cut_and_left_out_are_counted(tiny_tokenizer):
    rows = [text("abc", "defgh"), text("a" * 9, "b"), text("a", "b")]
    found = encode(rows, tiny_tokenizer, 5)
    assert (found.kept, found.cut, found.dropped, found.shortest) == ([0, 2], 1, 1, 9)
    assert tiny_tokenizer.decode(found.examples[0].response_ids) == "de"
    with pytest.warns(UserWarning) as caught:
        encode_rows([("a" * 9, "b"), ("a", "b"), ("a" * 10, "b"), ("a", "bcdefghij")], tiny_tokenizer, joined, 9)
    assert [str(w.message)[:11] for w in caught] == ["2 of 4 rows", "1 of 4 rows"]


def test_no_response_anywhere_is_refused(tiny_tokenizer):
    with pytest.raises(DataError, match="shortest prompt: 9"):
        encode_rows([("a" * 9, "b"), ("a" * 12, "b")], tiny_tokenizer, joined, 8)


def test_no_rows_are_refused(tiny_tokenizer):
    with pytest.raises(DataError, match="no rows"):
        encode([], tiny_tokenizer, 8)


def test_a_tokenizer_without_an_end_is_refused():
    class Endless:
        eos_token_id, name_or_path = None, "endless"

    with pytest.raises(DataError, match="end-of-sequence"):
        encode([text("a", "b")], Endless(), 8)


@pytest.mark.case("cost grows with what is used")
def test_many_rows_take_few_calls(tiny_tokenizer):
    tokenizer = WithBos(tiny_tokenizer)
    encode([text("ab", "cd", apart=True)] * 500, tokenizer, 100)
    assert tokenizer.calls == 2 and tokenizer.texts == 1000  # prompts and answers
    encode_prompts(["ab", "<bos>cd"] * 200, tokenizer, 100)
    assert tokenizer.calls == 4  # with and without BOS
