"""Which integer instructions this processor has: the same INT8 file gives other answers without VNNI."""

from __future__ import annotations

import platform
from pathlib import Path

from engines import cpuid

CPUINFO = Path("/proc/cpuinfo")

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

# On the first ONNX Runtime lets pairs of products of 8-bit numbers saturate at 16 bits; on the second it adds them in
# 32 bits (its SSE4 kernel widens before it multiplies). Of a class in neither the worse is assumed.
SATURATING = ("AVX512", "AVX2")
WITHOUT_SATURATION = ("AMX-INT8", "AVX512-VNNI", "AVX-VNNI", "SSE4", "ARM-I8MM", "ARM-DOT", "NEON")


def kernel_class(cpuinfo: Path | None = None) -> str:
    """The strongest integer instruction set of this processor: "AVX512-VNNI", "AVX2", "ARM-DOT", ...

    Args:
        cpuinfo: read this file; by default the processor is asked, as libraries do, and the operating system's
            file is read where it cannot be asked. Under emulation the two differ, and the processor is right.

    Returns:
        The class, or "unknown (MACHINE)".
    """
    asked = cpuid.flags() if cpuinfo is None else None
    flags = _flags(cpuinfo or CPUINFO) if asked is None else asked
    for name, needed in (*_X86_CLASSES, *_ARM_CLASSES):
        if needed <= flags:
            return name
    return f"unknown ({platform.machine()})"


def saturates(kernel: str) -> bool:
    """Whether U8S8 products may overflow 16 bits on this kernel class, so that weights need 7 bits."""
    return kernel not in WITHOUT_SATURATION


def processor_name(cpuinfo: Path | None = None) -> str:
    """The processor's name as its maker writes it, or the machine's architecture; read as `kernel_class` is."""
    asked = cpuid.name() if cpuinfo is None else None
    return asked or _field(cpuinfo or CPUINFO, ("model name", "Model")) or platform.machine()


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
