"""AMX on a CPU without it: tile instructions of compiled code trap as illegal, and are carried out here.

The code under test is machine code, so register numbers, addresses and strides are those a real tile unit would see.
Where the CPU has AMX and Linux grants it, nothing traps and the hardware computes. Semantics and encodings: Intel 64
and IA-32 Architectures Software Developer's Manual, volume 1 chapter 18 and volume 2. Configurations
and shapes that raise an exception there are errors here, and so is an access in or near a `Memory` that leaves it.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_MARGIN_BYTES = 1 << 14
_SA_SIGINFO, _SA_NODEFER = 4, 0x40000000
_GENERAL_REGISTERS = 40  # offset of uc_mcontext.gregs in Linux' ucontext_t on x86-64
_RIP = 16
# Number in an instruction -> place in gregs: rax rcx rdx rbx rsp rbp rsi rdi r8 ... r15.
_PLACES = (13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7)
# (opcode, prefix, memory operand) -> name; prefixes as VEX numbers them: none, 66, F3, F2.
_NAMES = {
    (0x49, 0, True): "ldtilecfg",
    (0x49, 0, False): "tilerelease",
    (0x49, 3, False): "tilezero",
    (0x4B, 3, True): "tileloadd",
    (0x4B, 2, True): "tilestored",
    (0x5E, 1, False): "tdpbusd",
    (0x5C, 2, False): "tdpbf16ps",
}


class Memory:
    """A copy of an array, aligned, amid bytes that no kernel should see: 0xFF, a NaN in every float format."""

    def __init__(self, array: Array) -> None:
        self._bytes = np.full(array.nbytes + 3 * _MARGIN_BYTES, 0xFF, np.uint8)
        start = _MARGIN_BYTES + -(self._bytes.ctypes.data + _MARGIN_BYTES) % 64
        self._place = slice(start, start + array.nbytes)
        self.array: Array = self._bytes[self._place].view(array.dtype).reshape(array.shape)
        self.array[...] = array
        self.begin = self.array.ctypes.data
        self.end = self.begin + array.nbytes

    def forbids(self, address: int, num_bytes: int) -> bool:
        """Whether an access is near, and not inside."""
        near = self.begin - _MARGIN_BYTES < address + num_bytes and address < self.end + _MARGIN_BYTES
        return near and not self.begin <= address <= address + num_bytes <= self.end

    @property
    def is_intact(self) -> bool:
        """Whether nothing was written around the array."""
        around = self._bytes.copy()
        around[self._place] = 0xFF
        return bool((around == 0xFF).all())


@dataclass
class _Operands:
    """A decoded instruction."""

    name: str
    length: int
    register: int
    second: int
    """Register number of the r/m field."""
    third: int
    """Register number of the VEX prefix."""
    address: int = 0
    stride: int = 0


def _decode(code: bytes, registers: Sequence[int]) -> _Operands:
    """The instruction at the start of `code`; `registers` as numbered in instructions."""
    escape, first, second, opcode, modrm, *rest = code
    if (
        escape != 0xC4
        or first & 0x1F != 2
        or second & 0x84
        or (second & 3, opcode) not in {(prefix, known) for known, prefix, _ in _NAMES}
    ):
        raise ValueError(f"not a tile instruction: {code.hex(' ')}")
    mode, register, low = modrm >> 6, modrm >> 3 & 7, modrm & 7
    name = _NAMES.get((opcode, second & 3, mode != 3))
    if name is None:
        raise ValueError(f"not an instruction that kernels use: {code.hex(' ')}")
    operands = _Operands(name, 5, register, low, 15 - (second >> 3 & 15))
    if mode == 3:
        return operands
    high_index, high_base = (8 * (not first >> bit & 1) for bit in (6, 5))
    base, length = low + high_base, 5
    if low == 4:
        length = 6
        index, base = (rest[0] >> 3 & 7) + high_index, (rest[0] & 7) + high_base
        operands.stride = 0 if index == 4 else registers[index] << (rest[0] >> 6)
    elif name != "ldtilecfg":
        raise ValueError(f"a tile's memory operand needs a SIB byte: {code.hex(' ')}")
    if mode == 0 and base & 7 == 5:
        raise ValueError(f"an address without a base register is not known here: {code.hex(' ')}")
    offset_bytes = (0, 1, 4)[mode]
    offset = int.from_bytes(code[length : length + offset_bytes], "little", signed=True)
    operands.address, operands.length = registers[base] + offset, length + offset_bytes
    if name == "ldtilecfg":
        operands.address, operands.stride = operands.address + operands.stride, 0
    return operands


@dataclass
class _TileUnit:
    """The tile registers of one thread."""

    memories: Sequence[Memory]
    configured: bool = False
    rows: list[int] = field(default_factory=lambda: [0] * 8)
    row_bytes: list[int] = field(default_factory=lambda: [0] * 8)
    data: Array = field(default_factory=lambda: np.zeros((8, 16, 64), np.uint8))

    def execute(self, operands: _Operands) -> None:
        """Carry an instruction out."""
        name = operands.name
        if name == "ldtilecfg":
            self._configure(self._read(operands.address, 64))
        elif name == "tilerelease":
            self.configured, self.rows, self.row_bytes = False, [0] * 8, [0] * 8
        else:
            tile = operands.register
            self._check(self.configured, "tiles are not configured")
            self._check(self.rows[tile] > 0, f"tile {tile} has no rows")
            if name == "tilezero":
                self.data[tile] = 0
            elif name == "tileloadd":
                self.data[tile] = 0
                for row in range(self.rows[tile]):
                    values = self._read(operands.address + row * operands.stride, self.row_bytes[tile])
                    self.data[tile, row, : self.row_bytes[tile]] = np.frombuffer(values, np.uint8)
            elif name == "tilestored":
                for row in range(self.rows[tile]):
                    address = operands.address + row * operands.stride
                    self._check_access(address, self.row_bytes[tile])
                    ctypes.memmove(address, self.data[tile, row].tobytes(), self.row_bytes[tile])
            else:
                self._multiply(name, tile, operands.second, operands.third)

    def _configure(self, config: bytes) -> None:
        self._check(config[0] == 1 and config[1] == 0, "the palette is not 1, or a restart is asked for")
        self._check(not any(config[2:16]) and not any(config[32:48]) and not any(config[56:]), "reserved bytes are set")
        self.row_bytes = [int.from_bytes(config[at : at + 2], "little") for at in range(16, 32, 2)]
        self.rows = list(config[48:56])
        self._check(max(self.rows) <= 16 and max(self.row_bytes) <= 64, "a tile is too large")
        self._check(all((r == 0) == (b == 0) for r, b in zip(self.rows, self.row_bytes, strict=True)), "half empty")
        self.configured = True
        self.data[...] = 0

    def _multiply(self, name: str, sums: int, left: int, right: int) -> None:
        self._check(len({sums, left, right}) == 3, "a tile is used twice")
        self._check(self.row_bytes[sums] % 4 == 0 and self.row_bytes[left] % 4 == 0, "rows end within a word")
        words = self.row_bytes[left] // 4
        fits = (self.rows[sums], self.row_bytes[sums], words) == (
            self.rows[left],
            self.row_bytes[right],
            self.rows[right],
        )
        self._check(
            fits,
            f"{name} {sums} += {left} * {right}, whose shapes do not fit: rows {self.rows}, bytes {self.row_bytes}",
        )
        rows, columns = self.rows[sums], self.row_bytes[sums] // 4
        if name == "tdpbusd":
            x = self.data[left, :rows, : 4 * words].astype(np.int32)
            weight = self.data[right, :words, : 4 * columns].view(np.int8).astype(np.int32)
            weight = weight.reshape(words, columns, 4).transpose(0, 2, 1).reshape(4 * words, columns)
            self.data[sums].view(np.int32)[:rows, :columns] += x @ weight
            return
        x = bfloat16_values(self.data[left, :rows, : 4 * words].view(np.uint16)).reshape(rows, words, 2)
        weight = bfloat16_values(self.data[right, :words, : 4 * columns].view(np.uint16)).reshape(words, columns, 2)
        halves: npt.NDArray[np.float32] = np.zeros((rows, columns, 2), np.float32)
        for word in range(words):  # each addition is rounded once: a product of bfloat16 is exact in float64
            halves = (halves + x[:, None, word].astype(np.float64) * weight[None, word]).astype(np.float32)
        self.data[sums].view(np.float32)[:rows, :columns] += halves.sum(-1)

    def _read(self, address: int, num_bytes: int) -> bytes:
        self._check_access(address, num_bytes)
        return ctypes.string_at(address, num_bytes)

    def _check_access(self, address: int, num_bytes: int) -> None:
        for memory in self.memories:
            self._check(not memory.forbids(address, num_bytes), "an access leaves an array")

    @staticmethod
    def _check(condition: bool, message: str) -> None:
        if not condition:
            raise AssertionError(message)


def bfloat16_values(bits: Array) -> Array:
    """uint16 bits of bfloat16 as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class _SigAction(ctypes.Structure):
    """glibc's struct sigaction."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@dataclass
class Emulation:
    """What happened."""

    executed: Counter[str] = field(default_factory=Counter)
    """How often each instruction was carried out here; empty where the CPU has AMX."""
    num_threads: int = 0
    """Threads that used tiles."""


@contextlib.contextmanager
def emulated_tiles(memories: Sequence[Memory] = ()) -> Iterator[Emulation]:
    """Carry out the tile instructions of any thread of this process.

    Raises:
        AssertionError: at the end, for the first instruction that went wrong, or tiles that were not released.
    """
    emulation = Emulation()
    units: dict[int, _TileUnit] = {}
    errors: list[Exception] = []

    def handle(_signal: int, _info: int, context: int) -> None:
        registers = (ctypes.c_int64 * 23).from_address(context + _GENERAL_REGISTERS)
        code = ctypes.string_at(registers[_RIP], 10)
        try:
            operands = _decode(code, [registers[place] for place in _PLACES])
        except ValueError as error:
            errors.append(error)
            libc.sigaction(signal.SIGILL, ctypes.byref(before), None)  # the same instruction then ends the process
            return
        registers[_RIP] += operands.length  # whatever happens: an instruction that is not skipped traps forever
        unit = units.setdefault(threading.get_ident(), _TileUnit(memories))
        emulation.executed[operands.name] += 1
        try:
            unit.execute(operands)
        except Exception as error:  # ctypes would print it and go on
            errors.append(error)

    libc = ctypes.CDLL(None)
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(handle)
    action = _SigAction(ctypes.cast(handler, ctypes.c_void_p).value, flags=_SA_SIGINFO | _SA_NODEFER)
    before = _SigAction()
    libc.sigaction(signal.SIGILL, ctypes.byref(action), ctypes.byref(before))
    try:
        yield emulation
    finally:
        libc.sigaction(signal.SIGILL, ctypes.byref(before), None)
    emulation.num_threads = len(units)
    if errors:
        raise AssertionError(f"{len(errors)} tile instructions failed, the first: {errors[0]}")
    assert not any(unit.configured for unit in units.values()), "tiles were not released"
