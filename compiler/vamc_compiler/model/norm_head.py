"""Whether a Baichuan checkpoint normalises the rows of its head: Baichuan2 does (`NormHead`), the first one does not.

The sizes do not tell: vocabularies are extended and cut, and both generations have 7B and 13B models. What does is the
code that a checkpoint carries, and two keys of config.json:

- `z_loss_weight` exists in Baichuan2's configuration class only, so every file that it wrote has the key;
- `BaiChuanForCausalLM`, with a capital C, is the class of the first Baichuan-7B.

Where these say nothing, or contradict one another, the user is asked (`frontend.model_kwargs.norm_head`).
"""

from __future__ import annotations

from pathlib import Path

from vamc_compiler.model.code_files import CodeTarget, assigned_classes, auto_map_of, code_path
from vamc_compiler.model.fields import Fields
from vamc_compiler.show import one_line
from vamc_runtime.errors import UserError

SETTING = "frontend.model_kwargs.norm_head"
_FIRST_CLASS = "BaiChuanForCausalLM"
_PUBLISHED = CodeTarget("modeling_baichuan", "BaichuanForCausalLM")
_HEADS = {"NormHead": True, "Linear": False}


def decide_norm_head(directory: Path, fields: Fields, setting: bool | None) -> bool:
    """Whether the rows of the head are normalised.

    Args:
        directory: the checkpoint.
        fields: its config.json.
        setting: what the build config says, if anything.

    Raises:
        UserError: the checkpoint does not say, and neither does the build config; or the two contradict.
    """
    evidence = _evidence(directory, fields)
    verdicts = set(evidence.values())
    found = verdicts.pop() if len(verdicts) == 1 else None
    if found is not None:
        if setting is not None and setting is not found:
            raise UserError(
                f"{SETTING} is {str(setting).lower()}, and {'; '.join(evidence)}",
                expected=f"{str(found).lower()}: the head {_in_words(found)}",
                fix=f"remove {SETTING}, or put the code that belongs to the weights into the checkpoint",
            )
        return found
    if setting is not None:
        return setting
    reason = "; ".join(evidence) or "it carries no code and no key that tells"
    raise UserError(
        f"{directory} does not say which Baichuan it is, and whether its head is normalised: {reason}",
        expected="the modeling_baichuan.py that was published with the weights beside config.json, or the setting",
        fix=f"--set {SETTING}=true for Baichuan2 and models made from it, =false for the first Baichuan",
    )


def _in_words(normalises: bool) -> str:
    return "normalises its rows (Baichuan2)" if normalises else "is a plain one (the first Baichuan)"


def _evidence(directory: Path, fields: Fields) -> dict[str, bool | None]:
    """What the checkpoint says, each with what follows from it; None for a head that is neither of the two."""
    evidence: dict[str, bool | None] = {}
    target = auto_map_of(fields)
    classes = fields.raw.get("architectures")
    names = [name for name in classes if isinstance(name, str)] if isinstance(classes, list) else []
    if target is not None:
        names.append(target.class_name)
    path = code_path(directory, target or _PUBLISHED)
    heads = assigned_classes(path, (target or _PUBLISHED).class_name, "lm_head")
    if heads:
        verdicts = {_HEADS.get(head) for head in heads}
        made = " or a ".join(one_line(head or "value of its own") for head in sorted(heads))
        evidence[f"{path} makes the head a {made}"] = verdicts.pop() if len(verdicts) == 1 else None
    if _FIRST_CLASS in names:
        evidence[f"{fields.path} names the class {_FIRST_CLASS}, which is the first Baichuan-7B's"] = False
    if fields.has("z_loss_weight", null=True):
        evidence[f"{fields.path} has 'z_loss_weight', which is a key of Baichuan2"] = True
    return evidence
