//! Whether the kernel has a system call, found out by calling it.

use rustix::io::Errno;

use super::check;

/// A system call with arguments that the kernel refuses with EINVAL before it does anything.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub name: &'static str,
    number: libc::c_long,
    arguments: [libc::c_long; 5],
    /// The kernel asks for CAP_SYS_ADMIN before it looks at the arguments.
    privileged: bool,
}

const ALL: libc::c_long = -1;

const fn probe(name: &'static str, number: libc::c_long, arguments: [libc::c_long; 5]) -> Probe {
    Probe { name, number, arguments, privileged: false }
}

const fn privileged(probe: Probe) -> Probe {
    Probe { privileged: true, ..probe }
}

/// Those that berth cannot do without. No argument here is the address of memory; sizes are 0, and flags unknown.
pub const PROBES: &[Probe] = &[
    probe("clone3", libc::SYS_clone3, [0; 5]),
    probe("openat2", libc::SYS_openat2, [-1, 0, 0, 0, 0]),
    probe("pidfd_open", libc::SYS_pidfd_open, [0; 5]),
    probe("pidfd_getfd", libc::SYS_pidfd_getfd, [-1, 0, 1, 0, 0]),
    probe("pidfd_send_signal", libc::SYS_pidfd_send_signal, [-1, 0, 0, ALL, 0]),
    privileged(probe("fsopen", libc::SYS_fsopen, [0, ALL, 0, 0, 0])),
    probe("fsconfig", libc::SYS_fsconfig, [-1, 0, 0, 0, 0]),
    privileged(probe("fsmount", libc::SYS_fsmount, [-1, ALL, 0, 0, 0])),
    probe("open_tree", libc::SYS_open_tree, [-1, 0, ALL, 0, 0]),
    privileged(probe("move_mount", libc::SYS_move_mount, [-1, 0, -1, 0, ALL])),
    probe("mount_setattr", libc::SYS_mount_setattr, [-1, 0, ALL, 0, 0]),
    probe("close_range", libc::SYS_close_range, [1, 0, 0, 0, 0]),
    probe("faccessat2", libc::SYS_faccessat2, [-1, 0, 0, ALL, 0]),
    probe("seccomp", libc::SYS_seccomp, [ALL, 0, 0, 0, 0]),
];

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Known,
    /// The kernel is older than the call, or a seccomp filter says so.
    Unknown,
    /// Something else than the kernel's check of the arguments refused it: a seccomp filter, or a security module.
    Forbidden(Errno),
}

impl Probe {
    pub fn run(&self) -> Verdict {
        let [a, b, c, d, e] = self.arguments;
        // SAFETY: the kernel refuses these arguments, as they are in `PROBES` only, before it reads or writes memory.
        match check(unsafe { libc::syscall(self.number, a, b, c, d, e) }) {
            Err(Errno::NOSYS) => Verdict::Unknown,
            Err(Errno::INVAL) => Verdict::Known,
            // A caller without that capability learns no more. A container of theirs has it, in its own user namespace.
            Err(Errno::PERM) if self.privileged && has_no_power() => Verdict::Known,
            Err(errno) => Verdict::Forbidden(errno),
            Ok(_) => Verdict::Known,
        }
    }
}

/// The root of another user namespace has that capability only in what belongs to that namespace.
fn has_no_power() -> bool {
    !rustix::process::geteuid().is_root() || super::namespace::in_user_namespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_all_of_them() {
        for probe in PROBES {
            assert_eq!(probe.run(), Verdict::Known, "{}", probe.name);
        }
    }

    #[test]
    fn a_call_that_does_not_exist_is_unknown() {
        assert_eq!(probe("none", 9999, [0; 5]).run(), Verdict::Unknown);
        assert_eq!(probe("fchdir", libc::SYS_fchdir, [-1, 0, 0, 0, 0]).run(), Verdict::Forbidden(Errno::BADF));
    }
}
