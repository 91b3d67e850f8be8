//! The owners of cgroups. The owner of a cgroup, or of a file in it, can freeze and kill all processes in it and below
//! it, and lift its limits.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, stat, statat};
use rustix::io::Errno;

use super::systemd::path_in;
use super::{Cgroup, Slot};
use crate::error::{Call, Error, Result};
use crate::files;

impl Cgroup {
    /// Refuses a cgroup, just made or found, that another user could control. If a cgroup above it is delegated to a
    /// user, that user may have made it in advance.
    pub(super) fn refuse_others(&self) -> Result<()> {
        for slot in self.present() {
            let path = slot.path();
            let above = path.ancestors().skip(1).take_while(|above| *above != slot.directory.mountpoint);
            for above in above {
                let uid = owner(above)?;
                // A user who owns the runtime's own cgroup controls the runtime anyway: `sudo` in a session with
                // cgroups of that user.
                if !files::trusts(uid) && !is_ours(slot, above) {
                    return Err(refusal(above, uid).with_hint("give a /linux/cgroupsPath that is not below it"));
                }
            }
            if !slot.fresh {
                check_files(slot, &path)?;
            }
        }
        Ok(())
    }
}

fn owner(path: &Path) -> Result<u32> {
    stat(path).call(|| format!("stat({path:?})")).map(|stat| stat.st_uid)
}

fn check_files(slot: &Slot, path: &Path) -> Result<()> {
    let dir = slot.dir().call(|| format!("open({path:?})"))?;
    // The entry "." is the cgroup itself. The cgroups below it are checked as well, because they will be removed with
    // it.
    for entry in Dir::read_from(dir).call(|| format!("getdents({path:?})"))? {
        let entry = entry.call(|| format!("getdents({path:?})"))?;
        let name = entry.file_name();
        let uid = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat.call(|| format!("stat({path:?}, {name:?})"))?.st_uid,
        };
        if name != c".." && !files::trusts(uid) {
            let hint = "it was there before the container, and is not taken over: remove it, or give another path";
            return Err(refusal(path, uid).with_hint(hint));
        }
    }
    Ok(())
}

fn refusal(path: &Path, uid: u32) -> Error {
    Error::new(format_args!("cgroup {path:?} belongs to user {uid}, who could freeze and kill the container"))
}

/// Whether the runtime is in this cgroup, or below it.
fn is_ours(slot: &Slot, cgroup: &Path) -> bool {
    let own = std::fs::read("/proc/self/cgroup").unwrap_or_default();
    let own: Option<PathBuf> = path_in(&own, &slot.directory.controllers, slot.directory.unified);
    match (own, cgroup.strip_prefix(&slot.directory.mountpoint)) {
        (Some(own), Ok(cgroup)) => own.starts_with(cgroup),
        _ => false,
    }
}
