"""Random texts through every kind of tokenizer: ids, text and streamed text are those of transformers."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.target import Target

sys.path.insert(0, str(Path(__file__).parents[2] / "unit/compiler"))

from tokenizer_kinds import KINDS, random_text, write_kind

from vamc_compiler.tokenizer.export import export_tokenizer
from vamc_runtime.text.tokenizer import StreamDecoder, Tokenizer, load_tokenizer

_STRINGS_OF_A_CASE = 20
_BAICHUAN = Path(__file__).parents[3] / "build_in/checkpoints/baichuan2-7b-mini"


@dataclass
class Context:
    """Tokenizers that were needed so far: the runtime's, transformers', and the special texts."""

    folder: Path
    opened: dict[str, tuple[Tokenizer, Any, list[str]]] = field(default_factory=dict)

    def open(self, kind: str) -> tuple[Tokenizer, Any, list[str]]:
        """Both tokenizers of a kind."""
        if kind not in self.opened:
            from transformers import AutoTokenizer

            is_own_code = kind == "baichuan"
            checkpoint = _BAICHUAN if is_own_code else write_kind(kind, self.folder / kind)
            target = self.folder / f"{kind}-exported"
            target.mkdir()
            export_tokenizer(checkpoint, vocab_size=2000, trust_checkpoint_code=is_own_code).write(target)
            reference = AutoTokenizer.from_pretrained(
                str(checkpoint), local_files_only=True, trust_remote_code=is_own_code
            )
            special = sorted({str(token) for token in reference.added_tokens_decoder.values()})
            self.opened[kind] = (load_tokenizer(target), reference, special)
        return self.opened[kind]


def run(context: Context, rng: random.Random) -> None:
    """Compare a few texts in one kind of tokenizer."""
    tokenizer, reference, special = context.open(rng.choice([*KINDS, "baichuan"]))
    for _ in range(_STRINGS_OF_A_CASE):
        text = random_text(rng, special)
        for add_special in (False, True):
            ids = reference.encode(text, add_special_tokens=add_special)
            assert tokenizer.encode(text, add_special) == ids, f"other ids of {text!r}"
        expected = reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(ids) == expected, f"other text of {ids}"
        decoder = StreamDecoder(tokenizer)
        streamed = "".join([*map(decoder.push, ids), decoder.finish()])
        assert streamed == expected, f"other streamed text of {ids}"


TARGET = Target(name="tokenizer_text", num_cases=6000, num_quick=4, prepare=Context, run=run, outcomes="accepted")
