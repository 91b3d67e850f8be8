//! `HOME` from the container's own user database.
//!
//! It is read as the process's user, with the capabilities of the process in effect and no others. The image decides
//! what the file is: it may be a link to a file that the container itself must not read.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::AsFd;

use rustix::fs::{self, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Call, Error, Result};
use crate::plan::process::Env;
use crate::sys::procfs::ProcFs;

const PASSWD: &str = "/etc/passwd";

/// The image wrote the file, so reading stops here, however long it is (CVE-2026-47262).
const LONGEST: u64 = 1 << 20;

/// The environment to exec with, and why `HOME` could not be looked up. `proc` is the root of a procfs.
pub fn complete(env: Env, uid: u32, proc: &ProcFs) -> (Vec<CString>, Option<Error>) {
    let Env { mut vars, home_missing } = env;
    if !home_missing {
        return (vars, None);
    }
    let (passwd, error) = match read(PASSWD, proc) {
        Ok(passwd) => (passwd, None),
        Err(e) => (Vec::new(), Some(e)),
    };
    let home = [b"HOME=", lookup(&passwd, uid).unwrap_or(b"/")].concat();
    vars.extend(CString::new(home));
    // Many images have none.
    let error = error.filter(|e| e.errno() != Some(Errno::NOENT));
    (vars, error.map(|e| e.context("HOME is \"/\", as the user's own cannot be looked up")))
}

fn read(path: &str, proc: &ProcFs) -> Result<Vec<u8>> {
    let call = || format!("open({path:?})");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).call(call)?;
    // Opening a device or a FIFO would have an effect already.
    if FileType::from_raw_mode(fs::fstat(&found).call(call)?.st_mode) != FileType::RegularFile {
        return Err(Error::new(format_args!("{path:?} is not a regular file")));
    }
    let file = proc.reopen(found.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let mut content = Vec::new();
    std::fs::File::from(file).take(LONGEST).read_to_end(&mut content).call(|| format!("read({path:?})"))?;
    Ok(content)
}

/// The home directory in the first entry of `uid`. A relative or empty one is ignored (passwd(5)).
pub fn lookup(passwd: &[u8], uid: u32) -> Option<&[u8]> {
    let home = passwd.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.trim_ascii().split(|&byte| byte == b':').skip(2);
        let id: u32 = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        (id == uid).then(|| fields.nth(2))?
    })?;
    (home.starts_with(b"/") && !home.contains(&0)).then_some(home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_looked_up_by_number() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\n# comment\n\n  web:x:33:33::/var/www:/bin/sh\n\
            33:x:7:7::/wrong:/x\nshort:x:8\nempty:x:9:9:::\nrel:x:10:10::home:\nroot2:x:0:0::/second:\nbad:x:+11:1::/b:\n\
            last:x:12:12::/last";
        let table: [(u32, Option<&[u8]>); 8] = [
            (0, Some(b"/root")),
            (33, Some(b"/var/www")),
            (7, Some(b"/wrong")),
            (8, None),
            (9, None),
            (10, None),
            (12, Some(b"/last")),
            (1000, None),
        ];
        for (uid, want) in table {
            assert_eq!(lookup(passwd, uid), want, "{uid}");
        }
    }

    #[test]
    fn only_a_missing_home_is_added() {
        let proc = ProcFs::private().unwrap();
        let complete = |env, uid| {
            let (vars, error) = complete(env, uid, &proc);
            assert!(error.is_none(), "{error:?}");
            vars
        };
        let given = Env { vars: vec![c"HOME=/x".into()], home_missing: false };
        assert_eq!(complete(given, 0), [c"HOME=/x".to_owned()]);
        let missing = Env { vars: vec![c"A=1".into()], home_missing: true };
        assert_eq!(complete(missing.clone(), u32::MAX - 1), [c"A=1".to_owned(), c"HOME=/".to_owned()]);
        assert_eq!(complete(missing, 0)[1], c"HOME=/root".to_owned());
    }

    #[test]
    fn what_is_no_regular_file_is_not_read() {
        let proc = ProcFs::private().unwrap();
        let read = |path| read(path, &proc).map_err(|e| e.to_string());
        assert_eq!(read("/dev/zero"), Err("\"/dev/zero\" is not a regular file".to_owned()));
        assert_eq!(read("/"), Err("\"/\" is not a regular file".to_owned()));
        assert_eq!(read("/nonexistent"), Err("open(\"/nonexistent\"): no such file or directory".to_owned()));
        assert!(read("/etc/passwd").is_ok());
    }
}
