"""Causal models of transformers as the influence engine sees them: the extra ``cuvee[hf]``.

Packed documents are kept apart by a block-diagonal mask and positions that start again with each.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cuvee.errors import ConfigError, MissingDependencyError
from cuvee.influence.model import CausalModel


def hugging_face_model(
    module: nn.Module,
    *,
    context: int,
    start: int | None = None,
    tokenizer: str = "",
    precision: str = "own",
    batch_tokens: int = 8192,
) -> CausalModel:
    """Wrap a causal language model of transformers, loaded from a local path or made at hand.

    Its attention must be "sdpa" or "eager", which take a mask of any shape. Where every layer
    attends to all earlier tokens, sdpa's is computed document by document.

    Args:
        module: As ``AutoModelForCausalLM.from_pretrained(path)`` gives it.
        context: Longest window, in tokens; no more than its positions.
        start: Token put before each document, as its bos_token_id; None for none.
        tokenizer: Digest of its tokenizer.
        precision: "own" or "bfloat16" by autocast.
        batch_tokens: Tokens at work at once.

    Raises:
        ConfigError: The module is none of transformers' causal models, its attention takes no
            mask, or the context is too long.
        MissingDependencyError: transformers is not installed.
    """
    config, base, head = _parts(module)
    attention = getattr(config, "_attn_implementation", "eager")
    if attention not in ("sdpa", "eager"):
        raise ConfigError(
            f"attention {attention!r} of {type(module).__name__} takes no block-diagonal mask; "
            "allowed: sdpa, eager. Load it with attn_implementation='sdpa'."
        )
    longest = getattr(config, "max_position_embeddings", context)
    if not 1 <= context <= longest:
        raise ConfigError(
            f"context={context} is not within the model's {longest} positions. Set 1 to {longest}."
        )
    if precision not in ("own", "bfloat16"):
        raise ConfigError(f"precision={precision!r} is unknown; allowed: own, bfloat16.")
    caps = getattr(config, "final_logit_softcapping", None) or getattr(config, "logit_scale", None)
    plain = caps is None and getattr(head, "bias", None) is None

    def hidden(tokens: Tensor, segments: Tensor) -> Tensor:
        mask, positions = block_mask(segments, next(base.parameters()).dtype)
        found: Tensor = base(
            input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        return found

    def logits(tokens: Tensor, segments: Tensor) -> Tensor:
        mask, positions = block_mask(segments, next(base.parameters()).dtype)
        found: Tensor = module(
            input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False
        ).logits
        return found

    return CausalModel(
        module=base,
        hidden=hidden if plain else logits,
        head=head.weight if plain else None,
        context=context,
        start=start,
        tokenizer=tokenizer,
        precision="bfloat16" if precision == "bfloat16" else "own",
        batch_tokens=batch_tokens,
        plain_attention=attention == "sdpa" and _sees_all(config),
    )


def block_mask(segments: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the mask and the positions of packed documents.

    Args:
        segments: (B, T) numbers of documents; each stands in one piece.
        dtype: Of the mask.

    Returns:
        (B, 1, T, T), 0 where a token may look and the type's lowest number elsewhere, and (B, T)
        positions counted from each document's start.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    allowed = (segments[:, :, None] == segments[:, None, :]) & causal
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
    mask.masked_fill_(~allowed, torch.finfo(dtype).min)
    return mask[:, None], allowed.sum(2) - 1


def _parts(module: nn.Module) -> tuple[Any, nn.Module, Any]:
    """Return configuration, the part below the head, and the head."""
    try:
        from transformers import PreTrainedModel
    except ImportError as error:
        raise MissingDependencyError(
            "transformers is not installed. Install it: pip install 'cuvee[hf]'."
        ) from error
    head = module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None
    if head is None or not isinstance(module, PreTrainedModel):
        raise ConfigError(
            f"{type(module).__name__} is no causal language model of transformers with an output "
            "head. Load one by AutoModelForCausalLM, or describe it by a CausalModel."
        )
    return module.config, module.base_model, head


def _sees_all(config: Any) -> bool:
    """Whether no layer limits how far back a token sees, or scales scores of its own."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", True
    )
    capped = getattr(config, "attn_logit_softcapping", None)
    return kinds == {"full_attention"} and not windowed and not capped
