"""Programs that reach for what is outside of their sandbox, and the processes, files and sockets they reach for.

Each is a few statements that raise OSError where they are kept from it; a program that runs to its end has got out.
They do no harm: what they reach for was made for them, and the signal they send is one that is ignored. Also a script:
`reaching.py [--bare | --namespaces | --landlock N]` prints, as JSON, which of them get out for the user who runs it.
"""

# ruff: noqa: E501  (programs, one a line)
from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from farss.sandbox import Limits, Protections, probe, run_program
from farss.sandbox.protections import try_out

LIMITS = Limits(cpu_seconds=10, wall_seconds=30.0, memory_bytes=256 << 20, file_bytes=1 << 20)

HEAD = r"""
import ctypes, fcntl, os, platform, shutil, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
COLUMN = 0 if platform.machine() == "x86_64" else 1
URGENT = signal.SIGURG
NUMBERS = dict(tgkill=(234, 131), tkill=(200, 130), rt_sigqueueinfo=(129, 138), rt_tgsigqueueinfo=(297, 240),
    pidfd_open=(434, 434), pidfd_send_signal=(424, 424), pidfd_getfd=(438, 438), process_mrelease=(448, 448),
    process_madvise=(440, 440), timer_create=(222, 107), mq_open=(240, 180), clone=(56, 220), clone3=(435, 435),
    sched_setattr=(314, 274), ioprio_set=(251, 30), prlimit64=(302, 261), migrate_pages=(256, 238), kcmp=(312, 272),
    move_pages=(279, 239), process_vm_readv=(310, 270), process_vm_writev=(311, 271), get_robust_list=(274, 100),
    perf_event_open=(298, 241), memfd_create=(319, 279), memfd_secret=(447, 447), shmget=(29, 194), semget=(64, 190),
    msgget=(68, 186), add_key=(248, 217), request_key=(249, 218), keyctl=(250, 219), io_uring_setup=(425, 425),
    userfaultfd=(323, 282), bpf=(321, 280), inotify_init1=(294, 26), inotify_add_watch=(254, 27),
    fanotify_init=(300, 262), name_to_handle_at=(303, 264), open_by_handle_at=(304, 265), mount=(165, 40),
    unshare=(272, 97), setns=(308, 268), chroot=(161, 51), pivot_root=(155, 41), fsopen=(430, 430),
    open_tree=(428, 428), sync=(162, 81), syslog=(103, 116), sethostname=(170, 161), quotactl=(179, 60),
    acct=(163, 89), seccomp=(317, 277), personality=(135, 92), swapon=(167, 224), kexec_load=(246, 104),
    vmsplice=(278, 75), statmount=(457, 457), listmount=(458, 458), lookup_dcookie=(212, 18), finit_module=(313, 273),
    pkey_alloc=(330, 289), set_mempolicy=(238, 237), sched_setscheduler=(144, 119), clock_settime=(227, 112))

def call(name, *given):
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in given]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(NUMBERS[name][COLUMN]), *wide)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result

def c(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return result

def must(condition):
    if not condition:
        raise OSError("kept from it")
"""

SIGNALS = {
    "kill": "os.kill(T['pid'], URGENT)",
    "kill the caller": "os.kill(T['caller'], 0)",
    "kill a group": "os.killpg(T['group'], 0)",
    "tgkill": "call('tgkill', T['pid'], T['pid'], URGENT)",
    "tkill": "call('tkill', T['pid'], URGENT)",
    "queue a signal": "call('rt_sigqueueinfo', T['pid'], URGENT, struct.pack('iii', URGENT, 0, -1).ljust(128, b'\\0'))",
    "queue a signal for a thread": "call('rt_tgsigqueueinfo', T['pid'], T['pid'], URGENT, "
    "struct.pack('iii', URGENT, 0, -1).ljust(128, b'\\0'))",
    "open a process": "call('pidfd_open', T['pid'], 0)",
    "signal an opened process": "call('pidfd_send_signal', call('pidfd_open', T['pid'], 0), URGENT, None, 0)",
    "own a pipe's signal": "r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, T['pid'])",
    "own a socket's signal": "a, b = socket.socketpair(); fcntl.fcntl(a, fcntl.F_SETOWN, T['pid'])",
    "own a signal for a group": "a, b = socket.socketpair(); fcntl.fcntl(a, fcntl.F_SETOWN, -T['group'])",
    "own a signal by F_SETOWN_EX": "r, w = os.pipe(); fcntl.fcntl(r, 15, struct.pack('ii', 1, T['pid']))",
    "own a group's by F_SETOWN_EX": "r, w = os.pipe(); fcntl.fcntl(r, 15, struct.pack('ii', 2, T['group']))",
    "own a signal by FIOSETOWN": "a, b = socket.socketpair(); fcntl.ioctl(a, 0x8901, struct.pack('i', T['pid']))",
    "own a signal by SIOCSPGRP": "a, b = socket.socketpair(); fcntl.ioctl(a, 0x8902, struct.pack('i', T['pid']))",
    "choose a ready signal": "r, w = os.pipe(); fcntl.fcntl(r, 10, URGENT)",
    "ask for ready signals": "r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)",
    "ask for ready signals by FIOASYNC": "a, b = socket.socketpair(); fcntl.ioctl(a, 0x5452, struct.pack('i', 1))",
    "tell of a folder by dnotify": "fcntl.fcntl(os.open(T['folder'], os.O_RDONLY), 1026, 4)",
    "tell of the system's folder by dnotify": "fcntl.fcntl(os.open('/usr', os.O_RDONLY), 1026, 4)",
    "lease a file": "f = os.open('lease', os.O_CREAT); fcntl.fcntl(f, 1024, 0)",
    "a timer that signals": "t = ctypes.c_int(); call('timer_create', 0, None, ctypes.byref(t))",
    "outlive its keeper": "c(libc.prctl(1, 0, 0, 0, 0))",
    "end with another signal": "must(call('clone', 9, 0, 0, 0, 0) > 0 or os._exit(0))",
    "a child of its parent": "must(call('clone', 0x8000 | 17, 0, 0, 0, 0) > 0 or os._exit(0))",
    "release another's memory": "call('process_mrelease', call('pidfd_open', T['pid'], 0), 0)",
}

OTHERS = {
    "priority": "os.setpriority(os.PRIO_PROCESS, T['pid'], 5)",
    "priority of a user": "os.setpriority(os.PRIO_USER, os.getuid(), 5)",
    "its own priority": "os.nice(1)",
    "processors": "os.sched_setaffinity(T['pid'], {0})",
    "scheduler": "call('sched_setscheduler', T['pid'], 3, struct.pack('i', 0))",
    "scheduler's attributes": "call('sched_setattr', T['pid'], struct.pack('IIQiIQQQ', 48, 0, 0, 1, 0, 0, 0, 0), 0)",
    "disk priority": "call('ioprio_set', 1, T['pid'], 0x4007)",
    "limits": "call('prlimit64', T['pid'], 7, struct.pack('QQ', 512, 1024), None)",
    "limits asked": "call('prlimit64', T['pid'], 7, None, ctypes.create_string_buffer(16))",
    "pages moved": "call('move_pages', T['pid'], 0, None, None, None, 0)",
    "pages migrated": "call('migrate_pages', T['pid'], 8, struct.pack('Q', 1), struct.pack('Q', 1))",
    "memory advised": "call('process_madvise', call('pidfd_open', T['pid'], 0), struct.pack('QQ', 0, 0), 0, 20, 0)",
    "files compared": "call('kcmp', T['pid'], T['pid'], 0, 0, 0)",
    "traced": "c(libc.ptrace(16, T['pid'], 0, 0))",
    "seized": "c(libc.ptrace(0x4206, T['pid'], 0, 0))",
    "memory read": "b = ctypes.create_string_buffer(8); v = struct.pack('QQ', ctypes.addressof(b), 8); "
    "call('process_vm_readv', T['pid'], v, 1, v, 1, 0)",
    "memory of the keeper read": "b = ctypes.create_string_buffer(8); v = struct.pack('QQ', ctypes.addressof(b), 8); "
    "call('process_vm_readv', os.getppid(), v, 1, v, 1, 0)",
    "memory written": "b = ctypes.create_string_buffer(8); v = struct.pack('QQ', ctypes.addressof(b), 8); "
    "call('process_vm_writev', T['pid'], v, 1, v, 1, 0)",
    "a file taken": "call('pidfd_getfd', call('pidfd_open', T['pid'], 0), 0, 0)",
    "memory by file": "open(f\"/proc/{T['pid']}/mem\", 'rb')",
    "environment": "open(f\"/proc/{T['pid']}/environ\", 'rb').read()",
    "environment of the caller": "open(f\"/proc/{T['caller']}/environ\", 'rb').read()",
    "the list of processes": "os.listdir('/proc')",
    "robust locks": "p, n = ctypes.c_void_p(), ctypes.c_size_t(); "
    "call('get_robust_list', T['pid'], ctypes.byref(p), ctypes.byref(n))",
    "events counted": "call('perf_event_open', struct.pack('IIQ', 1, 112, 0).ljust(112, b'\\0'), 0, -1, -1, 0)",
    "another's clock": "time.clock_gettime((~T['pid'] << 3) | 2)",
    "another's group": "os.getpgid(T['pid'])",
    "another's session": "os.getsid(T['pid'])",
    "another's priority": "os.getpriority(os.PRIO_PROCESS, T['pid'])",
    "another's processors": "os.sched_getaffinity(T['pid'])",
}

OBJECTS = {
    "memory file": "os.memfd_create('a')",
    "secret memory": "call('memfd_secret', 0)",
    "shared memory": "call('shmget', T['shm'], 0, 0)",
    "new shared memory": "call('shmget', 0, 4096, 0o1600)",
    "semaphores": "call('semget', 0, 1, 0o1600)",
    "message queue": "call('msgget', 0, 0o1600)",
    "named message queue": "call('mq_open', b'farss-reaching', os.O_CREAT | os.O_RDWR, 0o600, None)",
    "key": "call('add_key', b'user', b'farss-reaching', b'x', 1, -2)",
    "key asked for": "call('request_key', b'user', b'farss-reaching', None, -2)",
    "session's keys": "call('keyctl', 0, -3, 0)",
    "io_uring": "call('io_uring_setup', 8, ctypes.create_string_buffer(120))",
    "page faults of others": "call('userfaultfd', 1)",
    "kernel programs": "call('bpf', 0, struct.pack('IIII', 1, 4, 4, 1).ljust(128, b'\\0'), 128)",
    "watch a closed folder": "call('inotify_add_watch', call('inotify_init1', 0), T['closed'].encode(), 0xfff)",
    "watch a folder": "call('inotify_add_watch', call('inotify_init1', 0), b'/usr', 0xfff)",
    "watch a file system": "call('fanotify_init', 0x200, 0)",
    "another filter": "call('seccomp', 1, 0, struct.pack('HxxxxxxP', 1, ctypes.addressof("
    "ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000)))))",
    "a pipe of a megabyte": "r, w = os.pipe(); fcntl.fcntl(w, 1031, 1 << 20)",
    "a descriptor for a child": "must(call('clone', 0x1000 | 17, 0, ctypes.byref(ctypes.c_int()), 0, 0) > 0 or os._exit(0))",
    "memory policy": "call('set_mempolicy', 0, None, 0)",
    "another personality": "call('personality', 0x0040000)",
}

NETWORK = {
    "tcp": "socket.create_connection(T['tcp'], timeout=2)",
    "udp": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', tuple(T['udp']))",
    "a server": "socket.create_server(('127.0.0.1', 0))",
    "ipv6": "socket.socket(socket.AF_INET6)",
    "abstract socket": "socket.socket(socket.AF_UNIX).connect(T['abstract'])",
    "socket in a folder": "socket.socket(socket.AF_UNIX).connect(T['named'])",
    "netlink": "socket.socket(16, socket.SOCK_RAW, 0)",
    "packets": "socket.socket(17, socket.SOCK_RAW, 0)",
    "the host's sockets": "socket.socket(40, socket.SOCK_STREAM)",
    "the kernel's ciphers": "socket.socket(38, 5)",
    "datagrams through a pair": "a, b = socket.socketpair(type=socket.SOCK_DGRAM); a.sendto(b'x', T['datagrams'])",
    "a pair connected anew": "a, b = socket.socketpair(type=socket.SOCK_DGRAM); a.connect(T['datagrams'])",
    "a message with an address": "a, b = socket.socketpair(); a.sendmsg([b'x'], [], 0, T['datagrams'])",
}

FILES = {
    "read": "open(T['secret']).read()",
    "list": "os.listdir(T['folder'])",
    "write": "open(T['mark'], 'r+').write('x')",
    "truncate": "os.truncate(T['mark'], 0)",
    "mode": "os.chmod(T['mark'], 0o777)",
    "owner": "os.chown(T['mark'], -1, -1)",
    "times": "os.utime(T['mark'])",
    "attribute": "os.setxattr(T['mark'], 'user.a', b'b')",
    "remove": "os.unlink(T['spare'])",
    "rename": "os.rename(T['spare'], 'own')",
    "link": "os.link(T['secret'], 'linked'); open('linked').read()",
    "symbolic link": "os.symlink(T['secret'], 'to'); open('to').read()",
    "folder through a link": "os.symlink(T['folder'], 'out'); open('out/new', 'w')",
    "new file": "open(T['folder'] + '/new', 'w')",
    "new folder": "os.mkdir(T['folder'] + '/folder')",
    "named pipe": "os.mkfifo(T['folder'] + '/fifo')",
    "device": "os.mknod('device', 0o20666, 0x0101)",
    "a way up": "open('../' * 20 + T['secret'][1:]).read()",
    "a folder opened by path only": "os.fchdir(os.open(T['folder'], os.O_PATH)); open('secret').read()",
    "its handle": "call('name_to_handle_at', -100, T['secret'].encode(), struct.pack('Ii', 128, 0).ljust(200, b'\\0'), "
    "ctypes.byref(ctypes.c_int()), 0)",
    "passwords": "open('/etc/passwd').read()",
    "this Python": "open(os.__file__, 'a')",
    "a lock on the system's file": "fcntl.flock(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_SH)",
    "shared memory's files": "f = f'/dev/shm/farss-reaching-{os.getpid()}'; open(f, 'w'); os.unlink(f)",
    "temporary files": "f = f'/tmp/farss-reaching-{os.getpid()}'; open(f, 'w'); os.unlink(f)",
    "terminals": "os.openpty()",
    "all disks flushed": "call('sync'); libc.sync()",
}

RIGHTS = {
    "user namespace": "call('unshare', 0x10000000)",
    "mount namespace": "call('unshare', 0x20000)",
    "time namespace": "call('unshare', 0x80)",
    "namespace of a child": "must(call('clone', 0x10000000 | 17, 0, 0, 0, 0) > 0 or os._exit(0))",
    "namespace by clone3": "must(call('clone3', struct.pack('11Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88) > 0 "
    "or os._exit(0))",
    "another's namespace": "call('setns', call('pidfd_open', T['pid'], 0), 0x20000)",
    "mount": "call('mount', b'none', os.getcwd().encode(), b'tmpfs', 0, None)",
    "new root": "call('chroot', b'.')",
    "root turned": "call('pivot_root', b'.', b'.')",
    "file system opened": "call('fsopen', b'tmpfs', 0)",
    "tree copied": "call('open_tree', -100, b'/', 1)",
    "mounts listed": "call('listmount', struct.pack('IIQQ', 24, 0, 0xffffffffffffffff, 0), "
    "ctypes.create_string_buffer(80), 10, 0)",
    "administrator": "os.setuid(0)",
    "administrator's group": "os.setgroups([0])",
    "host's name": "call('sethostname', b'x', 1)",
    "kernel's log": "call('syslog', 10, None, 0)",
    "accounting": "call('acct', None)",
    "clock": "call('clock_settime', 0, struct.pack('qq', 0, -1))",
}

GROUPS: dict[str, dict[str, str]] = {
    "signals": SIGNALS,
    "others": OTHERS,
    "objects": OBJECTS,
    "network": NETWORK,
    "files": FILES,
    "rights": RIGHTS,
}
ESCAPES = {f"{group}: {name}": source for group, table in GROUPS.items() for name, source in table.items()}

EACH = """
for name, source in json.loads(P).items():
    child = os.fork() if FORK else 0
    if child == 0:
        try:
            exec(source)
            print('OUT ' + name, flush=True)
        except OSError as error:
            pass
        except BaseException as error:
            print('BROKEN ' + name + ' ' + repr(error), flush=True)
        if FORK:
            os._exit(0)
    else:
        os.waitpid(child, 0)
"""


def program(targets: dict[str, Any], escapes: dict[str, str], *, fork: bool) -> str:
    """One program that tries them all, and prints a line for each that got out."""
    given = f"T, P, FORK = json.loads({json.dumps(targets)!r}), {json.dumps(escapes)!r}, {fork}\n"
    return f"import json\n{HEAD}\n{given}{EACH}"


@contextlib.contextmanager
def canaries() -> Iterator[dict[str, Any]]:
    """What is reached for: a process, files, a closed folder, sockets, shared memory; they must come to no harm."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="farss-reaching-")))
        for name in ("secret", "mark", "spare"):
            (folder / name).write_text(name)
            (folder / name).chmod(0o666)
        (folder / "closed").mkdir(mode=0o700)
        folder.chmod(0o777)
        process = subprocess.Popen(["sleep", "300"], start_new_session=True)
        stack.callback(process.wait)
        stack.callback(process.kill)
        abstract, datagrams = (f"\0farss-reaching-{kind}-{process.pid}" for kind in ("s", "d"))
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = _bound(stack, socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        for kind, address in ((socket.SOCK_STREAM, abstract), (socket.SOCK_DGRAM, datagrams)):
            _bound(stack, socket.AF_UNIX, kind, address)
        _bound(stack, socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "named"))
        (folder / "named").chmod(0o777)
        yield {
            **{"pid": process.pid, "group": process.pid, "caller": os.getpid(), "folder": str(folder)},
            **{name: str(folder / name) for name in ("secret", "mark", "spare", "closed", "named")},
            **{"tcp": tcp.getsockname(), "udp": udp.getsockname(), "abstract": abstract, "datagrams": datagrams},
            "shm": _shared_memory(stack),
        }
        assert process.poll() is None
        left = {path.name: path.read_text() for path in folder.iterdir() if path.is_file() and path.name != "named"}
        assert left == {name: name for name in ("secret", "mark", "spare")}, left


def _bound(stack: contextlib.ExitStack, family: int, kind: int, address: Any) -> socket.socket:
    made = stack.enter_context(socket.socket(family, kind))
    made.bind(address)
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


def _shared_memory(stack: contextlib.ExitStack) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    key = int.from_bytes(os.urandom(3), "little") | 1
    number = libc.shmget(key, 4096, 0o1666)
    assert number != -1
    stack.callback(libc.shmctl, number, 0, None)
    return key


def reach(protections: Protections, escapes: dict[str, str]) -> list[str]:
    """The lines of those that got out of a sandbox, and of those that are broken."""
    with canaries() as targets:
        outcome = run_program(program(targets, escapes, fork=False), LIMITS, protections=protections)
    assert outcome.passed, outcome
    return outcome.stdout.splitlines()


def reach_bare(escapes: dict[str, str]) -> list[str]:
    """The same without a sandbox, each in a process of its own: what they would do."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(AssertionError), canaries() as targets:
        source = program(targets, escapes, fork=True)
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=folder, timeout=60)
        lines += done.stdout.splitlines()
    return lines  # some of the canaries have come to harm


def main() -> None:
    """Print what gets out."""
    if "--bare" in sys.argv:
        print(json.dumps(reach_bare(ESCAPES)))
        return
    found = probe(namespaces="--namespaces" in sys.argv)
    if "--landlock" in sys.argv:
        how = dataclasses.replace(found.arrangement, landlock=int(sys.argv[sys.argv.index("--landlock") + 1]))
        found = try_out(how, {})
    print(json.dumps(reach(found, ESCAPES)))


if __name__ == "__main__":
    main()
