//! Limits changed while the container runs: all of them, or none.

use super::Cgroup;
use crate::error::{Error, Result};
use crate::plan::hierarchy::Directory;
use crate::plan::resources::{Missing, Update, Write};
use crate::plan::systemd::{self, Property};

/// The writes that bring back what was in force before.
#[derive(Debug)]
pub struct Undo(Vec<Write>);

impl Cgroup {
    /// What the writes of a plan are for: indices of [`Write::directory`] count these.
    pub fn directories(&self) -> Vec<Directory> {
        self.slots.iter().map(|slot| slot.directory.clone()).collect()
    }

    /// The text of `cpu.max`, where the container has it.
    pub fn cpu_max(&self) -> Option<String> {
        self.unified()?.read("cpu.max").ok()
    }

    /// Makes the writes; if one fails, those before it are taken back. systemd is told `properties` before: it writes
    /// them in its own way (a period without a quota is none to it), so ours has to come last.
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
        // systemd knows idleness as a weight of 0, and so is told the weight again.
        let idle = writes.iter().find(|write| self.is_unit() && write.file == "cpu.idle");
        let weight = idle.map(|write| Write { file: "cpu.weight".to_owned(), ..write.clone() });
        Undo(weight.iter().chain(writes.iter().rev()).filter_map(|write| self.reverse(write)).collect())
    }

    /// Takes back an update.
    pub fn undo(&self, Undo(writes): &Undo) -> Result<()> {
        let properties = systemd::properties(&mut writes.clone(), &self.directories(), &mut Vec::new());
        let told = self.set_unit_properties(&properties);
        // What depends on another that is still to come back is made again, and nothing keeps the rest from coming back.
        let failed = |write: &&Write| self.write_all(std::slice::from_ref(*write)).is_err();
        let left: Vec<_> = writes.iter().filter(failed).collect();
        let left: Vec<_> = left.into_iter().filter(failed).map(|write| write.file.as_str()).collect();
        if left.is_empty() {
            return told;
        }
        Err(Error::new(format_args!("what was in force before could not be restored: {}", left.join(", "))))
    }

    fn reverse(&self, write: &Write) -> Option<Write> {
        // What is absent may yet be there, as somebody else's.
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

/// What undoes the write of `value` to `file`, which read `before`. `None`: the file does not show its settings.
fn restoring(file: &str, value: &str, before: &str) -> Option<String> {
    // cgroup.procs, cgroup.kill, cgroup.subtree_control and the like act, or show other than is written.
    if file.starts_with("cgroup.") && !file.starts_with("cgroup.max.") {
        return None;
    }
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let key = first(value)?;
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
    // The newline alone empties a v2 cpuset, which then is its parent's; a write of nothing is none.
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
