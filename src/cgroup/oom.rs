//! Notices of kills by the kernel's OOM killer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Cgroup, Slot, dir, is_gone};
use crate::error::{Call, Result};

/// Wait on [`OomWatch::poll_fd`], then ask [`OomWatch::happened`].
#[derive(Debug)]
pub enum OomWatch {
    /// In v1 an eventfd counts the kills, and the removal of the cgroup.
    V1 { counter: OwnedFd, control: OwnedFd },
    /// v2 notifies of every change of `memory.events`.
    V2 { events: OwnedFd, kills: u64 },
}

impl Cgroup {
    /// `None` if no controller counts the container's memory.
    pub fn watch_oom(&self) -> Result<Option<OomWatch>> {
        if let Some(slot) = self.v1("memory") {
            return watch_v1(slot).map(Some);
        }
        let Some(slot) = self.unified() else { return Ok(None) };
        let events = match slot.open("memory.events", OFlags::RDONLY) {
            Err(e) if is_gone(e) => return Ok(None),
            events => events.call(|| format!("open({:?})", slot.path().join("memory.events")))?,
        };
        let mut watch = OomWatch::V2 { events, kills: 0 };
        // Earlier kills do not count; and the kernel notifies only of changes after a read.
        watch.happened()?;
        Ok(Some(watch))
    }
}

/// admin-guide/cgroup-v1/memory.rst, "OOM Control".
fn watch_v1(slot: &Slot) -> Result<OomWatch> {
    use std::os::fd::AsRawFd;
    let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).call(|| "eventfd2()")?;
    let file = "memory.oom_control";
    let control = slot.open(file, OFlags::RDONLY).call(|| format!("open({:?})", slot.path().join(file)))?;
    slot.write("cgroup.event_control", &format!("{} {}", counter.as_raw_fd(), control.as_raw_fd()))?;
    Ok(OomWatch::V1 { counter, control })
}

impl OomWatch {
    /// What becomes ready: to be read if it [is a counter](Self::is_counter), else with an exceptional condition
    /// (`POLLPRI`).
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::V1 { counter, .. } => counter.as_fd(),
            Self::V2 { events, .. } => events.as_fd(),
        }
    }

    pub fn is_counter(&self) -> bool {
        matches!(self, Self::V1 { .. })
    }

    pub fn poll_fd(&self) -> PollFd<'_> {
        match self {
            Self::V1 { counter, .. } => PollFd::new(counter, PollFlags::IN),
            Self::V2 { events, .. } => PollFd::new(events, PollFlags::PRI),
        }
    }

    /// Whether it has happened since the last call.
    pub fn happened(&mut self) -> Result<bool> {
        match self {
            Self::V1 { counter, control } => {
                let mut count = [0; 8];
                match rustix::io::read(&*counter, &mut count) {
                    Err(Errno::AGAIN) => return Ok(false),
                    read => read.call(|| "read(eventfd)")?,
                };
                let removed = dir::read_open(control.as_fd()).is_err_and(is_gone);
                Ok(u64::from_ne_bytes(count) > u64::from(removed))
            }
            Self::V2 { events, kills } => {
                let text = match dir::read_open(events.as_fd()) {
                    Err(e) if is_gone(e) => return Ok(false),
                    text => text.call(|| "read(memory.events)")?,
                };
                let before = std::mem::replace(kills, dir::keyed(&text, "oom_kill").unwrap_or(0));
                Ok(*kills > before)
            }
        }
    }
}
