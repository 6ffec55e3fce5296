"""Which parameters a run trains, by a named policy.

`paper` freezes the embeddings (with their LayerNorm) and all adapters (arXiv 2402.15059, section 3.2);
`top_k_layers` freezes the lower layers too, whose output can then be computed once per text (`model/trunk.py`).
"""

from __future__ import annotations

from typing import Literal, get_args

from colbertxm.errors import UserError, nearest
from colbertxm.model.encoder import Encoder

Policy = Literal["paper", "top_k_layers", "adapters_only", "head_only", "none"]


def freeze(encoder: Encoder, policy: Policy, top_k: int = 4) -> int:
    """Set `requires_grad` of every parameter; the head's projection is always trained. Returns the number of
    lowest layers below which nothing is trained (the depth that a trunk may have). Raises UserError for an unknown
    policy or a `top_k` outside 1..layers."""
    if policy not in get_args(Policy):
        raise UserError(f"unknown freezing policy {policy!r}{nearest(policy, get_args(Policy))}")
    layers = list(encoder.xmod.encoder.layer)
    if policy == "top_k_layers" and not 1 <= top_k <= len(layers):
        raise UserError(f"freeze.top_k={top_k}, but the encoder has {len(layers)} layers: choose 1 to {len(layers)}")
    for name, parameter in encoder.xmod.named_parameters():
        adapter = ".adapter_modules." in name or ".adapter_layer_norm." in name
        layer = int(name.split(".")[2]) if name.startswith("encoder.layer.") else -1
        parameter.requires_grad_(
            {
                "none": True,
                "paper": layer >= 0 and not adapter,
                "top_k_layers": layer >= len(layers) - top_k and not adapter,
                "adapters_only": adapter,
                "head_only": False,
            }[policy]
        )
    embeddings = any(p.requires_grad for p in encoder.xmod.embeddings.parameters())
    trained = [i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters())]
    return 0 if embeddings else min(trained, default=len(layers))


def parameter_table(encoder: Encoder) -> list[tuple[str, int, int]]:
    """(part, trained, frozen) parameter counts of embeddings, shared layers, adapters and head, and of LoRA where
    there is any."""
    counts = {"embeddings": [0, 0], "shared layers": [0, 0], "adapters": [0, 0], "head": [0, 0]}
    for name, parameter in encoder.named_parameters():
        if name.startswith("linear."):
            part = "head"
        elif ".lora_" in name:
            part = "LoRA"
            counts.setdefault(part, [0, 0])
        elif ".adapter_modules." in name or ".adapter_layer_norm." in name:
            part = "adapters"
        else:
            part = "embeddings" if name.startswith("xmod.embeddings.") else "shared layers"
        counts[part][0 if parameter.requires_grad else 1] += parameter.numel()
    return [(part, trained, frozen) for part, (trained, frozen) in counts.items()]
