"""The original model: which code is chosen, that it computes what was published, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
import socket
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from stage_checks import is_offloaded
from tiny_models import FIRST_BAICHUAN, write_config

from vamc_compiler.verify import reference as reference_file
from vamc_compiler.verify.reference import Reference, open_reference
from vamc_compiler.verify.reference_baichuan import alibi_slopes
from vamc_compiler.weights.checkpoint import open_checkpoint
from vamc_runtime.errors import UserError

CHECKPOINTS = Path(__file__).resolve().parents[4] / "build_in" / "checkpoints"
LLAMA = CHECKPOINTS / "llama-mini"
TOKENS = [int(token_id) for token_id in np.random.default_rng(1).integers(50, size=40)]
ATTENTION = "model.layers.0.self_attn"


def open_at(directory: Path, *, trust: bool = False, cache_bytes: int = 1 << 30) -> Reference | None:
    return open_reference(directory, open_checkpoint(directory), trust_checkpoint_code=trust, cache_bytes=cache_bytes)


def opened(directory: Path, **options: Any) -> Reference:
    reference = open_at(directory, **options)
    assert reference is not None
    return reference


def relative_difference(after: npt.NDArray[Any], before: npt.NDArray[Any]) -> float:
    """The largest difference, relative to the root mean square."""
    return float(np.abs(after - before).max() / np.sqrt(np.square(before, dtype=np.float64).mean()))


WriteBaichuan = Callable[..., Path]


@pytest.fixture
def write_baichuan(tmp_path: Path) -> WriteBaichuan:
    """`write_baichuan(family, without=(), **changes of config.json)`: a random checkpoint of two layers."""

    def write(family: str = "baichuan 13B", without: tuple[str, ...] = (), **changes: Any) -> Path:
        directory = write_config(tmp_path / "checkpoint", family, **changes)
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        width, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
        shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
        shapes["lm_head.weight"] = (vocab, width)
        for layer in range(config["num_hidden_layers"]):
            path = f"model.layers.{layer}"
            shapes[f"{path}.self_attn.W_pack.weight"] = (3 * width, width)
            shapes[f"{path}.self_attn.o_proj.weight"] = (width, width)
            shapes[f"{path}.mlp.gate_proj.weight"] = shapes[f"{path}.mlp.up_proj.weight"] = (inner, width)
            shapes[f"{path}.mlp.down_proj.weight"] = (width, inner)
            shapes[f"{path}.input_layernorm.weight"] = shapes[f"{path}.post_attention_layernorm.weight"] = (width,)
        generator = torch.Generator().manual_seed(0)
        tensors = {
            name: torch.randn(shape, generator=generator) * 0.3 + (len(shape) == 1)
            for name, shape in shapes.items()
            if name not in without
        }
        save_file(tensors, directory / "model.safetensors")
        return directory

    return write


@pytest.mark.parametrize("model", ["baichuan2-13b-mini", "baichuan2-7b-mini"])
def test_plain_baichuan_computes_what_the_checkpoints_own_code_computes(model: str) -> None:
    plain, own = opened(CHECKPOINTS / model), opened(CHECKPOINTS / model, trust=True)
    assert plain.description == "plain Baichuan reference"
    assert own.description == "the checkpoint's own modeling_baichuan.py"
    taps = [f"{ATTENTION}.o_proj.in", "model.layers.3.input_layernorm.in", "model.norm.in", "model.norm.out"]
    vocab_size = json.loads((CHECKPOINTS / model / "config.json").read_text())["vocab_size"]
    tokens = [int(token_id) for token_id in np.random.default_rng(0).integers(vocab_size, size=300)]
    found, expected = plain.run(tokens, taps), own.run(tokens, taps)
    assert found.logits.shape == (300, vocab_size)
    for after, before in [(found.logits, expected.logits), *((found.taps[tap], expected.taps[tap]) for tap in taps)]:
        # Against float64, ours is within 1e-5; the rest is the approximate exp of torch's fused attention in theirs.
        assert relative_difference(after, before) < 1e-4
        assert np.std(after - before) < 5e-6 * np.std(before)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_offloaded_llama_is_what_transformers_loads(cache_bytes: float) -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = plain(torch.tensor([TOKENS])).logits[0].numpy()
    reference = opened(LLAMA, cache_bytes=cache_bytes)
    assert reference.description.startswith("transformers LlamaForCausalLM 5.")
    for _ in range(2):
        assert np.abs(reference.run(TOKENS).logits - expected).max() <= 1e-6


def test_slopes_follow_the_paper() -> None:
    assert alibi_slopes(8) == [2.0**-power for power in range(1, 9)]
    assert alibi_slopes(5) == [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2]
    # 32 heads with steps of a quarter, then 8 of the 64 heads' slopes with steps of an eighth.
    expected = [2 ** (-0.25 * k) for k in range(1, 33)] + [2 ** (-0.125 * k) for k in range(1, 16, 2)]
    assert alibi_slopes(40) == pytest.approx(expected, rel=1e-12)


def attention_by_hand(packed: npt.NDArray[Any], num_heads: int, slopes: list[float] | None) -> npt.NDArray[Any]:
    """Causal attention of one head and query at a time, from W_pack's output [t, 3 * h * d] to [t, h * d]."""
    num_tokens, width = len(packed), packed.shape[1] // 3 // num_heads
    query, key, value = np.split(packed.astype(np.float64).reshape(num_tokens, 3, num_heads, width), 3, axis=1)
    result = np.zeros((num_tokens, num_heads, width))
    angle = np.outer(np.arange(num_tokens), 10000.0 ** (-2 * np.arange(width // 2) / width))
    for head in range(num_heads):
        q, k, v = query[:, 0, head], key[:, 0, head], value[:, 0, head]
        if slopes is None:
            # A rotation is a product of complex numbers: the first half is the real part.
            q, k = ((part[:, : width // 2] + 1j * part[:, width // 2 :]) * np.exp(1j * angle) for part in (q, k))
        for token in range(num_tokens):
            scores = (k[: token + 1].conj() @ q[token]).real / math.sqrt(width)
            if slopes is not None:
                scores = scores - slopes[head] * np.arange(token, -1, -1)
            weights = np.exp(scores - scores.max())
            result[token, head] = weights / weights.sum() @ v[: token + 1]
    return result.reshape(num_tokens, -1)


@pytest.mark.parametrize(
    ("family", "slopes"), [("baichuan 13B", [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2]), ("baichuan 7B", None)]
)
def test_attention_of_five_heads(family: str, slopes: Any, write_baichuan: Callable[..., Path]) -> None:
    reference = opened(write_baichuan(family, num_attention_heads=5, hidden_size=30))
    run = reference.run(TOKENS, [f"{ATTENTION}.W_pack.out", f"{ATTENTION}.o_proj.in"])
    expected = attention_by_hand(run.taps[f"{ATTENTION}.W_pack.out"], 5, slopes)
    assert relative_difference(run.taps[f"{ATTENTION}.o_proj.in"], expected) < 1e-5


@pytest.mark.parametrize(("changes", "is_normalised"), [(FIRST_BAICHUAN, False), ({}, True)])
@pytest.mark.parametrize("vocab_size", [50, 64000])
def test_only_baichuan2_normalises_the_rows_of_its_head(
    vocab_size: int, changes: dict[str, Any], is_normalised: bool, write_baichuan: Callable[..., Path]
) -> None:
    directory = write_baichuan(vocab_size=vocab_size, hidden_size=12, num_hidden_layers=1, **changes)
    run = opened(directory).run(TOKENS, ["model.norm.out", "lm_head.out"])
    head = load_file(directory / "model.safetensors")["lm_head.weight"].numpy()
    if is_normalised:
        head = head / np.linalg.norm(head, axis=1, keepdims=True)
    assert relative_difference(run.logits, run.taps["model.norm.out"] @ head.T) < 1e-5
    assert np.array_equal(run.logits, run.taps["lm_head.out"])


def test_taps_are_named_by_modules(write_baichuan: Callable[..., Path]) -> None:
    names = ["model.embed_tokens.out", "model.layers.1.input_layernorm.in", "model.layers.1.mlp.down_proj.in"]
    unknown = ["model.layers.7.mlp.in", "model.norm.weight", "nowhere", "model.norm"]
    directory = write_baichuan()
    reference = opened(directory)
    run = reference.run(TOKENS, [*names, "model.embed_tokens.in", *unknown])
    assert set(run.taps) == {*names, "model.embed_tokens.in"}
    assert run.taps["model.embed_tokens.in"][:, 0].tolist() == TOKENS
    table = load_file(directory / "model.safetensors")["model.embed_tokens.weight"].numpy()
    assert np.array_equal(run.taps["model.embed_tokens.out"], table[TOKENS])
    assert run.taps["model.layers.1.mlp.down_proj.in"].shape == (40, 20)
    assert all(value.dtype == np.float32 for value in run.taps.values())
    assert not reference.run(TOKENS[:1]).taps


def test_taps_reach_modules_that_take_named_arguments() -> None:
    run = opened(LLAMA).run(TOKENS, [f"{ATTENTION}.in", f"{ATTENTION}.out", "model.layers.0.input_layernorm.out"])
    assert np.array_equal(run.taps[f"{ATTENTION}.in"], run.taps["model.layers.0.input_layernorm.out"])
    assert run.taps[f"{ATTENTION}.out"].shape == (40, 192)


def test_a_linear_layer_is_tapped_before_its_bias(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 24, "intermediate_size": 20, "num_attention_heads": 2, "vocab_size": 50}
    model = Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=1, num_key_value_heads=2, **sizes)).eval()
    layer = model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        layer.bias.normal_()
    model.save_pretrained(tmp_path)
    path = "model.layers.0.self_attn.q_proj"
    taps = opened(tmp_path).run([1, 2, 3], [f"{path}.in", f"{path}.out"]).taps
    expected = taps[f"{path}.in"] @ layer.weight.detach().numpy().T
    np.testing.assert_allclose(taps[f"{path}.out"], expected, atol=1e-6)


def _tie(directory: Path) -> tuple[Path, Path]:
    """The checkpoint with the embedding as its head: once stored twice, once left out and declared tied."""
    tied = shutil.copytree(directory, directory.with_name("tied"))
    tensors: dict[str, torch.Tensor] = {}
    for path in directory.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
        (tied / path.name).unlink()
    for folder in (directory, tied):
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        if folder == tied:
            del tensors["lm_head.weight"]
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}), encoding="utf-8")
        save_file(tensors, folder / "model.safetensors")
    return directory, tied


def test_a_tied_head_is_the_embedding(write_baichuan: Callable[..., Path], tmp_path: Path) -> None:
    for directory in (write_baichuan(), Path(shutil.copytree(LLAMA, tmp_path / "llama" / "checkpoint"))):
        stored_twice, tied = _tie(directory)
        assert np.array_equal(opened(tied).run(TOKENS).logits, opened(stored_twice).run(TOKENS).logits)


@pytest.mark.parametrize("cache_bytes", [0, 4000])
def test_memory_holds_one_module_and_the_cache(
    cache_bytes: int, write_baichuan: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    live, peak = 0, 0

    def forget(num_bytes: int) -> None:
        nonlocal live
        live -= num_bytes

    def read(tensor: Any) -> torch.Tensor:
        nonlocal live, peak
        result = read_float32(tensor)
        live += result.nbytes
        peak = max(peak, live)
        weakref.finalize(result.untyped_storage(), forget, result.nbytes)
        return result

    read_float32 = reference_file._read_float32
    monkeypatch.setattr(reference_file, "_read_float32", read)
    reference = opened(write_baichuan(), cache_bytes=cache_bytes)
    largest = 3 * 24 * 24 * 4
    for _ in range(2):
        reference.run(TOKENS, ["model.norm.in"])
        assert is_offloaded(reference._model)
        assert live <= cache_bytes
    assert largest <= peak <= cache_bytes + largest
    reference.close()
    assert live == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_read_exactly_and_in_parts(
    dtype: Any, write_baichuan: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_baichuan()
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(directory / "model.safetensors").items()}
    save_file(tensors, directory / "model.safetensors")
    monkeypatch.setattr(reference_file, "_READ_BYTES", 100)
    checkpoint = open_checkpoint(directory)
    for name, tensor in tensors.items():
        found = reference_file._read_float32(checkpoint.tensors[name])
        assert found.dtype == torch.float32
        assert torch.equal(found, tensor.float()), name


def refused(directory: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_at(directory, **options)
    return str(caught.value)


def test_a_missing_tensor_is_named(write_baichuan: Callable[..., Path]) -> None:
    message = refused(write_baichuan(without=("model.layers.1.mlp.up_proj.weight", "lm_head.weight")))
    assert "model.layers.1.mlp.up_proj.weight is missing" in message
    assert "lm_head.weight is missing" in message
    assert "plain Baichuan reference" in message


def test_a_tensor_of_another_shape_is_named(write_baichuan: Callable[..., Path]) -> None:
    directory = write_baichuan()
    write_config(directory, "baichuan 13B", intermediate_size=16)
    message = refused(directory)
    assert "model.layers.0.mlp.gate_proj.weight has shape [20, 24], not [16, 24]" in message
    assert "model.layers.1.mlp.down_proj.weight has shape [24, 20], not [24, 16]" in message


def test_a_tensor_that_is_no_float_is_named(write_baichuan: Callable[..., Path]) -> None:
    directory = write_baichuan()
    tensors = load_file(directory / "model.safetensors")
    save_file(tensors | {"model.norm.weight": torch.ones(24, dtype=torch.int8)}, directory / "model.safetensors")
    assert "model.norm.weight has type int8" in refused(directory)


def test_a_file_that_became_shorter_is_refused(write_baichuan: Callable[..., Path]) -> None:
    directory = write_baichuan()
    reference = opened(directory)
    with (directory / "model.safetensors").open("r+b") as file:
        file.truncate(3000)
    with pytest.raises(UserError, match="became shorter"):
        reference.run(TOKENS)


def test_settings_without_influence_do_not_stop_it(tmp_path: Path) -> None:
    """A padding token beyond the vocabulary, which fine-tuned models declare; and outputs as a tuple."""
    directory = Path(shutil.copytree(LLAMA, tmp_path / "own"))
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    raw |= {"pad_token_id": raw["vocab_size"], "return_dict": False}
    (directory / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    np.testing.assert_array_equal(opened(directory).run(TOKENS).logits, opened(LLAMA).run(TOKENS).logits)


def test_a_configuration_that_transformers_refuses(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(LLAMA, tmp_path / "llama"))
    write_config(directory, "llama", hidden_act="no such function")
    assert "builds no model from" in refused(directory)


@pytest.mark.parametrize("model_type", ["no_such_model", None, ["llama"]])
def test_an_unknown_model_has_no_reference(model_type: Any, write_baichuan: Callable[..., Path]) -> None:
    assert open_at(write_baichuan(model_type=model_type)) is None


def test_a_baichuan_without_model_type_is_known_by_its_code(write_baichuan: Callable[..., Path]) -> None:
    auto_map = {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"}
    assert opened(write_baichuan(model_type=None, auto_map=auto_map)).description == "plain Baichuan reference"


OWN_BUFFERS = (("kept", True), ("computed", False))  # name, persistent
OWN_CODE = """
import logging
import warnings
import torch
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

{at_import}

class NormHead(torch.nn.Linear):
    # As Baichuan2 publishes it: normalised in place the first time.
    first = True

    def forward(self, x):
        if self.first:
            self.first = False
            self.weight.data = torch.nn.functional.normalize(self.weight)
        return torch.nn.functional.linear(x, self.weight)

class Model(LlamaForCausalLM):
    {in_class}

    def __init__(self, config):
        super().__init__(config)
        self.lm_head = NormHead(config.hidden_size, config.vocab_size, bias=False)
        {in_init}
        self.post_init()

    def forward(self, *args, **kwargs):
        {in_forward}
        return super().forward(*args, **kwargs)
"""


@pytest.fixture
def own_code(tmp_path: Path) -> Callable[..., Path]:
    """llama-mini with code of its own, whose head normalises its rows."""

    def write(reference: str = "modeling_own.Model", **code_parts: str) -> Path:
        directory = Path(shutil.copytree(LLAMA, tmp_path / "own"))
        code = OWN_CODE.format(**{"at_import": "", "in_class": "", "in_init": "", "in_forward": "pass"} | code_parts)
        (directory / "modeling_own.py").write_text(code, encoding="utf-8")
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        config["auto_map"] = {"AutoModelForCausalLM": reference}
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return directory

    return write


def test_trusted_code_goes_before_transformers_own_class(own_code: Callable[..., Path]) -> None:
    directory = own_code()
    own, plain = opened(directory, trust=True), opened(directory)
    assert own.description == "the checkpoint's own modeling_own.py"
    assert plain.description.startswith("transformers LlamaForCausalLM")
    norm = own.run(TOKENS, ["model.norm.out"]).taps["model.norm.out"]
    head = torch.nn.functional.normalize(reference_file._read_float32(open_checkpoint(LLAMA).tensors["lm_head.weight"]))
    # The second run must not take the head for normalised already.
    for _ in range(2):
        assert relative_difference(own.run(TOKENS).logits, norm @ head.numpy().T) < 1e-5


def test_code_with_a_configuration_of_its_own(own_code: Callable[..., Path]) -> None:
    """Of a kind that transformers does not know, and that no `AutoConfig` names."""
    directory = own_code(
        at_import="class OwnConfig(LlamaConfig):\n    model_type = 'own'\n", in_class="config_class = OwnConfig"
    )
    config = json.loads((directory / "config.json").read_text(encoding="utf-8")) | {"model_type": "own"}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    reference = opened(directory, trust=True)
    assert type(reference._model.config).__name__ == "OwnConfig"
    assert np.isfinite(reference.run(TOKENS).logits).all()


def test_code_that_names_tied_weights_in_a_list(own_code: Callable[..., Path]) -> None:
    """As every model did before transformers 5; the head is the embedding all the same."""
    _, tied = _tie(own_code(in_class="_tied_weights_keys = ['lm_head.weight']"))
    found = opened(tied, trust=True).run(TOKENS, ["model.norm.out"])
    embedding = reference_file._read_float32(open_checkpoint(LLAMA).tensors["model.embed_tokens.weight"])
    head = torch.nn.functional.normalize(embedding).numpy()
    assert relative_difference(found.logits, found.taps["model.norm.out"] @ head.T) < 1e-5


def test_buffers_that_the_checkpoint_stores_are_read(own_code: Callable[..., Path]) -> None:
    kept, computed = ("self.register_buffer('{}', torch.ones(3), persistent={})".format(*own) for own in OWN_BUFFERS)
    directory = own_code(in_init=f"{kept}; {computed}")
    save_file({name: torch.full((3,), 7.0) for name, _ in OWN_BUFFERS}, directory / "extra.safetensors")
    index = json.loads((directory / "model.safetensors.index.json").read_text(encoding="utf-8"))
    index["weight_map"] |= {name: "extra.safetensors" for name, _ in OWN_BUFFERS}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    buffers = dict(opened(directory, trust=True)._model.named_buffers())
    assert buffers["kept"].tolist() == [7, 7, 7]
    assert buffers["computed"].tolist() == [1, 1, 1]


def test_untrusted_code_is_not_run(own_code: Callable[..., Path], tmp_path: Path) -> None:
    directory = own_code(at_import=f"Path({str(tmp_path / 'ran')!r}).touch()")
    opened(directory).run(TOKENS)
    assert not (tmp_path / "ran").exists()
    opened(directory, trust=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("at_import", "found"),
    [
        ("raise ImportError('is_torch_fx_available is gone')", "ImportError: is_torch_fx_available is gone"),
        ("def broken(:", "SyntaxError"),
        ("import no_such_package_at_all", "no_such_package_at_all"),
        ("class LlamaForCausalLM: pass", "AttributeError"),
        ("raise ImportError('\\nModel requires xyz')", "ImportError: Model requires xyz"),
        ("raise SystemExit('no GPU here')", "SystemExit: no GPU here"),
    ],
)
def test_code_that_cannot_be_built_is_refused(at_import: str, found: str, own_code: Callable[..., Path]) -> None:
    message = refused(own_code(at_import=at_import), trust=True)
    assert "the checkpoint's own modeling_own.py does not run" in message
    assert found in message
    assert "without --trust-checkpoint-code" in message


def test_code_that_fails_while_it_computes_is_refused(own_code: Callable[..., Path]) -> None:
    reference = opened(own_code(in_forward="raise AttributeError('seen_tokens')"), trust=True)
    with pytest.raises(UserError, match=r"modeling_own\.py does not run: AttributeError: seen_tokens"):
        reference.run(TOKENS)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that is asked for."""
    asked: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        asked.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


def test_code_of_another_repository_is_not_fetched(own_code: Callable[..., Path], network: list[str]) -> None:
    message = refused(own_code(reference="someone/model--elsewhere.Model"), trust=True)
    assert "names elsewhere.py in auto_map, which is not in" in message
    assert "copy the .py files of someone/model there" in message
    assert not network


def test_nothing_is_said_or_fetched(
    own_code: Callable[..., Path],
    network: list[str],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    noise = "logging.getLogger('own').warning('noise'); warnings.warn('noise'); print('noise')"
    opened(own_code(at_import=noise, in_forward=noise), trust=True).run(TOKENS)
    opened(LLAMA).run(TOKENS)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert not [str(warning.message) for warning in recwarn if "noise" in str(warning.message)]
    assert not network
