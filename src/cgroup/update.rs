//! Changing limits while the container runs: all of them, or none.

use super::Cgroup;
use crate::error::{Error, Result};
use crate::plan::hierarchy::Directory;
use crate::plan::resources::{Missing, Update, Write};
use crate::plan::systemd::{self, Property};

/// The writes that restore the earlier settings.
#[derive(Debug)]
pub struct Undo(Vec<Write>);

impl Cgroup {
    /// The directories that a plan's writes are for: [`Write::directory`] is an index into this list.
    pub fn directories(&self) -> Vec<Directory> {
        self.slots.iter().map(|slot| slot.directory.clone()).collect()
    }

    /// The text of `cpu.max`, if the container has that file.
    pub fn cpu_max(&self) -> Option<String> {
        self.unified()?.read("cpu.max").ok()
    }

    /// Makes the writes. If one fails, the earlier ones are undone. systemd is told `properties` first, as it writes
    /// them in its own way (a period without a quota is none for it), and the last write counts.
    pub fn update(&self, update: &Update, properties: &[Property]) -> Result<Undo> {
        if let Some(check) = &update.memory_check {
            self.check_memory(check)?;
        }
        let undo = self.what_undoes(&update.writes);
        self.set_unit_properties(properties)?;
        match self.write_all(&update.writes) {
            Ok(()) => Ok(undo),
            Err(e) => Err(self.undo(&undo).err().map_or(e.clone(), |left| e.with_hint(left))),
        }
    }

    fn what_undoes(&self, writes: &[Write]) -> Undo {
        // systemd represents idleness as a weight of 0, so it has to be told the weight again.
        let idle = writes.iter().find(|write| self.is_unit() && write.file == "cpu.idle");
        let weight = idle.map(|write| Write { file: "cpu.weight".to_owned(), ..write.clone() });
        Undo(weight.iter().chain(writes.iter().rev()).filter_map(|write| self.reverse(write)).collect())
    }

    /// Undoes an update.
    pub fn undo(&self, Undo(writes): &Undo) -> Result<()> {
        let properties = systemd::properties(&mut writes.clone(), &self.directories(), &mut Vec::new());
        let told = self.set_unit_properties(&properties);
        // A setting that depends on a later one is written again. A failure does not keep the others from being
        // restored.
        let failed = |write: &&Write| self.write_all(std::slice::from_ref(*write)).is_err();
        let left: Vec<_> = writes.iter().filter(failed).collect();
        let left = left.into_iter().filter(failed).filter(|write| !self.is_in_force(write));
        let left: Vec<_> = left.map(|write| write.file.as_str()).collect();
        if left.is_empty() {
            return told;
        }
        Err(Error::new(format_args!("what was in force before could not be restored: {}", left.join(", "))))
    }

    /// Whether the file shows what `write` would restore: the update did not come so far as to change it.
    fn is_in_force(&self, write: &Write) -> bool {
        let shown = self.slots.get(write.directory).and_then(|slot| slot.read(&write.file).ok());
        shown.and_then(|shown| restoring(&write.file, &write.value, &shown)).as_ref() == Some(&write.value)
    }

    fn reverse(&self, write: &Write) -> Option<Write> {
        // A cgroup that is absent for this container may exist as somebody else's.
        let slot = self.slots.get(write.directory).filter(|slot| !slot.absent)?;
        let (file, value, before) = match (slot.read(&write.file), &write.missing) {
            (Ok(before), _) => (&write.file, &write.value, before),
            (Err(_), Missing::Instead(file, value)) => (file, value, slot.read(file).ok()?),
            (Err(_), _) => return None,
        };
        let value = restoring(file, value, &before)?;
        Some(Write { file: file.clone(), value, missing: Missing::Error, ..write.clone() })
    }
}

/// The write that undoes the write of `value` to `file`, which contained `before`. `None`: the file does not show its
/// settings.
fn restoring(file: &str, value: &str, before: &str) -> Option<String> {
    // Files such as cgroup.procs, cgroup.kill and cgroup.subtree_control act, or show something other than was written.
    if file.starts_with("cgroup.") && !file.starts_with("cgroup.max.") {
        return None;
    }
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let key = first(value).unwrap_or_default();
    // One line for each device or interface.
    if key.contains(':') || matches!(file, "net_prio.ifpriomap" | "rdma.max") {
        return match before.lines().find(|line| first(line).as_ref() == Some(&key)) {
            Some(line) => Some(line.to_owned()),
            None if file == "io.max" => Some(format!("{key} rbps=max wbps=max riops=max wiops=max")),
            None if file == "io.bfq.weight" => Some(format!("{key} default")),
            None if file.starts_with("blkio.") => Some(format!("{key} 0")),
            None => None,
        };
    }
    let line = before.lines().next().unwrap_or_default();
    let named = ["default ", "oom_kill_disable "].iter().find_map(|name| line.strip_prefix(name));
    // A newline alone empties a v2 cpuset, which then has its parent's value. Writing nothing has no effect.
    Some(format!("{}\n", named.unwrap_or(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_before_can_be_written_again() {
        for (file, value, before, expected) in [
            ("memory.max", "1", "max\n", Some("max\n")),
            ("cpu.max", "max 100000", "5000 10000\n", Some("5000 10000\n")),
            ("cpuset.cpus", "0", "\n", Some("\n")),
            ("io.weight", "200", "default 100\n8:0 50\n", Some("100\n")),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\n", Some("0\n")),
            ("io.max", "8:0 rbps=1", "8:16 rbps=2 wbps=max\n8:0 rbps=max wbps=7\n", Some("8:0 rbps=max wbps=7")),
            ("io.max", "8:0 rbps=1", "", Some("8:0 rbps=max wbps=max riops=max wiops=max")),
            ("blkio.throttle.read_bps_device", "8:0 1", "", Some("8:0 0")),
            ("blkio.throttle.read_bps_device", "8:0 1", "8:0 77\n", Some("8:0 77")),
            ("io.bfq.weight", "8:0 10", "default 100\n", Some("8:0 default")),
            ("net_prio.ifpriomap", "lo 3", "lo 0\neth0 1\n", Some("lo 0")),
            ("rdma.max", "mlx5_0 hca_handle=2", "", None),
            ("cgroup.max.depth", "3", "max\n", Some("max\n")),
            ("cgroup.subtree_control", "+cpu", "memory\n", None),
        ] {
            assert_eq!(restoring(file, value, before).as_deref(), expected, "{file} {value}");
        }
    }
}
