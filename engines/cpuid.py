"""What the instruction CPUID says in this very process.

Under user-mode emulation the operating system's ``/proc/cpuinfo`` still shows the host, while libraries ask the
instruction, which the emulator answers. So this asks the instruction too: a few bytes of machine code, run through
ctypes. NumPy has such a list as well, but it leaves out AVX-VNNI and AMX.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
from collections.abc import Callable
from functools import cache

# void cpuid(unsigned leaf, unsigned subleaf, unsigned out[4]), System V calling convention
_CPUID = bytes.fromhex(
    "53"  # push rbx
    "4989d0"  # mov r8, rdx
    "89f8"  # mov eax, edi
    "89f1"  # mov ecx, esi
    "0fa2"  # cpuid
    "418900"  # mov [r8], eax
    "41895804"  # mov [r8+4], ebx
    "41894808"  # mov [r8+8], ecx
    "4189500c"  # mov [r8+12], edx
    "5b"  # pop rbx
    "c3"  # ret
)
# unsigned long long xgetbv(void): the states that the operating system saves
_XGETBV = bytes.fromhex(
    "31c9"  # xor ecx, ecx
    "0f01d0"  # xgetbv
    "48c1e220"  # shl rdx, 32
    "4809d0"  # or rax, rdx
    "c3"  # ret
)

EAX, EBX, ECX, EDX = range(4)
Registers = tuple[int, int, int, int]
Ask = Callable[[int, int], Registers]

# flag as Linux writes it -> leaf, subleaf, register, bit, and the states that must be saved for it
_AVX, _AVX512, _AMX = 0x6, 0xE6, 0x60000
_FLAGS = {
    "sse4_1": (1, 0, ECX, 19, 0),
    "avx": (1, 0, ECX, 28, _AVX),
    "avx2": (7, 0, EBX, 5, _AVX),
    "avx_vnni": (7, 1, EAX, 4, _AVX),
    "avx512bw": (7, 0, EBX, 30, _AVX512),
    "avx512_vnni": (7, 0, ECX, 11, _AVX512),
    "amx_int8": (7, 0, EDX, 25, _AMX),
}
_OSXSAVE = 27


@cache
def flags() -> frozenset[str] | None:
    """The instruction sets that matter here, by Linux's names; ``None`` where the processor cannot be asked."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    try:
        with _Code(_CPUID, _XGETBV) as (cpuid_address, xgetbv_address):
            ask = _asker(cpuid_address)
            has_states = ask(1, 0)[ECX] >> _OSXSAVE & 1
            saved = ctypes.CFUNCTYPE(ctypes.c_uint64)(xgetbv_address)() if has_states else 0
            return frozenset(_read(ask, saved))
    except OSError:  # a hardened system maps no memory that can be both written and run
        return None


@cache
def name() -> str | None:
    """The processor's name as the instruction tells it; ``None`` where it cannot be asked."""
    if flags() is None:
        return None
    with _Code(_CPUID) as (address,):
        ask = _asker(address)
        if ask(0x80000000, 0)[EAX] < 0x80000004:
            return None
        text = b"".join(struct.pack("<4I", *ask(leaf, 0)) for leaf in range(0x80000002, 0x80000005))
    return text.split(b"\0")[0].decode("ascii", "replace").strip() or None


def _read(ask: Ask, saved: int) -> list[str]:
    highest = ask(0, 0)[EAX]
    subleaves = ask(7, 0)[EAX] if highest >= 7 else 0
    return [
        flag
        for flag, (leaf, subleaf, register, bit, states) in _FLAGS.items()
        if leaf <= highest
        and (subleaf == 0 or subleaf <= subleaves)
        and ask(leaf, subleaf)[register] >> bit & 1
        and saved & states == states
    ]


class _Code:
    """Machine code in memory of its own; ``with`` gives the address of each piece."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)

    def __enter__(self) -> list[int]:
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        addresses = []
        for piece in self.pieces:
            addresses.append(start + self.memory.tell())
            self.memory.write(piece)
        return addresses

    def __exit__(self, *exception: object) -> None:
        self.memory.close()


def _asker(address: int) -> Ask:
    function = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(address)

    def ask(leaf: int, subleaf: int) -> Registers:
        out = (ctypes.c_uint32 * 4)()
        function(leaf, subleaf, ctypes.addressof(out))
        return out[0], out[1], out[2], out[3]

    return ask
