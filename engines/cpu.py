"""Which integer instructions this processor has: the same INT8 file gives other answers without VNNI."""

from __future__ import annotations

import platform
from pathlib import Path

# Best first: the kernel class, and the processor flags that it takes.
_X86_CLASSES = (
    ("AMX-INT8", {"amx_int8"}),
    ("AVX512-VNNI", {"avx512_vnni"}),
    ("AVX-VNNI", {"avx_vnni"}),
    ("AVX512", {"avx512bw"}),
    ("AVX2", {"avx2"}),
    ("SSE4", {"sse4_1"}),
)
_ARM_CLASSES = (("ARM-I8MM", {"i8mm"}), ("ARM-DOT", {"asimddp"}), ("NEON", {"asimd"}))

# These classes add products of 8-bit numbers in 32 bits; the others saturate at 16 bits on the way.
WITHOUT_SATURATION = ("AMX-INT8", "AVX512-VNNI", "AVX-VNNI", "SSE4", "ARM-I8MM", "ARM-DOT", "NEON")


def kernel_class(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The strongest integer instruction set of this processor: "AVX512-VNNI", "AVX2", "ARM-DOT", ...

    "unknown (MACHINE)" where the operating system does not say.
    """
    flags = _flags(cpuinfo)
    for name, needed in (*_X86_CLASSES, *_ARM_CLASSES):
        if needed <= flags:
            return name
    return f"unknown ({platform.machine()})"


def saturates(kernel: str) -> bool:
    """Whether U8S8 products may overflow 16 bits on this kernel class, so that weights need 7 bits."""
    return kernel not in WITHOUT_SATURATION


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as its maker writes it, or the machine's architecture."""
    return _field(cpuinfo, ("model name", "Model")) or platform.machine()


def _flags(cpuinfo: Path) -> set[str]:
    return set((_field(cpuinfo, ("flags", "Features")) or "").split())


def _field(cpuinfo: Path, names: tuple[str, ...]) -> str | None:
    if not cpuinfo.exists():
        return None
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return None
