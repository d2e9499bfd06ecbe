"""The contestants: which program, in which environment, with which precision. Standard library only.

An entry's environment variables and settings are the program's defaults unless the title says otherwise.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any, Literal

from contestants.interface import Contestant

Group = Literal["int8", "16bit"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the table."""

    title: str
    """For people: program and precision."""
    group: Group
    """Entries of one group are interleaved with each other and alive at the same time."""
    environment: str
    """Directory under `.envs`, or "vamc" for the repository's own."""
    factory: str
    """module:class of the contestant."""
    settings: dict[str, Any]
    """Arguments of the class."""
    model: str
    """Directory of the converted model; entries that differ only in how they run share one."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables of the worker."""


_OPENVINO = "contestants.openvino:OpenVino"
_VAMC = "contestants.vamc:Vamc"
_INT8_BACKEND = {"dtype": "int8"}

ENTRIES = {
    "ctranslate2-int8": Entry(
        title="CTranslate2 int8",
        group="int8",
        environment="ctranslate2",
        factory="contestants.ctranslate2:CTranslate2",
        settings={"quantization": "int8", "compute_type": "int8"},
        model="ctranslate2-int8",
    ),
    "openvino-int8": Entry(
        title="OpenVINO int8, dynamic int8 activations (default)",
        group="int8",
        environment="openvino",
        factory=_OPENVINO,
        settings={"bits": 8},
        model="openvino-int8",
    ),
    "openvino-int8-exact": Entry(
        title="OpenVINO int8, dynamic quantization off",
        group="int8",
        environment="openvino",
        factory=_OPENVINO,
        settings={"bits": 8, "properties": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}},
        model="openvino-int8",
    ),
    "llama.cpp-q8_0": Entry(
        title="llama.cpp Q8_0",
        group="int8",
        environment="llama_cpp",
        factory="contestants.llama_cpp:LlamaCpp",
        settings={"type_name": "q8_0"},
        model="llama.cpp-q8_0",
    ),
    "ort-genai-int8": Entry(
        title="ONNX Runtime GenAI int8",
        group="int8",
        environment="ort_genai",
        factory="contestants.onnxruntime_genai:OnnxRuntimeGenAi",
        settings={"precision": "int8"},
        model="ort-genai-int8",
    ),
    "vamc-int8": Entry(
        title="vamc int8_per_channel (near-exact activations)",
        group="int8",
        environment="vamc",
        factory=_VAMC,
        settings={
            "frontend": {"quantize": {"type": "int8_per_channel", "lm_head": True}},
            "backend": _INT8_BACKEND,
        },
        model="vamc-int8",
    ),
    "vamc-w8a8": Entry(
        title="vamc w8a8_dynamic",
        group="int8",
        environment="vamc",
        factory=_VAMC,
        settings={"frontend": {"quantize": {"type": "w8a8_dynamic", "lm_head": True}}, "backend": _INT8_BACKEND},
        model="vamc-w8a8",
    ),
    "openvino-bf16": Entry(
        title="OpenVINO f16 weights, bf16 arithmetic (default)",
        group="16bit",
        environment="openvino",
        factory=_OPENVINO,
        settings={"bits": 16},
        model="openvino-f16",
    ),
    "llama.cpp-f16": Entry(
        title="llama.cpp F16",
        group="16bit",
        environment="llama_cpp",
        factory="contestants.llama_cpp:LlamaCpp",
        settings={"type_name": "f16"},
        model="llama.cpp-f16",
    ),
    "vamc-fp16": Entry(
        title="vamc fp16",
        group="16bit",
        environment="vamc",
        factory=_VAMC,
        settings={"frontend": {}, "backend": {"dtype": "fp16"}},
        model="vamc-fp16",
    ),
    "vamc-bf16": Entry(
        title="vamc bf16",
        group="16bit",
        environment="vamc",
        factory=_VAMC,
        settings={"frontend": {}, "backend": {"dtype": "bf16"}},
        model="vamc-bf16",
    ),
}


def make(entry: Entry) -> Contestant:
    """The contestant of an entry, in the process that runs it."""
    module, _, name = entry.factory.partition(":")
    contestant: Contestant = getattr(importlib.import_module(module), name)(**entry.settings)
    return contestant
