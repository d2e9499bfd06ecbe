"""A checkpoint's tokenizer as files that the runtime reads without transformers.

transformers decides by class names, model types and half a dozen files how a tokenizer is built. What it built is
written down, as a tokenizer.json that is used as it is, so that the runtime decides nothing. Tokenizers that run as
Python code have no such form: of those the runtime knows Baichuan's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vamc_compiler.tokenizer.generation import generation_files
from vamc_compiler.tokenizer.proof import encode_as_transformers, prove
from vamc_runtime.errors import UserError
from vamc_runtime.stored_path import StoredPath
from vamc_runtime.text.checkpoint_files import read_json
from vamc_runtime.text.tokenizer import Tokenizer, load_tokenizer
from vamc_runtime.text.tokenizer_config import read_tokenizer_config

VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "tiktoken.model")
_BAICHUAN_FILES = (
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """What goes into a runstream's tokenizer folder."""

    files: Mapping[str, bytes]
    """Content by file name."""
    has_tokenizer: bool
    """False: the checkpoint has none, and the runstream takes token ids only."""
    compared_with: str
    """What the runtime's tokenizer was compared with, in a few words; empty without one."""
    warnings: tuple[str, ...] = field(default=())
    """What the user should know."""

    @property
    def folder(self) -> StoredPath:
        """The files as readers of a folder take them."""
        return _in_memory(self.files)

    def write(self, folder: Path) -> None:
        """Write the files into a folder that exists."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def export_tokenizer(checkpoint: Path, *, vocab_size: int, trust_checkpoint_code: bool) -> TokenizerFiles:
    """Read a checkpoint's tokenizer and generation settings, and prove that the runtime gives the same ids and text.

    Args:
        checkpoint: its directory.
        vocab_size: rows of the model's embedding.
        trust_checkpoint_code: run a tokenizer that the checkpoint brings as Python code.

    Raises:
        UserError: a file is damaged, the tokenizer is of a kind that the runtime cannot run, or its ids or text are
            not those of transformers.
    """
    generation = generation_files(checkpoint, vocab_size)
    if not any((checkpoint / name).is_file() for name in VOCABULARY_FILES):
        _refuse_other_vocabularies(checkpoint)
        return TokenizerFiles(
            files=generation.files, has_tokenizer=False, compared_with="", warnings=generation.warnings
        )
    has_json = (checkpoint / "tokenizer.json").is_file()
    is_baichuan = not has_json and read_tokenizer_config(checkpoint).is_baichuan
    reference: Any = None
    if not is_baichuan or trust_checkpoint_code:
        reference = _load_reference(checkpoint, trust=trust_checkpoint_code, required=not is_baichuan)
    if reference is not None:
        encode_as_transformers(reference, "a")  # what cannot do that is no tokenizer to write down
    if is_baichuan:
        names = [name for name in _BAICHUAN_FILES if (checkpoint / name).is_file()]
        files = {name: (checkpoint / name).read_bytes() for name in names}
    else:
        files = _exported(reference, checkpoint)
    folder = _in_memory({**files, **generation.files})
    tokenizer = load_tokenizer(folder)
    warnings = _warnings(tokenizer, vocab_size, reference)
    compared = "tokenizer not compared: its own code is not trusted"
    if reference is not None:
        prove(tokenizer, reference, folder, vocab_size)
        compared = f"tokenizer as {type(reference).__name__}"
    return TokenizerFiles(
        files={**files, **generation.files},
        has_tokenizer=True,
        compared_with=compared,
        warnings=(*generation.warnings, *warnings),
    )


def _load_reference(checkpoint: Path, *, trust: bool, required: bool) -> Any:
    """The tokenizer as transformers loads it; None where it cannot, and that is not required."""
    import transformers

    try:
        with _quiet_transformers():
            return transformers.AutoTokenizer.from_pretrained(
                str(checkpoint), local_files_only=True, trust_remote_code=trust
            )
    except (KeyboardInterrupt, MemoryError, GeneratorExit):
        raise
    except BaseException as error:  # whatever reads a damaged file raises; a panic of Rust code is no Exception
        if not required:
            return None
        needs_code = "auto_map" in read_json(checkpoint / "tokenizer_config.json") and not trust
        raise UserError(
            f"transformers {transformers.__version__} loads no tokenizer from {checkpoint}: {_summary(error)}",
            expected="tokenizer files as they were published",
            fix="compile with --trust-checkpoint-code, if you trust the code that the checkpoint brings"
            if needs_code
            else "copy the tokenizer files from the checkpoint again",
        ) from error


def _exported(reference: Any, checkpoint: Path) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json of a tokenizer of the `tokenizers` library."""
    from transformers import PreTrainedTokenizerFast

    name = type(reference).__name__
    if not isinstance(reference, PreTrainedTokenizerFast):
        raise UserError(
            f"the tokenizer in {checkpoint} is a {name}, which runs as Python code",
            expected="a tokenizer that transformers runs in the tokenizers library, or Baichuan's",
            fix="use a checkpoint with a tokenizer.json",
        )
    if reference.split_special_tokens:
        raise UserError(
            f"{checkpoint / 'tokenizer_config.json'}: split_special_tokens is true",
            expected="false: special tokens written in a text become their ids",
            fix="remove split_special_tokens",
        )
    texts = reference.special_tokens_map
    standard = {key: text for key, text in texts.items() if key.endswith("_token")}
    config: dict[str, Any] = {"tokenizer_class": "TokenizersBackend", **standard}
    if len(standard) < len(texts):
        config["model_specific_special_tokens"] = {key: texts[key] for key in texts if key not in standard}
    if reference.extra_special_tokens:
        config["extra_special_tokens"] = reference.extra_special_tokens
    template = reference.chat_template
    if isinstance(template, dict):
        template = [{"name": key, "template": text} for key, text in template.items()]
    if template is not None:
        config["chat_template"] = template
    return {
        "tokenizer.json": reference.backend_tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2).encode(),
    }


def _warnings(tokenizer: Tokenizer, vocab_size: int, reference: Any) -> list[str]:
    warnings = []
    if tokenizer.vocab_size > vocab_size:
        text = tokenizer.token_text(vocab_size)
        warnings.append(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model {vocab_size}: prompts with token {vocab_size} "
            f"({text!r}) or above are refused"
        )
    if not tokenizer.eos_ids:
        warnings.append("neither generation settings nor tokenizer name a token that ends a text: set stop texts")
    if getattr(reference, "clean_up_tokenization_spaces", False) and not _ignores_clean_up(reference):
        warnings.append("clean_up_tokenization_spaces is not applied: spaces before punctuation stay as generated")
    return warnings


def _ignores_clean_up(reference: Any) -> bool:
    """transformers cleans up no text of a BPE tokenizer unless a second key insists."""
    backend = getattr(reference, "backend_tokenizer", None)
    insists = getattr(reference, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
    return backend is not None and type(backend.model).__name__ == "BPE" and not insists


def _refuse_other_vocabularies(checkpoint: Path) -> None:
    found = sorted(path.name for path in checkpoint.glob("*.tiktoken"))
    if found:
        raise UserError(
            f"{checkpoint / found[0]} is a vocabulary that transformers reads only with the checkpoint's code",
            expected="tokenizer.json or tokenizer.model",
            fix="make a tokenizer.json with AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )


def _in_memory(files: Mapping[str, bytes]) -> StoredPath:
    folder = Path("tokenizer")
    return StoredPath(folder, {folder / name: content for name, content in files.items()})


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Its advice about loading is for programs that go on with the tokenizer."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _summary(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:500]
