//! What a test has left on the machine.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The state directories below the runtime's root.
pub fn containers(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with('.')).collect()
}

pub fn mountinfo() -> String {
    String::from_utf8_lossy(&fs::read("/proc/thread-self/mountinfo").unwrap()).into_owned()
}

/// The mounts of this thread's namespace: their ids and mount points.
pub fn mounts() -> Vec<(String, PathBuf)> {
    let of_line = |line: &str| {
        let mut fields = line.split(' ');
        (fields.next().unwrap().to_owned(), PathBuf::from(fields.nth(3).unwrap()))
    };
    mountinfo().lines().map(of_line).collect()
}

/// `mounts` without those that have gone with their mount points: who removes a directory takes away what is mounted
/// there in other namespaces, as systemd does with the credentials of a service that ends.
pub fn standing(mut mounts: Vec<(String, PathBuf)>) -> Vec<(String, PathBuf)> {
    let now = self::mounts();
    mounts.retain(|mount| now.contains(mount) || mount.1.symlink_metadata().is_ok());
    mounts
}

/// The mount points at or below `dir`, the last mounted first.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let info = mountinfo();
    let points = info.lines().rev().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}

/// The directories of the cgroup `path`, and below it, in every hierarchy; children first.
pub fn cgroups(path: &str) -> Vec<PathBuf> {
    let info = mountinfo();
    let hierarchies = info.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let mut dirs = Vec::new();
    for hierarchy in hierarchies {
        walk(&PathBuf::from(format!("{hierarchy}{path}")), &mut dirs);
    }
    dirs
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        walk(&entry.path(), found);
    }
    found.push(dir.to_owned());
}

pub fn remove_cgroups(path: &str) {
    for _ in 0..200 {
        for dir in cgroups(path) {
            let _ = fs::write(dir.join("freezer.state"), "THAWED");
            let _ = fs::remove_dir(dir);
        }
        if cgroups(path).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The living processes of this test: those in its cgroups, and those in its mount namespace.
pub fn processes(cgroup: &str) -> Vec<i32> {
    let own = fs::metadata("/proc/thread-self/ns/mnt").unwrap().ino();
    let me = std::process::id().cast_signed();
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| pid != me)
        .filter(|pid| {
            let in_namespace = fs::metadata(format!("/proc/{pid}/ns/mnt")).is_ok_and(|ns| ns.ino() == own);
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            (in_namespace || cgroups.contains(&format!("{cgroup}/"))) && !is_zombie(*pid)
        })
        .collect()
}

pub fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Killed processes take a moment to go.
#[track_caller]
pub fn assert_no_process(cgroup: &str) {
    let describe = |pid: &i32| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("{pid}: {}", command.replace('\0', " "))
    };
    let mut left = Vec::new();
    for _ in 0..100 {
        left = processes(cgroup);
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let left: Vec<_> = left.iter().map(describe).collect();
    panic!("processes are left: {left:#?}");
}
