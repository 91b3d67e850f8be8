//! Running one hook, on the host or inside init.

use std::io::{Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Call, Error, Result};
use crate::plan::hooks::Hook;
use crate::sys;
use crate::sys::reap;
use crate::sys::wait::poll_within;

/// How much of a hook's output an error shows: its end, where the error message usually is.
const SHOWN: usize = 4096;

/// The files that take the output of hooks. Otherwise it is read here, and shown only if the hook fails.
#[derive(Debug, Default)]
pub struct Output {
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// Called in the hook's process right before exec. Only a process with one thread may use it.
pub type Confine = Box<dyn FnMut() -> std::io::Result<()> + Send + Sync>;

/// The surroundings of a hook.
pub struct Surroundings<'a> {
    /// Its working directory; by default the caller's.
    pub cwd: Option<BorrowedFd<'a>>,
    pub output: &'a Output,
    pub confine: Option<Confine>,
    /// A pidfd of the container's init. When init ends, the hook is useless, and is killed with all its descendants.
    pub container: Option<BorrowedFd<'a>>,
}

impl<'a> Surroundings<'a> {
    pub fn new(output: &'a Output) -> Self {
        Self { cwd: None, output, confine: None, container: None }
    }
}

/// Runs `hook` with `state` on its standard input, and waits for it. The error names `kind`, as in the configuration,
/// and `index` (from 0).
pub fn run(hook: &Hook, state: &[u8], kind: &str, index: usize, surroundings: Surroundings) -> Result<()> {
    let Surroundings { cwd, output, confine, container } = surroundings;
    let in_course = |e: Error| e.context(format_args!("error running {kind} hook #{index}"));
    let (stdin, to_hook) = pipe_with(PipeFlags::CLOEXEC).call(|| "pipe2()").map_err(in_course)?;
    // A hook need not read its state. As long as there is a reader, writing does not cause SIGPIPE, which would end a
    // program that uses the library and does not ignore it.
    let _reader = stdin.try_clone().call(|| "dup(pipe)").map_err(in_course)?;
    // Only for this end: the hook's end has flags of its own. This cannot fail for a pipe.
    let _ = rustix::io::ioctl_fionbio(&to_hook, true);
    // The part that fits into the pipe is written before the hook starts, so that the hook need not wait for it.
    let mut rest = state;
    let to_hook = feed(to_hook, &mut rest);
    let mut child = spawn(hook, cwd, stdin, output, confine).map_err(in_course)?;
    let mut pipes = Pipes::take(&mut child, to_hook, rest);
    let status = match supervise(&mut child, &mut pipes, hook, container) {
        Ok(status) => status,
        Err(e) => {
            if container.is_some() {
                sys::tree::kill(child.id().cast_signed());
            }
            end(&mut child);
            return Err(in_course(e));
        }
    };
    if status.success() { Ok(()) } else { Err(in_course(failure(status, &pipes))) }
}

fn spawn(
    hook: &Hook,
    cwd: Option<BorrowedFd<'_>>,
    stdin: OwnedFd,
    output: &Output,
    confine: Option<Confine>,
) -> Result<Child> {
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    if let Some(env) = &hook.env {
        command.env_clear().envs(env.iter().map(|variable| variable.split_once('=').unwrap_or((variable, ""))));
    }
    let stream = |file: &Option<OwnedFd>| match file {
        Some(file) => file.try_clone().map(Stdio::from).call(|| "dup(file of run.oci.hooks)"),
        None => Ok(Stdio::piped()),
    };
    command.stdin(stdin).stdout(stream(&output.stdout)?).stderr(stream(&output.stderr)?);
    let cwd = cwd.map(|cwd| cwd.try_clone_to_owned()).transpose().call(|| "dup(cwd)")?;
    sys::child::confine(&mut command, cwd);
    if let Some(confine) = confine {
        sys::child::last(&mut command, confine);
    }
    command.spawn().call(|| format!("exec {}", hook.path.display())).map_err(|e| match e.errno() {
        Some(Errno::AGAIN) => e.with_hint("a limit of processes is reached: pids.max of a cgroup, or RLIMIT_NPROC"),
        _ => e,
    })
}

/// The other ends of the hook's standard streams. Each is dropped at its end of file.
struct Pipes<'a> {
    stdin: Option<OwnedFd>,
    /// The part of the state that is still to be written.
    state: &'a [u8],
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl<'a> Pipes<'a> {
    fn take(child: &mut Child, stdin: Option<OwnedFd>, state: &'a [u8]) -> Self {
        let pipes = Self {
            stdin,
            state,
            stdout: child.stdout.take().map(OwnedFd::from),
            stderr: child.stderr.take().map(OwnedFd::from),
            out: Vec::new(),
            err: Vec::new(),
        };
        for pipe in [&pipes.stdout, &pipes.stderr].into_iter().flatten() {
            let _ = rustix::io::ioctl_fionbio(pipe, true);
        }
        pipes
    }

    /// Moves what can be moved without waiting.
    fn pump(&mut self) {
        if let Some(stdin) = self.stdin.take() {
            self.stdin = feed(stdin, &mut self.state);
        }
        if let Some(stdout) = self.stdout.take() {
            self.stdout = drain(stdout, &mut self.out);
        }
        if let Some(stderr) = self.stderr.take() {
            self.stderr = drain(stderr, &mut self.err);
        }
    }
}

/// Returns the pipe as long as there is something left to write.
fn feed(stdin: OwnedFd, state: &mut &[u8]) -> Option<OwnedFd> {
    let mut file = std::fs::File::from(stdin);
    while !state.is_empty() {
        match file.write(state) {
            Ok(written) => *state = &state[written..],
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Some(file.into()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    None
}

fn drain(pipe: OwnedFd, shown: &mut Vec<u8>) -> Option<OwnedFd> {
    let mut file = std::fs::File::from(pipe);
    let mut buffer = [0; SHOWN];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return None,
            Ok(read) => {
                shown.extend_from_slice(&buffer[..read]);
                shown.drain(..shown.len().saturating_sub(SHOWN));
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Some(file.into()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// How often to check whether the hook has ended, if the pidfd does not tell.
const TICK: Duration = Duration::from_millis(10);

/// Kills the hook and waits for it, unless the kernel or a tracer holds it for longer than a moment.
fn end(child: &mut Child) {
    let until = Instant::now().checked_add(reap::TRACERS);
    // This cannot fail for a child that was not waited for.
    let _ = child.kill();
    while matches!(child.try_wait(), Ok(None)) && until.is_some_and(|until| Instant::now() < until) {
        let _ = poll_within(&mut [], Some(TICK));
    }
}

/// Returns once the hook has ended, even if others still hold its streams. It is an error if the timeout is over.
fn supervise(
    child: &mut Child,
    pipes: &mut Pipes<'_>,
    hook: &Hook,
    container: Option<BorrowedFd<'_>>,
) -> Result<ExitStatus> {
    let pidfd = pidfd(child)?;
    let deadline = hook.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut tracers_until = None;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let ended = wait(pidfd.as_ref().filter(|_| tracers_until.is_none()), pipes, container, left)?;
        let status = child.try_wait().call(|| "wait4()")?;
        pipes.pump();
        if let Some(status) = status {
            return Ok(status);
        }
        if ended.container {
            return Err(Error::new("the container's init ended, so the hook was killed"));
        }
        if ended.hook {
            tracers_until = Instant::now().checked_add(reap::TRACERS);
        }
        if tracers_until.is_some_and(|until| Instant::now() >= until) {
            return Err(Error::new(
                "the hook has ended, but a process of the container traces it, so its exit status is unknown",
            ));
        }
        if let (Some(Duration::ZERO), Some(timeout)) = (left, hook.timeout) {
            return Err(Error::new(format_args!("hook ran past specified timeout of {:.1}s", timeout.as_secs_f64())));
        }
    }
}

/// `None` below a seccomp filter with a listener, which is already in force for init and may answer with either of two
/// errnos. Linux 5.3 and later know the call.
fn pidfd(child: &Child) -> Result<Option<OwnedFd>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| Error::new("pid out of range"))?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::NOSYS | Errno::PERM) => Ok(None),
        opened => opened.call(|| format!("pidfd_open({pid})")).map(Some),
    }
}

#[derive(Default)]
struct Ended {
    hook: bool,
    container: bool,
}

/// Waits until the hook or the container has ended, or a stream is ready, or `left` is over.
fn wait(
    pidfd: Option<&OwnedFd>,
    pipes: &Pipes<'_>,
    container: Option<BorrowedFd<'_>>,
    left: Option<Duration>,
) -> Result<Ended> {
    let mut fds: Vec<_> = container.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).into_iter().collect();
    fds.extend(pidfd.map(|fd| PollFd::new(fd, PollFlags::IN)));
    fds.extend(pipes.stdin.as_ref().map(|fd| PollFd::new(fd, PollFlags::OUT)));
    let outputs = [&pipes.stdout, &pipes.stderr].into_iter().flatten();
    fds.extend(outputs.map(|fd| PollFd::new(fd, PollFlags::IN)));
    let left = if pidfd.is_some() { left } else { Some(left.unwrap_or(TICK).min(TICK)) };
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(&mut fds, left.as_ref()) {
        Err(Errno::INTR) => return Ok(Ended::default()),
        polled => polled.call(|| "poll()")?,
    };
    // In the order in which they were added: each takes its own, if it is there.
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let container = container.is_some() && ready.next() == Some(true);
    let hook = pidfd.is_some() && ready.next() == Some(true);
    Ok(Ended { hook, container })
}

fn failure(status: ExitStatus, pipes: &Pipes<'_>) -> Error {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal: {}", describe_signal(signal.unwrap_or_default())),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let error = Error::new(format_args!("{how}, stdout: {}, stderr: {}", text(&pipes.out), text(&pipes.err)));
    match status.signal() {
        Some(libc::SIGSYS) => error.with_hint("the container's seccomp profile forbids what the hook does"),
        _ => error,
    }
}

/// The texts of strsignal(3), spelled as other runtimes do.
fn describe_signal(signal: i32) -> String {
    let words = match signal {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        libc::SIGXCPU => "cpu time limit exceeded",
        libc::SIGXFSZ => "file size limit exceeded",
        libc::SIGSYS => "bad system call",
        other => return format!("signal {other}"),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn run(hook: &Hook, state: &[u8], kind: &str, index: usize, cwd: Option<BorrowedFd>) -> Result<()> {
        super::run(hook, state, kind, index, Surroundings { cwd, ..Surroundings::new(&Output::default()) })
    }

    fn sh(script: &str, timeout: Option<u64>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: Some(vec!["A=1".into(), "PATH=/bin:/usr/bin".into()]),
            timeout: timeout.map(Duration::from_secs),
        }
    }

    fn failed(script: &str, timeout: Option<u64>) -> String {
        run(&sh(script, timeout), b"{}", "poststart", 1, None).unwrap_err().to_string()
    }

    #[test]
    fn the_state_comes_on_standard_input_and_the_environment_is_the_given_one() {
        let script = r#"[ "$(cat)" = "{}" ] && [ "$A" = 1 ] && [ -z "$HOME$CARGO" ]"#;
        run(&sh(script, None), b"{}", "poststart", 0, None).unwrap();
    }

    #[test]
    fn failures_say_how_and_what() {
        let e = failed("echo lost; echo cannot open >&2; exit 3", None);
        assert_eq!(e, "error running poststart hook #1: exit status 3, stdout: lost, stderr: cannot open");
        assert!(failed("kill -SYS $$", None).contains("bad system call"));
        let absent = Hook { path: "/nonexistent/hook".into(), ..sh("", None) };
        let e = run(&absent, b"", "prestart", 0, None).unwrap_err().to_string();
        assert_eq!(e, "error running prestart hook #0: exec /nonexistent/hook: no such file or directory");
    }

    #[test]
    fn a_hook_that_outlives_its_time_is_killed() {
        let begin = Instant::now();
        let e = failed("exec sleep 60", Some(1));
        assert_eq!(e, "error running poststart hook #1: hook ran past specified timeout of 1.0s");
        assert!(begin.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_grandchild_with_the_pipes_does_not_hold_us() {
        let begin = Instant::now();
        run(&sh("sleep 5 & exit 0", None), b"{}", "poststart", 0, None).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn no_signal_is_blocked_in_the_hook() {
        let before = sys::signal::sigmask(&sys::signal::SignalSet::full());
        let result = run(&sh("grep -q 'SigBlk:.0000000000000000' /proc/self/status", None), b"", "prestart", 0, None);
        sys::signal::sigmask(&before);
        result.unwrap();
    }

    #[test]
    fn much_input_and_output_block_nobody() {
        let state = vec![b'x'; 1 << 20];
        run(&sh("exit 0", None), &state, "poststart", 0, None).unwrap();
        run(&sh("[ $(wc -c) = 1048576 ]", None), &state, "poststart", 0, None).unwrap();
        let e = failed("head -c 1000000 /dev/zero | tr '\\0' y; exit 1", None);
        assert!(e.len() < 2 * SHOWN, "{}", e.len());
    }

    /// A blocked signal stays pending, even if it is ignored: so this sees whether it was sent at all.
    #[test]
    fn a_hook_that_does_not_read_its_state_causes_no_signal() {
        let before = sys::signal::sigmask(&sys::signal::SignalSet::full());
        let result = run(&sh("exit 0", None), &vec![b'x'; 1 << 20], "poststart", 0, None);
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:")).unwrap().trim();
        let pending = u64::from_str_radix(pending, 16).unwrap();
        // So that it does not arrive at the end of the test.
        sys::signal::sigmask(&before);
        assert_eq!(pending & (1 << (libc::SIGPIPE - 1)), 0);
        result.unwrap();
    }

    #[test]
    fn no_descriptor_reaches_the_hook_and_it_begins_in_its_directory() {
        let leaked = std::fs::File::open("/etc/passwd").unwrap();
        rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
        let dir = std::fs::File::open("/etc").unwrap();
        let script = r#"[ "$(pwd)" = /etc ] || exit 1; [ ! -e /proc/$$/fd/$LEAKED ]"#;
        let mut hook = sh(script, None);
        hook.env = Some(vec![format!("LEAKED={}", std::os::fd::AsRawFd::as_raw_fd(&leaked))]);
        run(&hook, b"{}", "createRuntime", 0, Some(dir.as_fd())).unwrap();
    }
}
