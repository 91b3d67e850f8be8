//! Classic BPF, written from its end to its beginning: all jumps go forward, so their distances are known then.

/// `struct sock_filter` of <linux/filter.h>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// `ld [k]`: a word of `struct seccomp_data`.
pub const LOAD: u16 = 0x20;
/// `and #k`
pub const AND: u16 = 0x54;
/// `ja k`
pub const JUMP: u16 = 0x05;
/// `jeq #k,jt,jf`, and so on.
pub const JUMP_EQ: u16 = 0x15;
pub const JUMP_GT: u16 = 0x25;
pub const JUMP_GE: u16 = 0x35;
/// `ret #k`
pub const RETURN: u16 = 0x06;

/// The longest distance of a conditional jump.
const REACH: usize = u8::MAX as usize;

/// Where a jump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Ends the program with this value. There are as many such instructions as jumps need to reach one.
    Return(u32),
    /// The instruction that is followed by this many others.
    At(usize),
}

/// A program being written. Each new instruction comes before all earlier ones.
#[derive(Default)]
pub struct Assembler {
    /// Last instruction first.
    reversed: Vec<Instruction>,
    /// For each value, the position of the `ret` that was written last.
    returns: Vec<(u32, usize)>,
}

impl Assembler {
    pub fn with_capacity(instructions: usize) -> Self {
        Self { reversed: Vec::with_capacity(instructions), returns: Vec::new() }
    }

    /// `ld` or `and`, for the instructions at `next`.
    pub fn step(&mut self, code: u16, k: u32, next: Label) -> Label {
        let place = self.reach(next, 0);
        debug_assert_eq!(place + 1, self.reversed.len());
        self.push(Instruction { code, jt: 0, jf: 0, k })
    }

    pub fn branch(&mut self, code: u16, k: u32, then: Label, otherwise: Label) -> Label {
        if then == otherwise {
            return then;
        }
        // Reaching the second may take one more instruction in between.
        let then = self.reach(then, REACH - 1);
        let otherwise = self.reach(otherwise, REACH);
        let distance = |place: usize| (self.reversed.len() - place - 1) as u8;
        self.push(Instruction { code, jt: distance(then), jf: distance(otherwise), k })
    }

    /// The instructions from the first to the last, beginning at `label`.
    pub fn finish(mut self, label: Label) -> Vec<Instruction> {
        match label {
            Label::Return(value) => {
                self.push(Instruction { code: RETURN, jt: 0, jf: 0, k: value });
            }
            Label::At(place) => {
                let distance = self.reversed.len() - place - 1;
                if distance > 0 {
                    self.push(Instruction { code: JUMP, jt: 0, jf: 0, k: distance as u32 });
                }
            }
        }
        self.reversed.reverse();
        self.reversed
    }

    fn push(&mut self, instruction: Instruction) -> Label {
        self.reversed.push(instruction);
        Label::At(self.reversed.len() - 1)
    }

    /// A position at most `reach` away from the next instruction that does the same as `label`.
    fn reach(&mut self, label: Label, reach: usize) -> usize {
        let next = self.reversed.len();
        let near = |place: &usize| next - place - 1 <= reach;
        match label {
            Label::At(place) => {
                if !near(&place) {
                    let k = (next - place - 1) as u32;
                    self.push(Instruction { code: JUMP, jt: 0, jf: 0, k });
                    return next;
                }
                place
            }
            Label::Return(value) => {
                let known = self.returns.iter().position(|(known, _)| *known == value);
                if let Some(place) = known.map(|i| self.returns[i].1).filter(near) {
                    return place;
                }
                self.push(Instruction { code: RETURN, jt: 0, jf: 0, k: value });
                match known {
                    Some(i) => self.returns[i].1 = next,
                    None => self.returns.push((value, next)),
                }
                next
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_targets_are_reached_in_two_jumps() {
        let mut assembler = Assembler::default();
        let far = assembler.branch(JUMP_EQ, 0, Label::Return(1), Label::Return(2));
        let mut near = far;
        for k in 0..300 {
            near = assembler.branch(JUMP_EQ, 1000 + k, Label::Return(1), near);
        }
        let start = assembler.branch(JUMP_EQ, 1, far, near);
        let program = assembler.finish(start);
        let Instruction { jt, .. } = program[0];
        let landing = 1 + usize::from(jt);
        assert_eq!(program[landing].code, JUMP);
        assert_eq!(program[landing + 1 + program[landing].k as usize].k, 0);
        for (at, instruction) in program.iter().enumerate().filter(|(_, i)| i.code & 0x07 == 0x05 && i.code != JUMP) {
            let next = &program[at + 1 + usize::from(instruction.jt)];
            assert!(next.code == RETURN && next.k == 1 || at == 0 || instruction.k == 0, "{at}: {instruction:?}");
        }
    }

    #[test]
    fn a_branch_that_decides_nothing_is_none() {
        let mut assembler = Assembler::default();
        let label = assembler.branch(JUMP_EQ, 0, Label::Return(1), Label::Return(1));
        assert_eq!(assembler.finish(label), [Instruction { code: RETURN, jt: 0, jf: 0, k: 1 }]);
    }
}
