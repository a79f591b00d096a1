"""Encoders of a few thousand weights with a classification head, and labelled token sequences for them."""

from __future__ import annotations

import torch

from farss.model.classification import LabelledExample

VOCABULARY, PAD = 60, 1
FAMILIES = ("bert", "roberta", "mpnet")


def tiny_classifier(family: str, classes: int = 3, seed: int = 0):
    """A float32 sequence classifier in evaluation mode, three layers wide 32, every bias drawn at random."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        MPNetConfig,
        MPNetForSequenceClassification,
        RobertaConfig,
        RobertaForSequenceClassification,
    )

    config, model = {
        "bert": (BertConfig, BertForSequenceClassification),
        "roberta": (RobertaConfig, RobertaForSequenceClassification),
        "mpnet": (MPNetConfig, MPNetForSequenceClassification),
    }[family]
    settings = config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=80,
        initializer_range=0.2,
        pad_token_id=PAD,
        num_labels=classes,
        **({"type_vocab_size": 2} if family == "bert" else {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = model(settings)
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                parameter.data.normal_(0, 0.1)
    return made.eval()


def labelled(count: int = 7, *, classes: int = 3, segments: bool = False, seed: int = 3) -> list[LabelledExample]:
    """Sequences of different lengths whose label is told by one of their tokens; one class means a regression."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for row in range(count):
        length = 5 + (3 * row) % 17
        ids = torch.randint(10, VOCABULARY, (length,), generator=generator).tolist()
        label = row % max(classes, 2)
        ids[2] = 4 + label
        types = tuple(int(i >= length // 2) for i in range(length)) if segments else ()
        found.append(
            LabelledExample((3, *ids), (0, *types) if segments else (), float(label) if classes == 1 else label)
        )
    return found
