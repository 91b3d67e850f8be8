//! A procfs over which nothing can be mounted.
//!
//! A container can share mounts with a running one, which may cover files below `/proc` or replace `/proc`, so that
//! init would write labels and sysctls to the wrong files: CVE-2019-16884, CVE-2025-52881. A detached mount is out of
//! reach for others.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, UnmountFlags};

use crate::error::{Call, Error, Result};

/// The inode number of every procfs's root, and of nothing else in a procfs (`<linux/proc_ns.h>`).
const ROOT_INODE: u64 = 1;

pub struct ProcFs {
    root: OwnedFd,
    detached: bool,
}

impl ProcFs {
    /// For the caller's PID namespace.
    pub fn private() -> Result<Self> {
        match detached() {
            Ok(root) => Ok(Self { root, detached: true }),
            // A user namespace may mount a procfs only if it sees one that is not partly covered.
            Err(Errno::PERM) => Self::inherited(),
            Err(errno) => Err(Error::sys("fsmount(\"proc\")", errno)),
        }
    }

    /// For a process that has joined a container: the mount on its `/proc`, if that is the root of a procfs that knows
    /// this process; otherwise a private one. Closing the former costs no RCU grace period, which would delay the exec.
    /// [`ProcFs::open`] does not enter mounts of the container over files in it.
    pub fn joined() -> Result<Self> {
        match Self::mounted() {
            Ok(proc) if proc.has("self/stat") => Ok(proc),
            _ => Self::private(),
        }
    }

    fn mounted() -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = fs::open(c"/proc", flags, Mode::empty()).call(|| "open(\"/proc\")")?;
        Self::verified(root, false)
    }

    fn inherited() -> Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        match mount::open_tree(CWD, c"/proc", flags) {
            // Its covers are locked to it, so that it cannot be copied without them. Then `open`, which does not enter
            // mounts, notices a covered file.
            Err(Errno::INVAL) => Self::mounted(),
            copy => Self::verified(copy.call(|| "open_tree(\"/proc\")")?, true),
        }
    }

    fn verified(root: OwnedFd, detached: bool) -> Result<Self> {
        verify(root.as_fd(), "/proc")?;
        match fs::fstat(&root).call(|| "fstat(\"/proc\")")?.st_ino {
            ROOT_INODE => Ok(Self { root, detached }),
            inode => Err(Error::new(format_args!("/proc is not the root of a procfs: its inode is {inode}"))),
        }
    }

    /// The mount, if it is a private one. When its last descriptor is closed before it is attached anywhere, the kernel
    /// waits for an RCU grace period, also if an exec closes it.
    pub fn detached(&self) -> Option<BorrowedFd<'_>> {
        self.detached.then(|| self.root.as_fd())
    }

    /// `path` is relative to the procfs, as in `self/attr/exec`.
    pub fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        let file = fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
            .call(|| format!("open(\"/proc/{path}\")"))?;
        verify(file.as_fd(), path)?;
        Ok(file)
    }

    /// Opens again the file that `file` refers to, which may be an `O_PATH` descriptor.
    pub fn reopen(&self, file: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
        let number = std::os::fd::AsRawFd::as_raw_fd(&file).to_string();
        let dir = self.open("thread-self/fd", OFlags::PATH | OFlags::DIRECTORY)?;
        let call = || format!("open(\"/proc/thread-self/fd/{number}\")");
        // Only this link is followed: it leads to the descriptor's own file, whatever has become of its path.
        let again = fs::openat(&dir, &number, flags | OFlags::CLOEXEC, Mode::empty()).call(call)?;
        let (meant, found) = (fs::fstat(file).call(call)?, fs::fstat(&again).call(call)?);
        if (meant.st_dev, meant.st_ino) != (found.st_dev, found.st_ino) {
            return Err(Error::new(format_args!("{}: it is not what the descriptor refers to", call())));
        }
        Ok(again)
    }

    /// The namespace of this kind (`mnt`, `net`, ...) that the calling thread is in.
    pub fn namespace(&self, kind: &str) -> Result<OwnedFd> {
        let dir = self.open("thread-self/ns", OFlags::PATH | OFlags::DIRECTORY)?;
        fs::openat(&dir, kind, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .call(|| format!("open(\"/proc/thread-self/ns/{kind}\")"))
    }

    /// Unmounts the mount whose root is `mount`. umount2(2) takes no descriptor, so this uses the descriptor's link in
    /// procfs, which leads to that mount whatever has become of its paths.
    pub fn unmount(&self, mount: BorrowedFd<'_>) -> Result<()> {
        let dir = self.open("thread-self/fd", OFlags::PATH | OFlags::DIRECTORY)?;
        rustix::process::fchdir(&dir).call(|| "fchdir(\"/proc/thread-self/fd\")")?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&mount).to_string();
        let result = mount::unmount(&*number, UnmountFlags::DETACH).call(|| format!("umount2({number})"));
        rustix::process::chdir(c"/").call(|| "chdir(\"/\")")?;
        result
    }

    pub fn has(&self, path: &str) -> bool {
        fs::accessat(&self.root, path, fs::Access::EXISTS, fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// In one write, which the files of procfs require.
    pub fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let file = self.open(path, OFlags::WRONLY)?;
        let shown = || format!("write(\"/proc/{path}\", {:?})", String::from_utf8_lossy(bytes));
        match rustix::io::write(&file, bytes).call(shown)? {
            written if written == bytes.len() => Ok(()),
            written => Err(Error::new(format_args!("{}: only {written} bytes were taken", shown()))),
        }
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let file = self.open(path, OFlags::RDONLY)?;
        let (mut content, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            match rustix::io::read(&file, &mut chunk).call(|| format!("read(\"/proc/{path}\")"))? {
                0 => return Ok(content),
                count => content.extend_from_slice(&chunk[..count]),
            }
        }
    }
}

fn detached() -> std::result::Result<OwnedFd, Errno> {
    let context = mount::fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    mount::fsconfig_create(&context)?;
    let attrs =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attrs)
}

fn verify(file: BorrowedFd<'_>, path: &str) -> Result<()> {
    let kind = fs::fstatfs(file).call(|| format!("fstatfs({path:?})"))?.f_type;
    if kind == fs::PROC_SUPER_MAGIC {
        return Ok(());
    }
    Err(Error::new(format_args!("{path} is not on a procfs: the filesystem's type is {kind:#x}")))
}

#[cfg(test)]
mod tests {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

    use super::*;
    use crate::sys::process::testing::in_child;

    /// In a mount namespace whose /proc `spoil` may change.
    fn spoiled(spoil: impl FnOnce(), look: impl FnOnce() -> String) -> String {
        in_child(|| {
            crate::sys::namespace::unshare(libc::CLONE_NEWNS as u64).unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            spoil();
            look()
        })
        .0
    }

    #[test]
    fn a_forged_procfs_is_not_used() {
        let got = spoiled(
            || {
                mount("tmpfs", "/proc", "tmpfs", MountFlags::empty(), None).unwrap();
                std::fs::create_dir_all("/proc/self/attr").unwrap();
                std::fs::write("/proc/self/stat", "forged").unwrap();
            },
            || {
                assert!(ProcFs::mounted().is_err());
                String::from_utf8(ProcFs::joined().unwrap().read("self/stat").unwrap()).unwrap()
            },
        );
        assert!(got.split(' ').next().is_some_and(|pid| pid.parse::<u32>().is_ok()), "{got}");
    }

    #[test]
    fn a_part_of_a_procfs_is_not_used() {
        let got = spoiled(
            || mount_bind("/proc/sys", "/proc").unwrap(),
            || ProcFs::mounted().err().map(|e| e.to_string()).unwrap_or_default(),
        );
        assert!(got.starts_with("/proc is not the root of a procfs"), "{got}");
    }

    #[test]
    fn what_covers_a_file_is_not_opened() {
        let got = spoiled(
            || mount_bind("/proc/version", "/proc/sys/kernel/hostname").unwrap(),
            || {
                let proc = ProcFs::mounted().unwrap();
                assert!(proc.open("sys/kernel/ostype", OFlags::RDONLY).is_ok());
                format!("{:?}", proc.open("sys/kernel/hostname", OFlags::RDONLY).unwrap_err().errno())
            },
        );
        assert_eq!(got, format!("{:?}", Some(Errno::XDEV)));
    }

    #[test]
    fn reads_and_refuses_to_leave() {
        let proc = ProcFs::private().unwrap();
        assert!(
            String::from_utf8(proc.read("self/stat").unwrap()).unwrap().starts_with(&std::process::id().to_string())
        );
        assert_eq!(proc.open("../etc", OFlags::PATH).unwrap_err().errno(), Some(Errno::XDEV));
        assert_eq!(proc.open("self/root", OFlags::PATH).unwrap_err().errno(), Some(Errno::LOOP));
        assert_eq!(proc.open("self/nothing", OFlags::PATH).unwrap_err().errno(), Some(Errno::NOENT));
    }
}
