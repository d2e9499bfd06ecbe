"""OpenVINO: a stateful model exported by optimum-intel, stepped through plain `openvino` inference requests.

The exported graph computes logits of all positions; openvino-genai cuts it to the last position before compiling, and
so does `prepare`, since a prefill that multiplies 512 rows with the output head would count against OpenVINO.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def keep_last_position(model: Any) -> None:
    """Slice the input of the output head to its last position, in place."""
    from openvino import opset13 as ops

    head = model.output("logits").get_node().input_value(0).get_node()
    while head.get_type_name() != "MatMul":
        if head.get_type_name() not in ("Convert", "Add", "Multiply"):
            raise RuntimeError(f"between the output head and the logits stands {head.get_type_name()}, not expected")
        head = head.input_value(0).get_node()
    bounds = [ops.constant(np.array([value], np.int64)) for value in (-1, np.iinfo(np.int64).max, 1, 1)]
    last = ops.slice(head.input_value(0), *bounds)  # start, stop, step, axis
    head.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


class OpenVino:
    """One exported model with `bits` per weight, compiled with `properties` beside the thread count."""

    can_batch = True

    def __init__(self, *, bits: int, symmetric: bool = False, properties: dict[str, str] | None = None) -> None:
        self._bits, self._symmetric, self._properties = bits, symmetric, properties or {}
        self._request: Any = None

    def prepare(self, checkpoint: Path, folder: Path) -> None:
        """Export, compress the weights per output channel where bits is 8, and cut the head to the last position."""
        import openvino
        from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

        quantization = OVWeightQuantizationConfig(bits=8, sym=self._symmetric) if self._bits == 8 else None
        exported = OVModelForCausalLM.from_pretrained(
            checkpoint, export=True, compile=False, load_in_8bit=False, quantization_config=quantization
        )
        exported.save_pretrained(folder / "exported")
        model = openvino.Core().read_model(folder / "exported" / "openvino_model.xml")
        keep_last_position(model)
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
        del model
        for file in (folder / "exported").iterdir():  # as large as the model
            file.unlink()

    def open(self, folder: Path, num_threads: int) -> dict[str, str]:
        """Compile for the CPU."""
        import openvino

        properties = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(num_threads)}
        compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", {**properties, **self._properties})
        self._request = compiled.create_infer_request()

        def setting(name: str) -> str:
            value = compiled.get_property(name)
            return str(getattr(value, "to_string", lambda: value)())

        return {
            "version": f"openvino {openvino.__version__}",
            "computes in": setting("INFERENCE_PRECISION_HINT"),
            "dynamic quantization group": setting("DYNAMIC_QUANTIZATION_GROUP_SIZE"),
            "KV cache": setting("KV_CACHE_PRECISION"),
        }

    def prefill(self, tokens: list[int]) -> tuple[float, int]:
        """One inference of the whole prompt with an empty state."""
        self._request.reset_state()
        start = time.perf_counter()
        (chosen,) = self._step(np.array([tokens], np.int64), 0)
        return time.perf_counter() - start, int(chosen)

    def decode(self, prompts: list[list[int]], num_steps: int) -> list[float]:
        """Inferences of one position each."""
        self._request.reset_state()
        position, times = len(prompts[0]), []
        chosen = self._step(np.array(prompts, np.int64), 0)
        for step in range(num_steps):
            start = time.perf_counter()
            chosen = self._step(chosen[:, None], position + step)
            times.append(time.perf_counter() - start)
        return times

    def _step(self, tokens: npt.NDArray[np.int64], first: int) -> npt.NDArray[np.int64]:
        """Compute tokens [b, n] at positions from `first`; returns the most likely next tokens [b]."""
        batch, count = tokens.shape
        positions = np.arange(first, first + count, dtype=np.int64)
        self._request.infer(
            {
                "input_ids": tokens,
                "attention_mask": np.ones((batch, first + count), np.int64),
                "position_ids": np.broadcast_to(positions, (batch, count)).copy(),
                "beam_idx": np.arange(batch, dtype=np.int32),
            },
            share_inputs=True,
        )
        logits = self._request.get_tensor("logits").data  # a view, [b, 1, vocab]
        chosen: npt.NDArray[np.int64] = np.argmax(logits[:, -1], axis=-1).astype(np.int64)
        return chosen
