//! The end of the process, and children that execute a program.

use core::ffi::{CStr, c_char};

use allocated::boxed::Box;
use allocated::ffi::CString;
use allocated::vec::Vec;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::ffi::{OsStr, OsStrExt};
use crate::io::{Error, Result};
use crate::libc_functions::_exit;
use crate::syscall::syscall;

pub fn id() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get() as u32
}

pub fn exit(status: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { _exit(status) }
}

/// By SIGABRT. Where that has no effect, as in the first process of a PID namespace, by an invalid instruction.
pub fn abort() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::ABORT);
    // SAFETY: the instruction does not return.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        core::arch::asm!("ud2", options(noreturn));
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!("udf #0", options(noreturn));
    }
}

pub enum Stdio {
    Inherit,
    Piped,
    Fd(OwnedFd),
}

impl Stdio {
    pub fn piped() -> Self {
        Self::Piped
    }

    pub fn inherit() -> Self {
        Self::Inherit
    }

    pub fn null() -> Self {
        match crate::fs::File::options().read(true).write(true).open("/dev/null") {
            Ok(null) => Self::Fd(null.into()),
            Err(_) => Self::Inherit,
        }
    }
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self::Fd(fd)
    }
}

type Setup = Box<dyn FnMut() -> Result<()>>;

/// The environment is empty unless it is set: init has none to pass on.
pub struct Command {
    program: Vec<u8>,
    args: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    streams: [Stdio; 3],
    setups: Vec<Setup>,
}

impl Command {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref().as_bytes().to_vec();
        let streams = [Stdio::Inherit, Stdio::Inherit, Stdio::Inherit];
        Self { args: Vec::from([program.clone()]), program, env: Vec::new(), streams, setups: Vec::new() }
    }

    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().as_bytes().to_vec());
        self
    }

    pub fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().as_bytes().to_vec()));
        self
    }

    pub fn env_clear(&mut self) -> &mut Self {
        self.env.clear();
        self
    }

    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        let mut variable = name.as_ref().as_bytes().to_vec();
        variable.push(b'=');
        // Only one variable of each name.
        self.env.retain(|other| !other.starts_with(&variable));
        variable.extend_from_slice(value.as_ref().as_bytes());
        self.env.push(variable);
        self
    }

    pub fn envs(&mut self, variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> &mut Self {
        for (name, value) in variables {
            self.env(name, value);
        }
        self
    }

    pub fn stdin(&mut self, stream: impl Into<Stdio>) -> &mut Self {
        self.streams[0] = stream.into();
        self
    }

    pub fn stdout(&mut self, stream: impl Into<Stdio>) -> &mut Self {
        self.streams[1] = stream.into();
        self
    }

    pub fn stderr(&mut self, stream: impl Into<Stdio>) -> &mut Self {
        self.streams[2] = stream.into();
        self
    }

    pub fn spawn(&mut self) -> Result<Child> {
        let texts = |texts: &[Vec<u8>]| texts.iter().map(|text| c_string(text)).collect::<Result<Vec<_>>>();
        let (program, args, env) = (c_string(&self.program)?, texts(&self.args)?, texts(&self.env)?);
        let (args, env) = (pointers(&args), pointers(&env));
        // Both ends of the pipes: the parent's, and the child's stream.
        let (mut ours, mut theirs) = ([None, None, None], [None, None, None]);
        for (number, stream) in self.streams.iter().enumerate() {
            match stream {
                Stdio::Inherit => {}
                Stdio::Piped => {
                    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                    let (our, their) = if number == 0 { (write, read) } else { (read, write) };
                    (ours[number], theirs[number]) = (Some(our), Some(their));
                }
                Stdio::Fd(fd) => theirs[number] = Some(rustix::io::fcntl_dupfd_cloexec(fd, 3)?),
            }
        }
        let (report, failed) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: the child is a copy of this thread, the only one.
        let pid = unsafe { syscall(libc::SYS_clone as usize, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0]) };
        if pid == 0 {
            let error = self.exec(&theirs, &program, &args, &env);
            let _ = rustix::io::write(&failed, &error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes());
            exit(1);
        }
        // `Pid` would take the negative number of an error for a pid, and kill(2) would signal that process group.
        let pid = match i32::try_from(pid) {
            Ok(pid @ 1..) => Pid::from_raw(pid).ok_or(Errno::INVAL)?,
            _ => return Err(Error::from_raw_os_error(-pid as i32)),
        };
        drop((failed, theirs));
        let [stdin, stdout, stderr] = ours;
        let mut child = Child { stdin, stdout, stderr, pid, status: None };
        let mut errno = [0; 4];
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&report, &mut errno))?;
        if read == errno.len() {
            let _ = child.wait();
            return Err(Error::from_raw_os_error(i32::from_ne_bytes(errno)));
        }
        Ok(child)
    }

    /// Returns only if it failed.
    fn exec(
        &mut self,
        streams: &[Option<OwnedFd>; 3],
        program: &CStr,
        args: &[*const c_char],
        env: &[*const c_char],
    ) -> Error {
        for (number, stream) in (0..).zip(streams) {
            let Some(stream) = stream else { continue };
            // SAFETY: no descriptor of this process's code is a standard stream, so nobody owns the number. If a pipe's
            // end has it, that end is kept.
            let moved = unsafe {
                if stream.as_raw_fd() == number {
                    syscall(libc::SYS_fcntl as usize, [number as usize, libc::F_SETFD as usize, 0, 0, 0, 0])
                } else {
                    syscall(libc::SYS_dup3 as usize, [stream.as_raw_fd() as usize, number as usize, 0, 0, 0, 0])
                }
            };
            if moved < 0 {
                return Error::from_raw_os_error(-moved as i32);
            }
        }
        // Like Rust's standard library, gives programs the default action of SIGPIPE.
        // SAFETY: no handler is installed.
        unsafe { crate::libc_functions::signal(libc::SIGPIPE, libc::SIG_DFL) };
        for setup in &mut self.setups {
            if let Err(e) = setup() {
                return e;
            }
        }
        let args = [program.as_ptr() as usize, args.as_ptr() as usize, env.as_ptr() as usize, 0, 0, 0];
        // SAFETY: C strings, and arrays of them that end with a null pointer.
        Error::from_raw_os_error(-unsafe { syscall(libc::SYS_execve as usize, args) } as i32)
    }
}

fn c_string(text: &[u8]) -> Result<CString> {
    CString::new(text).map_err(|_| Errno::INVAL.into())
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([core::ptr::null()]).collect()
}

pub trait CommandExt {
    /// # Safety
    /// As in the standard library.
    unsafe fn pre_exec(&mut self, setup: impl FnMut() -> Result<()> + Send + Sync + 'static) -> &mut Command;
    fn arg0(&mut self, name: impl AsRef<OsStr>) -> &mut Command;
}

impl CommandExt for Command {
    unsafe fn pre_exec(&mut self, setup: impl FnMut() -> Result<()> + Send + Sync + 'static) -> &mut Command {
        self.setups.push(Box::new(setup));
        self
    }

    fn arg0(&mut self, name: impl AsRef<OsStr>) -> &mut Command {
        self.args[0] = name.as_ref().as_bytes().to_vec();
        self
    }
}

#[derive(Debug)]
pub struct Child {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pid: Pid,
    status: Option<ExitStatus>,
}

impl Child {
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// A process that has been waited for is not killed, because its pid may be another's.
    pub fn kill(&mut self) -> Result<()> {
        if self.status.is_none() {
            rustix::process::kill_process(self.pid, Signal::KILL)?;
        }
        Ok(())
    }

    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.stdin = None;
        loop {
            match self.reap(WaitOptions::empty()) {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => {}
                Err(e) => return Err(e),
            }
        }
    }

    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.reap(WaitOptions::NOHANG)
    }

    fn reap(&mut self, options: WaitOptions) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            let waited = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(self.pid), options))?;
            self.status = waited.map(|(_, status)| ExitStatus(status.as_raw()));
        }
        Ok(self.status)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(i32);

impl ExitStatus {
    pub fn success(self) -> bool {
        self.code() == Some(0)
    }

    pub fn code(self) -> Option<i32> {
        libc::WIFEXITED(self.0).then(|| libc::WEXITSTATUS(self.0))
    }
}

pub trait ExitStatusExt {
    fn signal(&self) -> Option<i32>;
}

impl ExitStatusExt for ExitStatus {
    fn signal(&self) -> Option<i32> {
        libc::WIFSIGNALED(self.0).then(|| libc::WTERMSIG(self.0))
    }
}
