"""A seccomp filter: only the system calls in `calls` are made, the others fail with EPERM.

A list of what is allowed, not of what is forbidden: a second wall behind namespaces and Landlock, and the only one for
sockets, for effects that an allowed call would have on other processes (a signal when a file is ready, somebody else's
limits), and for file attributes where there are no namespaces.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from . import calls, system

AUDIT_ARCHITECTURES = (0xC000003E, 0xC00000B7)
X32_BIT = 0x40000000
NUMBER_OFFSET, ARCHITECTURE_OFFSET, ARGUMENTS_OFFSET = 0, 4, 16  # of struct seccomp_data, little-endian
ARGUMENT_BYTES, UPPER_HALF = 8, 4

LOAD, MASK, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, JUMP_ANY_BIT, RETURN = 0x20, 0x54, 0x15, 0x25, 0x35, 0x45, 6
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
REFUSED, MISSING = REFUSE | errno.EPERM, REFUSE | errno.ENOSYS
PR_SET_SECCOMP, MODE_FILTER = 22, 2


def install(in_the_open: bool) -> None:
    """Filter the system calls of this process and all it starts; needs no-new-privileges.

    Args:
        in_the_open: there are no namespaces around, so `calls.APART` is forbidden too.

    Raises:
        OSError: if the kernel refuses, or the machine has no table of numbers.
    """
    program = b"".join(_instructions(in_the_open))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    holder = ctypes.create_string_buffer(header, len(header))
    # PR_SET_SECCOMP copies the program, so that the buffers may go afterwards.
    libc = ctypes.CDLL(None, use_errno=True)
    address = ctypes.c_ulong(ctypes.addressof(holder))
    zero = ctypes.c_ulong(0)
    system.checked("seccomp", libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(MODE_FILTER), address, zero, zero))


def _instructions(in_the_open: bool) -> list[bytes]:
    column = system.machine()
    if column is None:
        raise OSError("seccomp: no system call numbers for this machine")
    lines = [_load(ARCHITECTURE_OFFSET), _jump(JUMP_EQUAL, AUDIT_ARCHITECTURES[column], 1, 0), _return(KILL)]
    lines += [_load(NUMBER_OFFSET), _jump(JUMP_GREATER_EQUAL, X32_BIT, 0, 1), _return(KILL)]
    for first, last in _runs(calls.free_numbers(column, not in_the_open)):
        lines += [_jump(JUMP_GREATER_EQUAL, first, 0, 2), _jump(JUMP_GREATER, last, 1, 0), _return(ALLOW)]
    for numbers, alternatives in calls.BY_ARGUMENTS.values():
        block, number = _either(alternatives), numbers[column]
        lines += [] if number is None else [_jump(JUMP_EQUAL, number, 0, len(block)), *block]
    lines += [_jump(JUMP_EQUAL, calls.CLONE3, 0, 1), _return(MISSING)]
    return [*lines, _jump(JUMP_GREATER, calls.LAST, 0, 1), _return(MISSING), _return(REFUSED)]


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Ascending numbers as (first, last) of each unbroken run."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _either(alternatives: tuple[tuple[calls.Condition, ...], ...]) -> list[bytes]:
    """Allow if all conditions of one alternative hold, else refuse."""
    lines: list[bytes] = []
    for conditions in alternatives:
        left = [_return(ALLOW)]
        for condition in reversed(conditions):
            left = _test(condition, len(left)) + left
        lines += left
    return [*lines, _return(REFUSED)]


def _test(condition: calls.Condition, rest: int) -> list[bytes]:
    """Go on with the next instruction if the condition holds, else `rest` instructions further on."""
    lower = ARGUMENTS_OFFSET + ARGUMENT_BYTES * condition.place
    if isinstance(condition, calls.Below):
        upper = [_load(lower + UPPER_HALF), _jump(JUMP_EQUAL, 0, 0, 2 + rest)]
        return [*upper, _load(lower), _jump(JUMP_GREATER_EQUAL, condition.limit, rest, 0)]
    if isinstance(condition, calls.Without):
        return [_load(lower), _jump(JUMP_ANY_BIT, condition.bits, rest, 0)]
    count = len(condition.values)
    found = [_jump(JUMP_EQUAL, value, count - 1 - i, 0) for i, value in enumerate(condition.values[:-1])]
    found += [_jump(JUMP_EQUAL, condition.values[-1], 0, rest)]
    return [_load(lower), _mask(0xFFFFFFFF ^ condition.but), *found]


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", LOAD, 0, 0, offset)


def _mask(bits: int) -> bytes:
    return struct.pack("HBBI", MASK, 0, 0, bits)


def _jump(test: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("HBBI", test, if_true, if_false, value)


def _return(action: int) -> bytes:
    return struct.pack("HBBI", RETURN, 0, 0, action)
