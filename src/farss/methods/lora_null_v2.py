"""LoRA-Null, second version: the down-projection stays in the near-null space."""

from __future__ import annotations

from farss.methods.look import Look
from farss.methods.lora_null import LoraNull

LORA_NULL_V2 = LoraNull(
    name="lora-null-v2",
    summary="as lora-null, A frozen: what is learned hardly sees knowledge inputs, with half the parameters",
    look=Look("LoRA-Null-v2", "#861a51", "pentagon"),
    needs=frozenset({"knowledge_covariance"}),
    frozen="down",
)
"""LoRA-Null (2025) with A frozen: its rows never leave the near-null space of the knowledge inputs."""
