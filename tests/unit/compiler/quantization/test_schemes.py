"""The registry of quantization schemes is complete, and the only place that names them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_models import SOURCE_CODE

from vamc_compiler.model.source_code import import_file, load_package
from vamc_compiler.ops import OPS
from vamc_compiler.quantization import SCHEMES, Scheme

REPOSITORY = Path(__file__).resolve().parents[4]
SCHEME = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


@SCHEME
def test_a_scheme_is_whole(scheme: Scheme) -> None:
    assert scheme.dtypes
    if scheme.is_built:
        assert scheme.layer is not None and scheme.bounds is not None
        assert hasattr(import_file(load_package([SOURCE_CODE]), "quantizer_vacc"), scheme.layer)
    else:
        assert scheme.instead_means
        assert scheme.instead is None or SCHEMES[scheme.instead].is_built


@SCHEME
def test_nothing_else_names_it(scheme: Scheme) -> None:
    """Adding one touches its file, its op and its documentation; ops are named in camel case."""
    folders = (REPOSITORY / "compiler", REPOSITORY / "runtime", REPOSITORY / "source_code")
    own = REPOSITORY / "compiler" / "vamc_compiler" / "quantization"
    ops = REPOSITORY / "compiler" / "vamc_compiler" / "ops"  # their Python functions may have a scheme's name
    named = [
        path
        for folder in folders
        for path in folder.rglob("*.py")
        if not {own, ops} & set(path.parents) and re.search(rf"(?<![\w.]){scheme.name}\b", path.read_text("utf-8"))
    ]
    assert not named


@SCHEME
def test_it_is_documented(scheme: Scheme) -> None:
    assert f"`{scheme.name}`" in (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_kernels_know_every_op_with_a_weight() -> None:
    rounding = {name for name, op in OPS.items() if op.activation_bits is not None}
    assert rounding and all(OPS[name].weight_input is not None for name in rounding)
    assert all(
        (OPS[op.variant_of].activation_bits, op.weight_input) == (op.activation_bits, OPS[op.variant_of].weight_input)
        for op in OPS.values()
        if op.variant_of
    )
