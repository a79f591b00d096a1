"""PEFT's AdaLoRA model with a clear answer to a second adapter."""

from __future__ import annotations

from typing import Any

from peft import AdaLoraModel

from farss.errors import AdapterError


class OneBudget(AdaLoraModel):
    """AdaLoRA has one budget of ranks for one adapter, so a reference or a copy beside it cannot be added."""

    def _check_new_adapter_config(self, config: Any) -> None:
        if len(self.peft_config) > 1:
            raise AdapterError(
                "AdaLoRA takes no second adapter, such as the reference of a preference training",
                got=", ".join(self.peft_config),
                do="train it with `farss.training`, which also cuts its ranks; or export it as a plain LoRA "
                "(`farss export`) and go on from that",
            )
        super()._check_new_adapter_config(config)
