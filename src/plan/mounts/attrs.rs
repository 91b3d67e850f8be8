//! The attributes of mounts, and their propagation.

use serde::{Deserialize, Serialize};

/// Attributes of a mount, as `mount_setattr(2)` and `fsmount(2)` number them (`<linux/mount.h>`).
pub mod attr {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    /// The field of access-time modes: an enumeration whose zero is `relatime`.
    pub const ATIME: u64 = 0x70;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
    /// Attributes that a bind mount with options has only if the options name them. Access times are kept unless they
    /// are named.
    pub const CLEARABLE: u64 = RDONLY | NOSUID | NODEV | NOEXEC | NOSYMFOLLOW;
}

/// A change of attributes: first `clear`, then `set`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attrs {
    pub set: u64,
    pub clear: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
    Unbindable,
}

/// A change of propagation, of the mount alone or of all below it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PropagationChange {
    pub kind: Propagation,
    pub recursive: bool,
}

impl PropagationChange {
    pub fn parse(word: &str) -> Option<Self> {
        let (word, recursive) = match word.strip_prefix('r') {
            Some(rest) => (rest, true),
            None => (word, false),
        };
        let kind = match word {
            "private" => Propagation::Private,
            "slave" => Propagation::Slave,
            "shared" => Propagation::Shared,
            "unbindable" => Propagation::Unbindable,
            _ => return None,
        };
        Some(Self { kind, recursive })
    }
}

/// In a file system of the kernel, nothing may be executed, set the user id, or be a device.
pub const HARMLESS: u64 = attr::NOSUID | attr::NODEV | attr::NOEXEC;
