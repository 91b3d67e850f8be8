//! What a service manager hands over: who is to be told of readiness, and sockets to serve.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::harness::{Cmd, Config, Container, Running, Test, eventually};

e2e!(
    start_returns_once_the_container_is_ready,
    a_container_that_ends_unready_does_not_hold_start,
    run_tells_of_the_container_and_stays,
    a_detached_run_returns_once_the_container_is_ready,
);
e2e!(any:
    a_listener_that_is_missing_is_no_failure,
    only_readiness_is_passed_on,
    sockets_to_serve_are_handed_over,
    sockets_for_another_process_are_not,
);

const SLEEP: &str = r#"echo "$NOTIFY_SOCKET" > /socket; exec sleep 1000"#;

/// Who is told.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(t: &Test) -> Self {
        let path = t.path("manager.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { socket, path }
    }

    fn command(&self, command: Cmd) -> Cmd {
        command.env("NOTIFY_SOCKET", &self.path)
    }

    /// A descriptor that comes along is closed, as by who has read all before it.
    fn message(&self) -> String {
        let mut text = [0; 4096];
        let read = self.socket.recv(&mut text).expect("a message");
        String::from_utf8_lossy(&text[..read]).into_owned()
    }

    fn is_silent(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&now)).unwrap() == 0
    }
}

/// What the container's process says, on the socket that it sees.
fn say(c: &Container, message: &str) {
    assert_eq!(c.wait_file("/socket"), "/run/notify/notify.sock\n");
    let path = format!("/proc/{}/root/run/notify/notify.sock", c.pid());
    UnixDatagram::unbound().unwrap().send_to(message.as_bytes(), path).unwrap();
}

fn has_ended(command: &Running) -> bool {
    let pidfd = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(command.pid()).unwrap(),
        rustix::process::PidfdFlags::empty(),
    );
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&pidfd.unwrap(), PollFlags::IN)], Some(&now)).unwrap() != 0
}

fn start_returns_once_the_container_is_ready(t: &Test) {
    let manager = Manager::new(t);
    let c = t.container(Config::sh(SLEEP));
    manager.command(c.create_cmd(&[])).ok();
    let start = manager.command(c.cli("start", &[]).arg(&c.id)).spawn();
    say(&c, "STATUS=almost\n");
    assert!(!has_ended(&start));
    // Nothing waits for the command that waits.
    assert_eq!(c.inside("stat -c %a /run/notify/notify.sock; touch /run/notify/x 2> /dev/null || echo ro"), "777\nro");
    say(&c, "READY=1\nSTATUS=done");
    assert_eq!(manager.message(), "READY=1\n");
    assert_eq!(manager.message(), format!("MAINPID={}\n", c.pid()));
    assert_eq!(manager.message(), "BARRIER=1");
    start.wait().ok();
}

fn a_container_that_ends_unready_does_not_hold_start(t: &Test) {
    let manager = Manager::new(t);
    let c = t.container(Config::sh("exit 0"));
    manager.command(c.create_cmd(&[])).ok();
    manager.command(c.cli("start", &[]).arg(&c.id)).ok();
    assert!(manager.is_silent());
}

fn run_tells_of_the_container_and_stays(t: &Test) {
    if t.peer_lacks("signals and the container's end are seen to while its manager reads") {
        return;
    }
    let manager = Manager::new(t);
    let c = t.container(Config::sh(SLEEP));
    let run = manager.command(c.run_cmd(&[])).spawn();
    say(&c, "READY=1");
    assert_eq!(manager.message(), "READY=1\n");
    assert_eq!(manager.message(), format!("MAINPID={}\n", run.pid()));
    c.kill("KILL").ok();
    run.wait().code(137);
}

fn a_detached_run_returns_once_the_container_is_ready(t: &Test) {
    let manager = Manager::new(t);
    let c = t.container(Config::sh(SLEEP));
    let run = manager.command(c.run_cmd(&["--detach"])).spawn();
    say(&c, "READY=1");
    assert_eq!(manager.message(), "READY=1\n");
    assert_eq!(manager.message(), format!("MAINPID={}\n", c.pid()));
    assert_eq!(manager.message(), "BARRIER=1");
    run.wait().ok();
    assert_eq!(c.status(), "running");
}

fn a_listener_that_is_missing_is_no_failure(t: &Test) {
    if t.peer_lacks("a container starts though nobody is to be told") {
        return;
    }
    let c = t.container(Config::sh("exit 3"));
    let output = c.run_cmd(&[]).env("NOTIFY_SOCKET", &t.path("missing.sock")).run().code(3);
    output.says("warning: NOTIFY_SOCKET: connect(").says("no such file or directory");
    // Created without, there is nothing to listen to.
    let c = t.container(Config::sleep());
    c.create().ok();
    c.cli("start", &[]).arg(&c.id).env("NOTIFY_SOCKET", &t.path("missing.sock")).ok();
}

/// What the host believes is for the host's processes to say.
fn only_readiness_is_passed_on(t: &Test) {
    if t.peer_lacks("READY=1 is found in any line, and nothing else taken for it") {
        return;
    }
    let manager = Manager::new(t);
    let c = t.container(Config::sh(SLEEP));
    manager.command(c.create_cmd(&[])).ok();
    let start = manager.command(c.cli("start", &[]).arg(&c.id)).spawn();
    for message in ["", "MAINPID=1", "READY=10", "XREADY=1", &"x".repeat(5000), "\n\nREADY", "\0READY=1"] {
        say(&c, message);
    }
    // Read in order, so that whatever is to follow has followed.
    say(&c, "MAINPID=1\nFDSTORE=1\nREADY=1");
    assert_eq!(manager.message(), "READY=1\n");
    assert_eq!(manager.message(), format!("MAINPID={}\n", c.pid()));
    assert_eq!(manager.message(), "BARRIER=1");
    start.wait().ok();
}

const TELL: &str = r#"echo "$LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES"; cd /proc/self/fd; echo ?"#;

/// A command that begins as the process whom `LISTEN_PID` names.
fn activated(t: &Test, c: &Container, options: &str, pid: &str) -> Cmd {
    let script = format!(r#"export LISTEN_PID={pid}; exec "$0" --root "$1" run --bundle "$2" {options} "$3""#);
    let command = t.command("/bin/sh").args(["-c", &script]).arg(t.runtime_path()).arg(&t.root).arg(&c.bundle);
    command.arg(&c.id).env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "web:admin")
}

fn sockets_to_serve_are_handed_over(t: &Test) {
    let path = t.path("web.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    let c = t.container(Config::sh(&format!("{TELL}; readlink 3 | cut -d: -f1; readlink 5")));
    let run = activated(t, &c, "--preserve-fds 1", "$$");
    let output = run.pass_fd(listener.try_clone().unwrap(), 3).pass_fd(null(), 4).pass_fd(null(), 5).ok();
    let names = if t.is_runc() { "" } else { "web:admin" };
    // The shell's own descriptor for the directory is none of ours.
    let lines: Vec<_> = output.text().lines().collect();
    assert_eq!(lines[0], format!("2 1 {names}"));
    assert!(lines[1].starts_with("0 1 2 3 4 5"), "{lines:?}");
    assert_eq!(lines[2..], ["socket", "/dev/null"]);

    // By create as well, where some engines do not say which process is meant; exec has none of it.
    let c = t.container(Config::sh(&format!("{{ {TELL}; }} > /told; exec sleep 1000")));
    let create = c.create_cmd(&[]).env("LISTEN_FDS", "1");
    if t.is_runc() {
        return;
    }
    create.pass_fd(listener.try_clone().unwrap(), 3).ok();
    c.start().ok();
    eventually("the script ran", || c.wait_file("/told").lines().count() == 2);
    assert!(c.wait_file("/told").starts_with("1 1 \n0 1 2 3"), "{}", c.wait_file("/told"));
    assert_eq!(c.inside("echo $LISTEN_FDS $LISTEN_PID"), "");
    let bad = t.container(Config::sh("true"));
    bad.create_cmd(&[]).env("LISTEN_FDS", "many").run().fails().says("LISTEN_FDS=many: must be a number");
}

fn sockets_for_another_process_are_not(t: &Test) {
    let c = t.container(Config::sh(TELL));
    let null = OwnedFd::from(File::open("/dev/null").unwrap());
    let output = activated(t, &c, "", "1").pass_fd(null, 3).ok();
    assert!(output.text().starts_with("  \n0 1 2"), "{output}");
    assert!(!output.text().contains("2 3 4"), "{output}");
}
