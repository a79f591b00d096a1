"""What a recipe names, fetched: model, training and calibration examples, test rows, knowledge sets."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farss.config import TEMPLATES, Dtype, Recipe
from farss.datasets.dates import keep_date_
from farss.datasets.formats import Formatter, formatter, numbered, template_text
from farss.datasets.knowledge import KnowledgeSet, load_knowledge, unasked_prompts
from farss.datasets.rendered import Rendered
from farss.errors import ConfigError, DataError
from farss.evaluation.task import TaskSet
from farss.experiment.benchmarking import check_measured
from farss.experiment.drawing import Drawn, draw
from farss.experiment.fetched import fetched_by, once
from farss.experiment.row_account import Account
from farss.experiment.set_rows import Portion, TaskRow
from farss.experiment.task_rows import divided_portions, held_out_portion, training_portion
from farss.model.checkpoint import language_model, load_config, load_tokenizer
from farss.model.devices import place
from farss.model.encoding import Limit, encode, encode_prompts, end_token
from farss.model.ends import Ends, Taught, ends_of, stop_at_
from farss.model.examples import Example
from farss.model.sources import LoadedModel, load, resolve
from farss.model.tables import check_ids, vocabulary_of, window_of


def load_model(recipe: Recipe, dtype: Dtype | None = None) -> LoadedModel:
    """The recipe's pre-trained model on its device, in its own dtype or in `dtype`; it stops where its rows do."""
    loaded = load(recipe.model, dtype=dtype, device=place(recipe.device))
    keep_date_(loaded.tokenizer, recipe.data.date)
    stop_at_(loaded.model, learned_ends(recipe, loaded.tokenizer).tokens)
    return loaded


def learned_ends(recipe: Recipe, tokenizer: Any) -> Ends:
    """What closes an answer in the recipe's rows, beside the tokenizer's end of sequence.

    Raises:
        ConfigError: if the template is not there, or `data.end_of_turn` is no token.
    """
    written = ends_of(tokenizer, rows_formatter(recipe, tokenizer).after)
    end = end_token(tokenizer, recipe.data.end_of_turn)
    return Ends(written.tokens if end is None else (*written.tokens, end), written.texts)


def taught(recipe: Recipe, tokenizer: Any) -> Taught:
    """What a model trained on the recipe's rows is asked in and ended by, for whoever uses it elsewhere."""
    named = recipe.data.template
    ends = learned_ends(recipe, tokenizer).tokens
    return Taught(ends, None if named in TEMPLATES else template_text(named))


def load_for_statistics(recipe: Recipe) -> LoadedModel:
    """The recipe's model in the dtype its statistics are taken in (`init.dtype`)."""
    return load_model(recipe, None if recipe.init.dtype == "auto" else recipe.init.dtype)


def check_model(recipe: Recipe) -> Path:
    """The folder of the recipe's model, whose kind and files were checked; nothing is loaded.

    Raises:
        ModelError: if the model is not found, damaged, or writes no text.
    """
    folder = resolve(recipe.model.name, recipe.model.revision)
    language_model(folder, trust_remote_code=recipe.model.trust_remote_code)
    return folder


def tokenizer_of(recipe: Recipe) -> Any:
    """The tokenizer of the recipe's model, which is checked first and not loaded.

    Raises:
        ModelError: as `check_model`, or if the tokenizer cannot be used.
    """
    trusted, day = recipe.model.trust_remote_code, recipe.data.date
    return once(recipe, "tokenizer", lambda: keep_date_(load_tokenizer(check_model(recipe), trusted), day))


def check_inputs(recipe: Recipe, *, train: bool = True, test: bool = True) -> None:
    """Check, before a model is loaded, that the model's folder, the rows and the knowledge sets are there and readable.

    Args:
        recipe: names them.
        train: check the training rows.
        test: check the held-out rows.

    Raises:
        ModelError: if the model is not found, damaged, or writes no text.
        DataError: if rows are missing, empty, or lack fields; it names the row.
    """
    tokenizer = tokenizer_of(recipe)
    if train:
        _check_rows(recipe, training_portion(recipe), tokenizer)
    if test:
        _check_rows(measuring(recipe), held_out_portion(recipe), tokenizer)
        check_measured(recipe)
    knowledge_sets(recipe)


def _check_rows(recipe: Recipe, portion: Portion, tokenizer: Any) -> None:
    """Render the rows; where a long one is refused, tokenise them too, so that it is refused now."""
    if recipe.data.too_long == "refuse":
        encoded(recipe, portion, tokenizer)
    else:
        rendered(recipe, portion, tokenizer)


@dataclass(frozen=True)
class Prepared:
    """Rows as token ids.

    Attributes:
        examples: of the rows that keep something to learn.
        rows: those rows, in the same order.
        texts: those rows as text.
        account: what became of all rows.
    """

    examples: list[Example]
    rows: list[TaskRow]
    texts: list[Rendered]
    account: Account


def training_rows(recipe: Recipe) -> list[dict[str, Any]]:
    """The training rows: a seeded sample of `data.train_rows`, or all.

    Raises:
        DataError: if there are none, or a row cannot be read; it names the row.
    """
    return [row.row for row in training_portion(recipe).rows]


def held_out_rows(recipe: Recipe) -> list[dict[str, Any]]:
    """The task's held-out rows, in file order, at most `eval.task_rows` of them."""
    return [row.row for row in held_out_portion(recipe).rows]


def training_set(recipe: Recipe, tokenizer: Any) -> Prepared:
    """The training rows as token ids.

    Raises:
        DataError: if there are none, or a row cannot be read or rendered; it names the row.
    """
    return once(recipe, "training set", lambda: prepared(recipe, training_portion(recipe), tokenizer))


def training_examples(recipe: Recipe, tokenizer: Any) -> list[Example]:
    """As `training_set`, the examples alone."""
    return training_set(recipe, tokenizer).examples


def longest(recipe: Recipe) -> int:
    """The most tokens of a text: `data.max_length`, or what the recipe's model reads where that is less."""
    return limit(recipe).tokens


def limit(recipe: Recipe) -> Limit:
    """As `longest`, with whose limit it is."""
    return once(recipe, "limit", lambda: _limit(recipe))


def _limit(recipe: Recipe) -> Limit:
    asked, window = recipe.data.max_length, window_of(_configuration(recipe))
    if window is not None and window < asked:
        warnings.warn(
            f"max_length is {asked}, and the model reads {window} tokens: texts are cut to these", stacklevel=2
        )
    of_model = window is not None and window <= asked
    return Limit(min(asked, window or asked), of_model, recipe.data.too_long)


def check_tokens(recipe: Recipe, tokenizer: Any, examples: Sequence[Example], rows: Sequence[str]) -> None:
    """Check, before the model is loaded, that it has an embedding for every token of the examples.

    Raises:
        DataError: naming the row, as `rows` does, and the token.
    """
    texts = [example.prompt_ids + example.response_ids for example in examples]
    check_ids(texts, vocabulary_of(_configuration(recipe)), rows, tokenizer)


def _configuration(recipe: Recipe) -> Any:
    named = recipe.model
    return load_config(resolve(named.name, named.revision), named.trust_remote_code)


def calibration_set(recipe: Recipe, tokenizer: Any, rows: int) -> Drawn[Example]:
    """Calibration rows as token ids, `rows` of the training rows or all there are, in `data.calibration_order`.

    Rows are drawn before they are rendered, so that what is not drawn costs nothing. For a row that cannot be used
    (too long, or left out as a bad one) another is drawn.

    Raises:
        DataError: as `training_set`.
    """
    return once(recipe, "calibration set", lambda: _calibration_set(recipe, tokenizer, rows), rows)


def _calibration_set(recipe: Recipe, tokenizer: Any, rows: int) -> Drawn[Example]:
    portion = training_portion(recipe)
    everything, seed, order = portion.rows, recipe.data.seed, recipe.data.calibration_order
    queue = draw(everything, rows, seed, order).places
    spare = sorted(set(range(len(everything))) - set(queue))
    if order == "random":
        random.Random(seed + 1).shuffle(spare)
    wanted, found = len(queue), dict[int, Example]()
    while queue:
        part = encoded(recipe, Portion([everything[i] for i in queue], portion.account), tokenizer)
        made = {id(row): example for row, example in zip(part.rows, part.examples, strict=True)}
        found |= {i: made[id(everything[i])] for i in queue if id(everything[i]) in made}
        missing = wanted - len(found)
        queue, spare = spare[:missing], spare[missing:]
    portion.account.use([everything[i] for i in sorted(found)])
    portion.account.finish(limit(recipe))
    return Drawn(list(found.values()), list(found), portion.account.summary())


def prepared(recipe: Recipe, portion: Portion, tokenizer: Any) -> Prepared:
    """Rows of the task as token ids; said in one warning what was left out and cut.

    Raises:
        DataError: if a row cannot be rendered and `data.on_bad_row` is "refuse", or no row is left.
    """
    return _accounted(recipe, encoded(recipe, portion, tokenizer))


def encoded(recipe: Recipe, portion: Portion, tokenizer: Any) -> Prepared:
    """As `prepared`, without a word; counts are added to the portion's account, and no row may be left.

    Raises:
        DataError: if a row cannot be rendered and `data.on_bad_row` is "refuse".
    """
    texts = rendered(recipe, portion, tokenizer)
    rows, written = [row for row, _ in texts], [text for _, text in texts]
    if not rows:
        return Prepared([], [], [], portion.account)
    data, most = recipe.data, longest(recipe)
    end = end_token(tokenizer, data.end_of_turn)
    found = encode(written, tokenizer, most, whole=data.too_long != "cut", end=end)
    if found.longer and data.too_long == "refuse":
        place, tokens = found.longer[0]
        raise _too_long(_named(rows[place]), tokens, most)
    names = [_named(rows[i]) for i in found.kept]
    check_tokens(recipe, tokenizer, found.examples, names)
    portion.account.left_out += found.dropped
    portion.account.cut += found.cut
    portion.account.shortest = min(filter(None, (portion.account.shortest, found.shortest)), default=0)
    return Prepared(found.examples, [rows[i] for i in found.kept], [written[i] for i in found.kept], portion.account)


def rows_formatter(recipe: Recipe, tokenizer: Any) -> Formatter:
    """What puts the rows of the recipe's task into its template.

    Raises:
        ConfigError: if the template is not there.
    """
    data = recipe.data
    choices = {"turns": data.turns, "learn": data.learn, "columns": data.columns}
    return formatter(data.task, data.template, tokenizer, **choices)


def rendered(recipe: Recipe, portion: Portion, tokenizer: Any) -> list[tuple[TaskRow, Rendered]]:
    """Rows of the task as text, without those that cannot be rendered where they are left out.

    Raises:
        DataError: if a row cannot be rendered and `data.on_bad_row` is "refuse"; it names the row.
    """
    data, render, found = recipe.data, rows_formatter(recipe, tokenizer), []
    for row in portion.rows:
        try:
            found.append((row, render.render(row.record)))
        except DataError as error:
            placed = numbered(error, row.set, row.number)
            if data.on_bad_row == "refuse":
                raise placed from None
            portion.account.skip(placed, row.set)
    return found


def _accounted(recipe: Recipe, found: Prepared) -> Prepared:
    """The same, its account completed and said."""
    found.account.use(found.rows)
    found.account.finish(limit(recipe))
    return found


def _named(row: TaskRow) -> str:
    return f"{row.set}, row {row.number}"


def _too_long(where: str, tokens: int, most: int) -> DataError:
    return DataError(
        "a row is longer than data.max_length",
        where=where,
        expected=f"at most {most} tokens",
        got=f"{tokens} tokens",
        do="raise data.max_length, or have such rows dropped or cut (data.too_long: drop | cut)",
    )


def knowledge_prompts(recipe: Recipe) -> list[str]:
    """Knowledge questions that the recipe does not ask: as many as calibration rows may be read, or all there are.

    Raises:
        ConfigError: if no knowledge set is named.
        DataError: if the set is missing, or every question of it is asked.
    """
    data, settings = recipe.data, recipe.eval
    name = data.knowledge_calibration or next(iter(settings.knowledge), None)
    if name is None:
        raise ConfigError("a knowledge set is needed to take statistics from", where="data.knowledge_calibration")
    return unasked_prompts(
        name,
        data.most_rows,
        asked=settings.knowledge_rows if name in settings.knowledge else 0,
        shots=settings.shots,
        data_dir=data.data_dir,
        seed=settings.seed,
        load=fetched_by(recipe).rows,
    )


def knowledge_examples(recipe: Recipe, tokenizer: Any) -> list[Example]:
    """`knowledge_prompts` as token ids: the questions alone, as CorDA and LoRA-Null read them, without answers."""
    return once(recipe, "knowledge examples", lambda: _knowledge_examples(recipe, tokenizer))


def _knowledge_examples(recipe: Recipe, tokenizer: Any) -> list[Example]:
    examples = encode_prompts(knowledge_prompts(recipe), tokenizer, longest(recipe))
    check_tokens(recipe, tokenizer, examples, [f"knowledge question {number}" for number in range(len(examples))])
    return examples


def test_set(recipe: Recipe, tokenizer: Any, rows: int | None = None) -> TaskSet:
    """The task's first `rows` held-out rows, without those whose prompt alone fills `max_length`."""
    return once(recipe, "test set", lambda: _task_set(recipe, tokenizer, held_out_portion(recipe, rows)), rows)


def measured_rows(recipe: Recipe, tokenizer: Any) -> dict[str, Any]:
    """Which of the task's rows are measured and what became of the others, JSON-ready."""
    return dict(test_set(recipe, tokenizer).rows)


def validation_set(recipe: Recipe, tokenizer: Any) -> TaskSet:
    """The rows that choose between trials, without those whose prompt alone fills `max_length`."""
    return once(recipe, "validation set", lambda: _task_set(recipe, tokenizer, divided_portions(recipe)[1]))


def validation_examples(recipe: Recipe, tokenizer: Any) -> list[Example]:
    """The rows whose loss is measured while training, as they would be learned; none where it is not measured.

    Raises:
        DataError: if there are too few rows, or as `training_set`.
    """
    if recipe.train.eval_steps is None:
        return []
    return prepared(recipe, divided_portions(recipe)[1], tokenizer).examples


def measuring(recipe: Recipe) -> Recipe:
    """The recipe for rows that are measured: what the model answers counts, whatever is learned beside it."""
    return recipe.override({"data.learn": "answers"})


def _task_set(recipe: Recipe, tokenizer: Any, portion: Portion) -> TaskSet:
    found = prepared(measuring(recipe), portion, tokenizer)
    return TaskSet(
        name=recipe.data.task,
        examples=found.examples,
        prompts=[text.prompt for text in found.texts],
        golds=[row.gold for row in found.rows],
        rows=found.account.summary(),
        stop=learned_ends(recipe, tokenizer).texts,
    )


def knowledge_sets(recipe: Recipe, rows: int | None = None) -> list[KnowledgeSet]:
    """The recipe's knowledge sets with their few-shot prefixes."""
    settings = recipe.eval
    return [
        load_knowledge(
            name,
            rows=rows or settings.knowledge_rows,
            shots=settings.shots,
            data_dir=recipe.data.data_dir,
            seed=settings.seed,
            load=fetched_by(recipe).rows,
        )
        for name in settings.knowledge
    ]
