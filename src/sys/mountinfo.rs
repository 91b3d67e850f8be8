//! proc_pid_mountinfo(5), for properties of mounts that no system call tells.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub struct MountInfo<'a> {
    pub id: u64,
    pub parent: u64,
    /// The directory of the filesystem that is mounted.
    pub root: PathBuf,
    pub point: PathBuf,
    /// Its peer group.
    pub shared: Option<u64>,
    /// The peer group that it receives from.
    pub master: Option<u64>,
    /// The filesystem's type.
    pub kind: &'a [u8],
    /// The filesystem's own options, separated by commas.
    pub options: &'a [u8],
}

/// Lines that the kernel would not write are skipped.
pub fn entries(text: &[u8]) -> impl Iterator<Item = MountInfo<'_>> {
    text.split(|&byte| byte == b'\n').filter_map(entry)
}

fn entry(line: &[u8]) -> Option<MountInfo<'_>> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let dash = fields.iter().position(|&field| field == b"-")?;
    let optional = |name: &[u8]| fields.get(6..dash)?.iter().find_map(|field| number(field.strip_prefix(name)?));
    Some(MountInfo {
        id: number(fields[0])?,
        parent: number(fields.get(1)?)?,
        root: unescape(fields.get(3)?),
        point: unescape(fields.get(4)?),
        shared: optional(b"shared:"),
        master: optional(b"master:"),
        kind: fields.get(dash + 1)?,
        options: fields.get(dash + 3).copied().unwrap_or_default(),
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The kernel writes blanks and the like as `\040`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(plain).into()
}

/// The peer groups that propagate to one of these mounts: mounting in them, or unmounting, also happens here.
pub fn groups_that_reach(text: &[u8]) -> BTreeSet<u64> {
    entries(text).flat_map(|entry| [entry.shared, entry.master]).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 0:5 / /proc rw,nosuid shared:12 - proc proc rw\n\
        23 1 0:6 /a\\040b /a\\040b rw shared:7 master:3 - sysfs sysfs rw\n\
        garbage\n\
        25 22 0:7 / /run rw - tmpfs tmpfs rw\n";

    #[test]
    fn the_kernels_lines() {
        let found: Vec<_> = entries(TABLE).collect();
        let proc = MountInfo {
            id: 22,
            parent: 1,
            root: "/".into(),
            point: "/proc".into(),
            shared: Some(12),
            master: None,
            kind: b"proc",
            options: b"rw",
        };
        assert_eq!((found.len(), &found[0]), (3, &proc));
        assert_eq!((found[1].point.to_str(), found[1].shared, found[1].master), (Some("/a b"), Some(7), Some(3)));
        assert_eq!(found[1].root.to_str(), Some("/a b"));
        assert_eq!((found[2].parent, found[2].shared, found[2].master), (22, None, None));
    }

    #[test]
    fn names_that_are_not_utf_8() {
        let found: Vec<_> = entries(b"36 32 0:29 / /\xff rw - cgroup2 cgroup rw,nsdelegate").collect();
        assert_eq!(found[0].point.as_os_str().as_encoded_bytes(), b"/\xff");
        assert_eq!((found[0].kind, found[0].options), (&b"cgroup2"[..], &b"rw,nsdelegate"[..]));
    }

    #[test]
    fn peers_and_what_receives_from_them() {
        assert_eq!(groups_that_reach(TABLE), BTreeSet::from([3, 7, 12]));
    }
}
