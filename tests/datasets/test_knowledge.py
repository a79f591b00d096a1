"""Knowledge sets: prompts, prefixes, accepted answers, distractors."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from farss.datasets import describe, facts, load_knowledge
from farss.datasets.facts import same_answer
from farss.datasets.knowledge import SOURCES, unasked_prompts
from farss.errors import DataError

DATA = Path(os.environ.get("FARSS_TEST_DATA") or Path(__file__).parents[2] / "../shared/data").resolve()
EMBEDDED = ("facts", "facts_rephrased", "facts_cloze")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data directory is not here")


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return str(path)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_sets_are_asked_after_shots_that_are_not_asked(name):
    known = load_knowledge(name)
    assert known.name == name and len(known.questions) >= 600
    assert not any(question.prompt in known.prefix for question in known.questions)
    assert all(len(q.distractors) == 3 and q.relation for q in known.questions)
    assert not any(same_answer(w, right) for q in known.questions for w in q.distractors for right in q.answers)


def test_the_three_wordings_of_the_facts():
    first = {name: load_knowledge(name, rows=1) for name in EMBEDDED}
    row = facts.rows("test", seed=0)[0]
    assert first["facts"].questions[0].prompt == f"Q: {row['question']}\nA:"
    assert first["facts_rephrased"].questions[0].prompt == f"Q: {row['rephrased']}\nA:"
    assert first["facts_cloze"].questions[0].prompt == row["cloze"]
    assert {known.questions[0].id for known in first.values()} == {row["id"]}
    assert first["facts"].prefix.count("Q: ") == 5 and first["facts"].prefix.endswith("\n\n")
    assert first["facts_cloze"].prefix.count(".\n") == 5


def test_spacing_is_left_to_the_scorer():
    for name in EMBEDDED:
        for question in load_knowledge(name).questions:
            texts = (*question.answers, *question.distractors)
            assert question.prompt == question.prompt.strip() and all(text == text.strip() for text in texts)


@pytest.mark.parametrize("name", EMBEDDED)
def test_fewer_rows_ask_the_first_of_the_same_questions(name):
    assert load_knowledge(name, rows=50).questions == load_knowledge(name).questions[:50]


def test_ids_and_distractors_do_not_depend_on_the_seed():
    first, second = (load_knowledge("facts", seed=seed) for seed in (0, 1))
    assert first.questions != second.questions and first.prefix != second.prefix
    assert {q.id: q for q in first.questions} == {q.id: q for q in second.questions}


def test_no_shots_no_prefix():
    assert load_knowledge("facts", shots=0).prefix == ""


def test_too_many_shots_are_refused():
    with pytest.raises(DataError, match="too few rows"):
        load_knowledge("facts", shots=1000)
    with pytest.raises(DataError, match="shots must be"):
        load_knowledge("facts", shots=-1)


def test_a_file_of_questions_gives_its_own_shots(tmp_path):
    rows = [{"question": f"what is number {i}", "answers": [f"n{i}", f"N {i}"]} for i in range(10)]
    known = load_knowledge(write(tmp_path / "mine.jsonl.gz", rows), shots=3)
    assert len(known.questions) == 7 and known.prefix.count("Q: ") == 3
    assert not any(question.prompt in known.prefix for question in known.questions)
    number = int(known.questions[0].id)
    assert known.questions[0].prompt == f"Q: what is number {number}?\nA:"
    assert known.questions[0].answers == (f"n{number}", f"N {number}") and known.questions[0].distractors == ()
    with pytest.raises(DataError, match="too few rows"):
        load_knowledge(str(tmp_path / "mine.jsonl.gz"), shots=10)


def test_a_set_with_training_rows_takes_its_shots_there(tmp_path):
    write(tmp_path / "nq_open" / "train_slice.jsonl.gz", [{"question": "t", "answer": ["train"]}] * 5)
    write(tmp_path / "nq_open" / "dev.jsonl.gz", [{"question": "d", "answer": ["test"]}] * 4)
    known = load_knowledge("nq_open", data_dir=tmp_path)
    assert known.prefix == "Q: t?\nA: train\n\n" * 5 and len(known.questions) == 4


def test_statistics_are_taken_from_questions_that_are_not_asked(tmp_path):
    rows = [{"question": f"what is number {i}", "answers": [f"n{i}"]} for i in range(10)]
    name = write(tmp_path / "mine.jsonl.gz", rows)
    known = load_knowledge(name, rows=4, shots=2)
    left = unasked_prompts(name, 100, asked=4, shots=2)
    assert len(left) == 4 and not {question.prompt for question in known.questions} & set(left)
    assert not any(prompt in known.prefix for prompt in left)
    assert unasked_prompts(name, 3, asked=4, shots=2) == left[:3]
    assert len(unasked_prompts(name, 100)) == 10  # the set is not asked at all
    for asked in (None, 8):
        with pytest.raises(DataError, match="every question of the knowledge set is asked"):
            unasked_prompts(name, 100, asked=asked, shots=2)


@pytest.mark.parametrize("name", ["facts", "facts_rephrased", "facts_cloze"])
def test_statistics_on_embedded_facts_come_from_those_kept_back(name):
    asked = {question.prompt for question in load_knowledge(name).questions}
    left = unasked_prompts(name, 256, asked=None)
    assert len(left) == 72 and not asked & set(left)


def test_statistics_come_from_training_rows_where_there_are_some(tmp_path):
    write(tmp_path / "nq_open" / "train_slice.jsonl.gz", [{"question": f"t{i}", "answer": ["a"]} for i in range(5)])
    write(tmp_path / "nq_open" / "dev.jsonl.gz", [{"question": "d", "answer": ["test"]}] * 4)
    left = unasked_prompts("nq_open", 256, asked=None, data_dir=tmp_path)
    assert sorted(left) == [f"Q: t{i}?\nA:" for i in range(5)]


def test_sentences_to_complete_have_no_prefix_and_distractors_of_their_relation(tmp_path):
    rows = [
        {"prompt": f"{city} is in", "attribute": land, "relation_id": "P17"}
        for city, land in [("Rome", "Italy"), ("Paris", "France"), ("Oslo", "Norway"), ("Bern", "Switzerland")]
    ] + [{"prompt": "Bach played the", "attribute": "organ", "relation_id": "P1303"}]
    known = load_knowledge(write(tmp_path / "mine.jsonl.gz", rows))
    by_id = {question.id: question for question in known.questions}
    assert known.prefix == "" and by_id["0"].prompt == "Rome is in" and by_id["0"].answers == ("Italy",)
    assert set(by_id["0"].distractors) == {"France", "Norway", "Switzerland"} and by_id["4"].distractors == ()


@pytest.mark.parametrize(
    "row", [{"text": "x"}, {"question": "q"}, {"question": "", "answer": "a"}, {"question": "q", "answer": ""},
            {"question": "q", "answer": None}, {"question": "q", "answer": [1]}],
)  # fmt: skip
def test_rows_that_are_no_questions_are_named(tmp_path, row):
    with pytest.raises(DataError, match=r"row 1"):
        load_knowledge(write(tmp_path / "mine.jsonl.gz", [row]))


def test_popqa_lists_come_as_lists_or_as_json_text(tmp_path):
    row = {"question": "Who?", "obj": "A", "possible_answers": '["A", "B"]', "prop": "author"}
    write(tmp_path / "popqa" / "test.jsonl.gz", [row])
    assert load_knowledge("popqa", data_dir=tmp_path, shots=0).questions[0].answers == ("A", "B")


def test_every_named_set_is_described():
    assert set(SOURCES) == {row["name"] for row in describe() if row["kind"] == "knowledge"}


@needs_data
@pytest.mark.parametrize(
    ("name", "rows", "begin"),
    [("trivia_qa", 5657, "Question: "), ("nq_open", 1805, "Q: "), ("web_questions", 1016, "Question: "),
     ("popqa", 995, "Q: "), ("known_1000", 1209, "")],
)  # fmt: skip
def test_the_real_sets(name, rows, begin):
    known = load_knowledge(name, data_dir=DATA)
    assert len(known.questions) == len({question.id for question in known.questions}) == rows
    assert known.prefix.startswith(begin) and bool(known.prefix) == (name != "known_1000")
    assert all(question.prompt.startswith(begin) and question.answers[0] for question in known.questions)
    if name == "known_1000":
        assert sum(len(question.distractors) == 3 for question in known.questions) > 1000
    if name == "trivia_qa":
        assert all(question.answers[1:] for question in known.questions[:100])


@needs_data
@pytest.mark.parametrize("name", ["gsm8k", "metamathqa_substitute", "alpaca"])
def test_the_real_tasks_are_formatted(name):
    from farss.datasets import load_rows
    from farss.datasets.formats import formatter, task_format

    rows = load_rows(name, "train", data_dir=DATA, limit=200, seed=0)
    form, render = task_format(name, rows), formatter(name, "plain")
    texts = [render(row) for row in rows]
    assert all(text.text[text.divided] == " " != text.prompt[-1] for text in texts)
    if name != "alpaca":
        assert all(form.gold(row) and "<<" not in form.record(row).answer for row in rows)
