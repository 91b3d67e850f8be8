//! CRIU, a program that dumps and restores process trees, and gets its instructions by messages (`criu swrk FD`).
//!
//! Each CRIU does one dump or restore, after questions about its abilities. While it works it notifies the runtime of
//! certain points, and waits there for an answer.

mod messages;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{self, Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, SocketFlags,
    SocketType,
};

#[cfg(fuzzing)]
pub use self::messages::Response as Answer;
pub use self::messages::{CgroupsMode, Features, NetworkLock, Notification, Options, RequestType};
use self::messages::{Response, request};
use crate::error::{Call, Context, Error, Result};
use crate::files;
use crate::sys;
use crate::sys::clone::Stdio;

/// For the last steps of a restore, which take microseconds each, even with many processes on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);

/// For CRIU's report after the death of the processes that it restores.
const GRACE: Duration = Duration::from_secs(3);

/// A CRIU that waits for requests. If this is dropped before its work is done, CRIU is killed.
pub struct Criu {
    child: Child,
    channel: OwnedFd,
    /// As 40201 for 4.2.1.
    version: i64,
    /// The first process that it restores.
    restored: Option<i32>,
    /// How long to wait for its next message, if its work until then is short.
    deadline: Option<Instant>,
}

/// The standard streams of CRIU, which the restored processes get as well.
#[derive(Clone, Copy, Debug)]
pub enum Streams<'a> {
    /// The runtime's, except for these.
    Ours(Stdio<'a>),
    None,
}

/// What CRIU gets from the runtime.
#[derive(Debug)]
pub struct Surroundings<'a> {
    pub streams: Streams<'a>,
    /// Kept, with the same numbers.
    pub keep: &'a [BorrowedFd<'a>],
    /// Files by which it enters cgroups.
    pub cgroups: Vec<OwnedFd>,
}

/// Handles a notification, with the descriptor that comes with it.
pub type Notified<'a> = &'a mut dyn FnMut(&Notification, Option<OwnedFd>) -> Result<()>;

impl Criu {
    /// The oldest version that answers this request.
    const OLDEST: i64 = 30000;

    pub fn spawn(Surroundings { streams, keep, cgroups }: Surroundings) -> Result<Self> {
        let (channel, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .call(|| "socketpair(SOCK_SEQPACKET)")?;
        let program = files::program("criu").map_err(|e| match e.hint() {
            None => e.with_hint("install CRIU: https://criu.org"),
            Some(_) => e,
        })?;
        let mut command = Command::new(&program.path);
        if rustix::process::geteuid().is_root() {
            // It would read a configuration by HOME or CRIU_CONFIG_FILE, and libraries by CRIU_LIBS_DIR. These may be
            // another user's, since sudo and su keep much of a user's environment.
            command.env_clear().env("PATH", &program.search);
        }
        command.arg("swrk").arg(theirs.as_raw_fd().to_string());
        let stream = |number: usize| match streams {
            Streams::None => Ok(process::Stdio::null()),
            Streams::Ours(stdio) => match stdio[number] {
                Some(fd) => fd.try_clone_to_owned().map(process::Stdio::from).call(|| "dup(pipe)"),
                None => Ok(process::Stdio::inherit()),
            },
        };
        command.stdin(stream(0)?).stdout(stream(1)?).stderr(stream(2)?);
        sys::child::enter(&mut command, cgroups);
        sys::child::confine(&mut command, None);
        let kept = keep.iter().copied().chain([theirs.as_fd()]).map(|fd| fd.as_raw_fd());
        sys::child::keep(&mut command, kept.collect());
        let child = command.spawn().map_err(|e| Error::new(format_args!("cannot execute {:?}: {e}", program.path)))?;
        Ok(Self { child, channel, version: 0, restored: None, deadline: None })
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Must be called first. Refuses a CRIU that is too old for anything.
    pub fn check_version(&mut self) -> Result<()> {
        self.version = self.ask(RequestType::Version)?.version;
        self.require(Self::OLDEST, "checkpoint and restore")
    }

    /// `needed` as 31600 for 3.16.
    pub fn require(&self, needed: i64, what: &str) -> Result<()> {
        if self.version >= needed {
            return Ok(());
        }
        let text = |version: i64| format!("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
        Err(Error::new(format_args!("CRIU is {}, {what} needs {}", text(self.version), text(needed))))
    }

    pub fn features(&mut self) -> Result<Features> {
        self.ask(RequestType::FeatureCheck).map(|response| response.features)
    }

    fn ask(&mut self, kind: RequestType) -> Result<Response> {
        self.send(kind, None)?;
        let (response, _) = self.receive(kind)?;
        Ok(response)
    }

    /// Has the work done, and waits for CRIU's end. Returns the pid of the restored process.
    pub fn perform(mut self, kind: RequestType, options: &Options, notified: Notified<'_>) -> Result<Option<i32>> {
        self.send(kind, Some(options))?;
        let response = loop {
            let (response, fd) = self.receive(kind)?;
            if response.kind != Some(RequestType::Notify) {
                break response;
            }
            let Notification { script, pid } = &response.notification;
            if kind == RequestType::Restore {
                self.restored = self.restored.or(*pid);
                // The memory is restored by then, however much it is. Only credentials and the release of the processes
                // are left.
                let is_late = matches!(&**script, "post-restore" | "network-unlock" | "pre-resume" | "post-resume");
                self.deadline = is_late.then(|| Instant::now() + PATIENCE);
            }
            notified(&response.notification, fd).with_context(|| format!("criu {}: {script}", kind.name()))?;
            self.send(RequestType::Notify, None)?;
        };
        // Without this it would wait for further requests, as between two pre-dumps. The end of the file on the socket
        // tells it that there are none.
        rustix::net::shutdown(&self.channel, rustix::net::Shutdown::Write).call(|| "shutdown(criu)")?;
        let status = self.child.wait().call(|| "waitpid(criu)")?;
        // After a pre-dump, CRIU takes that for a failure.
        if !status.success() && kind != RequestType::PreDump {
            return Err(Error::new(format_args!("criu {}: {status}", kind.name())));
        }
        Ok(response.restored_pid)
    }

    fn send(&self, kind: RequestType, options: Option<&Options>) -> Result<()> {
        let message = request(kind, options);
        match rustix::net::send(&self.channel, &message, SendFlags::NOSIGNAL) {
            // It has ended, but its last message may still be unread.
            Err(Errno::PIPE) => Ok(()),
            sent => sent.call(|| format!("send(criu, {})", kind.name())).map(drop),
        }
    }

    /// Waits until there is something to receive. If the processes that CRIU restores die, CRIU may wait for them for
    /// ever: their parent is the runtime, so the runtime is notified, not CRIU.
    fn wait(&self, kind: RequestType) -> Result<()> {
        const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        let mut end: Option<Instant> = None;
        loop {
            match poll(&mut [PollFd::new(&self.channel, PollFlags::IN)], Some(&TICK)) {
                Ok(0) | Err(Errno::INTR) => {}
                polled => return polled.call(|| "poll(criu)").map(drop),
            }
            let now = Instant::now();
            if self.deadline.is_some_and(|deadline| now >= deadline) {
                let waited = PATIENCE.as_secs();
                return Err(Error::new(format_args!("criu {}: no progress for {waited} s", kind.name())));
            }
            if self.restored.is_some_and(sys::tree::is_ending) && now >= *end.get_or_insert(now + GRACE) {
                return Err(Error::new(format_args!("criu {}: what it restores has died", kind.name())));
            }
        }
    }

    /// An answer to `kind`, or a notification before it.
    fn receive(&mut self, kind: RequestType) -> Result<(Response, Option<OwnedFd>)> {
        self.wait(kind)?;
        let mut bytes = vec![0; 64 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let buffer = &mut [IoSliceMut::new(&mut bytes)];
            rustix::net::recvmsg(&self.channel, buffer, &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let received = match received {
            // It has ended without reading a request, so the first read fails. Then its last messages can still be
            // read.
            Err(Errno::CONNRESET) => return self.receive(kind),
            received => received.call(|| "recvmsg(criu)")?,
        };
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        if received.bytes == 0 {
            let status = self.child.wait().call(|| "waitpid(criu)")?;
            return Err(Error::new(format_args!("criu {}: it ended without an answer: {status}", kind.name())));
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(Error::sys("recvmsg(criu)", Errno::MSGSIZE));
        }
        let response = Response::decode(&bytes[..received.bytes])?;
        if !response.success {
            return Err(refusal(kind, &response));
        }
        let expected = response.kind == Some(kind) || response.kind == Some(RequestType::Notify);
        if expected { Ok((response, fd)) } else { Err(Error::new("unexpected answer from CRIU")) }
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Processes that it releases when it dies would run on. So the processes that it restores are killed first,
            // and then those that it has started.
            if let Some(restored) = self.restored {
                sys::tree::kill(restored);
            }
            sys::tree::kill(self.pid());
        }
        // Both calls can fail only for a child that was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CRIU often gives no reason, or a meaningless errno, or a first problem that it could ignore. Its log has more.
fn refusal(kind: RequestType, response: &Response) -> Error {
    let call = format!("criu {} failed", kind.name());
    let e = match response.errno {
        Some(errno) if errno > 0 => Error::sys(call, Errno::from_raw_os_error(errno)),
        _ => Error::new(call),
    };
    match &response.message {
        Some(message) => e.with_hint(error_in(message).as_deref().unwrap_or(message.trim())),
        None => e,
    }
}

/// The last few errors in CRIU's log, as the first are often about problems that it could ignore. `log` is the file, if
/// there is one; `path` is where it can be found later.
pub fn explain(e: Error, log: Option<File>, path: Option<&Path>) -> Error {
    const SHOWN: usize = 4;
    const MOST: u64 = 256 << 20;
    let mut errors = VecDeque::new();
    if let Some(log) = log {
        for line in BufReader::new(log.take(MOST)).split(b'\n').map_while(Result::ok) {
            if let Some(error) = error_in(&String::from_utf8_lossy(&line)) {
                errors.push_back(error);
                errors.drain(..errors.len().saturating_sub(SHOWN));
            }
        }
    }
    let place = match path {
        Some(path) if errors.is_empty() => format!("CRIU's log, if it has come to write one, is {path:?}"),
        Some(path) => format!("CRIU's log is {path:?}"),
        None => "with --work-path CRIU's log is kept".to_owned(),
    };
    if errors.is_empty() {
        let said = e.hint().map(|said| format!("{said}; ")).unwrap_or_default();
        return e.with_hint(format_args!("{said}{place}"));
    }
    let last = errors.make_contiguous().join("; ");
    Error::new(format_args!("{e}: {last}")).with_hint(place)
}

/// `(00.012345)   4711: Error (criu/x.c:12): what` -> `what`
fn error_in(line: &str) -> Option<String> {
    const LONGEST: usize = 300;
    let (_, error) = line.split_once("Error (")?;
    let text = error.split_once("): ").map_or(error, |(_, text)| text).trim();
    Some(text[..text.floor_char_boundary(LONGEST)].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CRIU that sends nothing, and both ends of its socket.
    fn silent(script: &str) -> (Criu, OwnedFd) {
        let kinds = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (channel, theirs) = rustix::net::socketpair(kinds.0, kinds.1, SocketFlags::CLOEXEC, None).unwrap();
        let child = Command::new("/bin/sh").args(["-c", script]).stdout(process::Stdio::piped()).spawn().unwrap();
        (Criu { child, channel, version: 0, restored: None, deadline: None }, theirs)
    }

    #[test]
    fn the_end_of_a_restore_has_a_deadline() {
        let (mut criu, _theirs) = silent("exec sleep 60");
        criu.deadline = Some(Instant::now());
        assert_eq!(
            criu.receive(RequestType::Restore).unwrap_err().to_string(),
            format!("criu restore: no progress for {} s", PATIENCE.as_secs())
        );
    }

    #[test]
    fn what_it_has_called_ends_with_it() {
        let (mut criu, _theirs) = silent("sleep 60 & echo $!; wait");
        let mut line = String::new();
        BufReader::new(criu.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let called = line.trim().parse().unwrap();
        assert!(!sys::tree::is_ending(called));
        drop(criu);
        let until = Instant::now() + Duration::from_secs(5);
        while !sys::tree::is_ending(called) {
            assert!(Instant::now() < until, "it runs on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn the_errors_of_a_log_are_found() {
        let line = "(00.154654)   2770: Error (criu/files-reg.c:1790): Can't lookup mount=85 for fd=2 path=/tmp/err";
        assert_eq!(error_in(line).unwrap(), "Can't lookup mount=85 for fd=2 path=/tmp/err");
        assert_eq!(error_in("(00.1) Warn  (criu/x.c:1): no Error"), None);
        assert_eq!(error_in(&format!("Error (x): {}", "ä".repeat(1000))).unwrap().len(), 300);
    }

    #[test]
    fn only_the_last_errors_are_shown() {
        let log = std::env::temp_dir().join(format!("berth-criu-{}.log", std::process::id()));
        let e = explain(Error::new("criu dump failed"), None, Some(&log));
        assert_eq!(e.to_string(), "criu dump failed");
        assert!(e.hint().unwrap().contains("berth-criu"));
        let text: String = (0..6).map(|i| format!("(0.{i}) Error (a.c:{i}): e{i}\n(0.{i}) fine\n")).collect();
        std::fs::write(&log, text).unwrap();
        let e = explain(Error::new("criu dump failed"), File::open(&log).ok(), Some(&log));
        std::fs::remove_file(&log).unwrap();
        assert_eq!(e.to_string(), "criu dump failed: e2; e3; e4; e5");
    }
}
