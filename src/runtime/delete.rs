//! Undoing all that `create` did.

use std::rc::Rc;
use std::time::Duration;

use crate::error::{Context, Error, Kind, Result};
use crate::spec::Status;

use super::destroy::kill;
use super::dir::{StateDir, no_container};
use super::locked::Locked;
use super::record::Record;
use super::root::Root;
use super::{Runtime, salvage};

pub(super) fn delete(runtime: &Runtime, id: &str, force: bool) -> Result<()> {
    let gone = || if force { Ok(()) } else { Err(no_container()) };
    let Some(root) = Root::open(&runtime.root)? else { return gone() };
    let dir = match StateDir::open(&Rc::new(root), id) {
        Err(e) if e.kind() == Kind::NoContainer => return gone(),
        dir => dir?,
    };
    // The command that is at work on the container finds it dead, and releases the lock.
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
        Status::Stopped => refuse_unseen(&locked.record)?,
        Status::Created => {}
        status => {
            return Err(Error::new(format_args!("cannot delete container {id} that is not stopped: {status}"))
                .with_kind(Kind::State)
                .with_hint("end it with `kill ID KILL` first, or use `delete --force`".replace("ID", id)));
        }
    }
    locked.destroy(&locked.poststop().hint("`delete --force` removes it without its poststop hooks")?)
}

/// The kernel ends all processes of a PID namespace before its first one has ended (pid_namespaces(7)). So if there are
/// any, that one was not found where this command looked for it.
fn refuse_unseen(record: &Record) -> Result<()> {
    /// What was killed leaves its cgroup a moment later.
    const DYING: Duration = Duration::from_secs(1);
    if record.init.is_none() || record.shared_pids || !record.cgroup.stays_populated(DYING)? {
        return Ok(());
    }
    Err(Error::new("the first process of the container is not seen, but there are processes in its cgroup")
        .with_kind(Kind::State)
        .with_hint("/proc may be that of another PID namespace than the host's; `delete --force` ends these processes"))
}
