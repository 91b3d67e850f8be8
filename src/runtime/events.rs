//! What a running container uses, and what happens to it.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use serde::Serialize;

use crate::cgroup;
use crate::error::{Call, Context, Error, Kind, Result};
use crate::resctrl;
use crate::sys::wait::poll_within;

use super::container::Container;

/// In the order in which runc prints it.
#[derive(Debug, Serialize)]
pub struct Stats {
    #[serde(flatten)]
    cgroup: cgroup::stats::Stats,
    intel_rdt: resctrl::Stats,
    /// Interfaces that libcontainer made. The specification leaves that to others, so there are none.
    network_interfaces: Option<()>,
}

#[derive(Debug)]
pub enum Event {
    Stats(Box<Stats>),
    /// The kernel killed a process because memory ran out.
    Oom,
}

impl Container<'_> {
    /// What the container uses now, if it runs.
    pub fn stats(&self) -> Result<Stats> {
        self.init_pidfd()?;
        self.read_stats()
    }

    /// Reports events until the container has ended, and its usage every `interval`.
    pub fn watch(&self, interval: Duration, mut tell: impl FnMut(Event) -> Result<()>) -> Result<()> {
        let init = self.init_pidfd()?;
        let mut oom = self.record.cgroup.watch_oom().context("out-of-memory events")?;
        if oom.is_none() {
            (self.runtime.warn)("no memory controller: nobody will be told of out-of-memory kills");
        }
        let mut next = Instant::now() + interval;
        loop {
            let mut fds = vec![PollFd::new(&init, PollFlags::IN)];
            fds.extend(oom.as_ref().map(|oom| oom.poll_fd()));
            let left = next.saturating_duration_since(Instant::now());
            let ready = poll_within(&mut fds, Some(left)).call(|| "poll()")? > 0;
            let ended = ready && !fds[0].revents().is_empty();
            // Reports the event that ended the container, too.
            if let Some(oom) = oom.as_mut().filter(|_| ready)
                && oom.happened()?
            {
                tell(Event::Oom)?;
            }
            if ended {
                return Ok(());
            }
            if Instant::now() >= next {
                next = (next + interval).max(Instant::now());
                match self.read_stats() {
                    Ok(stats) => tell(Event::Stats(Box::new(stats)))?,
                    // The container may be ending right now.
                    Err(e) => (self.runtime.warn)(&e.to_string()),
                }
            }
        }
    }

    fn init_pidfd(&self) -> Result<std::os::fd::OwnedFd> {
        let init = self.record.init.map(|init| init.open()).transpose()?.flatten();
        let stopped = || Error::new(format_args!("container with id {} is not running", self.id()));
        init.ok_or_else(|| stopped().with_kind(Kind::State))
    }

    fn read_stats(&self) -> Result<Stats> {
        let intel_rdt = match &self.record.intel_rdt {
            Some(rdt) => resctrl::stats(resctrl::root()?.as_fd(), &rdt.plan)?,
            None => resctrl::Stats::default(),
        };
        Ok(Stats { cgroup: self.record.cgroup.stats()?, intel_rdt, network_interfaces: None })
    }
}
