"""Start a program that is told that ``ptrace`` has no extended register sets.

``python plain_fp.py PROGRAM ARG…``. User-mode Linux 6.1 keeps a guest's vector registers in a
buffer of fixed size, and on a CPU with AMX this kernel refuses to take less than its own, larger
size (``xstateregs_set``, arch/x86/kernel/fpu/regset.c): the guest dies at its first instruction.
When the register set is not to be had at all it falls back to the SSE state, which every CPU has;
the programs in the guest are then told not to use more. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 19  # SECCOMP_RET_ERRNO with ENODEV
_SYS_PTRACE, _NT_X86_XSTATE = 101, 0x202
_PTRACE_GETREGSET, _PTRACE_SETREGSET = 0x4204, 0x4205
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
# Offsets in struct seccomp_data; an argument's low half comes first.
_NUMBER, _REQUEST, _KIND = 0, 16, 32

_FILTER = (
    (_LOAD, 0, 0, _NUMBER),
    (_EQUAL, 0, 6, _SYS_PTRACE),
    (_LOAD, 0, 0, _REQUEST),
    (_EQUAL, 1, 0, _PTRACE_GETREGSET),
    (_EQUAL, 0, 3, _PTRACE_SETREGSET),
    (_LOAD, 0, 0, _KIND),
    (_EQUAL, 0, 1, _NT_X86_XSTATE),
    (_RETURN, 0, 0, _REFUSE),
    (_RETURN, 0, 0, _ALLOW),
)


def main() -> None:
    """Install the filter for this process and its children, then become the program."""
    program = b"".join(struct.pack("HBBI", *line) for line in _FILTER)
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxQ", len(_FILTER), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described, 0, 0
    ):
        sys.exit(f"plain_fp: no system call filter: {os.strerror(ctypes.get_errno())}")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
