"""The checks of a build that need the JSON files of the checkpoint only, and no torch: they come first."""

from __future__ import annotations

from vamc_compiler.config import BuildConfig
from vamc_compiler.model.registry import ModelSource, find_model
from vamc_compiler.model.source_code import find_source_code
from vamc_runtime.errors import UserError


def check_model(config: BuildConfig, *, trust_checkpoint_code: bool) -> ModelSource:
    """Choose the modeling file for a build, and compare what the build asks for with what the model can do.

    Raises:
        UserError: anything about the checkpoint's configuration that stands in the way.
    """
    source = find_model(
        config.frontend.checkpoint,
        find_source_code(config.source_path.parent),
        trust_checkpoint_code=trust_checkpoint_code,
        norm_head=config.frontend.model_kwargs.norm_head,
    )
    context = config.frontend.shape.max_context_tokens
    assert context is not None, "check_buildable refuses configs without a context length"
    longest = source.config.max_position_embeddings
    if context > longest:
        raise UserError(
            f"frontend.shape.input_ids asks for a context of {context} tokens",
            expected=f"at most {longest}, for which the model was made ({config.frontend.checkpoint / 'config.json'})",
            fix=f"set the second length to {longest // 16 * 16}, and the first to no more than that",
        )
    num_ranks, heads = config.frontend.model_kwargs.tp, source.config.num_attention_heads
    if num_ranks > heads:
        raise UserError(
            f"frontend.model_kwargs.tp is {num_ranks}, and the model has {heads} attention heads",
            expected=f"tp from 1 to {heads}: a rank without a single head would do nothing",
        )
    return source
