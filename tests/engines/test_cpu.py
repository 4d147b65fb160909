"""The kernel class of a processor, from what the operating system writes about it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from engines import cpuid
from engines.cpu import CPUINFO, WITHOUT_SATURATION, kernel_class, processor_name, saturates

X86 = """processor\t: 0
model\t\t: 17
vmx flags\t: amx_int8
model name\t: An x86 processor
flags\t\t: fpu sse sse2 {flags}

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""
ARM = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp {flags}
CPU implementer\t: 0x41

Model\t\t: A small board
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        (X86, "sse4_1 avx2 avx512bw avx512_vnni avx_vnni amx_int8", "AMX-INT8"),
        (X86, "sse4_1 avx2 avx512bw avx512_vnni avx_vnni", "AVX512-VNNI"),
        (X86, "sse4_1 avx2 avx_vnni", "AVX-VNNI"),
        (X86, "sse4_1 avx2 avx512bw", "AVX512"),
        (X86, "sse4_1 avx2 avx512f", "AVX2"),
        (X86, "sse4_1 avx", "SSE4"),
        (ARM, "asimd asimddp i8mm", "ARM-I8MM"),
        (ARM, "asimd asimddp", "ARM-DOT"),
        (ARM, "asimd", "NEON"),
    ],
)
def test_strongest_integer_instructions_give_the_class(tmp_path: Path, text: str, flags: str, expected: str) -> None:
    assert kernel_class(written(tmp_path, text.format(flags=flags))) == expected


@pytest.mark.parametrize("text", ["", "nonsense\n", X86.format(flags=""), ARM.format(flags="")])
def test_processor_without_known_flags_is_unknown(tmp_path: Path, text: str) -> None:
    assert kernel_class(written(tmp_path, text)) == f"unknown ({platform.machine()})"


def test_missing_file_is_unknown(tmp_path: Path) -> None:
    assert kernel_class(tmp_path / "none") == f"unknown ({platform.machine()})"
    assert processor_name(tmp_path / "none") == platform.machine()


def test_name_of_a_flag_inside_another_does_not_count(tmp_path: Path) -> None:
    assert kernel_class(written(tmp_path, X86.format(flags="sse4_1 not_avx2 avx512_vnni_x"))) == "SSE4"


def test_processor_has_the_name_that_its_maker_wrote(tmp_path: Path) -> None:
    assert processor_name(written(tmp_path, X86.format(flags=""))) == "An x86 processor"
    assert processor_name(written(tmp_path, ARM.format(flags=""))) == "A small board"


def test_processor_without_a_name_has_its_architecture(tmp_path: Path) -> None:
    assert processor_name(written(tmp_path, "processor\t: 0\n")) == platform.machine()


@pytest.mark.parametrize("kernel", ["AVX2", "AVX512", "unknown (riscv64)"])
def test_products_saturate_without_dot_product_instructions(kernel: str) -> None:
    assert saturates(kernel)


@pytest.mark.parametrize("kernel", WITHOUT_SATURATION)
def test_products_do_not_saturate_with_dot_product_instructions(kernel: str) -> None:
    assert not saturates(kernel)


def test_processor_that_can_be_asked_agrees_with_the_operating_system() -> None:
    if cpuid.flags() is None:
        pytest.skip("this processor cannot be asked")
    assert kernel_class() == kernel_class(CPUINFO)


def test_flags_that_the_processor_tells_are_among_those_of_the_operating_system() -> None:
    told = cpuid.flags()
    if told is None:
        pytest.skip("this processor cannot be asked")
    listed = next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")).split()
    assert told <= set(listed)


@pytest.mark.parametrize(
    ("leaves", "saved", "expected"),
    [
        ({(1, 0): (0, 0, 1 << 19 | 1 << 28, 0), (7, 0): (1, 1 << 5, 1 << 11, 1 << 25)}, 0x6, {"sse4_1", "avx", "avx2"}),
        ({(7, 0): (1, 1 << 30, 1 << 11, 0), (7, 1): (1 << 4, 0, 0, 0)}, 0xE6, {"avx512bw", "avx512_vnni", "avx_vnni"}),
        ({(7, 0): (0, 0, 0, 1 << 25), (7, 1): (1 << 4, 0, 0, 0)}, 0x600E7, {"amx_int8"}),
        ({(7, 0): (0, 1 << 5, 0, 0)}, 0x0, set()),
    ],
)
def test_instructions_count_where_the_system_saves_their_registers(
    leaves: dict[tuple[int, int], cpuid.Registers], saved: int, expected: set[str]
) -> None:
    def ask(leaf: int, subleaf: int) -> cpuid.Registers:
        return (7, 0, 0, 0) if leaf == 0 else leaves.get((leaf, subleaf), (0, 0, 0, 0))

    assert set(cpuid._read(ask, saved)) == expected


def test_processor_that_cannot_be_asked_is_read_from_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise PermissionError("no memory that can be written and run")

    monkeypatch.setattr(cpuid.mmap, "mmap", refuse)
    cpuid.flags.cache_clear()
    try:
        assert cpuid.flags() is None
        assert kernel_class() == kernel_class(CPUINFO)
    finally:
        cpuid.flags.cache_clear()
