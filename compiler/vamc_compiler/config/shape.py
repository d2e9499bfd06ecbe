"""`frontend.shape.input_ids: [[P], [C]]`."""

from __future__ import annotations

from vamc_compiler.show import one_line

from .convert import Surroundings, convert
from .fields import SHAPE_FORM
from .problems import RefusalError
from .schema import LENGTH_MULTIPLE_TOKENS, ShapeConfig
from .tree import ListTree, ScalarTree, Tree, describe


def read_shape(tree: Tree, around: Surroundings) -> tuple[ShapeConfig | None, list[RefusalError]]:
    """The two lengths; or None and everything that is wrong with them."""
    if not isinstance(tree, ListTree) or len(tree.items) != 2:
        return None, [_form_refusal(tree)]
    refusals: list[RefusalError] = []
    lengths: list[int | None] = []
    for position, item in enumerate(tree.items):
        try:
            lengths.append(_length(item, around, may_be_empty=position == 1))
        except RefusalError as refusal:
            refusals.append(refusal)
    if refusals:
        return None, refusals
    prefill, context = lengths
    assert prefill is not None, "only the second length may be empty"
    if context is not None and context < prefill:
        found = f"P = {prefill} tokens is more than C = {context} tokens"
        fix = f"the context holds prompt and output: C must be {prefill} or more, or P {context} or less"
        return None, [RefusalError(tree.place, found, expected=SHAPE_FORM, fix=fix)]
    return ShapeConfig(max_prefill_tokens=prefill, max_context_tokens=context), []


def _length(tree: Tree, around: Surroundings, *, may_be_empty: bool) -> int | None:
    if not isinstance(tree, ListTree):
        raise RefusalError(
            tree.place, f"found {describe(tree)}", expected=SHAPE_FORM, fix="put each length in brackets"
        )
    if not tree.items and may_be_empty:
        return None
    if len(tree.items) != 1:
        raise RefusalError(tree.place, f"found a list of {len(tree.items)}", expected="one length in tokens")
    (item,) = tree.items
    length = int(convert(int, item, around))
    multiple = LENGTH_MULTIPLE_TOKENS
    if length < multiple:
        raise RefusalError(item.place, f"found {length} tokens", expected=f"{multiple} tokens or more")
    if length % multiple:
        below = length // multiple * multiple
        fix = f"take {below} or {below + multiple}"
        raise RefusalError(item.place, f"found {length} tokens", expected=f"a multiple of {multiple}", fix=fix)
    return length


def _form_refusal(tree: Tree) -> RefusalError:
    fix = ""
    if isinstance(tree, ListTree):
        found = f"found a list of {len(tree.items)}"
        if len(tree.items) == 1:
            fix = "add the longest context: [[P], [C]]"
    else:
        found = f"found {describe(tree)}"
        if isinstance(tree, ScalarTree) and isinstance(tree.value, int):
            fix = f"write [[{one_line(tree.text)}], [C]] with C the longest context"
    return RefusalError(tree.place, found, expected=SHAPE_FORM, fix=fix)
