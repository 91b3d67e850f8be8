//! Undoing all that `create` did.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::error::{Call, Context, Error, Kind, Result};
use crate::launch::intel_rdt;
use crate::plan::hooks;
use crate::spec::{Spec, Status};

use super::container::Container;
use super::record::{CONFIG, Record, StateDir};
use super::{Runtime, process};

/// A killed process is gone within microseconds, unless the kernel holds it in a device or a file system.
const DEATH: Duration = Duration::from_secs(10);

pub(super) fn delete(runtime: &Runtime, id: &str, force: bool) -> Result<()> {
    let dir = match StateDir::open(&runtime.root, id) {
        Err(e) if force && e.kind() == Kind::NoContainer => return Ok(()),
        result => result?,
    };
    let record = match dir.record() {
        Ok(record) => record,
        // A runtime that died before it wrote the record had made nothing else.
        Err(e) if force && e.errno() == Some(rustix::io::Errno::NOENT) => return dir.remove(),
        Err(e) => return Err(e),
    };
    let container = Container { runtime, dir, record };
    if force {
        // Whoever still works on the container will find it dead, and let the lock go.
        kill(&container.record)?;
    } else {
        match container.status()? {
            Status::Stopped | Status::Created => {}
            status => {
                return Err(Error::new(format_args!("cannot delete container {id} that is not stopped: {status}")));
            }
        }
    }
    container.dir.lock()?;
    destroy(runtime, &container.dir, &container.record)
}

/// Kills what runs, removes what was made, and runs the poststop hooks, in the order of the spec's lifecycle.
pub(super) fn destroy(runtime: &Runtime, dir: &StateDir, record: &Record) -> Result<()> {
    kill(record)?;
    record.cgroup.remove(DEATH)?;
    runtime.debug(|| "processes killed, cgroup removed".to_owned());
    if let Some(rdt) = &record.intel_rdt {
        intel_rdt::remove(intel_rdt::root()?.as_fd(), &rdt.plan, rdt.made)?;
    }
    // A runtime that died before it had kept the configuration had run no hooks either.
    let hooks = dir.read_staged(CONFIG).and_then(|text| Spec::parse(&text)).and_then(|spec| hooks::plan(&spec.hooks));
    let hooks = hooks.map_or_else(|_| Vec::new(), |hooks| hooks.poststop);
    dir.remove()?;
    runtime.debug(|| "state directory removed".to_owned());
    let state = record.state(Status::Stopped, 0);
    for (i, hook) in hooks.iter().enumerate() {
        // "the remaining hooks and lifecycle continue as if the hook had succeeded"
        if let Err(e) = runtime.run_hook("poststop", i, hook, record, &state) {
            (runtime.warn)(&e.to_string());
        }
    }
    Ok(())
}

fn kill(record: &Record) -> Result<()> {
    /// Enough for a process that nothing holds.
    const SOON: Duration = Duration::from_millis(200);
    if let Some(init) = record.init
        && let Some(pidfd) = init.open()?
    {
        process::send_signal(pidfd.as_fd(), libc::SIGKILL)?;
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
