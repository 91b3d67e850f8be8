//! The working directory of the user's process.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::rootfs::{Location, until_sure};

/// Enters a directory that init, as root, may enter. Returns `false` if root may not, as on NFS, or in a directory of
/// mode 0700 whose owner has no mapping: [`enter_as_user`] then tries as the user.
pub fn enter_as_root(cwd: &CStr) -> Result<bool> {
    match enter(cwd) {
        Ok(()) => verify().map(|()| true),
        Err(Errno::ACCESS | Errno::PERM) => Ok(false),
        Err(errno) => Err(failed(cwd, errno)),
    }
}

pub fn enter_as_user(cwd: &CStr) -> Result<()> {
    enter(cwd).map_err(|errno| failed(cwd, errno))?;
    verify()
}

/// The working directory must be within the root, whatever its path was (CVE-2024-21626): the kernel's name for it must
/// lead from the root to the same directory of the same mount.
///
/// The name alone proves nothing. getcwd(2) calls a directory of a mount that lies over the root "/", too.
fn verify() -> Result<()> {
    /// A process of the container may rename a directory between the two calls.
    const TRIES: usize = 8;
    for _ in 0..TRIES {
        let path = match rustix::process::getcwd(Vec::with_capacity(256)) {
            // The system call itself answers "(unreachable)/..." for a directory that is not below the root.
            Ok(path) if path.as_bytes().starts_with(b"/") => path,
            Ok(_) | Err(Errno::NOENT) => return Err(outside()),
            Err(errno) => return Err(Error::sys("getcwd()", errno).context("verify the working directory")),
        };
        let named = match open(&path) {
            Ok(named) => Location::of(named.as_fd())?,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::AGAIN) => continue,
            Err(errno) => {
                return Err(Error::sys(format_args!("open({path:?})"), errno)).context("verify the working directory");
            }
        };
        if named == Location::of(CWD)? {
            return Ok(());
        }
    }
    Err(outside())
}

fn outside() -> Error {
    Error::new(
        "current working directory is outside of container mount namespace root -- possible container breakout detected",
    )
}

/// Links lead no further than the root. Links of procfs are not followed at all: through them, a descriptor of the host
/// that was left open could be reached (CVE-2024-21626).
fn open(path: &CStr) -> rustix::io::Result<OwnedFd> {
    let root = fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    until_sure(|| fs::openat2(&root, path, flags, Mode::empty(), resolve))
}

fn enter(cwd: &CStr) -> rustix::io::Result<()> {
    rustix::process::fchdir(open(cwd)?)
}

fn failed(cwd: &CStr, errno: Errno) -> Error {
    let error =
        Error::sys(format_args!("chdir to cwd ({cwd:?}) set in config.json failed"), errno).context("/process/cwd");
    match errno {
        // create makes it.
        Errno::NOENT => error.with_hint("exec makes no directory, unlike create"),
        Errno::LOOP => error.with_hint("links of procfs, as /proc/self/fd/N, are not followed"),
        Errno::ACCESS => error.with_hint("neither root in the container nor the process's user may search it"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;
    use crate::sys::process::testing::in_child;

    fn c(path: &Path) -> std::ffi::CString {
        std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap()
    }

    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-cwd-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let scratch = Scratch::new("file");
        let e = enter_as_root(&c(&scratch.0.join("none"))).unwrap_err().to_string();
        assert!(e.ends_with("set in config.json failed: no such file or directory"), "{e}");
    }

    #[test]
    fn links_of_procfs_are_not_followed() {
        let directory = std::fs::File::open("/").unwrap();
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&directory));
        assert_eq!(enter_as_root(&c(Path::new(&link))).unwrap_err().errno(), Some(Errno::LOOP));
    }

    #[test]
    fn a_directory_outside_the_root_is_noticed() {
        let scratch = Scratch::new("root");
        let (output, _) = in_child(|| {
            // The working directory is still the old one, above the new root.
            rustix::process::chdir(scratch.0.parent().unwrap()).unwrap();
            rustix::process::chroot(&scratch.0).unwrap();
            verify().unwrap_err().to_string()
        });
        assert!(
            output.starts_with("current working directory is outside of container mount namespace root"),
            "{output}"
        );
        let (output, _) = in_child(|| {
            let gone = scratch.0.join("gone");
            std::fs::create_dir(&gone).unwrap();
            rustix::process::chdir(&gone).unwrap();
            std::fs::remove_dir(&gone).unwrap();
            verify().unwrap_err().to_string()
        });
        assert!(output.starts_with("current working directory is outside"), "{output}");
    }

    #[test]
    fn a_directory_of_a_mount_over_the_root_is_noticed() {
        use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
        let scratch = Scratch::new("over");
        let (output, _) = in_child(|| {
            crate::sys::process::testing::unshare(libc::CLONE_NEWNS);
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            rustix::process::chroot(&scratch.0).unwrap();
            mount("none", "/", "tmpfs", MountFlags::empty(), None).unwrap();
            // pivot_root(2) leaves the old root like this: mounted over "/", and reached by "..".
            rustix::process::chdir("/..").unwrap();
            assert_eq!(rustix::process::getcwd(Vec::new()).unwrap().as_bytes(), b"/");
            let over = verify().unwrap_err().to_string();
            rustix::process::chdir("/").unwrap();
            format!("{over}; {:?}", verify())
        });
        assert!(output.starts_with("current working directory is outside"), "{output}");
        assert!(output.ends_with("; Ok(())"), "{output}");
    }
}
