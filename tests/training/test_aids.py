"""What can be added to a training, by aids that farss does not know: each part once per step, and resumed exactly."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from farss.adapters.apply import apply
from farss.config import FarssConfig
from farss.errors import AdapterError, ConfigError, StorageError
from farss.maths.spectrum import decompose
from farss.methods import Evidence, get_method
from farss.methods.kasa.settings import KasaConfig
from farss.model.sources import fingerprint
from farss.model.targets import find_targets, weight_matrix
from farss.training.aids import TrainingAid
from farss.training.beside import RowsBeside
from farss.training.elsewhere import callbacks_for, prepare
from farss.training.sft import train
from farss.training.tasks import LanguageModelling

from .conftest import largest_difference, weights
from .test_stiefel import constrained_model, error

PULL = 0.3
LEARNED = LanguageModelling()


class Pull(TrainingAid):
    """Pulls all that is learned to zero, by a loss term."""

    name = "pull"

    def loss(self, at):
        return 0.5 * PULL * sum(p.square().sum() for p in learned(self.model)) / at.parts


class SamePull(TrainingAid):
    """The same by gradients."""

    name = "same_pull"

    def gradients(self, step):
        return [(p, PULL * p) for p in learned(self.model)]


class Growing(TrainingAid, TrainerCallback):
    """Pulls harder with every step, which it has to remember."""

    name = "growing"

    def __init__(self, model, strength=0.01):
        super().__init__(model)
        self.strength, self.pull = strength, torch.zeros(())

    @classmethod
    def check_settings(cls, config):
        if config.packing:
            raise ConfigError("growing does not pack", where="train.packing")

    def identity(self):
        return {"strength": self.strength}

    def callbacks(self):
        return [self]

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.pull += self.strength

    def gradients(self, step):
        return [(p, self.pull * p) for p in learned(self.model)]

    def state(self):
        return {"pull": self.pull}

    def load_state(self, tensors):
        self.pull = tensors["pull"]

    def account(self):
        return {"pull": round(float(self.pull), 6)}


class Beside(RowsBeside):
    """Learns further rows with half the weight."""

    def summed(self, model, batch):
        return LEARNED.loss_of(self.model)(model, batch)

    def size(self, row):
        return len(row.response_ids)


def learned(model):
    return [p for p in model.parameters() if p.requires_grad]


@pytest.fixture
def made(tiny_llama, with_lora):
    """A fresh adapter, every time the same, with B away from zero."""

    def make():
        model = with_lora(copy.deepcopy(tiny_llama))
        generator = torch.Generator().manual_seed(2)
        for parameter in learned(model):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        return model

    return make


def after(model, tokenizer, rows, config, *kinds, out=None, **options):
    report = train(model, tokenizer, rows, config, out, aids=[kind(model) for kind in kinds], **options)
    return weights(model, trainable=True), report


@pytest.mark.parametrize("micro", [4, 1])
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.1])
def test_a_loss_and_its_gradients_are_the_same_aid_however_a_step_is_split(
    made, tiny_tokenizer, rows, settings, micro, max_grad_norm
):
    """Both are there before clipping, once per step."""
    exact = settings(optim="sgd", micro_batch_size=micro, max_grad_norm=max_grad_norm)
    by_loss, told = after(made(), tiny_tokenizer, rows, exact, Pull)
    by_gradients, _ = after(made(), tiny_tokenizer, rows, exact, SamePull)
    without, plain = after(made(), tiny_tokenizer, rows, exact)
    assert largest_difference(by_loss, by_gradients) < 1e-6 < 1e-4 < largest_difference(by_loss, without)
    assert told.curve[0][1] == pytest.approx(plain.curve[0][1], rel=1e-5)  # the reported loss is the task's


def test_aids_compose(made, tiny_tokenizer, rows, settings):
    exact = settings(optim="sgd", max_grad_norm=0.0, max_steps=1)
    changes = []
    for kinds in ((), (Pull,), (SamePull,), (Pull, SamePull)):
        found, _ = after(made(), tiny_tokenizer, rows, exact, *kinds)
        changes.append(torch.cat([part.flatten() for part in found.values()]))
    none, one, other, both = changes
    torch.testing.assert_close(both - none, (one - none) + (other - none), atol=1e-6, rtol=1e-3)


class Interrupted(Exception):
    """Stands for a killed process."""


def die(step: int, total: int, loss: float) -> None:
    if step == 5:
        raise Interrupted


def test_state_is_kept_and_taken_up(made, tiny_tokenizer, rows, settings, tmp_path):
    config = settings(save_steps=2)
    expected, whole = after(made(), tiny_tokenizer, rows, config, Growing, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        after(made(), tiny_tokenizer, rows, config, Growing, out=tmp_path / "parts", progress=die)
    found, report = after(made(), tiny_tokenizer, rows, config, Growing, out=tmp_path / "parts")
    assert largest_difference(found, expected) == 0.0
    assert report.account == whole.account == {"pull": 0.08}
    _, again = after(made(), tiny_tokenizer, rows, config, Growing, out=tmp_path / "parts")  # it is over
    assert again.account == whole.account


def test_a_checkpoint_of_another_aid_or_without_its_state_is_refused(made, tiny_tokenizer, rows, settings, tmp_path):
    config = settings(save_steps=2)
    with pytest.raises(Interrupted):
        after(made(), tiny_tokenizer, rows, config, Growing, out=tmp_path, progress=die)
    with pytest.raises(StorageError, match="strength"):
        after(made(), tiny_tokenizer, rows, config, lambda model: Growing(model, 0.02), out=tmp_path)
    (kept,) = tmp_path.glob("checkpoint-*/growing.safetensors")
    kept.unlink()
    with pytest.raises(StorageError):
        after(made(), tiny_tokenizer, rows, config, Growing, out=tmp_path)


def test_an_aid_refuses_settings_before_anything_is_written(made, tiny_tokenizer, rows, settings, tmp_path):
    with pytest.raises(ConfigError, match="does not pack"):
        after(made(), tiny_tokenizer, rows, settings(packing=True), Growing, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_two_aids_of_one_name_are_refused(made, tiny_tokenizer, rows, settings):
    with pytest.raises(ConfigError, match="one name"):
        after(made(), tiny_tokenizer, rows, settings(), Growing, Growing)


def beside(rows, per_step=3, weight=0.5):
    collator = LEARNED.collator(0)
    return lambda model: Beside(model, rows, per_step=per_step, weight=weight, collator=collator)


@pytest.mark.parametrize("micro", [4, 2, 1])
def test_rows_beside_add_their_mean_loss_once_however_a_step_is_split(made, tiny_tokenizer, rows, settings, micro):
    exact = settings(optim="sgd", max_grad_norm=0.0, max_steps=1, warmup_ratio=0.0)
    task, further, rate = rows[:4], rows[4:9], 1e-2
    aid = beside(further)
    model = made()
    start = weights(model, trainable=True)
    found, told = after(model, tiny_tokenizer, task, dataclasses.replace(exact, micro_batch_size=micro), aid)
    fresh = made()
    of_task, own = list(task), aid(fresh).of_step(0)
    for part, weight in ((of_task, 1.0), (own, 0.5)):
        batch = LEARNED.collator(0)(part)
        loss = LEARNED.loss_of(fresh)(fresh, batch) / sum(len(row.response_ids) for row in part)
        (weight * loss).backward()
        if weight == 1.0:
            assert told.curve[0][1] == pytest.approx(float(loss.detach()), rel=1e-5)
    expected = {n: start[n] - rate * p.grad for n, p in fresh.named_parameters() if p.requires_grad}
    assert largest_difference(found, expected) < 1e-6


def test_all_rows_beside_are_passed_before_one_is_passed_again(made, rows):
    aid = beside(rows[:5], per_step=3)(made())
    passed = [row for step in range(5) for row in aid.of_step(step)]
    assert [sorted(map(rows.index, passed[at : at + 5])) for at in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert passed[:5] != passed[5:10] or passed[5:10] != passed[10:]


# In trainers of others.


class Batches(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, place):
        return self.rows[place]


def stock(model, rows, folder, *, kinds=None, resume=None, optimizer=None, **options):
    """transformers' own Trainer with SGD, and what `callbacks_for` gives it."""
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        max_grad_norm=0.0,
        optim="sgd",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
        **{"max_steps": 4, "save_strategy": "no", **options},
    )
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=Batches(rows),
        data_collator=LEARNED.collator(0),
        callbacks=callbacks_for(model, kinds and [kind(model) for kind in kinds]),
        optimizers=(optimizer, None),
    )
    trainer.train(resume_from_checkpoint=resume)
    return weights(model, trainable=True)


def kasa(model, **changes):
    evidence = Evidence(fingerprint(model), lambda target: decompose(weight_matrix(target)))
    config = FarssConfig(rank=3, own=(KasaConfig(**changes),))
    return apply(model, get_method("kasa").plan(find_targets(model), evidence, config))


def test_a_method_has_its_loss_in_the_trainers_of_others(tiny_llama, rows, tmp_path):
    sizes = []
    for beta in (0.0, 50.0):
        found = stock(kasa(copy.deepcopy(tiny_llama), beta=beta), rows, tmp_path)
        sizes.append(sum(float(part.square().sum()) for name, part in found.items() if "gate" in name))
    assert sizes[1] < 0.9 * sizes[0]


def test_orthonormal_factors_are_held_in_the_trainers_of_others(tiny_llama, rows, tmp_path):
    model = constrained_model(tiny_llama)
    with pytest.raises(AdapterError, match="made without it"):
        stock(model, rows, tmp_path)
    optimizer = torch.optim.AdamW(learned(model), lr=1e-2)
    prepare(model, optimizer)
    stock(model, rows, tmp_path, optimizer=optimizer)
    assert error(model) < 1e-6


def test_ranks_are_cut_in_the_trainers_of_others(tiny_llama, rows, tmp_path):
    from .test_rank_budget import FINAL, MODULES, adapted, remaining

    model = adapted(tiny_llama)
    stock(model, rows, tmp_path, max_steps=8)
    assert sum(remaining(model).values()) == MODULES * FINAL


def test_states_are_resumed_in_the_trainers_of_others(made, rows, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2}
    expected = stock(made(), rows, tmp_path, kinds=[Growing], **options)
    found = stock(made(), rows, tmp_path, kinds=[Growing], resume=str(tmp_path / "checkpoint-2"), **options)
    assert largest_difference(found, expected) == 0.0
    assert largest_difference(found, stock(made(), rows, tmp_path / "without")) > 1e-5
