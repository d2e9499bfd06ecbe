"""What LLVM may use on a CPU, and how it is made sure that a machine has it.

LLVM knows a CPU as a list of features. Every one of them is named here: checked on the machine that runs the library,
switched off, or ignored for a reason. One that is not named is refused, since nobody would check it.

Names of /proc/cpuinfo: Linux, arch/x86/include/asm/cpufeatures.h.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

CHECKED = {
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "sse4a": "sse4a",
    "crc32": "sse4_2",
    "cx16": "cx16",
    "sahf": "lahf_lm",
    "popcnt": "popcnt",
    "lzcnt": "abm",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "movbe": "movbe",
    "tbm": "tbm",
    "xop": "xop",
    "fma4": "fma4",
    "f16c": "f16c",
    "fma": "fma",
    "aes": "aes",
    "pclmul": "pclmulqdq",
    "gfni": "gfni",
    "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq",
    "avx": "avx",
    "avx2": "avx2",
    "avxvnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "amx-tile": "amx_tile",
    "amx-int8": "amx_int8",
    "amx-bf16": "amx_bf16",
}
"""LLVM's name -> that of /proc/cpuinfo: what the machine is asked for before a library is loaded."""

SWITCHED_OFF = frozenset(
    (
        # APX: 32 general registers and what belongs to them
        *("ccmp", "egpr", "ndd", "nf", "ppx", "push2pop2", "zu"),
        # Vectors
        *("avx10.1", "avx10.2", "avxifma", "avxneconvert", "avxvnniint16", "avxvnniint8"),
        # Tiles, beyond what the kernels use
        *("amx-avx512", "amx-complex", "amx-fp16", "amx-fp8", "amx-movrs", "amx-tf32"),
        # Compare and add
        "cmpccxadd",
    )
)
"""Instructions that LLVM may choose by itself and that Linux does not list, or did not before 6.16: no machine can be
asked for them, so code generation does without."""

Reason = Literal["every x86-64", "tuning", "by name only"]

IGNORED: dict[Reason, frozenset[str]] = {
    # Part of the architecture: a 64-bit process would not run without them.
    "every x86-64": frozenset(("64bit", "64bit-mode", "cmov", "cx8", "fxsr", "mmx", "nopl", "sse", "sse2", "x87")),
    # Not instructions but what is fast: any CPU runs the code that they lead to.
    "tuning": frozenset(
        (
            *("allow-light-256-bit", "branch-hint", "branchfusion", "ermsb", "false-deps-getmant"),
            *("false-deps-lzcnt-tzcnt", "false-deps-mulc", "false-deps-mullq", "false-deps-perm", "false-deps-popcnt"),
            *("false-deps-range", "fast-11bytenop", "fast-15bytenop", "fast-7bytenop", "fast-bextr", "fast-dpwssd"),
            *("fast-gather", "fast-hops", "fast-imm16", "fast-lzcnt", "fast-movbe", "fast-scalar-fsqrt"),
            *("fast-scalar-shift-masks", "fast-shld-rotate", "fast-variable-crosslane-shuffle"),
            *("fast-variable-perlane-shuffle", "fast-vector-fsqrt", "fast-vector-shift-masks"),
            *("faster-shift-than-shuffle", "fsrm", "idivl-to-divb", "idivq-to-divl", "lea-sp", "lea-uses-ag"),
            *("macrofusion", "no-bypass-delay", "no-bypass-delay-blend", "no-bypass-delay-mov"),
            *("no-bypass-delay-shuffle", "pad-short-functions", "prefer-256-bit", "prefer-mask-registers"),
            *("prefer-movmsk-over-vtest", "sbb-dep-breaking", "slow-3ops-lea", "slow-incdec", "slow-lea"),
            *("slow-pmaddwd", "slow-pmulld", "slow-pmullq", "slow-shld", "slow-two-mem-ops", "slow-unaligned-mem-16"),
            *("slow-unaligned-mem-32", "tuning-fast-imm-vector-shift", "use-glm-div-sqrt-costs"),
            *("use-slm-arith-costs", "vzeroupper"),
        )
    ),
    # Instructions that LLVM writes only where a program names them, by an intrinsic or as assembly. The kernels name
    # none: those of systems, random numbers, hashes and ciphers, and hints for caches.
    "by name only": frozenset(
        (
            *("adx", "avx512vp2intersect", "cldemote", "clflushopt", "clwb", "clzero", "enqcmd", "fsgsbase", "hreset"),
            *("invpcid", "kl", "lwp", "movdir64b", "movdiri", "movrs", "mwaitx", "pconfig", "pku", "prefetchi"),
            *("prfchw", "ptwrite", "rdpid", "rdpru", "rdrnd", "rdseed", "serialize", "sha", "sha512", "shstk", "sm3"),
            *("sm4", "tsxldtrk", "uintr", "usermsr", "waitpkg", "wbnoinvd", "widekl", "xsave", "xsavec", "xsaveopt"),
            "xsaves",
        )
    ),
}


def unnamed(features: Collection[str]) -> list[str]:
    """Features that nothing above names, sorted."""
    return sorted(set(features) - CHECKED.keys() - SWITCHED_OFF - frozenset().union(*IGNORED.values()))


def requirements(features: Collection[str]) -> tuple[str, ...]:
    """What a machine is asked for, in the words of /proc/cpuinfo, sorted."""
    return tuple(sorted({CHECKED[name] for name in features if name in CHECKED}))
