//! Other users of the host, against root's berth: what lies where they may write, and what answers there.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, mount};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::{self, Config, Container, Output, Test};

e2e!(cgroups_of_others_are_not_taken_over);
e2e!(any:
    links_of_others_are_not_followed,
    a_pid_file_needs_no_name_of_others,
    what_is_no_file_is_written_to,
    sockets_that_nobody_answers,
    fifos_that_nobody_reads,
    who_is_told_does_not_read,
    a_bus_of_others_is_not_believed,
    a_bus_that_floods_has_an_end,
);

/// An ordinary user.
const USER: u32 = 4242;

/// A directory of that user's.
fn home(t: &Test) -> String {
    let path = t.path("home");
    fs::create_dir(&path).unwrap();
    chown(&path, Some(USER), Some(USER)).unwrap();
    path
}

/// A link of that user's.
fn link(target: &str, path: &str) {
    symlink(target, path).unwrap();
    lchown(path, Some(USER), Some(USER)).unwrap();
}

/// Nobody is waited for much longer than for these seconds.
#[track_caller]
fn soon(begin: Instant, output: Output) -> Output {
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}: {output}", begin.elapsed());
    output
}

fn links_of_others_are_not_followed(t: &Test) {
    let (home, victim) = (home(t), t.write("victim", "precious"));
    fs::create_dir(t.path("secret")).unwrap();
    link(&victim, &format!("{home}/file"));
    link(&t.path("secret"), &format!("{home}/dir"));
    let (file, between) = (format!("{home}/file"), format!("{home}/dir/new"));
    for path in [&file, &between] {
        let c = t.container(Config::sleep());
        let refused = |output: Output| output.code(1).says("is a link of user 4242");
        refused(c.create_cmd(&["--pid-file", path]).run());
        refused(c.create_cmd(&["--timeline", path]).run());
        c.assert_gone();
        refused(t.runtime().args(["--log", path, "--root"]).arg(&t.root).args(["state", &c.id]).run());
        let hooks = json!([{ "path": "/bin/true" }]);
        let config =
            Config::sleep().set("/hooks/createRuntime", hooks).set("/annotations/run.oci.hooks.stdout", &**path);
        let c = t.container(config);
        refused(c.create());
        c.assert_gone();
    }
    let spec = t.runtime().args(["spec", "--bundle"]).arg(format!("{home}/dir")).run();
    spec.code(1).says("is a link of user 4242");
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    assert_eq!(fs::read_dir(t.path("secret")).unwrap().count(), 0);
}

fn a_pid_file_needs_no_name_of_others(t: &Test) {
    let shared = t.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    // The name that a temporary file could have, taken by what cannot be removed.
    let planted = format!("{shared}/.pid");
    fs::create_dir(&planted).unwrap();
    chown(&planted, Some(USER), Some(USER)).unwrap();
    let c = t.container(Config::sleep());
    let pid_file = format!("{shared}/pid");
    let create = t.command("/bin/sh").args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(t.runtime_path());
    let create = create.arg("--root").arg(&t.root).args(["create", "--pid-file", &pid_file, "--bundle"]);
    create.arg(&c.bundle).arg(&c.id).ok();
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), c.pid().to_string());
    assert_eq!(fs::metadata(&pid_file).unwrap().mode() & 0o777, 0o644, "whatever the umask is");
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 2, "the file, and what was there");
}

fn what_is_no_file_is_written_to(t: &Test) {
    let (null, fifo) = (t.path("null"), t.path("fifo"));
    mknodat(CWD, &null, FileType::CharacterDevice, Mode::from_raw_mode(0o666), rustix::fs::makedev(1, 3)).unwrap();
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let c = t.container(Config::sleep());
    c.create_cmd(&["--pid-file", &null]).ok();
    assert_eq!(fs::metadata(&null).unwrap().rdev(), rustix::fs::makedev(1, 3), "the device is there still");
    c.delete_force().ok();
    let mut reader = fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    c.create_cmd(&["--pid-file", &fifo]).ok();
    let mut pid = [0; 16];
    let length = reader.read(&mut pid).unwrap();
    assert_eq!(std::str::from_utf8(&pid[..length]).unwrap(), c.pid().to_string());
    c.delete_force().ok();
    let shown = c.create_cmd(&["--pid-file", "/dev/stdout"]).ok().stdout;
    assert_eq!(shown, c.pid().to_string());
}

/// In every hierarchy.
fn directories(t: &Test, name: &str) -> Vec<String> {
    let path = format!("{}/{name}", t.cgroup);
    let found = harness::left::cgroups(&t.cgroup);
    let found = found.iter().filter_map(|dir| dir.to_str()).filter(|dir| dir.ends_with(&path));
    found.map(str::to_owned).collect()
}

fn cgroups_of_others_are_not_taken_over(t: &Test) {
    // What is there and is root's may be used.
    let c = t.container(Config::sleep());
    c.create().ok();
    let hierarchies: Vec<_> = directories(t, &c.id).into_iter().map(|dir| dir.replace(&c.id, "")).collect();
    c.delete_force().ok();
    assert!(!hierarchies.is_empty());
    let user = Some(USER);
    let make = |name: &str| {
        hierarchies.iter().map(|dir| format!("{dir}{name}")).inspect(|d| fs::create_dir(d).unwrap()).collect::<Vec<_>>()
    };
    let refused = |c: &Container| {
        c.create().code(1).says("belongs to user 4242, who could freeze and kill the container");
        assert!(!t.root.join(&c.id).exists());
        t.assert_no_process();
    };
    let with_path = |path: &str| {
        t.container(Config::sleep().without_cgroups_path().set("/linux/cgroupsPath", format!("{}/{path}", t.cgroup)))
    };

    let ours = make("ours");
    let c = with_path("ours");
    c.create().ok();
    c.delete_force().ok();
    assert!(ours.iter().all(|dir| !Path::new(dir).exists()));

    let theirs = make("theirs");
    let of_one_file = make("file");
    let delegated = make("delegated");
    for dir in theirs.iter().chain(&delegated) {
        chown(dir, user, user).unwrap();
    }
    for dir in &of_one_file {
        chown(format!("{dir}/cgroup.procs"), user, user).unwrap();
    }
    for path in ["theirs", "file", "delegated/c", "delegated/below/c"] {
        refused(&with_path(path));
    }
    // A runtime that is in there itself has nothing to lose. (Of v1 one would need processors first.) It has a cgroup
    // of its own: one with processes gives its cgroups no controllers.
    if t.mode == harness::Mode::V2 {
        let join =
            "while test \"$1\" != --; do mkdir $1/own; echo $$ > $1/own/cgroup.procs; shift; done; shift; exec \"$@\"";
        let c = with_path("delegated/below/c");
        let create = t.command("/bin/sh").args(["-c", join, "sh"]).args(&delegated).arg("--").arg(t.runtime_path());
        create.arg("--root").arg(&t.root).args(["create", "--bundle"]).arg(&c.bundle).arg(&c.id).ok();
        c.delete_force().ok();
        for dir in &delegated {
            fs::remove_dir(format!("{dir}/below")).unwrap();
            fs::remove_dir(format!("{dir}/own")).unwrap();
        }
    }
    for dir in theirs.iter().chain(&of_one_file).chain(&delegated) {
        assert!(Path::new(dir).exists(), "{dir}: it is not ours to remove");
        assert_eq!(fs::read_dir(dir).unwrap().flatten().filter(|e| e.path().is_dir()).count(), 0, "{dir}");
        fs::remove_dir(dir).unwrap();
    }
}

/// A socket whose queue of connections is full.
fn full_socket(path: &str) -> Vec<OwnedFd> {
    let socket = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
    };
    let address = SocketAddrUnix::new(path).unwrap();
    let listener = socket();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let mut kept = vec![listener];
    loop {
        kept.push(socket());
        if rustix::net::connect(kept.last().unwrap(), &address).is_err() {
            return kept;
        }
    }
}

fn sockets_that_nobody_answers(t: &Test) {
    let path = t.path("socket");
    let _full = full_socket(&path);
    let listener = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }],
    });
    for (config, option) in [
        (Config::sleep(), Some("--pidfd-socket")),
        (Config::sleep().set("/process/terminal", true), Some("--console-socket")),
        (Config::sleep().set("/annotations/run.oci.pidfd_receiver", &*path), None),
        (Config::sleep().set("/linux/seccomp", listener), None),
    ] {
        let c = t.container(config);
        let begin = Instant::now();
        let options = option.map_or_else(Vec::new, |option| vec![option, &path]);
        let running = c.create_cmd(&options).spawn();
        stop_and_continue(Pid::from_raw(running.pid()).unwrap());
        soon(begin, running.wait().code(1).says("connection timed out"));
        c.assert_gone();
        t.assert_no_process();
    }
}

/// For a second, in which it waits. A stop interrupts calls on a socket that has a timeout (signal(7)).
fn stop_and_continue(process: Pid) {
    for signal in [Signal::STOP, Signal::CONT].into_iter().cycle().take(100) {
        kill_process(process, signal).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn fifos_that_nobody_reads(t: &Test) {
    let fifo = t.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    chown(&fifo, Some(USER), Some(USER)).unwrap();
    let c = t.container(Config::sleep());
    let begin = Instant::now();
    for option in ["--pid-file", "--timeline"] {
        soon(begin, c.create_cmd(&[option, &fifo]).run().code(1).says("a fifo that nobody reads"));
        c.assert_gone();
    }
    let log = || t.runtime().args(["--debug", "--log", &fifo, "--root"]).arg(&t.root);
    soon(begin, log().args(["state", &c.id]).run().code(1).says("a fifo that nobody reads"));
    // One who has it open, and reads nothing: what the log says is lost, but not what is to be done.
    let _reader = fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let mut filler = fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    while filler.write(&[0; 4096]).is_ok() {}
    let begin = Instant::now();
    soon(begin, log().args(["create", "--bundle"]).arg(&c.bundle).arg(&c.id).run().ok());
    assert_eq!(c.status(), "created");
}

fn who_is_told_does_not_read(t: &Test) {
    let path = t.path("notify");
    let _receiver = UnixDatagram::bind(&path).unwrap();
    // The queue may have room for more than one sender may have under way.
    let mut senders = Vec::new();
    let is_full = |sender: &UnixDatagram| (0..).take_while(|_| sender.send_to(b"x", &path).is_ok()).count() == 0;
    while !senders.last().is_some_and(is_full) {
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        senders.push(sender);
    }
    // It never says that it is ready, which would be waited for if anybody could be told.
    let c = t.container(Config::sleep());
    let begin = Instant::now();
    soon(
        begin,
        c.run_cmd(&["--detach"])
            .env("NOTIFY_SOCKET", &path)
            .run()
            .ok()
            .says("NOTIFY_SOCKET: connect(")
            .says("timed out"),
    );
    assert_eq!(c.status(), "running");
}

/// Takes systemd's own sockets out of sight.
fn hide_systemd(t: &Test) {
    for dir in ["/run/systemd", "/run/dbus"] {
        if Path::new(dir).exists() {
            mount("tmpfs", dir, "tmpfs", MountFlags::empty(), None).unwrap();
        }
    }
    t.accept_mounts();
}

fn by_bus(t: &Test, id: &str, bundle: &Path, socket: &str) -> Output {
    let create = t.cli(["--systemd-cgroup", "create", "--bundle"]).arg(bundle).arg(id);
    create.env("DBUS_SYSTEM_BUS_ADDRESS", &format!("unix:path={socket}")).run()
}

fn a_bus_of_others_is_not_believed(t: &Test) {
    hide_systemd(t);
    let socket = format!("{}/bus", home(t));
    // Who listens is who called listen(2), which a thread can do as another user.
    let path = socket.clone();
    let bound = std::thread::spawn(move || {
        let user = rustix::process::Uid::from_raw(USER);
        rustix::thread::set_thread_res_uid(None, Some(user), None).unwrap();
        UnixListener::bind(path).unwrap()
    });
    let listener = bound.join().unwrap();
    let server = std::thread::spawn(move || {
        // It hangs up, which is told in other words.
        drop(listener.accept());
    });
    let c = t.container(Config::sleep().without_cgroups_path());
    by_bus(t, &c.id, &c.bundle, &socket).code(1).says("user 4242 listens there, who is neither root nor the caller");
    c.assert_gone();
    server.join().unwrap();
}

fn a_bus_that_floods_has_an_end(t: &Test) {
    hide_systemd(t);
    let socket = t.path("bus");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 8192]);
        let _ = stream.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n");
        // Signals of 900 kB, little-endian: the lengths, no header but the body's signature, the body.
        const LENGTH: u32 = 900_000;
        let mut signal = b"l\x04\x00\x01".to_vec();
        signal.extend((LENGTH + 5).to_le_bytes());
        signal.extend(b"\x01\x00\x00\x00\x07\x00\x00\x00\x08\x01g\x00\x01s\x00\x00");
        signal.extend(LENGTH.to_le_bytes());
        signal.resize(signal.len() + LENGTH as usize, b'x');
        signal.push(0);
        let mut sent = 0;
        while stream.write_all(&signal).is_ok() {
            sent += signal.len();
        }
        sent
    });
    let c = t.container(Config::sleep().without_cgroups_path());
    let begin = Instant::now();
    soon(begin, by_bus(t, &c.id, &c.bundle, &socket).code(1).says("it sends without end"));
    c.assert_gone();
    assert!(server.join().unwrap() < 100 << 20, "as much as it would have taken");
}
