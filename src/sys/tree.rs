//! Trees of processes, as /proc shows them.

use std::fs;

use super::signal;
use super::stat::Stat;

/// The process and all its descendants, parents first. None for a process that is gone.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children(pid));
        next += 1;
    }
    found
}

/// Kills the process and all its descendants. Each is stopped before its children are listed, so it makes no more.
///
/// A stopped parent reaps nobody, so the pids of its children stay theirs until the signal. Only the children of a
/// parent that ignores SIGCHLD are reaped by the kernel as they end (wait(2)): such a pid could belong to another
/// process by then.
pub fn kill(pid: i32) {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        let _ = signal::kill(pid.cast_unsigned(), libc::SIGSTOP);
        found.extend(children(pid));
        next += 1;
    }
    for pid in found.into_iter().rev() {
        let _ = signal::kill(pid.cast_unsigned(), libc::SIGKILL);
    }
}

/// The children of all threads of the process: each thread lists those that it made.
pub fn children(pid: i32) -> Vec<i32> {
    let list = |thread| fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")).unwrap_or_default();
    let parse = |text: String| text.split_whitespace().filter_map(|child| child.parse().ok()).collect::<Vec<_>>();
    threads(pid).into_iter().flat_map(|thread| parse(list(thread))).collect()
}

/// The threads of a process.
pub fn threads(pid: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether a process has ended or is about to. (The first process of a PID namespace first waits for the others in it.)
pub fn is_ending(pid: i32) -> bool {
    /// linux/sched.h
    const PF_EXITING: u64 = 4;
    let flags = Stat::read(pid).ok().flatten().and_then(|stat| stat.flags());
    flags.is_none_or(|flags| flags & PF_EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_and_their_children() {
        let mut shell =
            std::process::Command::new("/bin/sh").args(["-c", "sh -c 'sleep 60; :' & wait"]).spawn().unwrap();
        let pid = shell.id().cast_signed();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while descendants(pid).len() < 3 && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        let found = descendants(pid);
        assert_eq!((found.len(), found[0]), (3, pid), "{found:?}");
        assert!(!is_ending(pid));
        kill(pid);
        while !found.iter().all(|pid| is_ending(*pid)) && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(found.iter().all(|pid| is_ending(*pid)), "a zombie has ended");
        shell.wait().unwrap();
        assert!(is_ending(pid) && threads(pid).is_empty());
    }
}
