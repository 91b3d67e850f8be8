//! The library as other programs embed it: from many threads, with nothing of the program's changed.

#[macro_use]
#[allow(dead_code, unused_imports, unused_macros, reason = "the end-to-end tests use the rest")]
#[path = "e2e/harness/mod.rs"]
mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use berth::{
    Container, CreateOptions, Error, ErrorKind, Exec, ExecOptions, ExitStatus, OomWatch, Process, Resources, Runtime,
    Spec, Status, Stdio,
};
use harness::{Config, Test};

e2e!(any: nothing_of_the_program_is_changed, processes_and_streams, a_terminal, waiting_ends, errors_have_kinds,
    another_container_of_the_same_id, a_configuration_in_memory, limits_and_numbers, no_signal_of_a_pipe, no_child_runs_a_handler_in_the_programs_memory);
// The device rules of cgroup v2 are a program, which the kernel verifies.
e2e!(signals_interrupt_nothing);

/// What a program may store, and hand from one thread to another.
const _: () = {
    const fn shared<T: Send + Sync + 'static>() {}
    const fn sent<T: Send + 'static>() {}
    shared::<Runtime>();
    shared::<Container>();
    shared::<Process>();
    shared::<Error>();
    sent::<Exec>();
    sent::<OomWatch>();
    sent::<Stdio>();
    sent::<CreateOptions>();
    sent::<ExecOptions>();
};

const LONG: Duration = Duration::from_secs(30);

fn runtime(t: &Test) -> Runtime {
    Runtime::builder(t.path("library")).on_warning(|text| panic!("a warning: {text}")).build()
}

fn create(t: &Test, config: Config, stdio: Stdio) -> Container {
    let bundle = t.container(config).bundle;
    runtime(t).create("web", bundle, CreateOptions::new().stdio(stdio)).unwrap()
}

/// What all threads of the program share, and what this thread has: as text, by name.
fn surroundings() -> BTreeMap<String, String> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let kept = [
        "Umask",
        "TracerPid",
        "Groups",
        "SigPnd",
        "ShdPnd",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "CapEff",
        "CapBnd",
        "NoNewPrivs",
        "Seccomp",
        "Cpus_allowed_list",
    ];
    let mut all: BTreeMap<_, _> = status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| kept.contains(name))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let links = |dir: &str| {
        let mut links: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .filter_map(|entry| Some(format!("{:?}", fs::read_link(entry.ok()?.path()).ok()?)))
            // The directory that is being read.
            .filter(|link| !link.contains("/fd\""))
            .collect();
        links.sort();
        links.join(" ")
    };
    all.insert("descriptors".into(), links("/proc/self/fd"));
    all.insert("namespaces".into(), links("/proc/thread-self/ns"));
    all.insert("directory".into(), format!("{:?}", std::env::current_dir().unwrap()));
    all.insert("environment".into(), format!("{:?}", std::env::vars_os().collect::<Vec<_>>()));
    all.insert("subreaper".into(), format!("{:?}", rustix::process::child_subreaper().unwrap()));
    all.insert("children".into(), children());
    all.insert("limits".into(), fs::read_to_string("/proc/self/limits").unwrap());
    all.insert("score".into(), fs::read_to_string("/proc/self/oom_score_adj").unwrap());
    all.insert("cgroups".into(), fs::read_to_string("/proc/thread-self/cgroup").unwrap());
    all
}

fn children() -> String {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default()).collect()
}

/// Bytes that belong to this program alone.
fn private_memory() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    private.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10).sum()
}

/// Without a file: the configuration, and that of a further process.
fn a_configuration_in_memory(t: &Test) {
    let c = t.container(Config::sleep());
    let file = c.bundle.join("config.json");
    let text = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let options = || CreateOptions::new().spec(Spec::from_json(&text).unwrap());
    let container = runtime(t).create("web", &c.bundle, options()).unwrap();
    container.start().unwrap();
    assert!(container.rootfs().unwrap().starts_with(&c.bundle), "relative paths begin at the bundle");
    let (mut reader, writer) = std::io::pipe().unwrap();
    let process = br#"{"cwd":"/","args":["/bin/sh","-c","echo $A $B; pwd; id -u"],"env":["A=1","PATH=/bin"]}"#;
    let options = ExecOptions::from_json(process).unwrap().stdio(Stdio::null().stdout(writer));
    let exec = container.exec(options.env("B=2").cwd("/etc").user(7, 7)).unwrap();
    assert_eq!(exec.start().unwrap().wait().unwrap().code(), Some(0));
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert_eq!(output, "1 2\n/etc\n7\n");
    container.delete(true).unwrap();
    let e = runtime(t).create("web", &c.bundle, CreateOptions::new()).unwrap_err();
    assert!(e.to_string().contains("config.json not found"), "{e}");
    let wrong = Spec::from_json(br#"{"ociVersion":"1.0.2","process":{"cwd":"x","args":["a"]}}"#).unwrap();
    let e = runtime(t).create("web", &c.bundle, CreateOptions::new().spec(wrong)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidConfiguration, "{e}");
}

fn limits_and_numbers(t: &Test) {
    if !t.has_controller("pids") {
        skip!("no pids controller in this mode");
        return;
    }
    let container = create(t, Config::sleep(), Stdio::null());
    container.start().unwrap();
    container.update(Resources::from_json(br#"{"pids":{"limit":17}}"#).unwrap()).unwrap();
    let stats = container.stats().unwrap();
    assert_eq!((stats.pids.current, stats.pids.limit), (1, 17));
    assert_eq!(container.pids().unwrap(), [container.process().unwrap().pid()]);
    container.pause().unwrap();
    assert_eq!(container.state().unwrap().status, Status::Paused);
    container.resume().unwrap();
    container.delete(true).unwrap();
}

/// A blocked signal stays pending, even if it is ignored: so this sees whether it was sent at all, where a hook
/// leaves more than a pipe holds.
fn no_signal_of_a_pipe(t: &Test) {
    let pending = || {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigPnd:")).unwrap().trim();
        u64::from_str_radix(line, 16).unwrap() & (1 << (libc::SIGPIPE - 1))
    };
    block_sigpipe();
    let hooks = serde_json::json!([{ "path": "/bin/true" }]);
    let config = Config::sleep()
        .set("/annotations", serde_json::json!({ "much": "x".repeat(200_000) }))
        .set("/hooks", serde_json::json!({ "createRuntime": hooks, "poststart": hooks, "poststop": hooks }));
    let container = create(t, config, Stdio::null());
    container.start().unwrap();
    container.delete(true).unwrap();
    assert_eq!(pending(), 0);
}

#[allow(unsafe_code, reason = "rustix has no masks of signals")]
fn block_sigpipe() {
    // SAFETY: the set is initialised by sigemptyset.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

extern "C" fn no_op(_: i32) {}

/// Without SA_RESTART. Returns the handler that was there.
#[allow(unsafe_code, reason = "rustix has no handlers of signals")]
fn handle(signal: i32, handler: libc::sighandler_t) -> libc::sighandler_t {
    // SAFETY: all fields may be zero, and the handlers here make at most a system call.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut before: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        assert_eq!(libc::sigaction(signal, &raw const action, &raw mut before), 0);
        before.sa_sigaction
    }
}

#[allow(unsafe_code, reason = "rustix sends no signal to a thread")]
fn interrupt(process: u32, thread: rustix::thread::Pid) {
    // SAFETY: it takes numbers only.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread.as_raw_nonzero().get(), libc::SIGPROF) };
}

/// A whole life, with a process beside the first one.
fn live(runtime: &Runtime, id: &str, bundle: &Path) {
    let container = runtime.create(id, bundle, CreateOptions::new()).unwrap();
    assert_eq!(container.state().unwrap().status, Status::Created);
    container.start().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let exec = container.exec(ExecOptions::new(["/bin/echo", id]).stdio(Stdio::null().stdout(writer))).unwrap();
    let process = exec.start().unwrap();
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert_eq!(output.trim_end(), id);
    assert_eq!(process.wait().unwrap().code(), Some(0));
    container.kill(libc::SIGKILL, false).unwrap();
    let status = container.process().unwrap().wait_timeout(LONG).unwrap();
    assert_eq!(status.and_then(ExitStatus::signal), Some(libc::SIGKILL));
    container.delete(false).unwrap();
}

/// What changes the signals of the whole process, and what compares them, is alone.
static ALONE: Mutex<()> = Mutex::new(());

/// As in a program with a profiler, whose signals end each system call that waits.
fn signals_interrupt_nothing(t: &Test) {
    let _alone = ALONE.lock();
    let bundle = t.container(Config::sleep()).bundle;
    let runtime = runtime(t);
    let before = handle(libc::SIGPROF, no_op as *const () as libc::sighandler_t);
    let (process, thread) = (std::process::id(), rustix::thread::gettid());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                interrupt(process, thread);
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        let lives = || {
            for i in 0..20 {
                live(&runtime, &format!("web{i}"), &bundle);
                let running = runtime.create("killed", &bundle, CreateOptions::new()).unwrap();
                running.start().unwrap();
                running.pause().unwrap();
                running.delete(true).unwrap();
            }
        };
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(lives));
        done.store(true, Ordering::Relaxed);
        lived.unwrap();
    });
    handle(libc::SIGPROF, before);
}

static PROGRAM: AtomicU32 = AtomicU32::new(0);
static ELSEWHERE: AtomicBool = AtomicBool::new(false);

extern "C" fn note_elsewhere(_: i32) {
    if std::process::id() != PROGRAM.load(Ordering::Relaxed) {
        ELSEWHERE.store(true, Ordering::Relaxed);
    }
}

/// A terminal sends its signals to a whole group of processes. The child that `exec` makes has the program's memory at
/// first.
#[allow(unsafe_code, reason = "rustix has no signals to a group")]
fn no_child_runs_a_handler_in_the_programs_memory(t: &Test) {
    let _alone = ALONE.lock();
    PROGRAM.store(std::process::id(), Ordering::Relaxed);
    // SAFETY: it takes numbers only. A process that leads a session has a group of its own already.
    unsafe { libc::setpgid(0, 0) };
    let container = create(t, Config::sleep(), Stdio::null());
    container.start().unwrap();
    // By default it does nothing, so that the child goes on once it has a program of its own.
    let before = handle(libc::SIGWINCH, note_elsewhere as *const () as libc::sighandler_t);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // SAFETY: it takes numbers only.
                unsafe { libc::kill(0, libc::SIGWINCH) };
            }
        });
        let execs = || {
            for _ in 0..100 {
                let process = container.exec(ExecOptions::new(["/bin/true"])).unwrap().start().unwrap();
                assert_eq!(process.wait().unwrap().code(), Some(0));
            }
        };
        let executed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(execs));
        done.store(true, Ordering::Relaxed);
        executed.unwrap();
    });
    handle(libc::SIGWINCH, before);
    assert!(!ELSEWHERE.load(Ordering::Relaxed));
    container.delete(true).unwrap();
}

fn nothing_of_the_program_is_changed(t: &Test) {
    let _alone = ALONE.lock();
    const THREADS: usize = 8;
    const EACH: usize = 25;
    /// What an allocator keeps for eight threads, and nothing that grows with each container.
    const KEPT: u64 = 4 << 20;
    let runtime = runtime(t);
    let config = || Config::sleep().set("/process/execCPUAffinity", serde_json::json!({ "initial": "0" }));
    let bundles: Vec<_> = (0..THREADS).map(|_| t.container(config()).bundle).collect();
    let round = |count: usize| {
        std::thread::scope(|scope| {
            for (thread, bundle) in bundles.iter().enumerate() {
                let runtime = &runtime;
                scope.spawn(move || {
                    let before = fs::read_to_string("/proc/thread-self/status").unwrap();
                    let masks = |text: &str| {
                        let kept = text.lines().filter(|line| {
                            line.starts_with("SigB")
                                || line.starts_with("SigI")
                                || line.starts_with("SigC")
                                || line.starts_with("Cpus_allowed:")
                        });
                        kept.map(str::to_owned).collect::<Vec<_>>()
                    };
                    (0..count).for_each(|n| live(runtime, &format!("c{thread}-{n}"), bundle));
                    let after = fs::read_to_string("/proc/thread-self/status").unwrap();
                    assert_eq!(masks(&after), masks(&before));
                });
            }
        });
    };
    round(5);
    let (before, memory) = (surroundings(), private_memory());
    round(EACH);
    let after = surroundings();
    for (name, value) in &before {
        assert_eq!(&after[name], value, "{name}");
    }
    assert_eq!(before["children"], "");
    let grown = private_memory().saturating_sub(memory);
    assert!(grown < KEPT, "{grown} bytes more");
    assert!(runtime.list().unwrap().is_empty());
}

fn processes_and_streams(t: &Test) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (input, mut typed) = std::io::pipe().unwrap();
    let errors = writer.try_clone().unwrap();
    let stdio = Stdio::null().stdin(input).stdout(writer).stderr(errors);
    let container = create(t, Config::sh("read line; echo out $line; echo err >&2; exit 7"), stdio);
    // Exec of a process that takes its place in the terminal of nobody.
    typed.write_all(b"typed\n").unwrap();
    container.start().unwrap();
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert_eq!(output, "out typed\nerr\n");
    let process = container.process().unwrap();
    assert_eq!(process.wait().unwrap().shell_code(), Some(7));
    // It is remembered, also by a clone.
    assert_eq!(process.clone().try_wait().unwrap().unwrap().code(), Some(7));
    assert_eq!(process.kill(libc::SIGTERM).unwrap_err().kind(), ErrorKind::WrongState);
    assert_eq!(container.state().unwrap().status, Status::Stopped);
    container.delete(false).unwrap();
}

fn a_terminal(t: &Test) {
    let config = Config::sh("stty size; tty; read line; echo got $line").set("/process/terminal", true);
    let container = create(t, config, Stdio::terminal());
    let process = container.process().unwrap().clone();
    process.resize(33, 77).unwrap();
    container.start().unwrap();
    let master: OwnedFd = process.take_terminal().unwrap();
    assert!(process.take_terminal().is_none());
    let mut master = fs::File::from(master);
    master.write_all(b"hello\n").unwrap();
    let mut output = Vec::new();
    // The end of a terminal is EIO.
    let _ = master.read_to_end(&mut output);
    let output = String::from_utf8(output).unwrap();
    assert!(["33 77\r\n", "/dev/pts/0\r\n", "got hello\r\n"].iter().all(|text| output.contains(text)), "{output:?}");
    assert_eq!(process.wait().unwrap().code(), Some(0));
    container.delete(false).unwrap();
}

fn waiting_ends(t: &Test) {
    let container = create(t, Config::sleep(), Stdio::null());
    container.start().unwrap();
    let process = container.process().unwrap();
    assert_eq!(process.wait_timeout(Duration::from_millis(1)).unwrap(), None);
    assert_eq!(process.try_wait().unwrap(), None);
    let (cancel, canceller) = std::io::pipe().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| process.wait_or(&cancel).unwrap());
        drop(canceller);
        assert_eq!(waiting.join().unwrap(), None);
    });
    // A process that is not started is not left behind.
    let exec = container.exec(ExecOptions::new(["/bin/true"])).unwrap();
    let pid = exec.pid();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    drop(exec);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    // Another program may have made it.
    let loaded = runtime(t).load("web").unwrap();
    assert_eq!(loaded.process().unwrap().pid(), process.pid());
    loaded.delete(true).unwrap();
    assert_eq!(process.wait().unwrap().signal(), None, "the other value has collected it");
}

fn errors_have_kinds(t: &Test) {
    let runtime = runtime(t);
    assert_eq!(runtime.load("web").unwrap_err().kind(), ErrorKind::NotFound);
    let bundle = |config| t.container(config).bundle;
    let error = |config| runtime.create("web", bundle(config), CreateOptions::new()).unwrap_err();
    let e = error(Config::sleep().set("/process/cwd", "relative"));
    assert_eq!((e.kind(), e.pointer()), (ErrorKind::InvalidConfiguration, Some("/process/cwd")), "{e}");
    let e = error(Config::sleep().set("/process/terminal", true));
    assert_eq!((e.kind(), e.pointer()), (ErrorKind::InvalidConfiguration, Some("/process/terminal")), "{e}");
    let terminal = CreateOptions::new().stdio(Stdio::terminal());
    let e = runtime.create("web", bundle(Config::sleep()), terminal).unwrap_err();
    assert_eq!((e.kind(), e.pointer()), (ErrorKind::InvalidConfiguration, Some("/process/terminal")), "{e}");

    let container = create(t, Config::sleep(), Stdio::null());
    let e = runtime.create("web", bundle(Config::sleep()), CreateOptions::new()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::AlreadyExists, "{e}");
    container.start().unwrap();
    assert_eq!(container.start().unwrap_err().kind(), ErrorKind::WrongState);
    assert_eq!(container.resume().unwrap_err().kind(), ErrorKind::WrongState);
    assert_eq!(container.delete(false).unwrap_err().kind(), ErrorKind::WrongState);
    let run = |args: &[&str]| container.exec(ExecOptions::new(args.iter().copied())).and_then(berth::Exec::start);
    assert_eq!(run(&["/nowhere"]).unwrap_err().kind(), ErrorKind::CommandNotFound);
    assert_eq!(run(&["/etc/passwd"]).unwrap_err().kind(), ErrorKind::NotExecutable);
    container.delete(true).unwrap();
    assert_eq!(container.state().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(run(&["/bin/true"]).unwrap_err().kind(), ErrorKind::NotFound);
}

fn another_container_of_the_same_id(t: &Test) {
    let first = create(t, Config::sleep(), Stdio::null());
    runtime(t).load("web").unwrap().delete(true).unwrap();
    let second = create(t, Config::sleep(), Stdio::null());
    second.start().unwrap();
    assert_eq!(first.kill(libc::SIGKILL, true).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(first.pause().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(first.delete(true).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(second.state().unwrap().status, Status::Running);
    second.delete(true).unwrap();
}
