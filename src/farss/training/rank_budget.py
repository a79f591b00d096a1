"""AdaLoRA's ranks under training: PEFT's allocator, called once after every optimiser step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from farss.adapters.layers import DEFAULT
from farss.adapters.provenance import provenance_of
from farss.adapters.triplets import remaining
from farss.config import AdaloraConfig
from farss.errors import AdapterError, ConfigError
from farss.storage import read_tensors, write_tensors

FILE = "rank_budget.safetensors"
LEAST_STEPS = 2
"""Steps up to the last cut: importances have to be seen once before ranks are cut by them."""


class RankBudget(TrainerCallback):
    """Tells the allocator when a step is done; gradients are still there, and PEFT reads importances off them.

    Args:
        model: a PEFT model with AdaLoRA's adapter.

    Raises:
        AdapterError: if the plan of the adapter is not known.
    """

    def __init__(self, model: nn.Module) -> None:
        provenance = provenance_of(model)
        if provenance is None:
            raise AdapterError(
                "nothing says how the ranks of the adapter are to be cut",
                do="load a folder of `farss.adapters.files.save_adapter`, which keeps the plan beside the adapter",
            )
        self.settings = AdaloraConfig.from_mapping(provenance.plan.settings["adalora"], "settings.adalora")
        self.model: Any = model
        self.calls, self.first = 0, 0

    @property
    def asked(self) -> int:
        """The sum of ranks that is to remain."""
        return int(self.model.base_model.rankallocator.target_bgt)

    @property
    def realised(self) -> int:
        """The sum of ranks that remain now."""
        return sum(remaining(self.model).values())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the schedule from the number of steps.

        Raises:
            ConfigError: if the training is too short to cut ranks in.
        """
        steps, config = state.max_steps, self.model.peft_config[DEFAULT]
        initial, final = (int(share * steps) for share in (self.settings.initial_share, self.settings.final_share))
        if steps - final < LEAST_STEPS:
            raise ConfigError(
                "the training is too short for ranks to be cut in",
                where="adalora.final_share",
                expected=f"at least {LEAST_STEPS} steps before the last {self.settings.final_share:g}",
                got=f"{steps} steps in all",
                do="train for more steps, or lower the share",
            )
        config.total_step, config.tinit, config.tfinal = steps, initial, final
        self.calls, self.first = 0, state.global_step

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Update importances and cut ranks.

        Raises:
            AdapterError: if a factor has no gradient.
        """
        missing = [n for n, p in self.model.named_parameters() if p.requires_grad and p.grad is None]
        if missing:
            raise AdapterError("a factor has no gradient to judge its importance by", where=missing[0])
        self.model.base_model.update_and_allocate(state.global_step + 1)
        self.calls += 1

    def check(self, steps: int) -> None:
        """Check, after training, that ranks were considered at every step.

        Args:
            steps: optimiser steps, those before an interruption included.

        Raises:
            AdapterError: if they were not: the adapter would be one of fixed rank under the name of AdaLoRA.
        """
        if self.calls != steps - self.first or not steps:
            raise AdapterError(
                "the allocator of ranks was not called at every step, so this is no AdaLoRA",
                expected=f"{steps - self.first} calls",
                got=f"{self.calls} calls",
                do="train with `farss.training.sft.train` and a transformers that has `on_optimizer_step`",
            )

    def save(self, folder: Path) -> None:
        """Write what the allocator remembers beside a checkpoint.

        Raises:
            StorageError: if the file cannot be written.
        """
        allocator, pattern = self.model.base_model.rankallocator, self.model.peft_config[DEFAULT].rank_pattern or {}
        tensors = {f"importance/{name}": tensor for name, tensor in allocator.exp_avg_ipt.items()}
        tensors |= {f"uncertainty/{name}": tensor for name, tensor in allocator.exp_avg_unc.items()}
        tensors |= {f"kept/{name}": torch.tensor(kept, dtype=torch.uint8) for name, kept in pattern.items()}
        write_tensors(folder / FILE, {name: tensor.detach() for name, tensor in tensors.items()})

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote.

        Raises:
            StorageError: if the file is missing or damaged.
        """
        tensors, _ = read_tensors(folder / FILE)
        allocator, places = self.model.base_model.rankallocator, dict(self.model.base_model.model.named_parameters())
        allocator.reset_ipt()
        pattern: dict[str, list[bool]] = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            if kind == "kept":
                pattern[name] = tensor.bool().tolist()
                continue
            memory = allocator.exp_avg_ipt if kind == "importance" else allocator.exp_avg_unc
            memory[name] = tensor.to(places[name].device)
            allocator.ipt[name] = torch.zeros_like(places[name])
        self.model.peft_config[DEFAULT].rank_pattern = pattern or None
