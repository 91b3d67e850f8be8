//! Containers with a terminal.

use std::os::fd::AsFd;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;

use crate::harness::{Config, Container, DescriptorSocket, Terminal, Test};

e2e!(any:
    console_socket,
    size_and_owner,
    the_terminal_controls_the_session,
    a_console_socket_is_demanded,
    a_console_socket_is_refused_without_terminal,
    run_in_the_foreground,
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
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = std::fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let size = rustix::termios::Winsize { ws_row: 30, ws_col: 90, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(slave.as_fd(), size).unwrap();
    let before = rustix::termios::tcgetattr(slave.as_fd()).unwrap();
    let kept = slave.try_clone().unwrap();
    let running = c.run_cmd(&[]).on_terminal(slave).spawn();
    let mut terminal = Terminal::new(master);
    terminal.wait("30 90");
    terminal.write("hello\n");
    let text = terminal.wait("got hello");
    // The outer terminal adds the carriage returns: the inner one must not, from its first line on.
    assert!(text.contains("\r\n") && !text.contains("\r\r\n"), "{text:?}");
    running.wait().code(5);
    let after = rustix::termios::tcgetattr(kept.as_fd()).unwrap();
    assert_eq!((before.local_modes, before.input_modes), (after.local_modes, after.input_modes), "modes are put back");
    c.assert_gone();
}

fn with_a_user_namespace(t: &Test) {
    let c = t.container(tty("id -u; stat -c %u /dev/pts/0; tty; echo end").userns(100_000));
    let text = up(t, &c).wait("end").replace('\r', "");
    assert!(text.starts_with("0\n0\n/dev/pts/0\n"), "{text}");
}
