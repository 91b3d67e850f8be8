//! The working directory of the user's process.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{self, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Where init, as root, may go, though the user may not; `false` if it is the other way round, as on NFS, or in a
/// directory of mode 0700 whose owner has no mapping: [`enter_as_user`] then.
pub fn enter_as_root(cwd: &CStr) -> Result<bool> {
    match enter(cwd) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS | Errno::PERM) => Ok(false),
        Err(errno) => Err(failed(cwd, errno)),
    }
}

pub fn enter_as_user(cwd: &CStr) -> Result<()> {
    enter(cwd).map_err(|errno| failed(cwd, errno))
}

/// The working directory must be within the root: the kernel says so, whatever the path was (CVE-2024-21626).
pub fn verify() -> Result<()> {
    let outside = || {
        Error::new(
            "current working directory is outside of container mount namespace root -- possible container breakout \
             detected",
        )
    };
    match rustix::process::getcwd(Vec::with_capacity(256)) {
        // The syscall's own answer for a directory that is not below the root is "(unreachable)/...".
        Ok(path) if path.as_bytes().starts_with(b"/") => Ok(()),
        Ok(_) | Err(Errno::NOENT) => Err(outside()),
        Err(errno) => Err(Error::sys("getcwd()", errno).context("verify the working directory")),
    }
}

/// A descriptor of the host's that was left open can be had through the links of procfs (CVE-2024-21626).
fn open(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::openat2(at, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

fn enter(cwd: &CStr) -> rustix::io::Result<()> {
    rustix::process::fchdir(open(CWD, cwd)?)
}

fn failed(cwd: &CStr, errno: Errno) -> Error {
    let error = Error::sys(format_args!("chdir to cwd ({cwd:?}) set in config.json failed"), errno);
    match errno {
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
            // The working directory stays where it was: above the new root.
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
}
