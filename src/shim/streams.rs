//! The standard streams of a process, as containerd names them.
//!
//! A fifo for output is given to the process itself, and the shim keeps the other end open: nothing is copied, and what
//! is written while nobody reads stays in the fifo. Copied are the streams of a terminal; what goes to a log file,
//! which a process could else cut short; and the standard input. A process that opens that anew, as /dev/stdin, would
//! wait for ever if it were a fifo of which all writers have gone, and does not if it is a pipe.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio as ChildStdio};

use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::error::{Call, Context, Error, Result};
use crate::files;
use crate::library::Stdio;
use crate::runtime::{Buffer, HELD, Stream};
use crate::sys;

/// Paths or addresses; "" is `/dev/null`.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// Whose streams they are.
pub struct Owner<'a> {
    pub namespace: &'a str,
    pub id: &'a str,
    /// The user and group that may open them anew: root of a user namespace.
    pub ids: (u32, u32),
}

impl Owner<'_> {
    fn take(&self, fd: BorrowedFd) -> Result<()> {
        let (uid, gid) = self.ids;
        if self.ids == (0, 0) {
            return Ok(());
        }
        fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).call(|| format!("fchown(stream, {uid}, {gid})"))
    }
}

/// What the shim holds of a process's streams.
#[derive(Default)]
pub struct Kept {
    /// Ends for reading of fifos that the process writes to.
    outputs: Vec<OwnedFd>,
    /// The writing end of its standard input: while it is open, the process sees no end of file.
    input: Option<OwnedFd>,
}

impl Kept {
    /// Other writers may go on; the process sees end of file after the last one.
    pub fn close_input(&mut self) {
        self.input = None;
    }
}

/// Streams that are ready for a process.
#[derive(Default)]
pub struct Opened {
    pub stdio: Stdio,
    pub kept: Kept,
    /// For the terminal: what is typed comes from the one, what is printed goes to the other.
    pub terminal: (Option<OwnedFd>, Option<OwnedFd>),
    /// What is copied to a file.
    pub copies: Vec<Copy>,
    /// The standard input.
    pub feed: Option<Feed>,
    pub logger: Option<Logger>,
}

/// The pidfd of a program that was executed for a process that is still to come. If none comes, the program ends with
/// this value.
pub struct Logger(Option<OwnedFd>);

impl Logger {
    // It is waited for by its pidfd or, if it is kept, by the shim's loop, as any child of which nobody knows.
    #[allow(clippy::zombie_processes)]
    fn execute(command: &mut Command) -> Result<Self> {
        let mut child = command.spawn().call(|| format!("exec {:?}", command.get_program()))?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).call(|| "pidfd_open(logger)") {
            Ok(pidfd) => Ok(Self(Some(pidfd))),
            Err(e) => {
                // Neither can fail for a child that was not waited for.
                let _ = child.kill();
                let _ = child.wait();
                Err(e)
            }
        }
    }

    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.0 {
            // It may have ended, and may have been waited for.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }
}

/// Opens what the names say. `input_closed`: nobody keeps the standard input open.
pub fn open_all(names: &Names, input_closed: bool, owner: &Owner) -> Result<Opened> {
    let mut opened = Opened::default();
    if !names.stdin.is_empty() {
        let (source, ours) = input(&names.stdin).context("standard input")?;
        opened.kept.input = (!input_closed).then_some(ours);
        if names.terminal {
            opened.terminal.0 = Some(source);
        } else {
            let (theirs, sink) = pipe()?;
            owner.take(theirs.as_fd())?;
            let (source, sink) = (Stream::own(source)?, Stream::own(sink)?);
            opened.feed = Some(Feed { source, sink, buffer: Buffer::default() });
            opened.stdio = opened.stdio.stdin(theirs);
        }
    }
    match names.stdout.split_once("://") {
        Some(("file", _)) | Some(("binary", _)) if names.terminal => {
            return Err(Error::new("the output of a terminal goes to a fifo, not to a file or a program"));
        }
        Some(("file", rest)) => to_file(&mut opened, &path_of(rest), owner).context("standard output")?,
        Some(("binary", rest)) => to_program(&mut opened, rest, owner).context("standard output")?,
        Some((scheme, _)) if scheme != "fifo" => {
            return Err(
                Error::new(format_args!("{:?} is no fifo, file or binary", names.stdout)).context("standard output")
            );
        }
        _ => {
            if !names.stdout.is_empty() {
                let (theirs, ours) = output(fifo_path(&names.stdout), owner).context("standard output")?;
                opened.kept.outputs.push(ours);
                if names.terminal {
                    opened.terminal.1 = Some(theirs);
                } else {
                    opened.stdio = opened.stdio.stdout(theirs);
                }
            }
            if !names.stderr.is_empty() && !names.terminal {
                let (theirs, ours) = output(fifo_path(&names.stderr), owner).context("standard error")?;
                opened.kept.outputs.push(ours);
                opened.stdio = opened.stdio.stderr(theirs);
            }
        }
    }
    if names.terminal {
        opened.stdio = Stdio::terminal();
    }
    Ok(opened)
}

fn fifo_path(name: &str) -> &str {
    name.strip_prefix("fifo://").unwrap_or(name)
}

/// The end that is read from, without blocking, and the one that keeps it open.
fn input(name: &str) -> Result<(OwnedFd, OwnedFd)> {
    let fifo = Fifo::find(fifo_path(name))?;
    let source = fifo.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
    // There is a reader, so this waits for nobody.
    Ok((source, fifo.open(OFlags::WRONLY)?))
}

/// The end that the process writes to, and the one that keeps it open.
fn output(path: &str, owner: &Owner) -> Result<(OwnedFd, OwnedFd)> {
    let fifo = Fifo::find(path)?;
    let ours = fifo.open(OFlags::RDONLY | OFlags::NONBLOCK)?;
    let theirs = fifo.open(OFlags::WRONLY)?;
    fifo.share(theirs.as_fd())?;
    owner.take(theirs.as_fd())?;
    Ok((theirs, ours))
}

/// A fifo that is found by its path once, and is the same one whenever it is opened.
struct Fifo<'a> {
    path: &'a str,
    found: OwnedFd,
}

impl<'a> Fifo<'a> {
    fn find(path: &'a str) -> Result<Self> {
        let call = || format!("open({path:?})");
        let found = open(path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).call(call)?;
        match FileType::from_raw_mode(fstat(&found).call(call)?.st_mode) {
            FileType::Fifo => Ok(Self { path, found }),
            // What is no fifo could be read and changed by the process.
            other => Err(Error::new(format_args!("{path:?} is not a fifo, but {other:?}"))),
        }
    }

    /// CRIU opens it by the flags that the process's stream has, and by a link of procfs.
    fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        let link = format!("/proc/self/fd/{}", self.found.as_raw_fd());
        open(link, flags | OFlags::CLOEXEC, Mode::empty()).call(|| format!("open({:?})", self.path))
    }

    /// The process may open its streams anew by names such as /dev/stdout, also as another user. Other users of the
    /// host cannot reach the fifo if its directory is closed to them: only then is it opened to users.
    fn share(&self, fifo: BorrowedFd) -> Result<()> {
        let Some(parent) = Path::new(self.path).parent() else { return Ok(()) };
        let stat = std::fs::metadata(parent).call(|| format!("stat({parent:?})"))?;
        if stat.mode() & 0o011 != 0 || !files::trusts(stat.uid()) {
            return Ok(());
        }
        let mode = Mode::RUSR | Mode::WUSR | Mode::WGRP | Mode::WOTH;
        fchmod(fifo, mode).call(|| format!("fchmod({:?})", self.path))
    }
}

/// The path of an address, behind `file://` or `binary://`: without a query, and with `%41` for "A".
fn path_of(rest: &str) -> String {
    decode(rest.split('?').next().unwrap_or_default())
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Standard output and error, one after the other.
fn to_file(opened: &mut Opened, path: &str, owner: &Owner) -> Result<()> {
    let path = Path::new(path);
    if let Some(parent) = path.parent() {
        files::make_directories(parent, Mode::from_raw_mode(0o755))?;
    }
    let file = files::open_append(path, 0o644)?;
    // The loop of the shim writes to it, and waits for no reader.
    if !file.metadata().call(|| format!("fstat({path:?})"))?.is_file() {
        return Err(Error::new(format_args!("{path:?} is not a regular file")));
    }
    let (source, theirs) = pipe()?;
    rustix::io::ioctl_fionbio(&source, true).call(|| "ioctl(FIONBIO)")?;
    owner.take(theirs.as_fd())?;
    let both = theirs.try_clone().call(|| "dup(pipe)")?;
    opened.stdio = std::mem::take(&mut opened.stdio).stdout(theirs).stderr(both);
    opened.copies.push(Copy { source, file });
    Ok(())
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let pipe = pipe_with(PipeFlags::CLOEXEC).call(|| "pipe2()")?;
    // As for fifos: the process may open it anew, as another user.
    fchmod(&pipe.0, Mode::from_raw_mode(0o666)).call(|| "fchmod(pipe, 0666)")?;
    Ok(pipe)
}

/// A program that reads the output: descriptors 3 and 4 are the streams, and it closes 5 when it is ready.
fn to_program(opened: &mut Opened, rest: &str, owner: &Owner) -> Result<()> {
    const READY: Timespec = Timespec { tv_sec: 12, tv_nsec: 0 };
    let path = path_of(rest);
    let mut command = Command::new(&path);
    for argument in rest.split_once('?').map_or("", |(_, query)| query).split('&').filter(|text| !text.is_empty()) {
        let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
        command.arg(decode(key));
        if !value.is_empty() {
            command.arg(decode(value));
        }
    }
    command.env_clear().env("CONTAINER_ID", owner.id).env("CONTAINER_NAMESPACE", owner.namespace);
    // The shim's own is the bundle of its first container.
    command.current_dir("/");
    command.stdin(ChildStdio::null()).stdout(ChildStdio::null()).stderr(ChildStdio::null());
    let ((out, our_out), (err, our_err), (ready, theirs)) = (pipe()?, pipe()?, pipe()?);
    sys::child::confine(&mut command, None);
    sys::child::place(&mut command, &[out.as_fd(), err.as_fd(), theirs.as_fd()]).call(|| "fcntl(F_DUPFD_CLOEXEC)")?;
    let logger = Logger::execute(&mut command)?;
    // It has kept copies of the ends.
    drop((command, out, err, theirs));
    let mut fds = [PollFd::new(&ready, PollFlags::IN)];
    let answered = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&READY))).call(|| "poll(logger)")?;
    if answered == 0 {
        return Err(Error::new(format_args!("{path:?} was not ready after {} s", READY.tv_sec)));
    }
    opened.stdio = std::mem::take(&mut opened.stdio).stdout(our_out).stderr(our_err);
    opened.logger = Some(logger);
    Ok(())
}

/// What a process writes into a pipe, to a file.
pub struct Copy {
    source: OwnedFd,
    file: File,
}

impl Copy {
    /// Copies what is there. Returns whether more may come.
    pub fn step(&mut self) -> bool {
        let mut chunk = [0; 16 << 10];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.source, &mut chunk)) {
            Ok(0) => false,
            // A disk that is full is no reason to stop the process: what does not fit is lost.
            Ok(count) => {
                let _ = self.file.write_all(&chunk[..count]);
                true
            }
            Err(errno) => errno == Errno::AGAIN,
        }
    }
}

impl AsFd for Copy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

/// The standard input on its way from containerd's fifo into a pipe.
pub struct Feed {
    source: Stream,
    sink: Stream,
    buffer: Buffer,
}

impl Feed {
    /// Moves what can be moved without waiting. Returns whether that was all there will be.
    pub fn step(&mut self) -> bool {
        if self.buffer.wants_input() {
            self.buffer.fill(&self.source);
        }
        if self.buffer.wants_output() {
            self.buffer.empty(&self.sink);
        }
        self.buffer.is_closed()
    }

    pub fn wanted(&self) -> Vec<Wanted<'_>> {
        let when = |wanted, flags| if wanted { flags } else { EventFlags::empty() };
        vec![
            (self.source.as_fd(), when(self.buffer.wants_input(), EventFlags::IN)),
            (self.sink.as_fd(), when(self.buffer.wants_output(), EventFlags::OUT)),
        ]
    }
}

/// A terminal and the fifos that it is joined to. Each direction has one buffer, which is filled only while it is
/// empty: whoever does not read stops what is sent to them, and nothing else.
pub struct Relay {
    master: Stream,
    /// Without it a process that closes the terminal and opens it again would find that it has been hung up.
    _slave: OwnedFd,
    input: Option<Stream>,
    output: Option<Stream>,
    to_container: Buffer,
    to_reader: Buffer,
    /// How many bytes of the master are still to be moved at most, once the process has ended. Later ones come from
    /// processes that it left behind. A terminal with nothing to read is at its end then.
    left: Option<usize>,
}

/// A descriptor, and what is waited for there.
pub type Wanted<'a> = (BorrowedFd<'a>, EventFlags);

impl Relay {
    pub fn new(master: OwnedFd, (input, output): (Option<OwnedFd>, Option<OwnedFd>)) -> Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).call(|| "ioctl(TIOCGPTPEER)")?;
        Ok(Self {
            master: Stream::own(master)?,
            _slave: slave,
            input: input.map(Stream::own).transpose()?,
            output: output.map(Stream::own).transpose()?,
            to_container: Buffer::default(),
            to_reader: Buffer::default(),
            left: None,
        })
    }

    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).call(|| "ioctl(TIOCSWINSZ)")
    }

    pub fn end(&mut self) {
        self.left.get_or_insert(HELD);
    }

    /// Moves what can be moved without waiting. Returns whether all output has been passed on.
    pub fn step(&mut self) -> bool {
        if self.to_reader.wants_input() {
            let filled = self.left != Some(0) && self.to_reader.fill(&self.master);
            self.left = self.left.map(|left| left.saturating_sub(self.to_reader.len()));
            if !filled && self.left.is_some() {
                self.to_reader.close();
            }
        }
        match &self.output {
            Some(output) if self.to_reader.wants_output() => self.to_reader.empty(output),
            // Nobody is to have it.
            None if self.to_reader.wants_output() => self.to_reader = Buffer::default(),
            _ => {}
        }
        if let Some(input) = &self.input {
            if self.to_container.wants_input() {
                self.to_container.fill(input);
            }
            if self.to_container.wants_output() {
                self.to_container.empty(&self.master);
            }
        }
        self.to_reader.is_closed()
    }

    /// Whether there may be more to move at once, which no event will tell: after the end of the process.
    pub fn is_hurried(&self) -> bool {
        self.left.is_some() && self.to_reader.wants_input()
    }

    pub fn wanted(&self) -> Vec<Wanted<'_>> {
        let mut master = EventFlags::empty();
        master.set(EventFlags::IN, self.to_reader.wants_input());
        master.set(EventFlags::OUT, self.to_container.wants_output());
        let mut wanted = vec![(self.master.as_fd(), master)];
        if let Some(input) = &self.input {
            let flags = if self.to_container.wants_input() { EventFlags::IN } else { EventFlags::empty() };
            wanted.push((input.as_fd(), flags));
        }
        if let Some(output) = &self.output {
            let flags = if self.to_reader.wants_output() { EventFlags::OUT } else { EventFlags::empty() };
            wanted.push((output.as_fd(), flags));
        }
        wanted
    }
}

/// For messages.
impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Relay({})", self.master.as_fd().as_raw_fd())
    }
}

#[cfg(fuzzing)]
pub fn fuzz(name: &str) {
    assert!(decode(name).len() <= 3 * name.len());
    let _ = path_of(fifo_path(name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_paths() {
        assert_eq!(path_of("/a%20b/c?x=%20"), "/a b/c");
        assert_eq!(path_of("/%zz%4"), "/%zz%4");
        assert_eq!(fifo_path("fifo:///a"), "/a");
    }

    /// Of a process that the one with the terminal has left behind, and which has it open still.
    #[test]
    fn a_flood_ends_in_the_shim_too() {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        rustix::io::ioctl_fionbio(&slave, true).unwrap();
        let flood = || while rustix::io::write(&slave, &[b'x'; 1024]).is_ok() {};
        let mut relay = Relay::new(master, (None, None)).unwrap();
        flood();
        relay.end();
        let mut steps = 0;
        while !relay.step() {
            steps += 1;
            assert!(steps < 1000, "it goes on as long as somebody writes");
            flood();
        }
    }

    #[test]
    fn what_is_no_fifo_is_refused() {
        for path in ["/dev/null", "/etc/passwd", "/"] {
            let e = Fifo::find(path).map(drop).unwrap_err();
            assert!(e.to_string().contains("is not a fifo"), "{e}");
        }
    }
}
