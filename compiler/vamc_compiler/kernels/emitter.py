"""Calls of kernels in a Relax function: what the lowering of an op uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax

from vamc_compiler.kernels.activations import FLOAT32, Format, Lookup, Source, Tensor, row_kernel, row_max_kernel
from vamc_compiler.kernels.linear import linear_kernel
from vamc_compiler.kernels.paged_attention import Shape, attention_kernel
from vamc_compiler.kernels.table import KernelTable
from vamc_compiler.kernels.tir import Kernel


def _text(value: str | bytes) -> str:
    """An ONNX text attribute."""
    return value.decode() if isinstance(value, bytes) else value


class Emitter:
    """Adds kernels to the module that is being built, and calls of them.

    It remembers which tensors exist in which format: q, k and v share one quantized input, and an input that its
    producer wrote in the right format is not converted at all.
    """

    def __init__(self, table: KernelTable) -> None:
        self.table = table
        self._prepared: dict[tuple[str, str, str | None], list[Any]] = {}
        """By the names of the tensor, the format and the maximum that scales it, None for its own."""

    def _call(self, builder: Any, kernel: Kernel, arguments: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
        """Call a kernel; the variables of its outputs."""
        variable = builder.add_func(kernel.function, kernel.name)
        types = [relax.TensorType(list(shape), dtype) for shape, dtype in outputs]
        if len(types) == 1:
            return [builder.emit(relax.op.call_tir(variable, list(arguments), out_ty=types[0]))]
        result = builder.emit(relax.op.call_tir(variable, list(arguments), out_ty=types))
        return [builder.emit(relax.TupleGetItem(result, i)) for i in range(len(types))]

    def form_for(self, attributes: Mapping[str, Any]) -> Format:
        """The format in which a node writes its rows: that of the linear layers that read them, see the importer."""
        consumer = attributes.get("consumer")
        return FLOAT32 if consumer is None else self.table.form(*_text(consumer).split(":"))

    def rows(
        self, builder: Any, source: Source, inputs: Sequence[Any], form: Format, extra_outputs: int = 0
    ) -> list[Any]:
        """Compute rows as wide as the first input, in a format.

        Returns the source's own outputs, then one variable that stands for the rows: for `linear`, whatever the
        format, and for anything else when it is float32.
        """
        first = builder.normalize(inputs[0])
        tokens, width = first.ty.shape
        own = [((tokens, width), "float32")] * extra_outputs
        function = row_kernel(source, form, int(width))
        results = self._call(builder, function, [first, *inputs[1:]], [*own, *form.tensors(tokens, int(width))])
        rows = results[extra_outputs:]
        self._prepared[rows[0].name, form.name, None] = rows
        return [*results[:extra_outputs], rows[0]]

    def embedding(self, builder: Any, ids: Any, table: Any) -> Any:
        """Rows of a 16-bit table as float32; ids beyond the table take its last row."""
        tokens = builder.normalize(ids).ty.shape[0]
        entries, width = (int(size) for size in builder.normalize(table).ty.shape)
        function = row_kernel(Lookup(entries, table.ty.dtype), FLOAT32, width)
        return self._call(builder, function, [ids, table], [((tokens, width), "float32")])[0]

    def row_max(self, builder: Any, x: Any) -> Any:
        """The largest magnitude float32 [n, 1] in each row of x float32 [n, w]."""
        x = builder.normalize(x)
        tokens, width = x.ty.shape
        return self._call(builder, row_max_kernel(int(width)), [x], [((tokens, 1), "float32")])[0]

    def _prepare(self, builder: Any, x: Any, form: Format, top: Any | None) -> list[Any]:
        """The tensors of x in a format, scaled by `top` float32 [n, 1] where it is given."""
        if form.plain:
            return [x]
        if not isinstance(x, relax.Var):
            x = builder.emit(x)
        if top is not None and not isinstance(top, relax.Var):
            top = builder.emit(top)
        key = (x.name, form.name, None if top is None else top.name)
        if key not in self._prepared:
            tokens, width = x.ty.shape
            function = row_kernel(Tensor(), form, int(width), top is not None)
            inputs = [x] if top is None else [x, top]
            self._prepared[key] = self._call(builder, function, inputs, form.tensors(tokens, int(width)))
        return self._prepared[key]

    def linear(self, builder: Any, op: str, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        """y float32 [n, o] of a linear op: inputs x, packed weight and, where quantized, scale and perhaps `top`.

        The attributes `out_features`, `in_features` and `weight_dtype` describe the weight before packing.
        """
        choices = self.table.linear(op, _text(attributes["weight_dtype"]))
        outputs, width = int(attributes["out_features"]), int(attributes["in_features"])
        x, weight, *quantized = inputs
        scale, top = quantized[:1], quantized[1] if len(quantized) > 1 else None
        prepared = self._prepare(builder, builder.normalize(x), choices[-1][1].form, top)
        function = linear_kernel(choices, width, outputs, bool(scale))
        tokens = prepared[0].ty.shape[0]
        return self._call(builder, function, [*prepared, weight, *scale], [((tokens, outputs), "float32")])[0]

    def paged_attention(
        self, builder: Any, inputs: Sequence[Any], *, scale: float, slopes: Any | None, rotary: Sequence[Any]
    ) -> Any:
        """Attend, in place on the cache; returns the tuple (attended, kv_cache)."""
        query, key, value, kv_cache, *rest = [builder.normalize(x) for x in inputs]
        _, heads, head_dim = (int(x) if i else x for i, x in enumerate(query.ty.shape))
        kv_heads = int(kv_cache.ty.shape[2])
        shape = Shape(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=scale,
            alibi=slopes is not None,
            rotary=bool(rotary),
        )
        kernel = attention_kernel(shape, self.table.attention)
        variable = builder.add_func(kernel.function, kernel.name)
        arguments = [query, key, value, kv_cache, *rest, *([] if slopes is None else [slopes]), *rotary]
        # Output 0 is new, output 1 is argument 3 updated in place: the pages are never copied.
        result = builder.emit(relax.op.call_tir_inplace(variable, arguments, [-1, 3], [query.ty, kv_cache.ty]))
        return relax.Tuple([builder.emit(relax.TupleGetItem(result, i)) for i in range(2)])
