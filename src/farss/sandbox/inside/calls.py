"""The system calls that a program in the sandbox may make, and with which arguments; every other one is refused.

Numbers are (x86_64, aarch64), None where the machine has no such call.
"""

from __future__ import annotations

from . import system

Numbers = tuple[int | None, int | None]

FREE: dict[str, Numbers] = {
    # Files, by descriptor. No flock: it can be taken on a file that may only be read, and stops whoever else wants it.
    **{"read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "pread64": (17, 67)},
    **{"pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "preadv": (295, 69), "pwritev": (296, 70)},
    **{"preadv2": (327, 286), "pwritev2": (328, 287), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24)},
    **{"pipe": (22, None), "pipe2": (293, 59), "sendfile": (40, 71), "copy_file_range": (326, 285), "fsync": (74, 82)},
    **{"fdatasync": (75, 83), "sync_file_range": (277, 84), "ftruncate": (77, 46), "fallocate": (285, 47)},
    **{"fadvise64": (221, 223), "readahead": (187, 213), "fstatfs": (138, 44), "fgetxattr": (193, 10)},
    **{"flistxattr": (196, 13), "getdents": (78, None), "getdents64": (217, 61), "close_range": (436, 436)},
    # Files, by name, which Landlock and the mounts guard.
    **{"open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None), "stat": (4, None)},
    **{"lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "statfs": (137, 43), "access": (21, None)},
    **{"faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78)},
    **{"getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "truncate": (76, 45), "rename": (82, None)},
    **{"renameat": (264, 38), "renameat2": (316, 276), "rmdir": (84, None)},
    **{"link": (86, None), "linkat": (265, 37), "unlink": (87, None), "unlinkat": (263, 35), "symlink": (88, None)},
    **{"symlinkat": (266, 36), "getxattr": (191, 8), "lgetxattr": (192, 9), "listxattr": (194, 11)},
    **{"llistxattr": (195, 12)},
    # Waiting for several things. No inotify and no fanotify: they tell the names of files in folders that are closed.
    **{"poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "epoll_create": (213, None)},
    **{"epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22)},
    **{"epoll_pwait2": (441, 441), "eventfd": (284, None), "eventfd2": (290, 19), "timerfd_create": (283, 85)},
    **{"timerfd_settime": (286, 86), "timerfd_gettime": (287, 87), "signalfd": (282, None), "signalfd4": (289, 74)},
    # Memory of this process.
    **{"brk": (12, 214), "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216)},
    **{"madvise": (28, 233), "msync": (26, 227)},
    # Threads and children of this process.
    **{"fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "exit": (60, 93)},
    **{"exit_group": (231, 94), "wait4": (61, 260), "waitid": (247, 95), "set_tid_address": (218, 96)},
    **{"set_robust_list": (273, 99), "rseq": (334, 293), "futex": (202, 98), "futex_waitv": (449, 449)},
    **{"membarrier": (324, 283), "sched_yield": (24, 124), "getcpu": (309, 168), "arch_prctl": (158, None)},
    **{"restart_syscall": (219, 128)},
    # Signals that this process receives.
    **{"rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136)},
    **{"rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "pause": (34, None)},
    **{"alarm": (37, None), "getitimer": (36, 102), "setitimer": (38, 103)},
    # What it may know of itself and of the machine.
    **{"getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getpgrp": (111, None), "getuid": (102, 174)},
    **{"geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148)},
    **{"getresgid": (120, 150), "getgroups": (115, 158), "capget": (125, 90), "getrlimit": (97, 163)},
    **{"setrlimit": (160, 164), "getrusage": (98, 165), "times": (100, 153), "uname": (63, 160), "sysinfo": (99, 179)},
    **{"time": (201, None), "gettimeofday": (96, 169), "nanosleep": (35, 101), "getrandom": (318, 278)},
    # A pair of sockets, connected to each other for good. No sendmsg: it can carry an address, out of a filter's sight.
    **{"recvfrom": (45, 207), "getsockname": (51, 204), "getpeername": (52, 205), "shutdown": (48, 210)},
}

APART: dict[str, Numbers] = {
    # In namespaces only. Without a PID namespace they would reach the user's other processes, or leave the group that
    # is killed together.
    **{"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138)},
    **{"rt_tgsigqueueinfo": (297, 240), "setsid": (112, 157), "setpgid": (109, 154)},
    # Without a mount namespace: attributes of files, which Landlock does not cover.
    **{"chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None)},
    **{"fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None)},
    **{"futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6)},
    **{"fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16)},
    **{"mknod": (133, None), "mknodat": (259, 33)},
}

CLONE3 = 435
"""Its flags are out of a filter's sight; told that it is missing, the C library uses clone."""
LAST = 452
"""The last number that the tables above could name; a later call is said to be missing, as on an older kernel."""


class Below:
    """Argument `place` (counted from 0) is less than `limit`, all 64 bits of it."""

    def __init__(self, place: int, limit: int) -> None:
        self.place, self.limit = place, limit


class Among:
    """The lower 32 bits of argument `place`, without those in `but`, are one of `values`."""

    def __init__(self, place: int, values: tuple[int, ...], but: int = 0) -> None:
        self.place, self.values, self.but = place, values, but


class Without:
    """No bit of `bits` is set in the lower 32 bits of argument `place`."""

    def __init__(self, place: int, bits: int) -> None:
        self.place, self.bits = place, bits


Condition = Below | Among | Without

CLOCKS = 16
"""Clocks of the machine and of the caller itself; higher and negative numbers are clocks of other processes."""
COPY, SETFL, O_ASYNC = (0, 1030), 4, 0x2000
FLAGS_AND_LOCKS = (1, 2, 3, 5, 6, 7, 36, 37, 38, 1032, 1034)
"""fcntl: descriptor flags, locks, sizes. Nothing that names who is told by which signal: F_SETOWN, F_SETSIG, leases."""
TERMINAL_QUESTIONS = (0x5401, 0x802C542A, 0x5413)
FILE_FLAGS = (0x541B, 0x5421, 0x5450, 0x5451)
FICLONE = 0x40049409
SIGCHLD, CLONE_PARENT, CLONE_PTRACE, CLONE_PIDFD, CLONE_UNTRACED = 17, 0x8000, 0x2000, 0x1000, 0x800000
SIGNAL_BITS = 0xFF
SET_NAME, GET_NAME, GET_DUMPABLE, GET_SECCOMP, GET_NO_NEW_PRIVS = 15, 16, 3, 21, 39
SET_VMA = 0x53564D41
"""prctl: names for this process and its memory. Not the signal at its parent's end, nor who may trace it."""
OWNER = 0o700
SO_TYPE, SO_ERROR, SO_PROTOCOL, SO_DOMAIN = 3, 4, 38, 39
AF_UNIX, SOCK_STREAM, SOL_SOCKET, CLOSE_ON_EXEC_AND_NONBLOCK = 1, 1, 1, 0x80800

BY_ARGUMENTS: dict[str, tuple[Numbers, tuple[tuple[Condition, ...], ...]]] = {
    # Each: the number, and alternatives; a call is allowed if all conditions of one alternative hold.
    "fcntl": (
        (72, 25),
        ((Among(1, COPY + FLAGS_AND_LOCKS),), (Among(1, (SETFL,)), Without(2, O_ASYNC))),
    ),
    "ioctl": ((16, 29), ((Among(1, (*TERMINAL_QUESTIONS, *FILE_FLAGS, FICLONE)),),)),
    "prctl": (
        (157, 167),
        ((Among(0, (SET_NAME, GET_NAME, GET_DUMPABLE, GET_SECCOMP, GET_NO_NEW_PRIVS, SET_VMA)),),),
    ),
    "clone": (
        (56, 220),
        (
            (
                Without(0, system.NEW_NAMESPACES | CLONE_PARENT | CLONE_PTRACE | CLONE_PIDFD | CLONE_UNTRACED),
                Among(0, (0, SIGCHLD), but=0xFFFFFFFF ^ SIGNAL_BITS),  # the signal that its end sends
            ),
        ),
    ),
    # Of this process (0) only, not of others.
    "prlimit64": ((302, 261), ((Below(0, 1),),)),
    "sched_getaffinity": ((204, 123), ((Among(0, (0,)),),)),
    "getpgid": ((121, 155), ((Among(0, (0,)),),)),
    "getsid": ((124, 156), ((Among(0, (0,)),),)),
    "clock_gettime": ((228, 113), ((Below(0, CLOCKS),),)),
    "clock_getres": ((229, 114), ((Below(0, CLOCKS),),)),
    "clock_nanosleep": ((230, 115), ((Below(0, CLOCKS),),)),
    # Folders stay readable for their owner, who counts and removes what is in them.
    "mkdir": ((83, None), ((Among(1, (OWNER,), but=0xFFFFFFFF ^ OWNER),),)),
    "mkdirat": ((258, 34), ((Among(2, (OWNER,), but=0xFFFFFFFF ^ OWNER),),)),
    "umask": ((95, 166), ((Without(0, OWNER),),)),
    # A stream cannot be sent elsewhere, as a pair of datagram sockets can.
    "socketpair": (
        (53, 199),
        ((Among(0, (AF_UNIX,)), Among(1, (SOCK_STREAM,), but=CLOSE_ON_EXEC_AND_NONBLOCK)),),
    ),
    "sendto": ((44, 206), ((Below(4, 1),),)),
    "getsockopt": (
        (55, 209),
        ((Among(1, (SOL_SOCKET,)), Among(2, (SO_TYPE, SO_ERROR, SO_PROTOCOL, SO_DOMAIN))),),
    ),
}


def free_numbers(column: int, apart: bool) -> list[int]:
    """The numbers of calls that are allowed with any arguments, ascending.

    Args:
        column: of the machine, 0 or 1.
        apart: there are namespaces around the program.
    """
    table = {**FREE, **(APART if apart else {})}
    return sorted(number for pair in table.values() if (number := pair[column]) is not None)
