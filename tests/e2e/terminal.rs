//! Containers with a terminal.

use std::os::fd::AsFd;

use rustix::termios::LocalModes;
use serde_json::json;

use crate::harness::{Cmd, Config, Container, DescriptorSocket, Operator, Terminal, Test, eventually, sys};

e2e!(any:
    console_socket,
    size_and_owner,
    the_terminal_controls_the_session,
    a_console_socket_is_demanded,
    a_console_socket_is_refused_without_terminal,
    run_in_the_foreground,
    the_background_leaves_the_terminal_alone,
    after_a_stop_the_terminal_is_raw_again,
    without_one_what_is_typed_reaches_the_process,
    without_one_all_that_is_written_reaches_the_terminal,
    without_one_signals_of_the_terminal_reach_the_process,
    without_one_what_is_left_behind_keeps_nobody_waiting,
    without_one_the_background_takes_nothing_that_is_typed,
    streams_that_are_no_terminal_are_passed_as_they_are,
    with_a_user_namespace,
);

fn tty(script: &str) -> Config {
    Config::sh(script).set("/process/terminal", true)
}

fn up(t: &Test, c: &Container) -> Terminal {
    let socket = DescriptorSocket::new(&t.dir.join("console"));
    c.create_cmd(&["--console-socket", socket.path()]).ok();
    let terminal = socket.terminal();
    c.start().ok();
    terminal
}

fn console_socket(t: &Test) {
    let c = t.container(tty(
        "for n in 0 1 2; do readlink /proc/$$/fd/$n; done; tty; test -c /dev/console && echo console; read x; echo got $x",
    ));
    let mut terminal = up(t, &c);
    terminal.wait("console");
    terminal.write("some words\n");
    let text = terminal.wait("got some words").replace('\r', "");
    assert!(text.starts_with("/dev/pts/0\n/dev/pts/0\n/dev/pts/0\n/dev/pts/0\nconsole\n"), "{text:?}");
    c.wait_status("stopped");
}

fn size_and_owner(t: &Test) {
    let c = t.container(
        tty("stty size; stat -c '%u %g %a' /dev/pts/0; ls -l /proc/$$/fd; echo end")
            .set("/process/consoleSize", json!({ "height": 44, "width": 111 }))
            .set("/process/user", json!({ "uid": 1000, "gid": 1000 })),
    );
    let text = up(t, &c).wait("end").replace('\r', "");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["44 111", "1000 5 620"], "{text}");
    assert_eq!(text.matches(" -> ").count(), 3, "{text}");
}

fn the_terminal_controls_the_session(t: &Test) {
    let c = t.container(tty("trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 0.1; done"));
    let mut terminal = up(t, &c);
    terminal.wait("ready");
    // The terminal turns ^C into SIGINT for the foreground group of the session that it controls.
    terminal.write("\x03");
    terminal.wait("interrupted");
    c.wait_status("stopped");
}

fn a_console_socket_is_demanded(t: &Test) {
    let c = t.container(tty("true"));
    c.create().fails().says("console");
    c.assert_gone();
    c.create_cmd(&["--console-socket", &t.path("nosuch")]).run().fails();
    c.assert_gone();
}

fn a_console_socket_is_refused_without_terminal(t: &Test) {
    if t.is_crun() {
        return;
    }
    let c = t.container(Config::sleep());
    let socket = DescriptorSocket::new(&t.dir.join("console"));
    c.create_cmd(&["--console-socket", socket.path()]).run().fails();
    c.assert_gone();
}

fn run_in_the_foreground(t: &Test) {
    let c = t.container(tty(
        // The size may be passed on a moment after the start.
        "tty; until stty size 2> /dev/null | grep -v '^0 0'; do sleep 0.02; done; read x; echo got $x; exit 5",
    ));
    let mut operator = Operator::new();
    let slave = operator.slave.as_fd();
    let size = rustix::termios::Winsize { ws_row: 30, ws_col: 90, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(slave, size).unwrap();
    let before = rustix::termios::tcgetattr(slave).unwrap();
    let running = operator.types(c.run_cmd(&[])).spawn();
    let terminal = &mut operator.terminal;
    terminal.wait("30 90");
    terminal.write("hello\n");
    let text = terminal.wait("got hello");
    // The outer terminal adds the carriage returns: the inner one must not, from its first line on.
    assert!(text.contains("\r\n") && !text.contains("\r\r\n"), "{text:?}");
    running.wait().code(5);
    let after = rustix::termios::tcgetattr(operator.slave.as_fd()).unwrap();
    assert_eq!((before.local_modes, before.input_modes), (after.local_modes, after.input_modes), "modes are put back");
    c.assert_gone();
}

/// A job of a shell: `exec` with a terminal of its own, whose process reads a line.
fn job(c: &Container) -> String {
    let (runtime, root) = (c.t.runtime_path(), &c.t.root);
    let command = "/bin/sh -c 'echo up; read x; echo container got $x'";
    format!("set -m; {} --root {} exec --tty {} {command}", runtime.display(), root.display(), c.id)
}

fn is_raw(operator: &Operator) -> bool {
    let modes = rustix::termios::tcgetattr(operator.slave.as_fd()).unwrap().local_modes;
    !modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
}

fn the_background_leaves_the_terminal_alone(t: &Test) {
    if t.is_crun() || t.is_runc() {
        return skip!("exec in the background goes on, and leaves the terminal to the foreground");
    }
    let c = t.container(Config::sleep());
    c.up();
    let mut operator = Operator::new();
    let before = rustix::termios::tcgetattr(operator.slave.as_fd()).unwrap();
    let script = format!("{} & read x; echo shell got $x; fg", job(&c));
    let running = operator.types(t.command("/bin/sh").args(["-c", &script])).spawn();
    operator.terminal.wait("up\r\n");
    assert!(!is_raw(&operator), "exec in the background has changed the terminal");
    operator.terminal.write("one\n");
    operator.terminal.wait("shell got one");
    eventually("raw mode in the foreground", || is_raw(&operator));
    operator.terminal.write("two\n");
    operator.terminal.wait("container got two");
    running.wait().ok();
    let after = rustix::termios::tcgetattr(operator.slave.as_fd()).unwrap();
    assert_eq!(before.local_modes, after.local_modes, "modes are put back");
}

fn after_a_stop_the_terminal_is_raw_again(t: &Test) {
    if t.is_crun() || t.is_runc() {
        return skip!("a job that was stopped takes the terminal again");
    }
    let c = t.container(Config::sleep());
    c.up();
    let mut operator = Operator::new();
    let script = format!("{}; stty sane; echo stopped; fg", job(&c));
    let running = operator.types(t.command("/bin/sh").args(["-c", &script])).spawn();
    operator.terminal.wait("up\r\n");
    assert!(is_raw(&operator));
    let shell = running.pid();
    let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
    sys::kill(children.trim().parse().unwrap(), libc::SIGSTOP).unwrap();
    operator.terminal.wait("stopped");
    eventually("raw mode in the foreground", || is_raw(&operator));
    operator.terminal.write("two\n");
    operator.terminal.wait("container got two");
    running.wait().ok();
}

fn with_a_user_namespace(t: &Test) {
    let c = t.container(tty("id -u; stat -c %u /dev/pts/0; tty; echo end").userns(100_000));
    let text = up(t, &c).wait("end").replace('\r', "");
    assert!(text.starts_with("0\n0\n/dev/pts/0\n"), "{text}");
}

/// A process without a terminal of its own, in the foreground of ours: by `run`, and by `exec`, also as a user of a
/// user namespace.
fn commands<'t>(t: &'t Test, script: &str) -> Vec<(Container<'t>, Cmd)> {
    let c = t.container(Config::sh(script));
    let run = c.run_cmd(&[]);
    let mut commands = vec![(c, run)];
    for config in [Config::sleep(), Config::sleep().userns(100_000)] {
        let c = t.container(config);
        c.up();
        let exec = c.exec_cmd(&["--user", "1234:1234"], &["/bin/sh", "-c", script]);
        commands.push((c, exec));
    }
    commands
}

fn without_one_what_is_typed_reaches_the_process(t: &Test) {
    for (_c, command) in commands(t, "read x; echo got $x; cat > /dev/null; echo over; exit 7") {
        let mut operator = Operator::new();
        let running = operator.types(command).spawn();
        operator.terminal.write("words\n");
        operator.terminal.wait("got words");
        // ^D: the end.
        operator.terminal.write("\x04");
        operator.terminal.wait("over");
        running.wait().code(7);
    }
}

fn without_one_all_that_is_written_reaches_the_terminal(t: &Test) {
    // More than any buffer holds, right before the end.
    for (_c, command) in commands(t, "seq 30000; exit 3") {
        let mut operator = Operator::new();
        let running = operator.types(command).spawn();
        let want: String = (1..=30_000).map(|n| format!("{n}\r\n")).collect();
        assert!(operator.terminal.wait("\n30000\r\n") == want, "something is missing, or is there twice");
        running.wait().code(3);
    }
    if t.is_crun() || t.is_runc() {
        return skip!("the process is to open its streams anew, and what it writes to both stays in order");
    }
    let script = "for i in 1 2 3 4 5; do echo out > /dev/stdout; echo err > /dev/stderr; done; echo end >&2";
    for (_c, command) in commands(t, script) {
        let mut operator = Operator::new();
        let running = operator.types(command).spawn();
        assert_eq!(operator.terminal.wait("end\r\n"), "out\r\nerr\r\n".repeat(5) + "end\r\n");
        running.wait().ok();
    }
}

fn without_one_signals_of_the_terminal_reach_the_process(t: &Test) {
    for (_c, command) in commands(t, "trap 'exit 9' INT; echo ready; while :; do sleep 0.1; done") {
        let mut operator = Operator::new();
        let running = operator.types(command).spawn();
        operator.terminal.wait("ready");
        // ^C
        operator.terminal.write("\x03");
        running.wait().code(9);
    }
}

fn without_one_what_is_left_behind_keeps_nobody_waiting(t: &Test) {
    if t.is_runc() {
        return skip!("the end of the process is the end of exec");
    }
    let c = t.container(Config::sleep());
    c.up();
    // One that holds the streams, and one that never stops writing.
    for behind in ["sleep 1000", "yes"] {
        let mut operator = Operator::new();
        let script = format!("{behind} & echo end; exit 4");
        let running = operator.types(c.exec_cmd(&[], &["/bin/sh", "-c", &script])).spawn();
        drop(operator.slave);
        assert!(operator.terminal.rest().contains("end\r\n"));
        running.wait().code(4);
    }
}

fn without_one_the_background_takes_nothing_that_is_typed(t: &Test) {
    if t.is_crun() || t.is_runc() {
        return skip!("exec in the background leaves what is typed to the foreground");
    }
    let c = t.container(Config::sleep());
    c.up();
    let script = format!(
        "set -m; {} --root {} exec {} /bin/sh -c 'echo up; read x; echo container got $x' & \
         sleep 0.5; read x; echo shell got $x; fg",
        t.runtime_path().display(),
        t.root.display(),
        c.id
    );
    let mut operator = Operator::new();
    let running = operator.types(t.command("/bin/sh").args(["-c", &script])).spawn();
    operator.terminal.wait("up\r\n");
    operator.terminal.write("one\n");
    operator.terminal.wait("shell got one");
    operator.terminal.write("two\n");
    operator.terminal.wait("container got two");
    running.wait().ok();
}

fn streams_that_are_no_terminal_are_passed_as_they_are(t: &Test) {
    // What the file is called outside.
    for (_c, command) in commands(t, "readlink /proc/self/fd/1") {
        let path = command.stdout_path();
        if t.is_runc() {
            return skip!("no stream but a terminal is copied");
        }
        assert_eq!(command.ok().text(), path.to_str().unwrap());
    }
}
