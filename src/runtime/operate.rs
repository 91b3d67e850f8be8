//! Pausing, resuming, and listing processes.

use crate::error::{Error, Kind, Result};
use crate::spec::Status;

use super::container::Container;

impl Container<'_> {
    /// Stops all processes where they are. A command that waits for init, such as `start`, may finish first.
    pub fn pause(self) -> Result<()> {
        self.check_running()?;
        let locked = self.lock()?;
        locked.check_running()?;
        locked.record.cgroup.freeze()
    }

    fn check_running(&self) -> Result<()> {
        match self.status()? {
            Status::Created | Status::Running => Ok(()),
            status => Err(not_running(status)),
        }
    }

    /// Also thaws a container that somebody froze by hand. Takes no lock: its holder may be waiting for the frozen
    /// init.
    pub fn resume(&self) -> Result<()> {
        match self.status()? {
            Status::Paused => self.record.cgroup.thaw(),
            status => {
                Err(Error::new("container not paused").with_kind(Kind::State).with_hint(format_args!("it is {status}")))
            }
        }
    }

    /// Every process of the container, by its number in the runtime's PID namespace; none once it has ended.
    pub fn pids(&self) -> Result<Vec<u32>> {
        if self.record.cgroup.is_empty() && self.status()? != Status::Stopped {
            return Err(Error::new("unable to get all container pids: the container has no cgroup of its own"));
        }
        self.record.cgroup.pids()
    }
}

pub(super) fn not_running(status: Status) -> Error {
    Error::new("container not running").with_kind(Kind::State).with_hint(format_args!("it is {status}"))
}
