"""A seccomp filter: the system calls with which a program could reach out of its sandbox fail with EPERM.

A list of what is forbidden, not of what is allowed: a second wall behind namespaces and Landlock, and the only one for
sockets, for leaving the process group, and for file attributes where there are no namespaces.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from . import system

# Each (x86_64, aarch64), None where the machine has no such call.
Numbers = tuple[int | None, int | None]

ALWAYS: dict[str, Numbers] = {
    # Reaching other machines and other processes' sockets; io_uring can do both without further system calls.
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Reading and changing other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    # Namespaces and mounts: a new user namespace would give capabilities back.
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    # Memory and objects that outlive a process or are in no limit of it.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Parts of the kernel that no benchmark needs.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
}

IN_THE_OPEN: dict[str, Numbers] = {
    # Without a PID namespace: leaving the group that is killed together, and disturbing the user's other processes.
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    # Without a mount namespace: attributes of files, which Landlock does not cover.
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}

CLONE: Numbers = (56, 220)
CLONE3 = 435
PRLIMIT: Numbers = (302, 261)
NEW_NAMESPACES = (
    system.CLONE_NEWNS
    | system.CLONE_NEWCGROUP
    | system.CLONE_NEWUTS
    | system.CLONE_NEWIPC
    | system.CLONE_NEWUSER
    | system.CLONE_NEWPID
    | system.CLONE_NEWNET
)

AUDIT_ARCHITECTURES = (0xC000003E, 0xC00000B7)
X32_BIT = 0x40000000
NUMBER_OFFSET, ARCHITECTURE_OFFSET, FIRST_ARGUMENT_OFFSET = 0, 4, 16  # of struct seccomp_data, little-endian

LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
PR_SET_SECCOMP, MODE_FILTER = 22, 2


def install(in_the_open: bool) -> None:
    """Filter the system calls of this process and all it starts; needs no-new-privileges.

    Args:
        in_the_open: there are no namespaces around, so `IN_THE_OPEN` is forbidden too.

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
    refused, missing = REFUSE | errno.EPERM, REFUSE | errno.ENOSYS
    lines = [_load(ARCHITECTURE_OFFSET), _jump(JUMP_EQUAL, AUDIT_ARCHITECTURES[column], 1, 0), _return(KILL)]
    lines += [_load(NUMBER_OFFSET), _jump(JUMP_GREATER_EQUAL, X32_BIT, 0, 1), _return(KILL)]
    table = {**ALWAYS, **(IN_THE_OPEN if in_the_open else {})}
    for number in sorted(pair[column] or 0 for pair in table.values() if pair[column] is not None):
        lines += [_jump(JUMP_EQUAL, number, 0, 1), _return(refused)]
    # The flags of clone3 are out of a filter's sight; told that it is missing, the C library uses clone.
    lines += [_jump(JUMP_EQUAL, CLONE3, 0, 1), _return(missing)]
    flags = [_load(FIRST_ARGUMENT_OFFSET), _jump(JUMP_ANY_BIT, NEW_NAMESPACES, 0, 1), _return(refused), _return(ALLOW)]
    lines += [_jump(JUMP_EQUAL, CLONE[column] or 0, 0, len(flags)), *flags]
    # Limits of this process (0) may be lowered, those of others not touched.
    others = [_load(FIRST_ARGUMENT_OFFSET), _jump(JUMP_EQUAL, 0, 1, 0), _return(refused), _return(ALLOW)]
    lines += [_jump(JUMP_EQUAL, PRLIMIT[column] or 0, 0, len(others)), *others]
    return [*lines, _return(ALLOW)]


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", LOAD, 0, 0, offset)


def _jump(test: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("HBBI", test, if_true, if_false, value)


def _return(action: int) -> bytes:
    return struct.pack("HBBI", RETURN, 0, 0, action)
