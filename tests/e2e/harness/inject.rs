//! Stops a command at a chosen system call, of it or of a process that it makes: to have the call fail, to kill the
//! process there, or to do something else meanwhile.
//!
//! What is executed and is not the runtime (the container's program, a hook) is let go of, and so is whatever remains
//! when the command ends. A thread of its own traces, as ptrace(2) wants it.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write, pipe};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use libc::{c_int, c_long};

/// The `occurrence`th call of `number` by the `process`th process, counted from 0 in the order in which they are made,
/// and from 1. A process that was traced by its pid counts before those that are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub process: usize,
    pub number: c_long,
    pub occurrence: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Does nothing but count.
    Watch,
    /// The call is not made, and fails. `close` and `munmap` are made, as the kernel does.
    Fail(c_int),
    /// The process gets this signal before the call is made.
    Signal(c_int),
    /// Before the call is made, waits until [`Traced::go_on`].
    Pause,
}

/// What was seen of a command that has ended.
#[derive(Debug, Default)]
pub struct Seen {
    /// The calls that were made: all points at which something could have been done.
    pub points: Vec<Point>,
    /// Whether the chosen point was come by.
    pub hit: bool,
    /// What the processes waited for, if the command did not end in time.
    pub hang: Option<String>,
    /// As of wait(2).
    pub status: c_int,
}

/// Calls that only the older architectures have: elsewhere the library makes `mkdirat` and `unlinkat`.
#[cfg(target_arch = "x86_64")]
pub const OLDER: &[c_long] = &[libc::SYS_mkdir, libc::SYS_rmdir];
#[cfg(not(target_arch = "x86_64"))]
pub const OLDER: &[c_long] = &[];

/// A command that runs under the tracer's eye.
pub struct Traced {
    thread: JoinHandle<Seen>,
    paused: Receiver<()>,
    resume: Sender<()>,
    ended: Receiver<()>,
    tracees: Arc<Mutex<BTreeSet<i32>>>,
    deadline: Instant,
}

impl Traced {
    /// Runs `command`; `also` are processes to be traced that are there already. What is executed is let go of unless
    /// the name of its file contains `own`.
    pub fn spawn(command: Command, own: &str, also: Vec<i32>, at: Point, action: Action, patience: Duration) -> Self {
        let (paused_tx, paused) = channel();
        let (resume, resume_rx) = channel();
        let (ended_tx, ended) = channel();
        let tracees = Arc::new(Mutex::new(BTreeSet::new()));
        let (shared, own) = (tracees.clone(), own.to_owned());
        let thread = std::thread::spawn(move || {
            let main = start(command);
            let mut tracer = Tracer {
                main,
                own,
                at,
                action,
                executed: false,
                seen: Seen::default(),
                processes: Vec::new(),
                counts: BTreeMap::new(),
                threads: BTreeMap::new(),
                shared,
                paused: paused_tx,
                resume: resume_rx,
            };
            tracer.run(&also);
            ended_tx.send(()).ok();
            tracer.seen
        });
        Self { thread, paused, resume, ended, tracees, deadline: Instant::now() + patience }
    }

    /// Waits until the command stands still at [`Action::Pause`]; `false` if it ended before it came there.
    pub fn reached(&self) -> bool {
        while Instant::now() < self.deadline {
            if self.paused.recv_timeout(Duration::from_millis(5)).is_ok() {
                return true;
            }
            if self.thread.is_finished() {
                return false;
            }
        }
        false
    }

    pub fn go_on(&self) {
        self.resume.send(()).ok();
    }

    /// Waits for the end of the command, and kills it and what it has made if that does not come in time.
    pub fn wait(self) -> Seen {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let mut hang = None;
        if self.ended.recv_timeout(left).is_err() && !self.thread.is_finished() {
            let tracees = self.tracees.lock().unwrap().clone();
            hang = Some(tracees.iter().map(|&tid| describe(tid)).collect::<Vec<_>>().join("; "));
            self.resume.send(()).ok();
            for tid in tracees {
                // SAFETY: no memory is passed.
                unsafe { libc::kill(tid, libc::SIGKILL) };
            }
        }
        let mut seen = self.thread.join().expect("the tracer does not panic");
        seen.hang = hang;
        seen
    }
}

/// Starts the command, and traces it before it is executed. Not by PTRACE_TRACEME: what is traced so makes children
/// that begin with SIGSTOP, and stand still for good if the tracer ends before it has seen them.
fn start(mut command: Command) -> i32 {
    let ((mut pid_reader, pid_writer), (go_reader, mut go_writer)) = (pipe().unwrap(), pipe().unwrap());
    let tell = move || {
        let pid = std::process::id().to_ne_bytes();
        (&pid_writer).write_all(&pid)?;
        (&go_reader).read_exact(&mut [0])
    };
    // SAFETY: makes syscalls only, in the forked child.
    unsafe { command.pre_exec(tell) };
    // Its spawn returns once the command is executed.
    let spawned = std::thread::spawn(move || command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")));
    let mut pid = [0; 4];
    pid_reader.read_exact(&mut pid).expect("the command is forked");
    let pid = i32::from_ne_bytes(pid);
    ptrace(libc::PTRACE_SEIZE, pid, 0, OPTIONS as usize).expect("the command can be traced");
    go_writer.write_all(&[0]).unwrap();
    // Without waiting: it stands still at its exec until it is told to go on.
    drop(spawned);
    pid
}

/// Where a process waits, for who has to find out why.
fn describe(tid: i32) -> String {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{tid}/{name}")).unwrap_or_default();
    let call = read("syscall").split(' ').next().unwrap_or_default().to_owned();
    format!("{tid} ({}) in syscall {call}, {}", read("comm").trim(), read("wchan"))
}

fn ptrace(request: libc::c_uint, pid: i32, address: usize, data: usize) -> io::Result<c_long> {
    // SAFETY: the callers pass the address of a buffer of the size in `address`, or plain numbers.
    match unsafe { libc::ptrace(request, pid, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

const OPTIONS: c_int = libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACEEXEC;

/// `struct ptrace_syscall_info` (ptrace(2)), as words: operation, two addresses, then number and arguments, or result.
const SYSCALL_INFO: usize = 11;
const ENTRY: u64 = 1;
const EXIT: u64 = 2;

/// A thread that is traced.
#[derive(Default)]
struct Thread {
    /// `None`: what made it has not yet said so.
    process: Option<usize>,
    /// It stands still until then.
    waits: bool,
    /// The call that it is in is to fail like that.
    fails: Option<c_int>,
}

struct Tracer {
    main: i32,
    own: String,
    at: Point,
    action: Action,
    /// What the command does before it is executed is the harness's doing.
    executed: bool,
    seen: Seen,
    /// Thread group ids.
    processes: Vec<i32>,
    counts: BTreeMap<(usize, c_long), usize>,
    threads: BTreeMap<i32, Thread>,
    shared: Arc<Mutex<BTreeSet<i32>>>,
    paused: Sender<()>,
    resume: Receiver<()>,
}

impl Tracer {
    fn run(&mut self, also: &[i32]) {
        self.adopt(self.main);
        for &pid in also {
            if ptrace(libc::PTRACE_SEIZE, pid, 0, OPTIONS as usize).is_ok() {
                self.adopt(pid);
                let _ = ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0);
            }
        }
        loop {
            let mut status = 0;
            // SAFETY: `status` is written. Only what this thread traces or has made is waited for.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
            if pid < 0 {
                return;
            }
            if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                self.forget(pid);
                if pid == self.main {
                    self.seen.status = status;
                    return;
                }
            } else if libc::WIFSTOPPED(status) {
                self.stopped(pid, libc::WSTOPSIG(status), status >> 16);
            }
        }
    }

    fn adopt(&mut self, tid: i32) -> &mut Thread {
        let group = group_of(tid);
        let process = self.processes.iter().position(|&known| known == group).unwrap_or_else(|| {
            self.processes.push(group);
            self.processes.len() - 1
        });
        self.shared.lock().unwrap().insert(tid);
        let thread = self.threads.entry(tid).or_default();
        thread.process = Some(process);
        thread
    }

    fn forget(&mut self, tid: i32) {
        self.shared.lock().unwrap().remove(&tid);
        self.threads.remove(&tid);
    }

    fn go_on(&self, tid: i32, signal: c_int) {
        // It may be gone by now.
        let _ = ptrace(libc::PTRACE_SYSCALL, tid, 0, signal as usize);
    }

    fn stopped(&mut self, tid: i32, signal: c_int, event: c_int) {
        match event {
            libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => {
                let mut made: libc::c_ulong = 0;
                let told = ptrace(libc::PTRACE_GETEVENTMSG, tid, 0, &raw mut made as usize);
                // A process that has been killed meanwhile does not say; to kill(2), 0 would mean ourselves.
                if told.is_ok() && made != 0 {
                    let made = made as i32;
                    let thread = self.adopt(made);
                    if std::mem::take(&mut thread.waits) {
                        self.go_on(made, 0);
                    }
                }
                self.go_on(tid, 0);
            }
            libc::PTRACE_EVENT_EXEC => {
                self.executed |= tid == self.main;
                let link = std::fs::read_link(format!("/proc/{tid}/exe")).unwrap_or_default();
                let link = link.to_string_lossy();
                // crun executes itself again from a detached mount, whose root is the file.
                if link.starts_with("/memfd:") || link == "/" || link.contains(&self.own) {
                    self.go_on(tid, 0);
                } else {
                    self.forget(tid);
                    let _ = ptrace(libc::PTRACE_DETACH, tid, 0, 0);
                }
            }
            0 if signal == libc::SIGTRAP | 0x80 => self.at_call(tid),
            // The kernel does not let a fault end the first process of a PID namespace while it is traced.
            0 if tid != self.main && matches!(signal, libc::SIGSEGV | libc::SIGILL | libc::SIGBUS | libc::SIGFPE) => {
                self.forget(tid);
                let _ = ptrace(libc::PTRACE_DETACH, tid, 0, signal as usize);
            }
            // What follows exec where no option said otherwise.
            0 if signal == libc::SIGTRAP => self.go_on(tid, 0),
            libc::PTRACE_EVENT_STOP if signal == libc::SIGTRAP => {
                let thread = self.threads.entry(tid).or_default();
                if thread.process.is_none() {
                    thread.waits = true;
                } else {
                    self.go_on(tid, 0);
                }
            }
            // Stopped by a signal, as if nobody traced it.
            libc::PTRACE_EVENT_STOP => drop(ptrace(libc::PTRACE_LISTEN, tid, 0, 0)),
            _ => self.go_on(tid, signal),
        }
    }

    fn at_call(&mut self, tid: i32) {
        let mut info = [0_u64; SYSCALL_INFO];
        let got = ptrace(libc::PTRACE_GET_SYSCALL_INFO, tid, size_of_val(&info), info.as_mut_ptr() as usize);
        let Some(process) = self.threads.get(&tid).and_then(|thread| thread.process).filter(|_| got.is_ok()) else {
            return self.go_on(tid, 0);
        };
        match info[0] & 0xff {
            ENTRY => self.enters(tid, process, info[3] as c_long),
            EXIT => {
                if let Some(errno) = self.threads.get_mut(&tid).and_then(|thread| thread.fails.take()) {
                    registers::set_result(tid, -c_long::from(errno));
                }
            }
            _ => {}
        }
        self.go_on(tid, 0);
    }

    fn enters(&mut self, tid: i32, process: usize, number: c_long) {
        if !self.executed {
            return;
        }
        let count = self.counts.entry((process, number)).or_default();
        *count += 1;
        let here = Point { process, number, occurrence: *count };
        self.seen.points.push(here);
        if here != self.at || self.action == Action::Watch {
            return;
        }
        self.seen.hit = true;
        match self.action {
            Action::Watch => {}
            Action::Fail(errno) => {
                if !matches!(number, libc::SYS_close | libc::SYS_munmap) {
                    registers::set_call(tid, -1);
                }
                self.threads.entry(tid).or_default().fails = Some(errno);
            }
            Action::Signal(signal) => {
                // SAFETY: no memory is passed.
                unsafe { libc::kill(self.processes[process], signal) };
            }
            Action::Pause => {
                self.paused.send(()).ok();
                self.resume.recv().ok();
            }
        }
    }
}

fn group_of(tid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|group| group.trim().parse().ok()).unwrap_or(tid)
}

#[cfg(target_arch = "x86_64")]
mod registers {
    use std::mem::offset_of;

    use libc::{c_long, user_regs_struct};

    pub fn set_call(tid: i32, number: c_long) {
        let _ = super::ptrace(libc::PTRACE_POKEUSER, tid, offset_of!(user_regs_struct, orig_rax), number as usize);
    }

    pub fn set_result(tid: i32, value: c_long) {
        let _ = super::ptrace(libc::PTRACE_POKEUSER, tid, offset_of!(user_regs_struct, rax), value as usize);
    }
}

#[cfg(target_arch = "aarch64")]
mod registers {
    use libc::{c_int, c_long, iovec};

    // <linux/elf.h>.
    const NT_PRSTATUS: usize = 1;
    const NT_ARM_SYSTEM_CALL: usize = 0x404;

    /// The number is in no register: the kernel has read it from x8 before the stop.
    pub fn set_call(tid: i32, number: c_long) {
        transfer(libc::PTRACE_SETREGSET, tid, NT_ARM_SYSTEM_CALL, &mut (number as c_int));
    }

    pub fn set_result(tid: i32, value: c_long) {
        // x0 to x30, the stack pointer, the program counter and the flags.
        let mut registers = [0_u64; 34];
        transfer(libc::PTRACE_GETREGSET, tid, NT_PRSTATUS, &mut registers);
        registers[0] = value as u64;
        transfer(libc::PTRACE_SETREGSET, tid, NT_PRSTATUS, &mut registers);
    }

    fn transfer<T>(request: libc::c_uint, tid: i32, set: usize, value: &mut T) {
        let mut vector = iovec { iov_base: (&raw mut *value).cast(), iov_len: size_of::<T>() };
        let _ = super::ptrace(request, tid, set, &raw mut vector as usize);
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod registers {
    use libc::c_long;

    pub fn set_call(_: i32, _: c_long) {
        panic!("faults are injected on x86_64 and aarch64 only");
    }

    pub fn set_result(_: i32, _: c_long) {}
}
