#!/usr/bin/env python3
"""What libseccomp makes of profiles, when used as runc uses it.

Reads from standard input one JSON object:
    {"arches": ["SCMP_ARCH_X86", ...], "profiles": [LINUX_SECCOMP, ...]}
and writes one to standard output:
    {"version": "2.5.4",
     "numbers": {ARCH: {NAME: NUMBER, ...}, ...},    calls known to libseccomp, for each arch that it knows
     "filters": [{"program": HEX} or {"error": TEXT}, ...],
     "newest": [{ARCH: NUMBER, ...}, ...]}           for each profile the highest number that it names on each arch
The program is the one before runc puts its -ENOSYS stub in front; "newest" is what the stub compares with.
"""

import ctypes
import errno
import json
import os
import sys

LE, WIDE, N32 = 0x40000000, 0x80000000, 0x20000000
ARCHES = {  # SCMP_ARCH_* of <seccomp.h>: AUDIT_ARCH_* but for x32
    "AARCH64": 183 | WIDE | LE, "ARM": 40 | LE, "LOONGARCH64": 258 | WIDE | LE, "M68K": 4, "MIPS": 8,
    "MIPS64": 8 | WIDE, "MIPS64N32": 8 | WIDE | N32, "MIPSEL": 8 | LE, "MIPSEL64": 8 | WIDE | LE,
    "MIPSEL64N32": 8 | WIDE | LE | N32, "PARISC": 15, "PARISC64": 15 | WIDE, "PPC": 20, "PPC64": 21 | WIDE,
    "PPC64LE": 21 | WIDE | LE, "RISCV64": 243 | WIDE | LE, "S390": 22, "S390X": 22 | WIDE, "SH": 42 | LE,
    "SHEB": 42, "X32": 62 | LE, "X86": 3 | LE, "X86_64": 62 | WIDE | LE,
}
ACTIONS = {
    "ALLOW": 0x7FFF0000, "ERRNO": 0x00050000, "KILL": 0, "KILL_PROCESS": 0x80000000, "KILL_THREAD": 0,
    "LOG": 0x7FFC0000, "NOTIFY": 0x7FC00000, "TRACE": 0x7FF00000, "TRAP": 0x00030000,
}
OPERATORS = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}
ATTRIBUTE_NNP, ATTRIBUTE_OPTIMIZE = 3, 8
NR_ERROR = -1  # __NR_SCMP_ERROR


class Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


class Version(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint)]


lib = ctypes.CDLL("libseccomp.so.2")
libc = ctypes.CDLL(None)
lib.seccomp_init.restype = ctypes.c_void_p
lib.seccomp_init.argtypes = [ctypes.c_uint32]
lib.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
lib.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
lib.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint,
                                       ctypes.POINTER(Comparison)]
lib.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
lib.seccomp_release.argtypes = [ctypes.c_void_p]
lib.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
lib.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
lib.seccomp_syscall_resolve_num_arch.argtypes = [ctypes.c_uint32, ctypes.c_int]
lib.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
lib.seccomp_version.restype = ctypes.POINTER(Version)
libc.free.argtypes = [ctypes.c_void_p]


class Refused(Exception):
    pass


def check(code, what, also=()):
    if code != 0 and -code not in also:
        raise Refused(f"{what}: {errno.errorcode.get(-code, code)}")


def token(arch):
    return ARCHES[arch.removeprefix("SCMP_ARCH_")]


def action(name, errno_ret):
    value = ACTIONS[name.removeprefix("SCMP_ACT_")]
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        value |= (errno.EPERM if errno_ret is None else errno_ret) & 0xFFFF
    return value


def comparison(arg):
    op = OPERATORS[arg["op"].removeprefix("SCMP_CMP_")]
    return Comparison(arg["index"], op, arg.get("value", 0), arg.get("valueTwo", 0))


def add_rules(context, profile, default):
    for entry in profile.get("syscalls") or []:
        verdict = action(entry["action"], entry.get("errnoRet"))
        args = entry.get("args") or []
        for name in entry.get("names") or []:
            number = lib.seccomp_syscall_resolve_name(name.encode())
            if verdict == default or number == NR_ERROR:
                continue
            indices = [arg["index"] for arg in args]
            repeated = len(set(indices)) < len(indices)
            for rule in [[arg] for arg in args] if repeated else [args]:
                array = (Comparison * len(rule))(*map(comparison, rule))
                check(lib.seccomp_rule_add_array(context, verdict, number, len(rule), array), f"rule {name}")


def exported(context):
    fd = os.memfd_create("program")
    try:
        check(lib.seccomp_export_bpf(context, fd), "export")
        return os.pread(fd, 1 << 20, 0).hex()
    finally:
        os.close(fd)


def export(profile):
    default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    context = lib.seccomp_init(default)
    if not context:
        raise Refused("init")
    try:
        for arch in profile.get("architectures") or []:
            check(lib.seccomp_arch_add(context, token(arch)), f"arch {arch}", also=[errno.EEXIST])
        # runc asks for the binary tree only where a profile names more than 32 calls. Without it, libseccomp (2.6.1
        # still) forgets to load the call's number on an architecture, other than x86-64, where the entry that it
        # would test first is a call that is missing there: nothing in the profile then matches.
        check(lib.seccomp_attr_set(context, ATTRIBUTE_OPTIMIZE, 2), "optimize")
        check(lib.seccomp_attr_set(context, ATTRIBUTE_NNP, 0), "nnp")
        add_rules(context, profile, default)
        return exported(context)
    finally:
        lib.seccomp_release(context)


def newest(profile, arches):
    names = [name for entry in profile.get("syscalls") or [] for name in entry.get("names") or []]
    return {
        arch: max([lib.seccomp_syscall_resolve_name_arch(token(arch), name.encode()) for name in names], default=0)
        for arch in arches
    }


def numbers(arch):
    """All calls by their direct numbers; by name, libseccomp answers with a made-up one for multiplexed calls."""
    found = {}
    for base in (0, 4000, 5000, 6000, 0xF0000, 0x40000000):
        for number in range(base, base + 1000):
            pointer = lib.seccomp_syscall_resolve_num_arch(token(arch), number)
            if pointer:
                found[ctypes.string_at(pointer).decode()] = number
                libc.free(pointer)
    return found


def main():
    request = json.load(sys.stdin)
    filters = []
    for profile in request["profiles"]:
        try:
            filters.append({"program": export(profile)})
        except Refused as reason:
            filters.append({"error": str(reason)})
    version = lib.seccomp_version().contents
    json.dump({
        "version": f"{version.major}.{version.minor}.{version.micro}",
        "numbers": {arch: found for arch in request["arches"] if (found := numbers(arch))},
        "filters": filters,
        "newest": [newest(profile, request["arches"]) for profile in request["profiles"]],
    }, sys.stdout)


main()
