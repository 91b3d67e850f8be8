//! The last step: init executes the user's program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::requests::refuse;
use super::{Heard, Init, hear, note_times};
use crate::error::{Error, Kind, Result};
use crate::hooks::Output;
use crate::sys::clone::Process;
use crate::sys::stat::Stat;
use crate::sys::wait::ends_within;
use crate::timeline::Timeline;
use crate::wire::{Channel, FromInit, INIT_NAME, ToInit};

/// Opens the files for standard output and standard error of hooks.
pub type HookOutput<'a> = &'a dyn Fn() -> Result<Output>;

impl Init {
    /// Tells init to go on to the user's process, and returns once that is executed.
    pub fn start(&mut self, hook_output: Option<HookOutput>) -> Result<()> {
        starts(&self.timeline);
        self.send(&ToInit::Start)?;
        let Process { pid, pidfd } = &self.process;
        let process = (*pid, Some(pidfd.as_fd()));
        await_exec(&self.channel, process, hook_output, &self.timeline, &|| self.died())?;
        runs(&self.timeline);
        self.released = true;
        self.executable = None;
        Ok(())
    }
}

fn starts(timeline: &Timeline) {
    timeline.init(None, "start, startContainer hooks");
    timeline.wait("exec");
}

fn runs(timeline: &Timeline) {
    timeline.process();
    timeline.phase("lock released");
}

/// Starts a created container, whose init, a pid with its pidfd, listens behind `socket`. Returns once the user's
/// process is executed. `told` is called in between, when init needs nothing more from this command but for hooks.
pub fn start(
    socket: OwnedFd,
    process: (i32, Option<BorrowedFd>),
    hook_output: Option<HookOutput>,
    timeline: &Timeline,
    told: impl FnOnce(),
) -> Result<()> {
    let channel = Channel::from(socket);
    note_times(&channel, timeline)?;
    starts(timeline);
    channel.send(&ToInit::Start)?;
    told();
    let died =
        || Error::new("init ended without reporting an error, before it executed the process").with_kind(Kind::Died);
    await_exec(&channel, process, hook_output, timeline, &died)?;
    runs(timeline);
    Ok(())
}

pub fn send_hook_output(channel: &Channel, open: HookOutput) -> Result<()> {
    let Output { stdout, stderr } = open()?;
    let answer = ToInit::HookOutput { stdout: stdout.is_some(), stderr: stderr.is_some() };
    let fds: Vec<_> = [&stdout, &stderr].into_iter().flatten().map(AsFd::as_fd).collect();
    channel.send_with(&answer, &fds)
}

/// After `Start`: returns once the process, a pid with its pidfd, has executed the user's program. `died` tells why it
/// ended, as far as that is known.
fn await_exec(
    channel: &Channel,
    (pid, process): (i32, Option<BorrowedFd>),
    mut hook_output: Option<HookOutput>,
    timeline: &Timeline,
    died: &dyn Fn() -> Error,
) -> Result<()> {
    let mut executing = false;
    while let Some(Heard { message, sent, .. }) = hear(channel, process, None, timeline)? {
        match message {
            FromInit::HookOutput if !executing => {
                send_hook_output(channel, hook_output.take().ok_or_else(|| refuse(&message))?)?;
            }
            FromInit::Executing if !executing => {
                executing = true;
                timeline.init(sent, "limits, seccomp, exec");
            }
            FromInit::Failed(error) => return Err(error.from_init()),
            other => return Err(refuse(&other)),
        }
    }
    if executing && executed(pid, process)? { Ok(()) } else { Err(died()) }
}

/// Both exec and death close the channel. Only exec changes the name of the process, which can be read until the
/// process has been reaped.
fn executed(pid: i32, process: Option<BorrowedFd>) -> Result<bool> {
    /// The kernel closes descriptors before it changes the name.
    const PATIENCE: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_millis(1);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Stat::read(pid)? {
            // Only exec was left to do. It has ended since, and its parent has reaped it.
            None => return Ok(true),
            Some(stat) if stat.name() != INIT_NAME.to_bytes() => return Ok(true),
            Some(stat) if stat.has_ended() => return Ok(false),
            // The program may have the same name.
            Some(_) if Instant::now() > deadline => return Ok(true),
            Some(_) => {}
        }
        match process {
            Some(process) => drop(ends_within(process, STEP)),
            None => std::thread::sleep(STEP),
        }
    }
}

/// Whether the process still has init's name, so that it has not executed the user's program. (That program might take
/// the same name.)
pub fn has_inits_name(pid: i32) -> bool {
    Stat::read(pid).is_ok_and(|found| found.is_some_and(|stat| stat.name() == INIT_NAME.to_bytes()))
}
