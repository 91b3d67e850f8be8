//! The terminal that an operator sits at: a process without a terminal of its own must not get that one.

use std::io::Read;

use crate::actor::{self, command};
use crate::harness::{Config, Operator, Test, eventually};

e2e!(
    no_stream_is_the_operators_terminal,
    what_is_left_behind_has_nothing_of_the_terminal,
    nothing_is_typed_in_the_operators_name,
    what_is_left_behind_cannot_keep_the_command,
    what_is_left_behind_cannot_flood_the_terminal,
);

fn no_stream_is_the_operators_terminal(t: &Test) {
    let script = "for n in 0 1 2; do test -t $n && echo TERMINAL $n; done; echo end";
    let run = t.container(Config::sh(script));
    let exec = t.container(Config::sleep());
    exec.up();
    for command in [run.run_cmd(&[]), exec.exec_cmd(&[], &["/bin/sh", "-c", script])] {
        let mut operator = Operator::new();
        let running = operator.types(command).spawn();
        assert_eq!(operator.terminal.wait("end\r\n"), "end\r\n");
        running.wait().ok();
    }
}

fn what_is_left_behind_has_nothing_of_the_terminal(t: &Test) {
    // It says when it has come to the end of what it can read; and then whether it could write.
    let behind =
        "cat <&3 > /tmp/read; echo INTRUDER >&4; echo $? > /tmp/written; echo INTRUDER >&5; echo done > /tmp/done";
    let script = format!("exec 3<&0 4>&1 5>&2; (trap '' PIPE; until test -e /tmp/go; do :; done; {behind}) & true");
    let c = t.container(Config::sleep());
    c.up();
    let mut operator = Operator::new();
    operator.types(c.exec_cmd(&[], &["/bin/sh", "-c", &script])).ok();
    operator.terminal.write("password\n");
    c.exec(&["/bin/touch", "/tmp/go"]).ok();
    eventually("the end of what it reads", || c.rootfs().join("tmp/done").exists());
    let file = |name: &str| std::fs::read_to_string(c.rootfs().join("tmp").join(name)).unwrap();
    assert_eq!(file("read"), "");
    assert_eq!(file("written"), "1\n");
    // What was typed is there for whoever comes next, and nothing but its echo was shown.
    let mut typed = [0; 9];
    operator.slave.read_exact(&mut typed).unwrap();
    assert_eq!(&typed, b"password\n");
    drop(operator.slave);
    assert_eq!(operator.terminal.rest(), "password\r\n");
}

fn nothing_is_typed_in_the_operators_name(t: &Test) {
    // Without CAP_SYS_ADMIN the kernel allows it at the terminal of one's own session only.
    let c = actor::container(t, Config::sleep().capabilities(&["CAP_SYS_ADMIN"]));
    c.up();
    let mut operator = Operator::new();
    let args = command("type");
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    operator.types(c.exec_cmd(&[], &args)).ok();
    operator.terminal.wait("ACTOR: Inappropriate ioctl for device (os error 25)\r\n");
}

fn what_is_left_behind_cannot_keep_the_command(t: &Test) {
    // It holds the pipe, and reads away what is in it when the process has ended.
    let thief =
        "(until test -e /tmp/go; do sleep 0.01; done; timeout 1 cat < /proc/self/fd/7; sleep 1000) > /dev/null &";
    let script = format!("exec 7>&1; {thief} head -c 60000 /dev/zero | tr '\\0' x; echo > /tmp/written");
    let c = t.container(Config::sleep());
    c.up();
    let mut operator = Operator::new();
    let running = operator.types(c.exec_cmd(&[], &["/bin/sh", "-c", &script])).spawn();
    c.wait_file("tmp/written");
    c.exec(&["/bin/touch", "/tmp/go"]).ok();
    std::thread::sleep(std::time::Duration::from_millis(300));
    drop(operator.slave);
    operator.terminal.rest();
    running.wait().ok();
}

fn what_is_left_behind_cannot_flood_the_terminal(t: &Test) {
    // They outlive the hang-up, and fill the terminal whenever there is room.
    let flood = "(trap '' HUP; until test -e /tmp/over; do yes > $t; sleep 0.1; done) 2> /tmp/errors &";
    let script = format!("t=$(tty); {flood} {flood} {flood} {flood} sleep 0.3; exit 5");
    let c = t.container(Config::sleep());
    c.up();
    let mut operator = Operator::new();
    let mut running = operator.types(c.exec_cmd(&["--tty"], &["/bin/sh", "-c", &script])).spawn();
    // A terminal that shows 200 kB in a second.
    let mut shown = [0; 4096];
    rustix::io::ioctl_fionbio(&operator.terminal.master, true).unwrap();
    eventually("the end of the command", || {
        let _ = operator.terminal.master.read(&mut shown);
        running.has_ended()
    });
    drop(operator.slave);
    operator.terminal.rest();
    running.wait_or_kill().expect("it has ended").code(5);
    c.exec(&["/bin/touch", "/tmp/over"]).ok();
}
