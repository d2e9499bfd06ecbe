"""LlamaTokenizer of transformers 5 for the `tokenizers` library, from a tokenizer.json or a sentencepiece model.

Follows transformers 5.24, `models/llama/tokenization_llama.LlamaTokenizer` and
`convert_slow_tokenizer.SentencePieceExtractor`: byte-pair merges are derived from the order of the pieces, and the
normalizer of the sentencepiece model is not run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.sentencepiece_model import CONTROL, USER_DEFINED, read_pieces
from vamc_runtime.text.tokenizer_config import AddedToken, TokenizerConfig

if TYPE_CHECKING:
    import tokenizers

_SPACE = "▁"
_DEFAULTS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}

Merges = list[tuple[str, str]]


def with_llama_defaults(config: TokenizerConfig) -> TokenizerConfig:
    """The config with the special tokens that the class has without being told."""
    own = {
        name: AddedToken(content=text, normalized=False, special=True)
        for name, text in _DEFAULTS.items()
        if name not in config.without_tokens
    }
    return dataclasses.replace(config, special_tokens={**own, **config.special_tokens})


def build_from_json(
    content: Mapping[str, Any], original: tokenizers.Tokenizer, config: TokenizerConfig
) -> tokenizers.Tokenizer:
    """The class's tokenizer over vocabulary, merges and post-processor of a tokenizer.json.

    Args:
        content: the file.
        original: the tokenizer that the library makes of it.
        config: what the files beside it say.
    """
    model = content["model"]
    vocab = model["vocab"]
    if isinstance(vocab, list):
        vocab = {entry[0]: index for index, entry in enumerate(vocab)}
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", [])]
    tokenizer = _build(vocab, [(left, right) for left, right in pairs], config)
    if original.post_processor is not None:
        tokenizer.post_processor = original.post_processor
    return tokenizer


def build_from_sentencepiece(
    path: ReadablePath, config: TokenizerConfig
) -> tuple[tokenizers.Tokenizer, TokenizerConfig]:
    """The class's tokenizer over the pieces of a tokenizer.model, and the config with the model's own special tokens.

    Raises:
        UserError: the file is damaged.
    """
    pieces = read_pieces(path)
    vocab = {piece.text: index for index, piece in enumerate(pieces)}
    own = tuple(
        AddedToken(content=piece.text, normalized=False, special=piece.kind == CONTROL)
        for piece in pieces
        if piece.kind in (CONTROL, USER_DEFINED)
    )
    config = with_llama_defaults(config)
    config = dataclasses.replace(config, extra_special_tokens=config.extra_special_tokens or own)
    return _build(vocab, merges_of(vocab), config), config


def add_bos_and_eos(tokenizer: tokenizers.Tokenizer, config: TokenizerConfig) -> None:
    """Give a tokenizer without post-processor one that adds BOS and EOS where the config asks for them.

    Call it when all tokens are added.
    """
    from tokenizers import processors

    wanted = [("bos_token", config.add_bos), ("eos_token", config.add_eos)]
    texts = {name: config.text_of(name) for name, add in wanted if add}
    present = {name: text for name, text in texts.items() if text is not None}
    single = " ".join(
        [*(f"{text}:0" for text in [present.get("bos_token")] if text is not None), "$A:0"]
        + [f"{text}:0" for text in [present.get("eos_token")] if text is not None]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=f"{single} $B:1",
        special_tokens=[(text, _id_or_unknown(tokenizer, text, config)) for text in dict.fromkeys(present.values())],
    )


def _id_or_unknown(tokenizer: tokenizers.Tokenizer, text: str, config: TokenizerConfig) -> int:
    """The id of a token; of one that the vocabulary lacks, as an empty one, that of the unknown token."""
    token_id = tokenizer.token_to_id(text)
    if token_id is not None:
        return token_id
    return tokenizer.token_to_id(config.text_of("unk_token") or "") or 0


def merges_of(vocab: Mapping[str, int]) -> Merges:
    """Every pair of pieces that makes a piece, in the order in which the pieces were learned."""
    merges: list[tuple[int, int, int, int, int, str, str]] = []
    for piece, rank in vocab.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                merges.append((rank, len(left), len(right), vocab[left], vocab[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]


def _build(vocab: Mapping[str, int], merges: Merges, config: TokenizerConfig) -> tokenizers.Tokenizer:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    prefix_space = config.add_prefix_space is not False
    scheme = "never" if not prefix_space else "always" if config.legacy else "first"
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=dict(vocab), merges=merges, fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme, split=False)
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1)] if prefix_space else steps)
    return tokenizer
