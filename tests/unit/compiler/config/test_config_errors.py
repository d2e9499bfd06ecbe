"""Every mistake fails for its own reason, at its own place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fixture_types import ErrorOf

from vamc_compiler.config import load_config
from vamc_runtime.errors import UserError


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param(
            "checkpoint: model",
            "checkpoint: model\n  chekpoint: model",
            "build.yaml:4:3: frontend.chekpoint: unknown key\n"
            "expected: one of type, checkpoint, shape, model_kwargs, quantize\n"
            "to fix: did you mean frontend.checkpoint?",
            id="misspelled key beside the right one",
        ),
        pytest.param(
            "checkpoint: model",
            "chekpoint: model",
            "build.yaml:3:3: frontend.chekpoint: unknown key\n"
            "expected: one of type, checkpoint, shape, model_kwargs, quantize\n"
            "to fix: did you mean frontend.checkpoint?",
            id="misspelled required key is one mistake, not two",
        ),
        pytest.param(
            "checkpoint: model",
            "checkpoint: model\n  dtype: fp32",
            "build.yaml:4:3: frontend.dtype: unknown key\n"
            "expected: one of type, checkpoint, shape, model_kwargs, quantize\n"
            "to fix: did you mean backend.dtype?",
            id="right name in the wrong section",
        ),
        pytest.param(
            "backend:",
            "Backend:",
            "build.yaml:8:1: Backend: unknown key\n"
            "expected: one of name, frontend, backend, dataset, workspace, runtime, verify\n"
            "to fix: did you mean backend?",
            id="capital letter",
        ),
        pytest.param(
            "name: demo",
            "name: demo\nzzz: 1",
            "build.yaml:2:1: zzz: unknown key\n"
            "expected: one of name, frontend, backend, dataset, workspace, runtime, verify",
            id="nothing near",
        ),
        pytest.param(
            "  checkpoint: model\n",
            "",
            "build.yaml:2:1: frontend.checkpoint: missing key\nexpected: a path",
            id="missing key",
        ),
        pytest.param(
            "name: demo\n",
            "",
            "build.yaml:1:1: name: missing key\nexpected: a text usable as one directory name",
            id="missing name",
        ),
        pytest.param(
            "backend:\n  dtype: fp16",
            "",
            "build.yaml:1:1: backend.dtype: missing key\nexpected: one of fp16, bf16, int8",
            id="missing section",
        ),
        pytest.param(
            "tp: 2",
            'tp: "4"',
            'build.yaml:7:9: frontend.model_kwargs.tp: found "4" (a text)\n'
            "expected: an integer, 1 or more\nto fix: remove the quotes: 4",
            id="quoted integer",
        ),
        pytest.param(
            "tp: 2",
            "tp: true",
            "build.yaml:7:9: frontend.model_kwargs.tp: found true (a boolean)\nexpected: an integer, 1 or more",
            id="boolean is no integer",
        ),
        pytest.param(
            "tp: 2",
            "tp: 2.0",
            "build.yaml:7:9: frontend.model_kwargs.tp: found 2.0 (a number with a fraction)\n"
            "expected: an integer, 1 or more",
            id="fraction is no integer",
        ),
        pytest.param(
            "tp: 2",
            "tp: 0",
            "build.yaml:7:9: frontend.model_kwargs.tp: found 0\nexpected: an integer, 1 or more",
            id="tp below 1",
        ),
        pytest.param(
            "tp: 2",
            "tp:",
            "build.yaml:7:8: frontend.model_kwargs.tp: found nothing (null)\nexpected: an integer, 1 or more",
            id="key without value",
        ),
        pytest.param(
            "tp: 2",
            "tp: !!int two",
            'build.yaml:7:9: frontend.model_kwargs.tp: found "two" (a text)\nexpected: an integer, 1 or more',
            id="tag that lies",
        ),
        pytest.param(
            "tp: 2",
            "b2s: 1",
            "build.yaml:7:10: frontend.model_kwargs.b2s: found 1 (an integer)\nexpected: true or false",
            id="integer is no boolean",
        ),
        pytest.param(
            "tp: 2",
            "b2s: 'True'",
            'build.yaml:7:10: frontend.model_kwargs.b2s: found "True" (a text)\n'
            "expected: true or false\nto fix: remove the quotes: true",
            id="quoted boolean",
        ),
        pytest.param(
            "  model_kwargs:\n    tp: 2",
            "  model_kwargs: [tp, 2]",
            "build.yaml:6:17: frontend.model_kwargs: found a list\n"
            "expected: a section with the keys tp, b2s, model_arch, align_qkv, norm_head",
            id="list for a section",
        ),
        pytest.param(
            "checkpoint: model",
            "checkpoint: [model]",
            "build.yaml:3:15: frontend.checkpoint: found a list\nexpected: a path",
            id="list for a path",
        ),
        pytest.param(
            "checkpoint: model",
            "checkpoint: 13",
            "build.yaml:3:15: frontend.checkpoint: found 13 (an integer)\n"
            'expected: a path\nto fix: put it in quotes: "13"',
            id="integer for a path",
        ),
        pytest.param(
            "checkpoint: model",
            "checkpoint: ''",
            'build.yaml:3:15: frontend.checkpoint: found "" (a text)\nexpected: a path',
            id="empty path",
        ),
        pytest.param(
            "checkpoint: model",
            "checkpoint: ~",
            "build.yaml:3:15: frontend.checkpoint: found nothing (null)\nexpected: a path",
            id="a lone tilde is null in YAML",
        ),
        pytest.param(
            "dtype: fp16",
            "dtype: fp6",
            'build.yaml:9:10: backend.dtype: found "fp6" (a text)\n'
            "expected: one of fp16, bf16, int8\nto fix: did you mean fp16?",
            id="misspelled choice",
        ),
        pytest.param(
            "dtype: fp16",
            "dtype: fp16\nruntime: {huge_pages: true}",
            "build.yaml:10:23: runtime.huge_pages: found true (a boolean)\n"
            "expected: one of auto, on, off\nto fix: did you mean on?",
            id="boolean for on",
        ),
        pytest.param(
            "dtype: fp16",
            "dtype: fp16\nverify: {when: false}",
            "build.yaml:10:16: verify.when: found false (a boolean)\n"
            "expected: one of compile, off\nto fix: did you mean off?",
            id="boolean for off where there is no on",
        ),
        pytest.param(
            "dtype: fp16",
            "dtype: 16",
            "build.yaml:9:10: backend.dtype: found 16 (an integer)\n"
            "expected: one of fp16, bf16, int8\nto fix: did you mean fp16?",
            id="integer for a choice",
        ),
        pytest.param(
            "dtype: fp16",
            "dtype: fp16\n  target: {mcpu: znver4}",
            'build.yaml:10:18: backend.target.mcpu: found "znver4" (a text)\n'
            "expected: a list, each entry an LLVM CPU name such as x86-64-v3 or znver4\n"
            "to fix: write it as a list: [znver4]",
            id="text for a list",
        ),
        pytest.param(
            "dtype: fp16",
            "dtype: fp16\n  target: {mcpu: [a/b]}",
            "build.yaml:10:19: backend.target.mcpu: found 'a/b': it is not a CPU name\n"
            "expected: an LLVM CPU name such as x86-64-v3 or znver4",
            id="CPU name that is a path",
        ),
        pytest.param(
            "dtype: fp16",
            "dtype: fp16\n  target: {mcpu: [znver4, znver4]}",
            "build.yaml:10:27: backend.target.mcpu: found 'znver4' twice\nto fix: keep one of the two",
            id="CPU twice",
        ),
        pytest.param(
            "dtype: fp16",
            "dtype: fp16\nworkspace: {workers: 0}",
            "build.yaml:10:22: workspace.workers: found 0\nexpected: an integer, 1 or more",
            id="no workers",
        ),
        pytest.param(
            "dtype: fp16",
            "dtype: fp16\nworkspace: {pyenv: [torch]}",
            "build.yaml:10:20: workspace.pyenv: found a list\nexpected: a section of `name: version` lines",
            id="pyenv as list",
        ),
        pytest.param(
            "dtype: fp16",
            "dtype: fp16\ndataset: {type: huggingface}",
            "build.yaml: 2 problems\n"
            "  build.yaml:10:1: dataset.name: missing key\n    expected: one of c4, ceval, alpaca\n"
            "  build.yaml:10:1: dataset.path: missing key\n    expected: a path",
            id="dataset without its required keys",
        ),
        pytest.param(
            "tp: 2",
            "tp: 2\n    tp: 4",
            "build.yaml:8:5: frontend.model_kwargs.tp: duplicate key, first given at build.yaml:7:5\n"
            "to fix: keep one of the two",
            id="duplicate key",
        ),
        pytest.param(
            "name: demo",
            "name: &n {a: *n}",
            "build.yaml:1:7: an alias that contains itself",
            id="recursive alias",
        ),
        pytest.param(
            "name: demo",
            "name: !!python/name:os.system demo",
            "build.yaml:1:7: the YAML tag !!python/name:os.system\nto fix: remove the tag",
            id="tag that would run code elsewhere",
        ),
        pytest.param(
            "name: demo",
            "? [a, b]\n: demo",
            "build.yaml:1:3: a list or section used as a key\nexpected: a name",
            id="list as key",
        ),
        pytest.param(
            "dtype: fp16",
            "dtype: fp16\nverify:\n  budget:\n    mean_kl: '1e-5'",
            'build.yaml:12:14: verify.budget.mean_kl: found "1e-5" (a text)\n'
            "expected: a number, 0 or more\nto fix: remove the quotes: 1e-5",
            id="quoted number",
        ),
    ],
)
def test_mistake_is_named_with_its_place(error_of: ErrorOf, good: str, old: str, new: str, message: str) -> None:
    assert old in good
    assert error_of(good.replace(old, new)) == message


@pytest.mark.parametrize(
    ("lengths", "place", "found", "rest"),
    [
        ("[[250], [1024]]", "5:18", "250 tokens", "expected: a multiple of 16\nto fix: take 240 or 256"),
        ("[[256], [1000]]", "5:25", "1000 tokens", "expected: a multiple of 16\nto fix: take 992 or 1008"),
        ("[[0], [1024]]", "5:18", "0 tokens", "expected: 16 tokens or more"),
        ("[[-16], [1024]]", "5:18", "-16 tokens", "expected: 16 tokens or more"),
        ("[[], [1024]]", "5:17", "a list of 0", "expected: one length in tokens"),
        ("[[256, 512], [1024]]", "5:17", "a list of 2", "expected: one length in tokens"),
        ("[[true], [1024]]", "5:18", "true (a boolean)", "expected: an integer"),
        (
            "[['256'], [1024]]",
            "5:18",
            '"256" (a text)',
            "expected: an integer\nto fix: remove the quotes: 256",
        ),
        (
            "[256, [1024]]",
            "5:17",
            "256 (an integer)",
            "expected: [[P], [C]], multiples of 16 with 16 <= P <= C\nto fix: put each length in brackets",
        ),
        (
            "[[256]]",
            "5:16",
            "a list of 1",
            "expected: [[P], [C]], multiples of 16 with 16 <= P <= C\nto fix: add the longest context: [[P], [C]]",
        ),
        (
            "256",
            "5:16",
            "256 (an integer)",
            "expected: [[P], [C]], multiples of 16 with 16 <= P <= C\n"
            "to fix: write [[256], [C]] with C the longest context",
        ),
        ("{}", "5:16", "a section", "expected: [[P], [C]], multiples of 16 with 16 <= P <= C"),
    ],
)
def test_wrong_lengths(error_of: ErrorOf, good: str, lengths: str, place: str, found: str, rest: str) -> None:
    message = error_of(good.replace("[[256], [1024]]", lengths))
    assert message == f"build.yaml:{place}: frontend.shape.input_ids: found {found}\n{rest}"


def test_prompt_longer_than_context(error_of: ErrorOf, good: str) -> None:
    assert error_of(good.replace("[[256], [1024]]", "[[512], [256]]")) == (
        "build.yaml:5:16: frontend.shape.input_ids: P = 512 tokens is more than C = 256 tokens\n"
        "expected: [[P], [C]], multiples of 16 with 16 <= P <= C\n"
        "to fix: the context holds prompt and output: C must be 512 or more, or P 256 or less"
    )


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("''", "it is empty"),
        ("'  '", "it is empty"),
        ("a/b", "it contains a slash"),
        (".", "it names an existing directory"),
        ("..", "it names an existing directory"),
        ('"a\u200bb"', "it contains a character that cannot be printed"),
        ('"a\\nb"', "it contains a character that cannot be printed"),
        ("x" * 201, "it is longer than 200 bytes"),
        ("百" * 67, "it is longer than 200 bytes"),
    ],
)
def test_name_must_be_one_directory(error_of: ErrorOf, good: str, name: Any, complaint: str) -> None:
    message = error_of(good.replace("demo", name))
    assert message.startswith("build.yaml:1:7: name: found ")
    assert message.endswith(f": {complaint}\nexpected: a text usable as one directory name")


def test_int8_needs_a_quantization(error_of: ErrorOf, good: str) -> None:
    assert error_of(good.replace("fp16", "int8")) == (
        "build.yaml:9:3: backend.dtype: int8 without a frontend.quantize.type\n"
        "expected: fp16 or bf16 where nothing is quantized\n"
        "to fix: add frontend.quantize.type: int8_per_channel, or set backend.dtype: fp16"
    )


@pytest.mark.parametrize("quantization", ["int8_per_channel", "w8a8_dynamic", "w8a16_gptq"])
def test_int8_weights_are_no_fp16(error_of: ErrorOf, good: str, quantization: str) -> None:
    text = good.replace("backend:", f"  quantize:\n    type: {quantization}\nbackend:")
    assert error_of(text) == (
        f"build.yaml:11:3: backend.dtype: fp16 together with frontend.quantize.type: {quantization} "
        "(build.yaml:9:5)\n"
        "expected: int8, the type this quantization gives the weights\n"
        "to fix: set backend.dtype: int8, or remove frontend.quantize to keep fp16 weights"
    )


@pytest.mark.parametrize(
    ("key", "value", "found", "expected"),
    [
        ("mean_kl", "true", "true (a boolean)", "a number, 0 or more"),
        ("mean_kl", "small", '"small" (a text)', "a number, 0 or more"),
        ("mean_kl", "nan", '"nan" (a text)', "a number, 0 or more"),
        ("mean_kl", "1e", '"1e" (a text)', "a number, 0 or more"),
        ("mean_kl", ".nan", ".nan, which is not finite", "a number, 0 or more"),
        ("mean_kl", "-.inf", "-.inf, which is not finite", "a number, 0 or more"),
        ("mean_kl", "1e999", "1e999, which is not finite", "a number, 0 or more"),
        ("mean_kl", "9" * 400, "9" * 160 + "... (400 characters), which is not finite", "a number, 0 or more"),
        ("mean_kl", "[1]", "a list", "a number, 0 or more"),
        ("mean_kl", "-1e-9", "-1e-09", "a number, 0 or more"),
        ("same_top", "1.0000001", "1.0000001", "a number from 0 to 1"),
        ("same_top", "-1", "-1.0", "a number from 0 to 1"),
        ("perplexity_ratio", "0.999", "0.999", "a number, 1 or more"),
    ],
)
def test_numbers(error_of: ErrorOf, good: str, key: str, value: Any, found: Any, expected: str) -> None:
    message = error_of(f"{good}verify:\n  budget:\n    {key}: {value}\n")
    assert message == f"build.yaml:12:{7 + len(key)}: verify.budget.{key}: found {found}\nexpected: {expected}"


def test_all_problems_come_in_one_error_in_the_order_of_the_file(error_of: ErrorOf) -> None:
    message = error_of(
        "backend:\n  dtype: int8\nfrontend:\n  shape:\n    input_ids: [[8], [24]]\n  chekpoint: x\n"
        "workspace:\n  workers: none\nname: ..\n",
        "frontend.model_kwargs.tp=two",
        "nonsense",
    )
    heads = [line for line in message.splitlines() if not line.startswith("    ")]
    assert heads == [
        "build.yaml: 8 problems",
        "  build.yaml:2:3: backend.dtype: int8 without a frontend.quantize.type",
        "  build.yaml:5:18: frontend.shape.input_ids: found 8 tokens",
        "  build.yaml:5:23: frontend.shape.input_ids: found 24 tokens",
        "  build.yaml:6:3: frontend.chekpoint: unknown key",
        '  build.yaml:8:12: workspace.workers: found "none" (a text)',
        "  build.yaml:9:7: name: found '..': it names an existing directory",
        "  --set nonsense: not of the form KEY=VALUE",
        '  --set frontend.model_kwargs.tp=two: frontend.model_kwargs.tp: found "two" (a text)',
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "build.yaml: the file is empty"),
        ("# only a comment\n", "build.yaml: the file is empty"),
        ("just text", 'build.yaml:1:1: found "just text" (a text)'),
        ("- a\n- b\n", "build.yaml:1:1: found a list"),
        ("null", "build.yaml:1:1: found nothing (null)"),
        ("name: [1, 2\nbackend: x", "build.yaml:2:8: not YAML: while parsing a flow sequence"),
        ("name: a\n  frontend: b", "build.yaml:2:11: not YAML: mapping values are not allowed here"),
        ("frontend:\n\ttype: x", "build.yaml:2:1: not YAML: while scanning for the next token"),
        ("name: *nothing", "build.yaml:1:7: not YAML: found undefined alias 'nothing'"),
        ("a: 1\n---\nb: 2\n", "build.yaml:2:1: not YAML: expected a single document"),
        ("name: a\nb: c\x07", "build.yaml:2:5: not YAML: a character that cannot be printed"),
        ("[" * 5000, "build.yaml:1:1: nested too deeply to be a build config"),
    ],
)
def test_not_a_config(error_of: ErrorOf, text: Any, message: str) -> None:
    assert error_of(text).startswith(message)


def test_tabs_are_explained(error_of: ErrorOf) -> None:
    assert error_of("frontend:\n\ttype: x").endswith("to fix: indent with spaces, not with tabs")


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "build.yaml"
    path.write_bytes("name: x\nfrontend: ä".encode("latin-1"))
    with pytest.raises(UserError, match=r"build\.yaml:2:11: not UTF-8: byte 0xe4"):
        load_config(path)


def test_missing_file_names_a_similar_one(tmp_path: Path, good: str) -> None:
    (tmp_path / "hf_baichuan_int8.yaml").write_text(good)
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "hf_baichuan_int.yaml")
    assert caught.value.found == f"{tmp_path}/hf_baichuan_int.yaml: no such file"
    assert caught.value.fix == f"did you mean {tmp_path}/hf_baichuan_int8.yaml?"


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_config(tmp_path / "none" / "build.yaml")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory"):
        load_config(tmp_path)


def test_file_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path / "file" / "build.yaml")


def test_aliases_cannot_blow_up(error_of: ErrorOf) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    message = error_of("\n".join(["a0: &a0 [x]", *levels]))
    assert "build.yaml:30:1: a29: unknown key" in message
