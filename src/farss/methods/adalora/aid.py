"""AdaLoRA under training: PEFT's allocator of ranks, called once after every optimiser step, and orthogonality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from farss.adapters.layers import DEFAULT, lora_layers, trained_adapter
from farss.adapters.provenance import settings_of
from farss.adapters.triplets import has_triplets, remaining
from farss.config import TrainConfig
from farss.errors import AdapterError, ConfigError
from farss.maths.stiefel import row_skewness
from farss.methods.adalora.settings import AdaloraConfig
from farss.training.aids import Pass, TrainingAid

METHOD = "adalora"
if TYPE_CHECKING:
    from transformers import TrainerCallback

LEAST_STEPS = 2
"""Steps up to the last cut: importances have to be seen once before ranks are cut by them."""


class RankBudget(TrainingAid):
    """Tells the allocator when a step is done; gradients are still there, and PEFT reads importances off them.

    In the loss is `orthogonality` times the mean of `||P'P - I||_F` and `||QQ' - I||_F` over all factors.

    Args:
        model: a PEFT model with AdaLoRA's adapter.

    Raises:
        AdapterError: if the plan of the adapter is not known.
    """

    name = "rank_budget"
    loss_by_model = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        how = settings_of(model, METHOD, "how the ranks of the adapter are to be cut")
        self.settings = AdaloraConfig.from_mapping(how, f"settings.{METHOD}")
        self.calls, self.first = 0, 0
        adapter = trained_adapter(model)
        layers: Any = lora_layers(model).values()
        self.pairs = [(layer.lora_B[adapter], layer.lora_A[adapter]) for layer in layers]

    @classmethod
    def serves(cls, model: nn.Module) -> bool:
        """Whether the adapter of `model` is AdaLoRA's."""
        return has_triplets(model)

    @classmethod
    def check_settings(cls, config: TrainConfig) -> None:
        """Refuse what leaves ranks uncut, or judges them by gradients that overflow.

        Raises:
            ConfigError: naming the setting.
        """
        early = {"early_stopping_patience": config.early_stopping_patience is not None, "load_best": config.load_best}
        if any(early.values()):
            raise ConfigError(
                f"the ranks of {METHOD} are what was asked for only when its training is over",
                where=", ".join(name for name, used in early.items() if used),
                do="measure with eval_steps alone, or leave the method out",
            )
        if config.precision == "float16":
            raise ConfigError(
                f"{METHOD} judges ranks by gradients, which overflow in float16 while the loss's scale is sought",
                where="train.precision",
                do="set train.precision: bfloat16 or float32, or leave the method out",
            )

    def callbacks(self) -> Sequence[TrainerCallback]:
        """Itself, at the beginning and at every step."""
        from farss.training.calling import Calls

        return [Calls(on_train_begin=self.on_train_begin, on_optimizer_step=self.on_optimizer_step)]

    def loss(self, at: Pass) -> Tensor:
        """This pass's share of the orthogonality of all factors."""
        skewness = torch.stack([row_skewness(x) for up, down in self.pairs for x in (up.mT, down)])
        return self.settings.orthogonality * skewness.mean() / at.parts

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

    def check_end(self, steps: int) -> None:
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

    def account(self) -> dict[str, Any]:
        """The sum of ranks that was to remain, and that which did."""
        return {"rank_budget": self.asked, "rank_realised": self.realised}

    def state(self) -> dict[str, Tensor]:
        """What the allocator remembers."""
        allocator, pattern = self.model.base_model.rankallocator, self.model.peft_config[DEFAULT].rank_pattern or {}
        tensors = {f"importance/{name}": tensor for name, tensor in allocator.exp_avg_ipt.items()}
        tensors |= {f"uncertainty/{name}": tensor for name, tensor in allocator.exp_avg_unc.items()}
        return tensors | {f"kept/{name}": torch.tensor(kept, dtype=torch.uint8) for name, kept in pattern.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Give it back to the allocator."""
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
