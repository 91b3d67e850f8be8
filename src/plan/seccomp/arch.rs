//! The architectures of the runtime-spec, how a filter recognizes them, and their system calls.

use std::cmp::Ordering;

use super::tables::{ABSENT, COUNT, Column, IPC, NAMES, NUMBERS, SOCKETCALL, STARTS, THROUGH};

/// Calls of an x32 process have this bit set in their number.
pub const X32_BIT: u32 = 0x4000_0000;

/// An architecture (each sub-architecture is separate), as `linux.seccomp.architectures` names it.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// The spec's name without `SCMP_ARCH_`.
    name: &'static str,
    /// `AUDIT_ARCH_*` of <linux/audit.h>: what the kernel puts into `seccomp_data.arch`.
    pub audit: u32,
    column: Column,
    /// The number of the ABI's first call.
    pub base: u32,
    pub word: Word,
    pub endian: Endian,
    /// The architecture has socketcall(2) and ipc(2), and libseccomp turns a rule for one of their calls into one for
    /// them as well. (PA-RISC has neither.)
    pub multiplexed: bool,
}

/// The width of the registers that hold a call's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Bits32,
    Bits64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endian {
    Little,
    Big,
}

/// A known system call: a row of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Syscall(u16);

const LITTLE: u32 = 0x4000_0000;
const WIDE: u32 = 0x8000_0000;
const N32: u32 = 0x2000_0000;

const fn arch(name: &'static str, audit: u32, column: Column, multiplexed: bool) -> Arch {
    let word = if audit & WIDE != 0 { Word::Bits64 } else { Word::Bits32 };
    let endian = if audit & LITTLE != 0 { Endian::Little } else { Endian::Big };
    Arch { name, audit, column, base: 0, word, endian, multiplexed }
}

/// An ABI whose calls do not start at 0.
const fn based(base: u32, arch: Arch) -> Arch {
    Arch { base, ..arch }
}

/// An ABI with 32-bit arguments on an architecture with 64-bit ones.
const fn narrow(arch: Arch) -> Arch {
    Arch { word: Word::Bits32, ..arch }
}

/// The low half of the `AUDIT_ARCH_*` is the `EM_*` of <linux/elf-em.h>.
pub static ARCHES: [Arch; 23] = [
    arch("AARCH64", 183 | WIDE | LITTLE, Column::Aarch64, false),
    arch("ARM", 40 | LITTLE, Column::Arm, false),
    arch("LOONGARCH64", 258 | WIDE | LITTLE, Column::Loongarch64, false),
    arch("M68K", 4, Column::M68k, true),
    based(4000, arch("MIPS", 8, Column::Mips, true)),
    based(5000, arch("MIPS64", 8 | WIDE, Column::Mips64, false)),
    based(6000, narrow(arch("MIPS64N32", 8 | WIDE | N32, Column::Mips64n32, false))),
    based(4000, arch("MIPSEL", 8 | LITTLE, Column::Mips, true)),
    based(5000, arch("MIPSEL64", 8 | WIDE | LITTLE, Column::Mips64, false)),
    based(6000, narrow(arch("MIPSEL64N32", 8 | WIDE | LITTLE | N32, Column::Mips64n32, false))),
    arch("PARISC", 15, Column::Parisc, false),
    arch("PARISC64", 15 | WIDE, Column::Parisc64, false),
    arch("PPC", 20, Column::Ppc, true),
    arch("PPC64", 21 | WIDE, Column::Ppc64, true),
    arch("PPC64LE", 21 | WIDE | LITTLE, Column::Ppc64, true),
    arch("RISCV64", 243 | WIDE | LITTLE, Column::Riscv64, false),
    arch("S390", 22, Column::S390, true),
    arch("S390X", 22 | WIDE, Column::S390x, true),
    arch("SH", 42 | LITTLE, Column::Sh, true),
    arch("SHEB", 42, Column::Sh, true),
    based(X32_BIT, narrow(arch("X32", 62 | WIDE | LITTLE, Column::X32, false))),
    arch("X86", 3 | LITTLE, Column::X86, true),
    arch("X86_64", 62 | WIDE | LITTLE, Column::X8664, false),
];

const PREFIX: &str = "SCMP_ARCH_";

impl Arch {
    /// By the spec's name: `SCMP_ARCH_X86_64`.
    pub fn by_name(name: &str) -> Option<&'static Arch> {
        let name = name.strip_prefix(PREFIX)?;
        ARCHES.iter().find(|arch| arch.name == name)
    }

    /// The architecture that this program is built for.
    pub fn native() -> Option<&'static Arch> {
        let big = cfg!(target_endian = "big");
        Self::by_name(match std::env::consts::ARCH {
            "aarch64" => "SCMP_ARCH_AARCH64",
            "arm" => "SCMP_ARCH_ARM",
            "loongarch64" => "SCMP_ARCH_LOONGARCH64",
            "m68k" => "SCMP_ARCH_M68K",
            "mips" if big => "SCMP_ARCH_MIPS",
            "mips" => "SCMP_ARCH_MIPSEL",
            "mips64" if big => "SCMP_ARCH_MIPS64",
            "mips64" => "SCMP_ARCH_MIPSEL64",
            "powerpc" => "SCMP_ARCH_PPC",
            "powerpc64" if big => "SCMP_ARCH_PPC64",
            "powerpc64" => "SCMP_ARCH_PPC64LE",
            "riscv64" => "SCMP_ARCH_RISCV64",
            "s390x" => "SCMP_ARCH_S390X",
            "x86" => "SCMP_ARCH_X86",
            "x86_64" => "SCMP_ARCH_X86_64",
            _ => return None,
        })
    }

    /// The spec's name.
    pub fn name(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    pub fn is_x32(&self) -> bool {
        self.column == Column::X32
    }

    pub fn is_x86_64(&self) -> bool {
        self.column == Column::X8664
    }

    pub fn is_s390(&self) -> bool {
        matches!(self.column, Column::S390 | Column::S390x)
    }

    /// The call's number, if the architecture has that call.
    pub fn number(&self, syscall: Syscall) -> Option<u32> {
        match NUMBERS[usize::from(syscall.0)][self.column as usize] {
            ABSENT => None,
            private @ 0xf000.. => Some(0xf_0000 | u32::from(private & 0xfff)),
            number => Some(self.base + u32::from(number)),
        }
    }
}

fn name_at(row: usize) -> &'static str {
    &NAMES[usize::from(STARTS[row])..usize::from(STARTS[row + 1])]
}

impl Syscall {
    pub const COUNT: usize = COUNT;

    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    pub fn name(self) -> &'static str {
        name_at(self.index())
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::by_name_after(None, name)
    }

    /// Fast if `name` follows soon after `last` in alphabetical order, as in engines' profiles.
    pub fn by_name_after(last: Option<Self>, name: &str) -> Option<Self> {
        let next = last.map_or(0, |last| last.index() + 1);
        let (mut low, mut high) = (0, COUNT);
        for near in next..COUNT.min(next + 3) {
            match name_at(near).cmp(name) {
                Ordering::Equal => return Some(Self(near as u16)),
                Ordering::Less => low = near + 1,
                Ordering::Greater => {
                    high = near;
                    break;
                }
            }
        }
        while low < high {
            let middle = (low + high) / 2;
            match name_at(middle).cmp(name) {
                Ordering::Equal => return Some(Self(middle as u16)),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..COUNT as u16).map(Self)
    }

    /// The call through which some architectures reach this one, and its number in that call's first argument:
    /// <linux/net.h> (socketcall) and <linux/ipc.h> (ipc).
    pub fn multiplexer(self) -> Option<(Self, u32)> {
        match THROUGH[self.index()] {
            0 => None,
            ipc @ 0x80.. => Some((Self(IPC), u32::from(ipc & 0x7f))),
            socketcall => Some((Self(SOCKETCALL), u32::from(socketcall))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernels_headers() {
        for (arch, name, number) in [
            ("X86_64", "read", Some(0)),
            ("X86_64", "openat2", Some(437)),
            ("X86_64", "_llseek", None),
            ("X86", "socketcall", Some(102)),
            ("X32", "ioctl", Some(X32_BIT + 514)),
            ("ARM", "set_tls", Some(0xf_0005)),
            ("AARCH64", "openat", Some(56)),
            ("AARCH64", "open", None),
            ("MIPS", "read", Some(4003)),
            ("MIPSEL64", "read", Some(5000)),
            ("MIPS64N32", "read", Some(6000)),
            ("S390X", "socketcall", Some(102)),
        ] {
            let arch = Arch::by_name(&format!("SCMP_ARCH_{arch}")).unwrap();
            assert_eq!(arch.number(Syscall::by_name(name).unwrap()), number, "{name} on {}", arch.name());
        }
    }

    #[test]
    fn audit_values_are_those_of_the_kernels_headers() {
        let values = [
            ("AARCH64", 0xc000_00b7),
            ("ARM", 0x4000_0028),
            ("LOONGARCH64", 0xc000_0102),
            ("M68K", 0x4),
            ("MIPS", 0x8),
            ("MIPS64", 0x8000_0008),
            ("MIPS64N32", 0xa000_0008),
            ("MIPSEL", 0x4000_0008),
            ("MIPSEL64", 0xc000_0008),
            ("MIPSEL64N32", 0xe000_0008),
            ("PARISC", 0xf),
            ("PARISC64", 0x8000_000f),
            ("PPC", 0x14),
            ("PPC64", 0x8000_0015),
            ("PPC64LE", 0xc000_0015),
            ("RISCV64", 0xc000_00f3),
            ("S390", 0x16),
            ("S390X", 0x8000_0016),
            ("SH", 0x4000_002a),
            ("SHEB", 0x2a),
            ("X32", 0xc000_003e),
            ("X86", 0x4000_0003),
            ("X86_64", 0xc000_003e),
        ];
        assert_eq!(ARCHES.each_ref().map(|arch| (arch.name, arch.audit)), values);
    }

    #[test]
    fn every_name_is_found_and_no_other() {
        for i in 0..COUNT {
            let name = name_at(i);
            assert_eq!(Syscall::by_name(name).map(Syscall::name), Some(name));
        }
        for name in ["", "accep", "accept5", "zzz", "_"] {
            assert_eq!(Syscall::by_name(name), None, "{name}");
        }
    }

    #[test]
    fn multiplexers_exist_where_they_are_used() {
        let multiplexed: Vec<_> = ARCHES.iter().filter(|arch| arch.multiplexed).map(|arch| arch.name).collect();
        let known = ["M68K", "MIPS", "MIPSEL", "PPC", "PPC64", "PPC64LE", "S390", "S390X", "SH", "SHEB", "X86"];
        assert_eq!(multiplexed, known);
        for arch in ARCHES.iter().filter(|arch| arch.multiplexed) {
            for (name, through, number) in [("socket", "socketcall", 1), ("shmctl", "ipc", 24)] {
                let through = Syscall::by_name(through).unwrap();
                assert_eq!(Syscall::by_name(name).unwrap().multiplexer(), Some((through, number)));
                assert!(arch.number(through).is_some(), "{through:?} on {}", arch.name());
            }
        }
    }
}
