//! What the runtime does for init until init is ready.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::PidfdGetfdFlags;

use super::requests::{Requests, refuse};
use super::start::send_hook_output;
use super::{Init, one, proof};
use crate::error::{Call, Context, Result};
use crate::hooks::Output;
use crate::plan::init::InitPlan;
use crate::wire::{FromInit, ToInit};

/// What the runtime does for init until init is ready. An implementation leaves out the actions that none of its plans
/// allows: such requests are refused before ([`requests`]).
pub trait Actions {
    /// Checks that the namespaces that an errand has joined are the container's.
    fn joined(&self) -> Result<()> {
        Err(refuse(&FromInit::Joined))
    }

    /// Opens a mount that needs the host's privileges.
    fn source(&self, index: u32) -> Result<OwnedFd> {
        Err(refuse(&FromInit::Source { index }))
    }

    /// Runs the hooks that belong to the creation of the container.
    fn hooks(&self) -> Result<()> {
        Err(refuse(&FromInit::Hooks))
    }

    fn hook_output(&self) -> Result<Output> {
        Err(refuse(&FromInit::HookOutput))
    }

    /// Takes the master side of the terminal.
    fn terminal(&self, _master: OwnedFd) -> Result<()> {
        Err(refuse(&FromInit::Terminal))
    }

    /// Takes the seccomp listener.
    fn listener(&self, listener: OwnedFd) -> Result<()> {
        Err(refuse(&FromInit::Listener { fd: listener.as_raw_fd() }))
    }

    fn warn(&self, warning: &str);
}

impl Init {
    /// Serves the requests that the plan allows, until init is ready to execute the user's process. Returns the mounts
    /// that may be changed later: for each, its entry of the plan's mounts, and its id. The ids are taken on trust from
    /// init, because they are known in its mount namespace only. They mean something only there: whoever could make
    /// init report other ids could also change those mounts directly.
    pub fn serve(&self, plan: &InitPlan, actions: &dyn Actions) -> Result<Vec<(u32, u64)>> {
        let mut requests = Requests::of(plan);
        loop {
            self.timeline.wait("init");
            let (request, fds) = self.next()?;
            requests.admit(&request)?;
            self.note(&request);
            match request {
                FromInit::Ready { mounts } => return Ok(mounts),
                FromInit::Warning(warning) => actions.warn(&warning.to_string()),
                FromInit::Joined => {
                    actions.joined()?;
                    self.send(&ToInit::Done)?;
                }
                FromInit::TimeOffsets => {
                    self.set_time_offsets(plan)?;
                    self.send(&ToInit::Done)?;
                }
                FromInit::Source { index } => {
                    let mount = actions.source(index)?;
                    self.send_with(&ToInit::Mount, &[mount.as_fd()])?;
                }
                FromInit::Hooks => {
                    actions.hooks()?;
                    self.send(&ToInit::Done)?;
                }
                FromInit::HookOutput => {
                    send_hook_output(&self.channel, &|| actions.hook_output())?;
                    self.timeline.init_goes_on();
                }
                FromInit::Terminal => actions.terminal(proof::terminal(one(fds)?)?)?,
                FromInit::Listener { fd } => actions.listener(proof::listener(self.take_fd(fd)?)?)?,
                other => return Err(refuse(&other)),
            }
        }
    }

    /// What the runtime is about to do for init, and whether init waits for that.
    fn note(&self, request: &FromInit) {
        let (timeline, sent) = (&self.timeline, self.sent.get());
        match request {
            FromInit::Ready { .. } => {
                timeline.phase("record, pid file");
                timeline.init_waits(sent, "start");
            }
            FromInit::TimeOffsets => {
                timeline.phase("time offsets");
                timeline.init_waits(sent, "time offsets");
            }
            FromInit::Source { .. } => {
                timeline.phase("mount for init");
                timeline.init_waits(sent, "mount");
            }
            FromInit::Hooks => {
                timeline.phase("hooks");
                timeline.init_waits(sent, "hooks");
            }
            FromInit::HookOutput => {
                timeline.phase("files for hooks");
                timeline.init_waits(sent, "files for hooks");
            }
            FromInit::Terminal => timeline.phase("terminal"),
            FromInit::Listener { .. } => timeline.phase("seccomp listener"),
            _ => {}
        }
    }

    /// The runtime writes the file, because init is not dumpable and so does not own its files in procfs.
    fn set_time_offsets(&self, plan: &InitPlan) -> Result<()> {
        let offsets = plan.namespaces.time_offsets.as_ref().ok_or_else(|| refuse(&FromInit::TimeOffsets))?;
        let path = format!("/proc/{}/timens_offsets", self.process.pid);
        std::fs::write(&path, offsets)
            .call(|| format!("write({path:?}, {offsets:?})"))
            .map_err(|e| match e.errno() {
                Some(Errno::RANGE) => {
                    e.with_hint("the clock plus its offset must be neither negative nor past 146 years")
                }
                Some(Errno::ACCESS | Errno::PERM) => {
                    e.with_hint("in a user namespace that is joined, only root may set the clocks")
                }
                _ => e,
            })
            .context("/linux/timeOffsets")
    }

    /// A process cannot send the listener of its own filter: sendmsg(2) may be the call that the filter asks about.
    fn take_fd(&self, fd: i32) -> Result<OwnedFd> {
        rustix::process::pidfd_getfd(&self.process.pidfd, fd, PidfdGetfdFlags::empty())
            .call(|| format!("pidfd_getfd({fd})"))
    }
}
