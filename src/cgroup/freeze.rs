//! Freezing, and signalling all processes at once.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Cgroup, Slot, dir, is_gone};
use crate::error::{Call, Error, Result};
use crate::sys::signal::kill;

/// How long freezing may take.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);
/// The same, if it serves only to signal all processes before they fork.
const SIGNAL_FREEZE_TIMEOUT: Duration = Duration::from_millis(500);

impl Cgroup {
    /// The v1 freezer, if there is one. Then v2 has no freezer for the same processes.
    fn freezer(&self) -> Option<&Slot> {
        self.v1("freezer").or_else(|| self.unified())
    }

    /// The directory in which all processes of the container can be frozen.
    pub fn freezer_path(&self) -> Option<PathBuf> {
        self.freezer().map(Slot::path)
    }

    /// Freezes all processes of the container. On failure they run on.
    pub fn freeze(&self) -> Result<()> {
        self.freeze_within(FREEZE_TIMEOUT)
    }

    fn freeze_within(&self, timeout: Duration) -> Result<()> {
        let slot = self.freezer().ok_or_else(|| {
            Error::new("cannot toggle freezer: cgroups not configured for container")
                .with_hint("only a container that has a cgroup of its own can be paused")
        })?;
        if slot.is_replaced() {
            return Err(Error::new(format_args!("the cgroup {:?} is not the container's any more", slot.path())));
        }
        let deadline = Instant::now() + timeout;
        let frozen = if slot.directory.unified { freeze_v2(slot, deadline) } else { freeze_v1(slot, deadline) };
        match frozen {
            Ok(true) => Ok(()),
            // A half-frozen container is worse than a running one.
            Ok(false) => {
                self.thaw()?;
                Err(Error::new(format_args!("unable to freeze {:?} within {timeout:?}", slot.path()))
                    .with_hint("a process in it waits in the kernel without interruption"))
            }
            Err(e) => {
                let _ = self.thaw();
                Err(e)
            }
        }
    }

    /// Thaws all processes. A container without a cgroup, or with a removed one, is not frozen.
    pub fn thaw(&self) -> Result<()> {
        let Some(slot) = self.freezer() else { return Ok(()) };
        let unified = slot.directory.unified;
        let (file, value) = if unified { ("cgroup.freeze", "0") } else { ("freezer.state", "THAWED") };
        match slot.write(file, value) {
            Err(e) if e.errno().is_some_and(is_gone) => Ok(()),
            other => other,
        }
    }

    /// For processes that were killed: the v1 freezer holds back even these. Thaws also what the container itself has
    /// frozen, in cgroups below its own.
    pub fn thaw_all(&self) -> Result<()> {
        if let Some(rest) = self.without_replaced() {
            return rest.thaw_all();
        }
        if self.is_frozen()? {
            self.thaw()?;
        }
        let Some(slot) = self.v1("freezer") else { return Ok(()) };
        match slot.below(dir::thaw) {
            Err(e) if e.errno().is_some_and(is_gone) => Ok(()),
            thawed => thawed,
        }
    }

    /// Whether the container's own cgroup was frozen. Cgroups above it do not count.
    pub fn is_frozen(&self) -> Result<bool> {
        let Some(slot) = self.freezer() else { return Ok(false) };
        let file = if slot.directory.unified { "cgroup.freeze" } else { "freezer.self_freezing" };
        match slot.read(file) {
            Err(e) if e.errno().is_some_and(is_gone) => Ok(false),
            text => Ok(text?.trim() == "1"),
        }
    }

    /// Sends `signal` to every process of the container. Signal 0 only checks. A container without processes is no
    /// error.
    ///
    /// Until [`Cgroup::create`] has succeeded, the processes are not the container's, and none is signalled.
    pub fn kill(&self, signal: i32) -> Result<()> {
        if !self.owned {
            return Ok(());
        }
        if let Some(rest) = self.without_replaced() {
            return rest.kill(signal);
        }
        if signal != libc::SIGKILL {
            return self.signal_frozen(signal);
        }
        let Some(slot) = self.unified() else { return self.signal_frozen(signal) };
        // Atomic: new children are killed as well, and so are frozen processes.
        match slot.write("cgroup.kill", "1") {
            Err(e) if e.errno().is_some_and(is_gone) => {}
            // A threaded cgroup: its processes belong to a domain above it.
            Err(e) if e.errno() == Some(Errno::OPNOTSUPP) => self.signal_until_none_is_new(signal)?,
            other => other?,
        }
        if self.v1("freezer").is_some() {
            // The v1 freezer holds back even killed processes. And processes that are only in v1 have not been killed,
            // and would run on.
            self.signal_each(signal, &self.listed()?)?;
            self.thaw_all()?;
        }
        if self.slots.iter().any(|s| !s.directory.unified) {
            // Processes that another tool put only into v1.
            self.signal_until_none_is_new(signal)?;
        }
        Ok(())
    }

    /// Frozen processes do not fork, and their pids are not reused.
    fn signal_frozen(&self, signal: i32) -> Result<()> {
        if self.freezer().is_none() {
            return self.signal_until_none_is_new(signal);
        }
        let paused = self.is_frozen()?;
        // Processes that do not freeze in time are signalled all the same.
        let frozen = paused || self.freeze_within(SIGNAL_FREEZE_TIMEOUT).is_ok();
        let result =
            if frozen { self.signal_each(signal, &self.listed()?) } else { self.signal_until_none_is_new(signal) };
        // A paused container stays paused, unless it could not die then.
        if signal == libc::SIGKILL {
            self.thaw_all()?;
        } else if !paused {
            self.thaw()?;
        }
        result
    }

    fn signal_each(&self, signal: i32, pids: &[u32]) -> Result<()> {
        for pid in pids {
            match kill(*pid, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(e) => return Err(Error::sys(format_args!("kill({pid}, {signal})"), e)),
            }
        }
        Ok(())
    }

    /// For processes that fork while they are signalled. Bounded, since they may be faster.
    fn signal_until_none_is_new(&self, signal: i32) -> Result<()> {
        let mut seen = BTreeSet::new();
        for _ in 0..1000 {
            let new: Vec<_> = self.listed()?.into_iter().filter(|pid| !seen.contains(pid)).collect();
            if new.is_empty() {
                break;
            }
            self.signal_each(signal, &new)?;
            seen.extend(new);
        }
        Ok(())
    }
}

fn freeze_v2(slot: &Slot, deadline: Instant) -> Result<bool> {
    slot.write("cgroup.freeze", "1")?;
    let dir = slot.dir().call(|| format!("open({:?})", slot.path()))?;
    dir::wait_event(dir, "frozen", 1, deadline).call(|| format!("read({:?})", slot.path().join("cgroup.events")))
}

/// The v1 freezer misses processes that appear while it freezes. Then it hangs in FREEZING until it is told again.
fn freeze_v1(slot: &Slot, deadline: Instant) -> Result<bool> {
    let mut backoff = dir::Backoff::until(deadline);
    loop {
        slot.write("freezer.state", "FROZEN")?;
        if slot.read("freezer.state")?.trim() == "FROZEN" {
            return Ok(true);
        }
        if !backoff.pause() {
            return Ok(false);
        }
    }
}
