//! Undoing all that `create` did.

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::error::{Call, Context, Error, Kind, Result};
use crate::spec::Status;

use super::dir::{StateDir, no_container};
use super::locked::Locked;
use super::record::Record;
use super::root::Root;
use super::{Runtime, process, salvage};

/// A killed process is gone within microseconds, unless the kernel holds it in a device or a file system.
pub(super) const DEATH: Duration = Duration::from_secs(10);

pub(super) fn delete(runtime: &Runtime, id: &str, force: bool) -> Result<()> {
    let gone = || if force { Ok(()) } else { Err(no_container()) };
    let Some(root) = Root::open(&runtime.root)? else { return gone() };
    let dir = match StateDir::open(&Rc::new(root), id) {
        Err(e) if e.kind() == Kind::NoContainer => return gone(),
        dir => dir?,
    };
    // Whoever is at work on the container finds it dead, and lets the lock go.
    dir.lock(|| match dir.record() {
        Ok(record) if force => kill(&record),
        _ => Ok(()),
    })?;
    if !dir.is_named()? {
        return gone();
    }
    let record = match dir.record() {
        Err(e) if force && e.kind() == Kind::DamagedRecord => return salvage::salvage(runtime, dir, &e),
        record => record?,
    };
    let locked = Locked::of(runtime, dir, record);
    if force {
        return locked.destroy(&locked.poststop_or_warn());
    }
    match locked.status()? {
        Status::Stopped | Status::Created => {}
        status => {
            return Err(Error::new(format_args!("cannot delete container {id} that is not stopped: {status}"))
                .with_hint("end it with `kill ID KILL` first, or use `delete --force`".replace("ID", id)));
        }
    }
    locked.destroy(&locked.poststop().hint("`delete --force` removes it without its poststop hooks")?)
}

pub(super) fn kill(record: &Record) -> Result<()> {
    /// Enough for a process that nothing holds.
    const SOON: Duration = Duration::from_millis(200);
    if let Some(init) = record.init
        && let Some(pidfd) = init.open()?
    {
        process::send_signal(pidfd.as_fd(), libc::SIGKILL)?;
        if record.cgroup.is_frozen()? {
            // Else an exec that waits in it could still come to run something.
            record.cgroup.kill(libc::SIGKILL).context("processes of the container")?;
        }
        record.thaw()?;
        let deadline = Instant::now() + DEATH;
        while !ends_within(pidfd.as_fd(), SOON)? {
            if Instant::now() >= deadline {
                return Err(Error::new(format_args!("init (pid {}) does not die", init.pid))
                    .with_hint("the kernel may hold it in a device or a file system: see /proc/PID/stack"));
            }
            // A CRIU that was left behind is in the cgroup and traces what it has restored; or it is outside, freezes
            // what it is to dump, and waits for init, which waits until CRIU has reaped the others that it traces.
            process::kill_criu_of(init.pid)?;
            record.cgroup.kill(libc::SIGKILL).context("processes of the container")?;
            record.thaw()?;
        }
    }
    record.cgroup.kill(libc::SIGKILL).context("processes of the container")
}

fn ends_within(pidfd: BorrowedFd<'_>, timeout: Duration) -> Result<bool> {
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    let mut poll = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    rustix::event::poll(&mut poll, Some(&timeout)).call(|| "poll(pidfd)").map(|ready| ready != 0)
}
