//! `/proc/PID/cgroup` (cgroups(7)): the cgroups of a process.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// One line: `4:cpu,cpuacct:/user.slice`, `1:name=systemd:/`, or for v2 `0::/user.slice`.
#[derive(Clone, Copy, Debug)]
pub struct Membership<'a> {
    /// Separated by commas; none for v2.
    list: &'a [u8],
    /// From the root of the cgroup namespace of the process that reads the file. The names in it may be any bytes.
    pub path: &'a Path,
}

impl<'a> Membership<'a> {
    pub fn is_v2(&self) -> bool {
        self.list.is_empty()
    }

    /// The controllers of a v1 hierarchy, or its name.
    pub fn controllers(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.list.split(|&byte| byte == b',').filter(|name| !name.is_empty())
    }
}

pub fn memberships(text: &[u8]) -> impl Iterator<Item = Membership<'_>> {
    text.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.splitn(3, |&byte| byte == b':').skip(1);
        let (list, path) = (fields.next()?, fields.next()?);
        Some(Membership { list, path: Path::new(OsStr::from_bytes(path)) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hierarchies() {
        let text = b"12:cpu,cpuacct:/a:b\n1:name=systemd:/\n2:pids:/\xff\n0::/init.scope\ngarbage\n";
        let found: Vec<_> = memberships(text).collect();
        let controllers: Vec<Vec<_>> = found.iter().map(|m| m.controllers().collect()).collect();
        assert_eq!(controllers, [&[&b"cpu"[..], b"cpuacct"][..], &[b"name=systemd"], &[b"pids"], &[]]);
        let paths: Vec<_> = found.iter().map(|m| m.path.as_os_str().as_encoded_bytes()).collect();
        assert_eq!(paths, [&b"/a:b"[..], b"/", b"/\xff", b"/init.scope"]);
        assert_eq!(found.iter().position(|m| m.is_v2()), Some(3));
    }
}
