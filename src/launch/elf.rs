//! As much of elf(5) as it takes to load a static executable whose addresses are fixed.

pub const PAGE: u64 = 4096;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const ET_EXEC: u16 = 2;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;
/// Where the loader is while it loads: far from where the linker puts programs.
const LOADER: u64 = 0x1000_0000;

/// A program that its loader need only map.
pub struct Program<'a> {
    head: &'a [u8],
    entry: u64,
    headers: &'a [u8],
    headers_at: u64,
    segments: Vec<Segment>,
}

struct Segment {
    flags: u32,
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    word(bytes, at).map(u64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    word(bytes, at).map(u32::from_le_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    word(bytes, at).map(u16::from_le_bytes)
}

impl<'a> Program<'a> {
    /// `head` is the beginning of the file. `None`: another kind of program.
    pub fn parse(head: &'a [u8]) -> Option<Self> {
        const ELF64_LITTLE_ENDIAN: &[u8] = b"\x7fELF\x02\x01";
        if !head.starts_with(ELF64_LITTLE_ENDIAN) || u16_at(head, 16)? != ET_EXEC {
            return None;
        }
        let start = usize::try_from(u64_at(head, 32)?).ok()?;
        let headers = head.get(start..start + PROGRAM_HEADER * usize::from(u16_at(head, 56)?))?;
        let mut segments = Vec::new();
        for header in headers.chunks_exact(PROGRAM_HEADER) {
            match u32_at(header, 0)? {
                PT_INTERP => return None,
                PT_LOAD => segments.push(Segment {
                    flags: u32_at(header, 4)?,
                    offset: u64_at(header, 8)?,
                    address: u64_at(header, 16)?,
                    in_file: u64_at(header, 32)?,
                    in_memory: u64_at(header, 40)?,
                }),
                _ => {}
            }
        }
        let holds =
            |s: &&Segment| s.offset <= start as u64 && start as u64 + headers.len() as u64 <= s.offset + s.in_file;
        let first = segments.iter().find(holds)?;
        let headers_at = first.address + (start as u64 - first.offset);
        Some(Self { head, entry: u64_at(head, 24)?, headers, headers_at, segments })
    }

    /// An executable file that loads the program from descriptor `binary`; `code` is [`crate::sys::loader::code`].
    pub fn loader(&self, code: &[u8], binary: i32) -> Option<Vec<u8>> {
        let table = self.table(binary)?;
        let start = HEADER + 2 * PROGRAM_HEADER;
        let length = (start + code.len() + table.len() * 8) as u64;
        let mut file = Vec::with_capacity(length as usize);
        // What identifies the machine is the program's own.
        file.extend_from_slice(self.head.get(..24)?);
        file.extend([LOADER + start as u64, HEADER as u64, 0].iter().flat_map(|n| n.to_le_bytes()));
        file.extend_from_slice(self.head.get(48..52)?);
        let sizes = [HEADER as u16, PROGRAM_HEADER as u16, 2, 0, 0, 0];
        file.extend(sizes.iter().flat_map(|n| n.to_le_bytes()));
        for (kind, flags, numbers) in [
            (PT_LOAD, PF_R | PF_X, [0, LOADER, LOADER, length, length, PAGE]),
            (PT_GNU_STACK, PF_R | PF_W, [0, 0, 0, 0, 0, 16]),
        ] {
            file.extend([kind, flags].iter().flat_map(|n| n.to_le_bytes()));
            file.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        }
        file.extend_from_slice(code);
        file.extend(table.iter().flat_map(|n| n.to_le_bytes()));
        Some(file)
    }

    /// What [`crate::sys::loader`] wants to know.
    fn table(&self, binary: i32) -> Option<Vec<u64>> {
        const FIXED: u64 = libc::MAP_PRIVATE as u64 | libc::MAP_FIXED_NOREPLACE as u64;
        const NO_FILE: u64 = u64::MAX;
        let up = |address: u64| address.next_multiple_of(PAGE);
        let (mut maps, mut cleared) = (Vec::new(), Vec::new());
        for s in &self.segments {
            let protection = [(PF_R, libc::PROT_READ), (PF_W, libc::PROT_WRITE), (PF_X, libc::PROT_EXEC)]
                .into_iter()
                .filter(|(flag, _)| s.flags & flag != 0)
                .fold(0, |all, (_, protection)| all | protection as u64);
            let within = s.address % PAGE;
            if s.offset % PAGE != within || s.in_file > s.in_memory {
                return None;
            }
            let (start, end) = (s.address - within, s.address + s.in_file);
            if s.in_file > 0 {
                maps.push([start, up(end) - start, protection, FIXED, binary as u64, s.offset - within]);
            }
            if s.in_memory > s.in_file {
                // "the extra bytes are defined to hold the value 0": to the end of the page, and then in pages.
                let anonymous = if s.in_file > 0 { up(end) } else { start };
                if s.in_file > 0 && up(end) > end {
                    cleared.push([end, up(end) - end]);
                }
                let length = up(s.address + s.in_memory).saturating_sub(anonymous);
                if length > 0 {
                    maps.push([anonymous, length, protection, FIXED | libc::MAP_ANONYMOUS as u64, NO_FILE, 0]);
                }
            }
        }
        let mut table = vec![maps.len() as u64];
        table.extend(maps.iter().flatten());
        table.push(cleared.len() as u64);
        table.extend(cleared.iter().flatten());
        table.extend([self.entry, self.headers_at, (self.headers.len() / PROGRAM_HEADER) as u64, binary as u64]);
        Some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::Program;

    /// Of an executable with one segment of `in_file` bytes at 0x400000.
    fn head(kind: u16, in_file: u64, in_memory: u64) -> Vec<u8> {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(16, 0);
        head.extend([kind, 62].iter().flat_map(|n| n.to_le_bytes()));
        head.extend(1u32.to_le_bytes());
        head.extend([0x40_1000u64, 64, 0].iter().flat_map(|n| n.to_le_bytes()));
        head.extend(0u32.to_le_bytes());
        head.extend([64u16, 56, 1, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
        head.extend([1u32, 6].iter().flat_map(|n| n.to_le_bytes()));
        head.extend([0, 0x40_0000, 0x40_0000, in_file, in_memory, 4096].iter().flat_map(|n: &u64| n.to_le_bytes()));
        head
    }

    fn table(head: &[u8]) -> Option<Vec<u64>> {
        let loader = Program::parse(head)?.loader(&[], 7)?;
        let words = loader[64 + 2 * 56..].chunks_exact(8);
        Some(words.map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect())
    }

    #[test]
    fn segments_become_mappings() {
        let (private, fixed, anonymous, no_file) = (2, 0x10_0000, 0x20, u64::MAX);
        let expected = [
            &[2, 0x40_0000, 0x1000, 3, private | fixed, 7, 0][..],
            &[0x40_1000, 0x2000, 3, private | fixed | anonymous, no_file, 0],
            &[1, 0x40_0800, 0x800],
            &[0x40_1000, 0x40_0040, 1, 7],
        ];
        assert_eq!(table(&head(2, 0x800, 0x2800)).unwrap(), expected.concat());
        // What is needed of memory ends in the page where the file's part ends.
        assert_eq!(table(&head(2, 0x800, 0x900)).unwrap()[0], 1);
    }

    #[test]
    fn other_programs_are_copied() {
        const ET_DYN: u16 = 3;
        assert!(table(&head(ET_DYN, 0x800, 0x800)).is_none());
        assert!(table(&head(2, 0x900, 0x800)).is_none());
        assert!(table(&head(2, 0x800, 0x800)[..100]).is_none());
        assert!(table(b"#!/bin/sh").is_none());
    }
}
