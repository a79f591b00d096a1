"""One tiny model, and the command run in this process with what it said bounded and free of escapes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from farss.cli.main import main

SECONDS = 30.0  # of a busy machine; what hangs takes minutes
LONGEST = 2_000


@pytest.fixture(scope="session", autouse=True)
def _imported():
    """The verbs' imports, which take long the first time, are no part of what is timed."""
    import farss.experiment.auditing
    import farss.experiment.scoring
    import farss.experiment.steps  # noqa: F401


@pytest.fixture(scope="session")
def plain(tmp_path_factory, tiny_tokenizer) -> Path:
    """A sound model folder; tests read it, and lay copies of it out."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("plain") / "model"
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 2, "eos_token_id": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tiny_tokenizer), pad_token_id=0, **sizes, **more)).save_pretrained(
            folder
        )
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Run the command, which must refuse: quickly, shortly, without a traceback; returns what it said."""

    def command(*arguments: object, codes: tuple[int, ...] = (2,)) -> str:
        capsys.readouterr()
        started = time.perf_counter()
        code = main([str(argument) for argument in arguments])
        seconds = time.perf_counter() - started
        out, err = capsys.readouterr()
        said = out + err
        assert code in codes, f"exit {code}: {said[-2_000:]}"
        assert seconds < SECONDS, f"{seconds:.0f} s"
        message = err[err.rfind("farss ") :]
        assert 0 < len(message) < LONGEST, f"{len(message)} characters: {message[:300]}"
        assert "Traceback" not in said
        assert all(char.isprintable() or char in "\n\t" for char in said), ascii(said)
        return message

    return command
