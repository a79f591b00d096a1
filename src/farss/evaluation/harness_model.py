"""A back end as lm-eval asks models: its requests handed on, and what would be cut counted or refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from farss.errors import ConfigError, DataError
from farss.evaluation.backends import Backend
from farss.evaluation.likelihood import Continuation
from farss.evaluation.window import count_cut

_HFLM: Any = HFLM  # a decorator hides its type

BATCH_TOKENS = 8192
MAX_GEN_TOKS = 256
"""lm-eval's own number for tasks that name none."""


class CountingModel(_HFLM):
    """lm-eval's own model in this process; counts what it cuts, and refuses what it would end over."""

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        for _, _, answer in requests:
            _require_room(len(answer), self.max_length, "an answer")
        lengths = [len(context) + len(answer) for _, context, answer in requests]
        count_cut(len(lengths), sum(length > self.max_length + 1 for length in lengths), self.max_length)
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def generate_until(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        """As lm-eval's."""
        for asked in requests:
            context, settings = asked.args
            written = normalize_gen_kwargs(settings, self.max_gen_toks).get("max_gen_toks", self.max_gen_toks)
            _require_room(written + 1, self.max_length, "an answer that is to be written")
            cut = len(self.tok_encode(context)) > self.max_length - written
            count_cut(1, int(cut), self.max_length)
        return super().generate_until(requests, *args, **kwargs)


class BackendModel(TemplateLM):
    """Any back end; texts become tokens as lm-eval has it.

    Args:
        backend: the model that is asked.
        batch_size: answers written at a time, where the back end does not choose itself.
    """

    def __init__(self, backend: Backend, batch_size: int) -> None:
        super().__init__()
        self.asked, self.batch_size = backend, batch_size
        self.tokenizer = backend.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The end of sequence."""
        return int(self.asked.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        begin = self.asked.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; a BOS token that the text has already is not added again."""
        tokenizer = self.asked.tokenizer
        begun = bool(tokenizer.bos_token) and string.startswith(tokenizer.bos_token)
        special = not begun if add_special_tokens is None else add_special_tokens
        return list(tokenizer.encode(string, add_special_tokens=special))

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        pairs = [Continuation(tuple(context), tuple(answer)) for _, context, answer in requests]
        found = self.asked.continuation_scores(pairs, batch_tokens=BATCH_TOKENS)
        return [(one.total, one.hit) for one in found]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """The log probability of whole texts, read window by window."""
        return [self._whole(asked.args[0]) for asked in requests]

    def _whole(self, text: str) -> float:
        ids = self.tok_encode(text)
        windows = utils.get_rolling_token_windows(
            token_list=ids,
            prefix_token=self.prefix_token_id,
            max_seq_len=self.asked.window or len(ids) + 1,
            context_len=1,
        )
        parts = [((None, None), *utils.make_disjoint_window(window)) for window in windows]
        return sum(total for total, _ in self._loglikelihood_tokens(parts))

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """The greedy answers, those that end alike in one call.

        Raises:
            ConfigError: if a task wants answers drawn at random.
        """
        groups: dict[str, list[int]] = {}
        for number, asked in enumerate(requests):
            groups.setdefault(json.dumps(asked.args[1], sort_keys=True), []).append(number)
        answers: dict[int, str] = {}
        for members in groups.values():
            contexts = [requests[number].args[0] for number in members]
            answers |= zip(members, self._written(contexts, requests[members[0]].args[1]), strict=True)
        return [answers[number] for number in range(len(requests))]

    def _written(self, contexts: Sequence[str], settings: dict[str, Any]) -> list[str]:
        wanted = normalize_gen_kwargs(settings, MAX_GEN_TOKS)
        if wanted.get("do_sample"):
            raise ConfigError("a task of lm-eval draws answers at random", got=settings, do="leave the task out")
        until = wanted.get("until") or []
        return self.asked.generate_after(
            [self.tok_encode(context) for context in contexts],
            max_new_tokens=wanted.get("max_gen_toks", MAX_GEN_TOKS),
            stop=(until,) if isinstance(until, str) else tuple(until),
            batch_size=self.batch_size,
        )


def _require_room(tokens: int, window: int, what: str) -> None:
    if tokens > window:
        raise DataError(
            f"{what} is longer than the model reads",
            where="lm-eval",
            expected=f"at most {window} tokens",
            got=f"{tokens} tokens",
            do="leave the task out, or name a model with more positions",
        )
