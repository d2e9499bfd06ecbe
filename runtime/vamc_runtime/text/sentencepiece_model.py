"""The pieces of a sentencepiece model: their texts and kinds, which the library does not tell completely.

The file is a protocol buffer, `ModelProto` of sentencepiece's `sentencepiece_model.proto`:
repeated SentencePiece pieces = 1 {string piece = 1; float score = 2; Type type = 3}.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from vamc_runtime.stored_path import ReadablePath
from vamc_runtime.text.checkpoint_files import damaged, read_file

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZE = {_FIXED64: 8, _FIXED32: 4}


class Piece(NamedTuple):
    """One entry of the vocabulary."""

    text: str
    kind: int
    """NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED or BYTE."""


def load_processor(path: ReadablePath, model: bytes) -> Any:
    """The library's processor of a model.

    Raises:
        UserError: the file is damaged.
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
        processor.encode("a")
    except (RuntimeError, OSError, ValueError, IndexError, MemoryError) as error:
        raise damaged(path, error) from error
    return processor


def read_pieces(path: ReadablePath) -> list[Piece]:
    """The vocabulary of a tokenizer.model, in the order of ids.

    Raises:
        UserError: the file is damaged.
    """
    model = read_file(path)
    num_pieces = load_processor(path, model).GetPieceSize()
    try:
        pieces = [_piece(value) for number, value in _fields(model) if number == 1]
        if len(pieces) != num_pieces:
            raise ValueError(f"{len(pieces)} pieces were found, the library has {num_pieces}")
    except ValueError as error:
        raise damaged(path, error) from error
    return pieces


def _piece(value: bytes | int) -> Piece:
    if not isinstance(value, bytes):
        raise ValueError("a piece is not a message")
    fields = dict(_fields(value))
    text, kind = fields.get(1, b""), fields.get(3, NORMAL)
    if not isinstance(text, bytes) or not isinstance(kind, int):
        raise ValueError("a piece has fields of the wrong type")
    return Piece(text.decode(), kind)


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Field numbers and values of a message; of a fixed-size value its bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        wire_type = key & 7
        if wire_type == _VARINT:
            number, position = _varint(data, position)
            yield key >> 3, number
            continue
        if wire_type == _BYTES:
            size, position = _varint(data, position)
        elif wire_type in _FIXED_SIZE:
            size = _FIXED_SIZE[wire_type]
        else:
            raise ValueError(f"wire type {wire_type} at byte {position}")
        if position + size > len(data):
            raise ValueError(f"a field of {size} bytes at byte {position} of {len(data)}")
        yield key >> 3, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number without end at byte {position}")
