//! From init to the user's program: finding it, leaving nothing of the runtime behind, execve.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{self, Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

use super::explain::hinted;
use crate::error::{Call, Error, Kind, Result};
use crate::sys::process::{self as sys, Execve};
use crate::sys::signal;

/// Finds the program as the user who will run it, so after the change of user and capabilities. This is part of
/// `create`, so that a missing program is an error of `create`.
///
/// The words are runc's: engines decide by them between the exit statuses 126 and 127.
pub fn find(name: &CStr, path: Option<&[u8]>) -> Result<CString> {
    let name_bytes = name.to_bytes();
    if name_bytes.contains(&b'/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(Missing::Stat(errno)) => {
                let shown = name.to_string_lossy();
                Err(Error::sys(format_args!("exec: {shown:?}: stat {shown}"), errno).with_kind(kind(errno)))
            }
            Err(Missing::Permission(errno)) => {
                let shown = name.to_string_lossy();
                let error = Error::sys(format_args!("exec: {shown:?}"), errno).with_kind(kind(errno));
                Err(if name_bytes.starts_with(b"/") { hinted(error, name) } else { error })
            }
        };
    }
    // Without a PATH there is nowhere to look. An empty element means the working directory, which is not searched.
    for directory in path.unwrap_or_default().split(|&byte| byte == b':').filter(|directory| !directory.is_empty()) {
        let candidate = [directory, b"/", name_bytes].concat();
        let Ok(candidate) = CString::new(candidate) else { continue };
        if executable(&candidate).is_err() {
            continue;
        }
        if !directory.starts_with(b"/") {
            let message = "cannot run executable found relative to current directory";
            let name = name.to_string_lossy();
            return Err(Error::new(format_args!("exec: {name:?}: {message}")).with_kind(Kind::CommandNotExecutable));
        }
        return Ok(candidate);
    }
    let name = name.to_string_lossy();
    let error = Error::new(format_args!("exec: {name:?}: executable file not found in $PATH"));
    let error = error.with_kind(Kind::CommandNotFound);
    Err(match path {
        Some(path) => error.with_hint(format_args!("PATH is {:?}", String::from_utf8_lossy(path))),
        None => error.with_hint("the process's environment has no PATH"),
    })
}

enum Missing {
    Stat(Errno),
    Permission(Errno),
}

fn executable(path: &CStr) -> std::result::Result<(), Missing> {
    let stat = fs::stat(path).map_err(Missing::Stat)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Missing::Permission(Errno::ISDIR));
    }
    // By the effective ids, as execve does. EACCES also means that the mount is noexec.
    fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(Missing::Permission)
}

fn kind(errno: Errno) -> Kind {
    if errno == Errno::NOENT { Kind::CommandNotFound } else { Kind::CommandNotExecutable }
}

/// Resets the signals that the runtime or its caller ignores or blocks: exec would keep both. It resets those that are
/// handled itself.
pub fn reset_signals(ignored: u64) -> Result<()> {
    sys::reset_signals(ignored).call(|| "rt_sigaction(SIG_DFL)")
}

/// The first process of a PID namespace gets only signals that it handles (pid_namespaces(7)). As under runc, a
/// container that has not been started yet must end when it is asked to.
pub fn die_of_signals() -> Result<()> {
    const REQUESTS: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];
    REQUESTS.iter().try_for_each(|&number| signal::die_of(number).call(|| format!("rt_sigaction({number})")))
}

/// Closes every descriptor from `first` on, except those in `keep`, which exec must close.
///
/// Marking them to be closed by exec is not enough: a program given as `/proc/self/fd/N` could be a file of the host's
/// behind one of them (CVE-2024-21626). For the same reason, no file or directory may be in `keep`.
pub fn close_descriptors<'a>(first: u32, keep: impl IntoIterator<Item = BorrowedFd<'a>>) -> Result<()> {
    let mut kept: Vec<u32> = keep.into_iter().map(|fd| fd.as_raw_fd() as u32).filter(|&fd| fd >= first).collect();
    kept.sort_unstable();
    let mut from = first;
    for fd in kept {
        close(from, fd.checked_sub(1))?;
        from = fd + 1;
    }
    close(from, Some(u32::MAX))
}

fn close(first: u32, last: Option<u32>) -> Result<()> {
    match last {
        Some(last) if first <= last => sys::close_range(first, last).call(|| format!("close_range({first}, {last})")),
        _ => Ok(()),
    }
}

/// Executes the user's program. Nothing else happens here, because a seccomp filter may allow nothing else.
pub fn exec(program: &Execve) -> Result<Infallible> {
    let errno = program.execve();
    let shown = program.path().to_string_lossy();
    Err(Error::sys(format_args!("exec {shown}"), errno).with_kind(kind(errno)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::super::credentials::Status;
    use super::super::explain::explain;
    use super::*;
    use crate::sys::process::testing::{in_child, spoil};
    use crate::sys::procfs::ProcFs;

    fn c(text: impl AsRef<Path>) -> CString {
        use std::os::unix::ffi::OsStrExt;
        CString::new(text.as_ref().as_os_str().as_bytes()).unwrap()
    }

    /// A directory that stands for a container's root.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("berth-exec-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn found(name: impl AsRef<Path>, path: Option<&str>) -> std::result::Result<String, (String, Kind)> {
        find(&c(name), path.map(str::as_bytes))
            .map(|found| found.into_string().unwrap())
            .map_err(|e| (e.to_string(), e.kind()))
    }

    #[test]
    fn programs_are_found_in_path() {
        let root = Root::new("path");
        root.file("plain", b"", 0o644);
        let program = root.file("program", b"", 0o755);
        std::fs::create_dir(root.0.join("directory")).unwrap();
        let dir = root.0.to_str().unwrap();
        let path = format!("/nonexistent::relative:{dir}");
        assert_eq!(found("program", Some(&path)), Ok(format!("{dir}/program")));
        assert_eq!(found(&program, None), Ok(format!("{dir}/program")));
        let missing =
            |name: &str| (format!("exec: {name:?}: executable file not found in $PATH"), Kind::CommandNotFound);
        for (name, path) in [
            ("none", Some(path.as_str())),
            ("plain", Some(&path)),
            ("directory", Some(&path)),
            ("program", None),
            ("program", Some("")),
            ("", Some(&path)),
        ] {
            assert_eq!(found(name, path), Err(missing(name)), "{name} in {path:?}");
        }
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        let root = Root::new("slash");
        let dir = root.0.to_str().unwrap();
        let plain = root.file("plain", b"", 0o644);
        let in_file = plain.join("x");
        let table = [
            (
                root.0.join("none"),
                format!("exec: \"{dir}/none\": stat {dir}/none: no such file or directory"),
                Kind::CommandNotFound,
            ),
            (root.0.clone(), format!("exec: \"{dir}\": is a directory"), Kind::CommandNotExecutable),
            (plain, format!("exec: \"{dir}/plain\": permission denied"), Kind::CommandNotExecutable),
            (
                in_file,
                format!("exec: \"{dir}/plain/x\": stat {dir}/plain/x: not a directory"),
                Kind::CommandNotExecutable,
            ),
        ];
        for (path, want, kind) in table {
            assert_eq!(found(path, Some("/bin")), Err((want, kind)));
        }
        let hint = find(&c(root.0.join("plain")), None).unwrap_err().hint().map(str::to_owned);
        assert_eq!(hint.as_deref(), Some("it has no execute permission (chmod +x)"));
    }

    #[test]
    fn a_relative_path_element_is_refused_as_runc_does() {
        let root = Root::new("relative");
        std::fs::create_dir(root.0.join("bin")).unwrap();
        root.file("bin/program", b"", 0o755);
        let (output, _) = in_child(|| {
            rustix::process::chdir(&root.0).unwrap();
            found("program", Some("bin")).unwrap_err().0
        });
        assert_eq!(output, "exec: \"program\": cannot run executable found relative to current directory");
    }

    /// Executes a file, and explains why that failed.
    fn failure(root: &Root, path: &Path) -> (String, Kind, Option<String>) {
        let opened = std::fs::File::open("/").unwrap();
        let (output, _) = in_child(|| {
            let error = exec(&Execve::new(c(path), vec![c(path)], Vec::new())).unwrap_err();
            let hint = explain(opened.as_fd(), c"/", &c(path), error.errno().unwrap());
            let text = error.to_string().replace(root.0.to_str().unwrap(), "");
            postcard::to_stdvec(&(text, error.kind(), hint)).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
        });
        let bytes: Vec<u8> =
            (0..output.len()).step_by(2).map(|i| u8::from_str_radix(&output[i..i + 2], 16).unwrap()).collect();
        postcard::from_bytes(&bytes).unwrap()
    }

    /// A 64-bit little-endian program for a machine, with PT_INTERP.
    fn elf(machine: u16, interpreter: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[16] = 2;
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[20] = 1;
        bytes[32] = 64;
        bytes[52] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 3;
        bytes[64 + 8] = 120;
        bytes[64 + 32] = interpreter.len() as u8 + 1;
        bytes.extend_from_slice(interpreter);
        bytes.push(0);
        bytes
    }

    #[test]
    fn failures_are_explained() {
        let root = Root::new("explain");
        let native = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
        let foreign = if cfg!(target_arch = "x86_64") { (183, "aarch64") } else { (62, "x86_64") };
        let arch = std::env::consts::ARCH;
        let (nf, ne) = (Kind::CommandNotFound, Kind::CommandNotExecutable);
        let enoent = "no such file or directory";
        let enoexec = "exec format error";
        let foreign_hint = format!("it is built for {}, and this machine is {arch}", foreign.1);
        type Case<'a> = (&'a str, &'a [u8], u32, &'a str, Kind, &'a str);
        let table: [Case; 9] = [
            (
                "script",
                b"#! /no/sh -e\n",
                0o755,
                enoent,
                nf,
                "the interpreter \"/no/sh\" of its #! line does not exist in the container",
            ),
            (
                "crlf",
                b"#!/bin/sh\r\n",
                0o755,
                enoent,
                nf,
                "its #! line ends with a carriage return after \"/bin/sh\": it has line ends of Windows",
            ),
            (
                "elf",
                &elf(native, b"/no/ld.so"),
                0o755,
                enoent,
                nf,
                "its dynamic loader \"/no/ld.so\" does not exist in the container: was it built for another libc?",
            ),
            ("foreign", &elf(foreign.0, b"/no/ld.so"), 0o755, enoexec, ne, &foreign_hint),
            ("empty", b"", 0o755, enoexec, ne, "the file is empty"),
            ("text", b"echo hello\n", 0o755, enoexec, ne, "it is neither an ELF binary nor has it a #! line"),
            ("bare", b"#!\n", 0o755, enoexec, ne, "its #! line names no interpreter"),
            ("plain", b"#!/bin/sh\n", 0o644, "permission denied", ne, "it has no execute permission (chmod +x)"),
            (
                "directory",
                b"#!/etc\n",
                0o755,
                "permission denied",
                ne,
                "its interpreter \"/etc\": a directory cannot be executed",
            ),
        ];
        for (name, content, mode, want, kind, hint) in table {
            let path = root.file(name, content, mode);
            let want = format!("exec /{name}: {want}");
            assert_eq!(failure(&root, &path), (want, kind, Some(hint.to_owned())));
        }
        let gone = failure(&root, &root.0.join("gone"));
        assert_eq!(
            gone,
            ("exec /gone: no such file or directory".into(), nf, Some("the file does not exist any more".into()))
        );
    }

    #[test]
    fn a_busy_file_is_explained() {
        let root = Root::new("busy");
        let path = root.file("busy", b"#!/bin/sh\n", 0o755);
        let _writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let (text, _, hint) = failure(&root, &path);
        assert_eq!(hint.as_deref(), Some("a process has the file open for writing"), "{text}");
    }

    #[test]
    fn the_explanation_looks_into_the_root_only() {
        let root = Root::new("inside");
        root.file("script", b"#!/bin/sh\n", 0o755);
        std::os::unix::fs::symlink("/script", root.0.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.0.join("outside")).unwrap();
        let opened = std::fs::File::open(&root.0).unwrap();
        let hint = |path: &CStr, errno| explain(opened.as_fd(), c"/x/..", path, errno);
        std::fs::create_dir(root.0.join("x")).unwrap();
        let missing = "the interpreter \"/bin/sh\" of its #! line does not exist in the container";
        for path in [c"/script", c"script", c"/link", c"../../script"] {
            assert_eq!(hint(path, Errno::NOENT).as_deref(), Some(missing), "{path:?}");
        }
        assert_eq!(hint(c"/outside", Errno::NOEXEC), None);
    }

    /// The output of a program that is executed by all steps, from a process in which everything is in disorder.
    fn output_of(name: &str, args: &[&str]) -> String {
        let root = Root::new(name);
        let stdout = std::fs::File::create(root.0.join("out")).unwrap();
        let (stray, kept) = (std::fs::File::open("/").unwrap(), std::io::pipe().unwrap());
        in_child(|| {
            spoil(&stdout);
            let _inherited = rustix::io::dup(&stray).unwrap();
            let program = find(&c(name), Some(b"/bin:/usr/bin")).unwrap();
            let program = Execve::new(program, args.iter().map(c).collect(), vec![c"PATH=/bin:/usr/bin".to_owned()]);
            let status = Status::read(&ProcFs::private().unwrap()).unwrap();
            reset_signals(status.ignored_signals().unwrap()).unwrap();
            close_descriptors(3, [kept.1.as_fd()]).unwrap();
            exec(&program).unwrap_err().to_string()
        });
        std::fs::read_to_string(root.0.join("out")).unwrap()
    }

    #[test]
    fn the_program_starts_with_default_signals() {
        let output = output_of("grep", &["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]);
        assert_eq!(output, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    }

    #[test]
    fn the_program_starts_with_no_stray_descriptors() {
        let script = "for fd in /proc/$$/fd/*; do [ -h $fd ] && echo ${fd##*/}; done";
        let output = output_of("sh", &["sh", "-c", script]);
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[..3], ["0", "1", "2"]);
        // The shell may hold a descriptor of its own, above 9. The descriptor of the directory that it listed is closed
        // by now.
        assert!(lines[3..].iter().all(|fd| fd.parse::<u32>().unwrap() >= 10), "{output}");
    }
}
