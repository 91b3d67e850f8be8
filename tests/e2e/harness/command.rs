//! Commands with a deadline.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open};

use super::inject::{Action, Point, Seen, Traced};
use super::sys;

/// How long a command, or what is waited for, may take before the test fails: an emulated processor is slow.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A command whose output goes to files, so that a container which outlives the command cannot block its reader.
pub struct Cmd {
    command: Command,
    shown: String,
    output: PathBuf,
}

impl Cmd {
    /// `output`: the stem of the files that take standard output and standard error.
    pub fn new(program: &Path, output: PathBuf) -> Self {
        let mut command = Command::new(program);
        command.stdin(std::process::Stdio::null());
        sys::close_on_exec(&mut command);
        let shown = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { command, shown, output }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown += &format!(" {}", arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    pub fn args<I: AsRef<OsStr>>(self, args: impl IntoIterator<Item = I>) -> Self {
        args.into_iter().fold(self, Cmd::arg)
    }

    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    pub fn stdin(mut self, file: File) -> Self {
        self.command.stdin(file);
        self
    }

    pub fn pass_fd(mut self, fd: impl Into<OwnedFd>, number: i32) -> Self {
        sys::pass_fd(&mut self.command, fd.into(), number);
        self
    }

    /// In a session keyring that holds a key of this name.
    pub fn with_session_key(mut self, name: &str) -> Self {
        sys::with_session_key(&mut self.command, name);
        self
    }

    pub fn ignore_and_block(mut self, ignored: i32, blocked: i32) -> Self {
        sys::ignore_and_block(&mut self.command, ignored, blocked);
        self
    }

    /// Under this limit, soft and hard.
    #[allow(dead_code, reason = "not every test target limits")]
    pub fn limit(mut self, resource: Resource, soft: u64, hard: u64) -> Self {
        sys::limit(&mut self.command, resource, Rlimit { current: Some(soft), maximum: Some(hard) });
        self
    }

    pub fn on_terminal(mut self, terminal: File) -> Self {
        sys::on_terminal(&mut self.command, terminal);
        self
    }

    /// Where standard output goes: a container that outlives the command still writes there.
    pub fn stdout_path(&self) -> PathBuf {
        self.output.with_extension("stdout")
    }

    pub fn spawn(mut self) -> Running {
        let [stdout, stderr] = ["stdout", "stderr"].map(|name| self.output.with_extension(name));
        self.command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        let child = self.command.spawn().unwrap_or_else(|e| panic!("{}: {e}", self.shown));
        Running { child, shown: self.shown, stdout, stderr, until: Instant::now() + DEADLINE }
    }

    pub fn run(self) -> Output {
        self.spawn().wait()
    }

    /// Starts it under the eye of a tracer, which does `action` at a point; `also` are processes that are there
    /// already.
    #[allow(dead_code, reason = "not every test target injects")]
    pub fn trace(mut self, also: &[i32], at: Point, action: Action, patience: Duration) -> Injected {
        let [stdout, stderr] = ["stdout", "stderr"].map(|name| self.output.with_extension(name));
        self.command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        let own = Path::new(self.command.get_program()).file_name().unwrap().to_string_lossy().into_owned();
        let traced = Traced::spawn(self.command, &own, also.to_vec(), at, action, patience);
        Injected { traced, shown: self.shown, stdout, stderr }
    }

    /// Runs and demands success.
    pub fn ok(self) -> Output {
        self.run().ok()
    }
}

/// A command that runs under the eye of a tracer.
#[allow(dead_code, reason = "not every test target injects")]
pub struct Injected {
    traced: Traced,
    shown: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

#[allow(dead_code, reason = "not every test target injects")]
impl Injected {
    /// Waits until it stands still at [`Action::Pause`]; `false` if it ended before it came there.
    pub fn reached(&self) -> bool {
        self.traced.reached()
    }

    pub fn go_on(&self) {
        self.traced.go_on();
    }

    /// Waits for its end, which is forced when it does not come in time.
    pub fn wait(self) -> (Output, Seen) {
        let seen = self.traced.wait();
        let status = ExitStatus::from_raw(seen.status);
        (Output { status, stdout: read(&self.stdout), stderr: read(&self.stderr), shown: self.shown }, seen)
    }
}

/// A command that was started.
pub struct Running {
    child: Child,
    shown: String,
    stdout: PathBuf,
    stderr: PathBuf,
    until: Instant,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    pub fn wait(mut self) -> Output {
        let Some(status) = self.wait_until() else {
            let _ = self.child.kill();
            let _ = self.child.wait();
            panic!("{}: not done in time\n{}{}", self.shown, read(&self.stdout), read(&self.stderr));
        };
        Output { status, stdout: read(&self.stdout), stderr: read(&self.stderr), shown: self.shown.clone() }
    }

    #[allow(dead_code, reason = "not every test target asks")]
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// `None` if it was not done in time.
    #[allow(dead_code, reason = "not every test target asks")]
    pub fn wait_or_kill(mut self) -> Option<Output> {
        let status = match self.child.try_wait() {
            Ok(Some(status)) => Some(status),
            _ => self.wait_until(),
        };
        let (stdout, stderr) = (read(&self.stdout), read(&self.stderr));
        status.map(|status| Output { status, stdout, stderr, shown: self.shown.clone() })
    }

    /// Waits without a judgement; for cleaning up after a failure.
    pub fn wait_quietly(mut self) {
        if self.wait_until().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn wait_until(&mut self) -> Option<ExitStatus> {
        let pid = Pid::from_raw(self.pid()).expect("a child has a pid");
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("the child is not reaped yet");
        let left = self.until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).unwrap_or(0) > 0;
        ended.then(|| self.child.wait().expect("the child ended"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub shown: String,
}

impl Output {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "expected success: {self}");
        self
    }

    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self
    }

    /// Demands a failure that the runtime reports itself: an exit status, not a signal, and a message without a panic,
    /// which says nothing twice in a row.
    #[track_caller]
    pub fn fails(self) -> Self {
        assert!(self.status.code().is_some_and(|code| code != 0), "expected a failure: {self}");
        assert!(!self.stderr.trim().is_empty(), "failed without a word: {self}");
        assert!(!self.stderr.contains("panicked"), "{self}");
        let parts: Vec<_> = self.stderr.trim_end().split(": ").collect();
        assert!(parts.windows(2).all(|pair| pair[0] != pair[1]), "said twice: {self}");
        self
    }

    /// Demands that standard error holds `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "expected {text:?} on standard error: {self}");
        self
    }

    /// Demands that standard error holds one of `texts`.
    #[track_caller]
    pub fn says_any(self, texts: &[&str]) -> Self {
        assert!(texts.iter().any(|text| self.stderr.contains(text)), "expected one of {texts:?}: {self}");
        self
    }

    /// Standard output without its last newline.
    pub fn text(&self) -> &str {
        self.stdout.trim_end_matches('\n')
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, stdout, stderr, shown } = self;
        write!(f, "{shown}\n{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}
