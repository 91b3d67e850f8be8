//! The kernel's side: runs a filter on a call (net/core/filter.c, as far as seccomp lets programs use it).

use berth::internal::plan::seccomp::Endian;

/// `struct seccomp_data`, without the instruction pointer, which no filter of ours reads.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub arch: u32,
    pub number: u32,
    pub args: [u64; 6],
    /// How the machine stores the arguments' halves.
    pub endian: Endian,
}

pub struct Machine(Vec<(u16, u8, u8, u32)>);

impl Machine {
    /// From an array of `struct sock_filter`.
    pub fn load(program: &[u8]) -> Self {
        assert!(program.len().is_multiple_of(8) && !program.is_empty());
        let instruction = |b: &[u8]| {
            let k = u32::from_ne_bytes(b[4..].try_into().unwrap());
            (u16::from_ne_bytes([b[0], b[1]]), b[2], b[3], k)
        };
        Self(program.chunks(8).map(instruction).collect())
    }

    /// As the kernel's bpf_check_classic and seccomp_check_filter: known instructions, jumps within the program, which
    /// ends in a return.
    pub fn verify(&self) {
        assert!(self.0.len() <= 4096, "{} instructions", self.0.len());
        for (at, &(code, jt, jf, k)) in self.0.iter().enumerate() {
            let farthest = match code {
                0x06 | 0x20 | 0x54 => 0,
                0x05 => k as usize,
                0x15 | 0x25 | 0x35 | 0x45 => usize::from(jt.max(jf)),
                _ => panic!("{at}: unknown instruction {code:#x}"),
            };
            assert!(at + 1 + farthest < self.0.len() || code == 0x06, "{at}: leaves the program");
            assert!(code != 0x20 || k % 4 == 0 && k < 64, "{at}: loads from {k}");
        }
        assert_eq!(self.0.last().map(|i| i.0), Some(0x06));
    }

    /// The filter's verdict and how many instructions it took.
    pub fn run(&self, call: &Call) -> (u32, usize) {
        let (mut at, mut accumulator, mut steps) = (0, 0, 0);
        loop {
            let (code, jt, jf, k) = self.0[at];
            at += 1;
            steps += 1;
            let mut branch = |taken: bool| at += usize::from(if taken { jt } else { jf });
            match code {
                0x20 => accumulator = call.word(k),
                0x54 => accumulator &= k,
                0x05 => at += k as usize,
                0x15 => branch(accumulator == k),
                0x25 => branch(accumulator > k),
                0x35 => branch(accumulator >= k),
                0x45 => branch(accumulator & k != 0),
                0x06 => return (k, steps),
                _ => panic!("unknown instruction {code:#x}"),
            }
        }
    }
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16.. => {
                let argument = self.args[(offset as usize - 16) / 8];
                let first = offset.is_multiple_of(8);
                if first == (self.endian == Endian::Big) { (argument >> 32) as u32 } else { argument as u32 }
            }
            _ => panic!("loads from {offset}"),
        }
    }
}
