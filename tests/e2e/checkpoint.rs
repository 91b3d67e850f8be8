//! `checkpoint` and `restore`: with CRIU where there is one that works, and everywhere with a stand-in that speaks its
//! messages, to see what is made of its complaints.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::{CWD, FileType, mknodat};
use serde_json::json;

use crate::harness::{
    Cmd, Config, Container, DescriptorSocket, Mode, Operator, Test, busybox, eventually, namespace_of, script,
    wait_file,
};

e2e!(
    a_container_goes_on_where_it_was,
    another_cgroup_is_the_configurations,
    a_restore_that_is_killed_leaves_what_delete_removes,
);
e2e!(any:
    without_criu,
    what_holds_no_checkpoint,
    wrong_options,
    only_what_runs_can_be_dumped,
    an_old_criu,
    a_dump_that_fails,
    what_a_failed_dump_leaves_is_told,
    who_waits_is_told_the_steps,
    a_restore_that_fails,
    a_criu_that_talks_nonsense,
    the_container_may_go_on,
    a_pre_dump_is_the_parent_of_a_dump,
    the_exit_status_is_passed_on,
    pipes_are_replaced,
    a_terminal_is_handed_over,
    namespaces_that_were_joined,
    mounts_of_the_host,
    hooks_in_their_order,
    a_hook_that_fails,
    the_annotation_names_a_configuration,
    a_pidfd_goes_to_the_receiver,
);

/// Counts in /tmp/n, with no descriptor that leads out of the container. And without a child: a shell that waits for
/// one to exec (vfork) is a state in which CRIU cannot stop both.
const COUNT: &str = "exec </dev/null >/dev/null 2>&1; mkfifo /tmp/wait; exec 9<>/tmp/wait; n=0; \
                     while true; do n=$((n+1)); echo $n > /tmp/n; read -t 0.05 x <&9; done";

pub fn images(c: &Container) -> String {
    c.bundle.join("images").to_str().unwrap().to_owned()
}

/// What is looked at before CRIU is asked to restore it.
pub fn make_images(c: &Container) {
    fs::create_dir_all(images(c)).unwrap();
    fs::write(Path::new(&images(c)).join("inventory.img"), "").unwrap();
}

pub fn checkpoint(c: &Container, options: &[&str]) -> Cmd {
    c.cli("checkpoint", &["--image-path", &images(c)]).args(options).arg(&c.id)
}

pub fn restore(c: &Container, options: &[&str]) -> Cmd {
    c.cli("restore", &["--image-path", &images(c)]).args(options).arg(&c.id)
}

fn count(c: &Container) -> u64 {
    c.wait_file("/tmp/n").trim().parse().unwrap_or(0)
}

#[track_caller]
fn counts_on(c: &Container) {
    let before = count(c);
    eventually("the counter to go on", || count(c) > before);
}

/// To where the container does nothing but count.
#[track_caller]
fn up(c: &Container) {
    c.up();
    count(c);
}

pub fn criu_works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let works = *WORKS.get_or_init(|| {
        let check = Command::new("criu").arg("check").stdout(Stdio::null()).stderr(Stdio::null()).status();
        check.is_ok_and(|status| status.success())
    });
    if !works {
        skip!("there is no CRIU that works with this kernel (criu check)");
    }
    works
}

// --- without CRIU

fn without_criu(t: &Test) {
    let c = t.container(Config::sh(COUNT));
    c.up();
    checkpoint(&c, &[]).env("PATH", "/nonexistent").run().code(1).says("criu is not in PATH");
    assert_eq!(c.status(), "running");
    c.delete_force().ok();
    make_images(&c);
    restore(&c, &["--detach"]).env("PATH", "/nonexistent").run().code(1).says("criu is not in PATH");
    c.assert_gone();
}

fn what_holds_no_checkpoint(t: &Test) {
    if t.peer_lacks("leaves it to CRIU") {
        return;
    }
    let c = t.container(Config::sleep());
    fs::create_dir_all(images(&c)).unwrap();
    for file in ["", "dump.log", "descriptors.json"] {
        if !file.is_empty() {
            fs::write(Path::new(&images(&c)).join(file), "[]").unwrap();
        }
        // CRIU is not even looked for.
        let output = restore(&c, &["--detach"]).env("PATH", "/nonexistent").run().code(1);
        output.says(&format!(
            "restore {}: --image-path: {:?} holds no checkpoint: it has no inventory.img\n",
            c.id,
            images(&c)
        ));
        c.assert_gone();
    }
}

fn wrong_options(t: &Test) {
    let c = t.container(Config::sh(COUNT));
    c.up();
    let file = t.write("file", "");
    make_images(&c);
    fs::write(Path::new(&images(&c)).join("file"), "").unwrap();
    for (options, complaint) in [
        (&["--parent-path", &*file][..], "--parent-path must be relative"),
        (&["--parent-path", "../nothing"], "invalid --parent-path"),
        (&["--parent-path", "file"], "invalid --parent-path"),
        (&["--page-server", "host"], "must be ADDRESS:PORT"),
        (&["--manage-cgroups-mode", "hard"], "invalid --manage-cgroups-mode value \"hard\""),
        (&["--network-lock", "none"], "invalid --network-lock value \"none\""),
        (&["--empty-ns", "pid"], "namespace \"pid\" is not supported"),
        (&["--status-fd", "77", "--lazy-pages"], "invalid --status-fd argument"),
        (&["--status-fd", "x"], "--status-fd"),
        (&["--image-path", &*file], "--image-path"),
        (&["--work-path", &*file], "--work-path"),
    ] {
        checkpoint(&c, options).run().code(1).says(complaint);
    }
    let null = fs::File::open("/dev/null").unwrap();
    let read_only = checkpoint(&c, &["--status-fd", "7"]).pass_fd(null, 7);
    read_only.run().code(1).says("not writable");
    assert_eq!(c.status(), "running");
    c.delete_force().ok();
    for (options, complaint) in [
        (&["--image-path", "/nonexistent"][..], "no such file or directory"),
        (&["--manage-cgroups-mode", "hard"], "invalid --manage-cgroups-mode value"),
        (&["--console-socket", &*file], "cannot use console socket"),
    ] {
        restore(&c, options).arg("--detach").run().code(1).says(complaint);
        c.assert_gone();
    }
    for list in ["{}", "[1]", "["] {
        fs::write(Path::new(&images(&c)).join("descriptors.json"), list).unwrap();
        restore(&c, &["--detach"]).run().code(1).says("descriptors.json");
        c.assert_gone();
    }
    // In images from somewhere else it may be anything: nobody follows a link, or waits for who writes to a fifo.
    let list = Path::new(&images(&c)).join("descriptors.json");
    fs::remove_file(&list).unwrap();
    std::os::unix::fs::symlink(&file, &list).unwrap();
    restore(&c, &["--detach"]).run().code(1).says("descriptors.json\" is a Symlink");
    fs::remove_file(&list).unwrap();
    mknodat(CWD, &list, FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    restore(&c, &["--detach"]).run().code(1).says("descriptors.json");
    c.assert_gone();
}

fn only_what_runs_can_be_dumped(t: &Test) {
    let c = t.container(Config::sleep());
    checkpoint(&c, &[]).run().code(1).says("container does not exist");
    c.create().ok();
    checkpoint(&c, &[]).run().code(1).says("cannot be checkpointed in created state");
    c.kill("KILL").ok();
    c.wait_status("stopped");
    checkpoint(&c, &[]).run().code(1).says("cannot be checkpointed in stopped state");
    // Who has the id already keeps it.
    make_images(&c);
    restore(&c, &["--detach"]).run().code(1).says("already exists");
}

// --- with a stand-in

/// Version 4.2.1, as CRIU says it.
pub const VERSION: &str = r"printf '\010\012\020\001\122\006\010\004\020\002\040\001'";
/// A request, or an answer of ours.
pub const READ: &str = "dd bs=65536 count=1 <&$2 2>/dev/null >/dev/null";

/// A `criu swrk FD` that does this; returns the PATH by which it is found.
pub fn stand_in(t: &Test, body: &str) -> String {
    let dir = t.dir.join("stand-in");
    fs::create_dir_all(&dir).unwrap();
    for applet in ["dd", "cat", "touch", "sleep", "od"] {
        let _ = std::os::unix::fs::symlink(busybox(), dir.join(applet));
    }
    let path = dir.to_str().unwrap();
    let text = format!("#!{} sh\nPATH={path}\n{body}\n", busybox().display());
    let file = dir.join("criu");
    script(&file, "");
    fs::write(&file, text).unwrap();
    path.to_owned()
}

fn an_old_criu(t: &Test) {
    let c = t.container(Config::sh(COUNT));
    c.up();
    // 2.12
    let path = stand_in(t, &format!(r"{READ}; printf '\010\012\020\001\122\004\010\002\020\014' >&$2; {READ}"));
    checkpoint(&c, &[]).env("PATH", &path).run().code(1).says("CRIU is 2.12.0, checkpoint and restore needs 3.0.0");
    // 3.14
    let path = stand_in(t, &format!(r"{READ}; printf '\010\012\020\001\122\004\010\003\020\016' >&$2; {READ}"));
    let newer = checkpoint(&c, &["--network-lock", "skip"]).env("PATH", &path);
    newer.run().code(1).says("CRIU is 3.14.0, --network-lock needs 3.17.0");
    assert_eq!(c.status(), "running");
    c.delete_force().ok();
    make_images(&c);
    let restored = restore(&c, &["--detach", "--lsm-mount-context", "x"]).env("PATH", &path);
    restored.run().code(1).says("--lsm-mount-context needs 3.16.0");
    c.assert_gone();
}

const LOG: &str =
    "(00.000001)   1: Error (criu/x.c:1): the cause\\n(00.2) fine\\n(00.3) Error (criu/y.c:2): the end\\n";

fn a_dump_that_fails(t: &Test) {
    let c = t.container(Config::sh(COUNT));
    c.up();
    let log = t.dir.join("work/dump.log");
    let body = format!(
        r"{READ}; {VERSION} >&$2; {READ}; printf '{LOG}' > {}; printf '\010\001\020\000\070\020\112\004busy' >&$2; {READ}",
        log.display()
    );
    let path = stand_in(t, &body);
    let failed = checkpoint(&c, &["--work-path", &t.path("work")]).env("PATH", &path).run().code(1);
    let failed = failed.says("criu dump failed: device or resource busy: the cause; the end");
    failed.says(log.to_str().unwrap());
    assert_eq!(c.status(), "running");
    counts_on(&c);
    assert!(log.exists(), "the log is kept");

    // The log of this failure is not to be told again.
    let path = stand_in(t, "exit 3");
    let failed = checkpoint(&c, &["--work-path", &t.path("work")]).env("PATH", &path).run().code(1);
    assert!(!failed.stderr.contains("the cause"), "{failed}");
    failed.says("ended without an answer: exit status: 3");
    assert_eq!(c.status(), "running");
}

fn what_a_failed_dump_leaves_is_told(t: &Test) {
    if t.peer_lacks("says nothing of it") {
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    let fail = |meanwhile: &str| {
        let body =
            format!(r"{READ}; {VERSION} >&$2; {READ}; {meanwhile}; printf '\010\001\020\000\070\020' >&$2; {READ}");
        checkpoint(&c, &[]).env("PATH", &stand_in(t, &body)).run().code(1).says("criu dump failed: ")
    };
    let failed = fail("true");
    assert!(!failed.stderr.contains("the container is"), "{failed}");
    let (file, frozen) = if t.mode == Mode::V1 { ("freezer.state", "FROZEN") } else { ("cgroup.freeze", "1") };
    let file = c.cgroup_dir("freezer").join(file);
    fail(&format!("echo {frozen} > {}", file.display())).says("\n  hint: the container is paused now; CRIU's log");
    c.cli("resume", &[]).arg(&c.id).ok();
    fail(&format!("kill -9 {}", c.pid())).says("\n  hint: the container is stopped now; CRIU's log");
    assert_eq!(c.status(), "stopped");
}

fn who_waits_is_told_the_steps(t: &Test) {
    if t.is_runc() || t.is_crun() {
        return;
    }
    let c = t.container(Config::sh(COUNT));
    c.up();
    let notify = r"printf '\010\006\020\001\052\016\012\014network-lock' >&$2";
    let body =
        format!(r"{READ}; {VERSION} >&$2; {READ}; {notify}; {READ}; printf '\010\001\020\000\070\020' >&$2; {READ}");
    let path = stand_in(t, &body);
    let steps = ["berth: CRIU stops the processes\r\n", "berth: CRIU writes processes and memory\r\n"];
    let mut operator = Operator::new();
    let running = operator.types(checkpoint(&c, &[]).env("PATH", &path)).spawn();
    let shown = operator.terminal.wait("criu dump failed").to_owned();
    running.wait().code(1);
    assert!(shown.starts_with(&steps.concat()), "{shown}");
    // A program that reads standard error gets the error alone.
    let failed = checkpoint(&c, &[]).env("PATH", &path).run().code(1).says("criu dump failed");
    assert!(!failed.stderr.contains("CRIU "), "{failed}");
}

fn a_restore_that_fails(t: &Test) {
    let c = t.container(Config::sh(COUNT));
    let log = t.dir.join("work/restore.log");
    make_images(&c);
    let body = format!(
        r"{READ}; {VERSION} >&$2; {READ}; printf '{LOG}' > {}; printf '\010\002\020\000\042\013\010\377\377\377\377\377\377\377\377\377\001' >&$2; {READ}",
        log.display()
    );
    let path = stand_in(t, &body);
    let options = ["--work-path", &t.path("work"), "--detach", "-no-subreaper", "--no-pivot"];
    let failed = restore(&c, &options).env("PATH", &path).run().code(1);
    failed.says("criu restore failed: the cause; the end").says(log.to_str().unwrap());
    c.assert_gone();
    t.assert_no_process();
}

fn a_criu_that_talks_nonsense(t: &Test) {
    let c = t.container(Config::sh(COUNT));
    c.up();
    for (nonsense, complaint) in [
        (r"\012\005", "malformed message from CRIU"),
        (r"\377\377\377\377\377\377\377\377\377\377\377", "malformed message from CRIU"),
        (r"\010\002\020\001", "unexpected answer from CRIU"),
        (r"\010\143\020\001", "unexpected answer from CRIU"),
    ] {
        let path = stand_in(t, &format!("{READ}; {VERSION} >&$2; {READ}; printf '{nonsense}' >&$2; exec sleep 1000"));
        checkpoint(&c, &[]).env("PATH", &path).run().code(1).says(complaint);
        assert_eq!(c.status(), "running");
    }
    c.delete_force().ok();
    // It says that all went well, but has restored nothing.
    make_images(&c);
    let path = stand_in(t, &format!(r"{READ}; {VERSION} >&$2; {READ}; printf '\010\002\020\001' >&$2; {READ}"));
    restore(&c, &["--detach"]).env("PATH", &path).run().code(1).says("CRIU does not tell which process");
    c.assert_gone();
    t.assert_no_process();
}

// --- with CRIU

fn a_container_goes_on_where_it_was(t: &Test) {
    if !criu_works() {
        return;
    }
    let cgroup = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"] });
    let c = t.container(Config::sh(COUNT).mount(cgroup));
    up(&c);
    for _ in 0..2 {
        counts_on(&c);
        checkpoint(&c, &[]).ok();
        c.cli("state", &[]).arg(&c.id).run().code(1);
        c.assert_gone();
        t.assert_no_process();
        let before = count(&c);
        let pid_file = t.path("pid");
        restore(&c, &["--detach", "--pid-file", &pid_file]).ok();
        assert_eq!(c.status(), "running");
        eventually("the counter to go on", || count(&c) > before);
        assert_eq!(fs::read_to_string(pid_file).unwrap(), c.pid().to_string());
        assert_eq!(c.inside("tr '\\0' ' ' < /proc/1/cmdline | cut -c 1-10"), "/bin/sh -c");
        c.inside("ping -c 1 -w 5 127.0.0.1 >/dev/null; ifconfig lo | grep -q UP");
        assert_eq!(c.inside("cat /proc/keys; ls /sys/firmware"), "", "what is masked");
        c.exec(&["/bin/sh", "-c", "echo 0 > /proc/sys/kernel/panic"]).fails();
    }
    c.kill("KILL").ok();
    c.wait_status("stopped");
    c.delete().ok();
    c.assert_gone();
}

fn another_cgroup_is_the_configurations(t: &Test) {
    if !criu_works() {
        return;
    }
    let mut c = t.container(Config::sh(COUNT));
    let paths = ["-first", "-second", "-third"].map(|end| c.cgroup.clone().unwrap() + end);
    up(&c);
    // In v2 beside v1, whose root the container is in, the last would give that root its own properties again.
    let pure = fs::read_to_string("/proc/self/cgroup").unwrap().lines().count() == 1;
    let modes = if t.mode == Mode::V1 || pure { &["ignore", "soft", "full"][..] } else { &["ignore", "soft"] };
    for (path, mode) in paths.into_iter().zip(modes) {
        checkpoint(&c, &["--manage-cgroups-mode", mode]).ok();
        c.assert_gone();
        c.cgroup = Some(path.clone());
        c.write(&Config::sh(COUNT).set("/linux/cgroupsPath", &*path));
        restore(&c, &["--detach", "--manage-cgroups-mode", mode]).ok();
        let own = fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
        let mut ours = own.lines().filter(|line| t.mode == Mode::V1 || line.starts_with("0::"));
        assert!(ours.all(|line| line.ends_with(&path)), "{mode}: {own}");
        counts_on(&c);
    }
    c.delete_force().ok();
    c.assert_gone();
}

fn a_restore_that_is_killed_leaves_what_delete_removes(t: &Test) {
    if !criu_works() {
        return;
    }
    let at = t.path("at");
    // At two moments: with the processes half made, and when they are whole.
    for kind in ["createRuntime", "poststart"] {
        let hook = t.script(
            "hook",
            &format!("test -e {at} && echo here > {at} && while test -e {at}; do sleep 0.05; done; true"),
        );
        let config =
            Config::sh(COUNT).push(&format!("/hooks/{kind}"), json!({ "path": hook, "env": ["PATH=/bin:/usr/bin"] }));
        let c = t.container(config);
        up(&c);
        checkpoint(&c, &[]).ok();
        fs::write(&at, "").unwrap();
        let mut running = restore(&c, &["--detach"]).spawn();
        wait_file(Path::new(&at));
        running.kill();
        running.wait_quietly();
        c.delete_force().ok();
        c.assert_gone();
        assert!(c.rootfs().join("bin/busybox").exists(), "the image is whole");
        // The hook is not the container's, and ends by itself.
        fs::remove_file(&at).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    t.assert_no_process();
}

fn the_container_may_go_on(t: &Test) {
    if !criu_works() {
        return;
    }
    let c = t.container(Config::sh(COUNT));
    up(&c);
    let pid = c.pid();
    checkpoint(&c, &["--leave-running"]).ok();
    assert_eq!((c.pid(), c.status()), (pid, "running".to_owned()));
    counts_on(&c);
    checkpoint(&c, &[]).ok();
    restore(&c, &["--detach"]).ok();
    counts_on(&c);
}

fn a_pre_dump_is_the_parent_of_a_dump(t: &Test) {
    if !criu_works() {
        return;
    }
    let c = t.container(Config::sh(COUNT));
    up(&c);
    let first = c.bundle.join("first");
    let pre = checkpoint(&c, &["--pre-dump", "--image-path", first.to_str().unwrap()]).run();
    if pre.stderr.contains("is missing in CRIU or in the kernel") {
        skip!("the kernel does not track memory");
        return;
    }
    pre.ok();
    assert!(!first.join("descriptors.json").exists());
    counts_on(&c);
    checkpoint(&c, &["--parent-path", "../first"]).ok();
    let parent = fs::canonicalize(Path::new(&images(&c)).join("parent")).unwrap();
    assert_eq!(parent, fs::canonicalize(first).unwrap());
    restore(&c, &["--detach"]).ok();
    counts_on(&c);
}

fn the_exit_status_is_passed_on(t: &Test) {
    if !criu_works() {
        return;
    }
    let c = t.container(Config::sh(
        "exec </dev/null >/dev/null 2>&1; touch /tmp/up; until test -e /tmp/end; do usleep 20000; done; exit 7",
    ));
    c.up();
    eventually("the process", || c.rootfs().join("tmp/up").exists());
    checkpoint(&c, &[]).ok();
    let running = restore(&c, &[]).spawn();
    eventually("the container", || t.root.join(&c.id).join("config.json").exists());
    c.exec(&["/bin/touch", "/tmp/end"]).ok();
    running.wait().code(7);
    c.assert_gone();
}

fn pipes_are_replaced(t: &Test) {
    if !criu_works() {
        return;
    }
    let c =
        t.container(Config::sh("exec 2>/dev/null; echo ready; while read word; do echo got $word; done; sleep 1000"));
    let pipes = || (rustix::pipe::pipe().unwrap(), rustix::pipe::pipe().unwrap());
    let line = |output: rustix::fd::OwnedFd| {
        let mut output = fs::File::from(output);
        move || {
            let (mut text, mut byte) = (String::new(), [0]);
            while output.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
                text.push(byte[0].into());
            }
            text
        }
    };
    let ((stdin, input), (output, stdout)) = pipes();
    c.create_cmd(&[]).pass_fd(stdin, 0).pass_fd(stdout, 1).ok();
    c.start().ok();
    let mut read = line(output);
    assert_eq!(read(), "ready");
    fs::File::from(input.try_clone().unwrap()).write_all(b"one\n").unwrap();
    assert_eq!(read(), "got one");
    checkpoint(&c, &[]).ok();
    drop((input, read));
    let ((stdin, input), (output, stdout)) = pipes();
    restore(&c, &["--detach"]).pass_fd(stdin, 0).pass_fd(stdout, 1).ok();
    fs::File::from(input).write_all(b"two\n").unwrap();
    assert_eq!(line(output)(), "got two");
}

fn a_terminal_is_handed_over(t: &Test) {
    if !criu_works() {
        return;
    }
    let c = t.container(Config::sh("while read word; do echo got $word; done").set("/process/terminal", true));
    let socket = DescriptorSocket::new(&t.dir.join("console"));
    c.create_cmd(&["--console-socket", socket.path()]).ok();
    let mut terminal = socket.terminal();
    c.start().ok();
    for word in ["one", "two"] {
        terminal.write(&format!("{word}\n"));
        terminal.wait(&format!("got {word}"));
        checkpoint(&c, &[]).ok();
        drop(terminal);
        restore(&c, &["--detach"]).run().code(1).says("needs a console socket");
        c.assert_gone();
        restore(&c, &["--detach", "--console-socket", socket.path()]).ok();
        terminal = socket.terminal();
    }
    terminal.write("three\n");
    terminal.wait("got three");
    t.keep(terminal);
}

fn namespaces_that_were_joined(t: &Test) {
    if !criu_works() {
        return;
    }
    let holder = t.container(Config::sleep());
    holder.up();
    let path = format!("/proc/{}/ns/net", holder.pid());
    let c = t.container(Config::sh(COUNT).namespace("network", Some(&path)));
    up(&c);
    for _ in 0..2 {
        checkpoint(&c, &[]).ok();
        restore(&c, &["--detach"]).ok();
        assert_eq!(namespace_of(Some(c.pid()), "net"), namespace_of(Some(holder.pid()), "net"));
        counts_on(&c);
    }
    checkpoint(&c, &[]).ok();
    holder.delete_force().ok();
    restore(&c, &["--detach"]).run().code(1).says(&path);
    c.assert_gone();
}

fn mounts_of_the_host(t: &Test) {
    if !criu_works() {
        return;
    }
    let dirs = ["one", "two", "other"].map(|name| {
        fs::create_dir(t.path(name)).unwrap();
        t.path(name)
    });
    let bind = |source: &str, destination: &str, options: &[&str]| json!({ "source": source, "destination": destination, "type": "bind", "options": options });
    let config = |second: &str| {
        Config::sh(COUNT)
            .mount(bind(&dirs[0], "/link/one", &["bind"]))
            .mount(bind(second, "/link/one/deep/er", &["rbind", "ro"]))
            .mount(bind(&t.write("file", "content\n"), "/etc/file", &["bind", "ro"]))
    };
    let c = t.container(config(&dirs[1]));
    fs::create_dir(c.rootfs().join("real")).unwrap();
    std::os::unix::fs::symlink("/real", c.rootfs().join("link")).unwrap();
    up(&c);
    c.inside("echo 1 > /link/one/f");
    checkpoint(&c, &[]).ok();
    // What the mounts need is made again, and their sources are those of the configuration.
    fs::remove_dir_all(Path::new(&dirs[0]).join("deep")).unwrap();
    fs::write(Path::new(&dirs[2]).join("there"), "").unwrap();
    c.write(&config(&dirs[2]).set("/linux/cgroupsPath", c.cgroup.as_deref().unwrap()));
    restore(&c, &["--detach"]).ok();
    counts_on(&c);
    assert_eq!(c.inside("ls /link/one/deep/er; cat /etc/file; echo 2 > /link/one/f"), "there\ncontent");
    assert_eq!(fs::read_to_string(Path::new(&dirs[0]).join("f")).unwrap(), "2\n");
    c.exec(&["/bin/touch", "/link/one/deep/er/new"]).fails();
}

fn hooks_in_their_order(t: &Test) {
    if !criu_works() {
        return;
    }
    let log = t.path("log");
    let hook = t.script(
        "hook",
        &format!("echo $1 $(sed 's/.*\"status\":\"\\([a-z]*\\)\".*\"pid\":\\([0-9]*\\).*/\\1 \\2/') >> {log}"),
    );
    let mut config = Config::sh(COUNT);
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        config = config.push(
            &format!("/hooks/{kind}"),
            json!({ "path": hook, "args": ["hook", kind], "env": ["PATH=/bin:/usr/bin"] }),
        );
    }
    // Those that run inside of the container need the hook there, and have done their work before it is dumped.
    let c = t.container(config.remove("/hooks/startContainer").remove("/hooks/createContainer"));
    up(&c);
    checkpoint(&c, &[]).ok();
    fs::remove_file(&log).unwrap();
    restore(&c, &["--detach"]).ok();
    let pid = c.pid();
    let expected = format!("prestart created {pid}\ncreateRuntime created {pid}\npoststart running {pid}\n");
    assert_eq!(fs::read_to_string(&log).unwrap(), expected);
}

fn a_hook_that_fails(t: &Test) {
    if !criu_works() {
        return;
    }
    let bad = t.path("bad");
    let hook = t.script("hook", &format!("test ! -e {bad}"));
    for kind in ["createRuntime", "poststart"] {
        let c = t.container(Config::sh(COUNT).push(&format!("/hooks/{kind}"), json!({ "path": hook })));
        up(&c);
        checkpoint(&c, &[]).ok();
        fs::write(&bad, "").unwrap();
        restore(&c, &["--detach"]).run().code(1).says(&format!("error running {kind} hook #0"));
        c.assert_gone();
        t.assert_no_process();
        fs::remove_file(&bad).unwrap();
    }
}

fn the_annotation_names_a_configuration(t: &Test) {
    if !criu_works() {
        return;
    }
    let file = t.write("criu.conf", "log-file=special.log\n");
    let c = t.container(Config::sh(COUNT).set("/annotations", json!({ "org.criu.config": file })));
    up(&c);
    let log = Path::new(&images(&c)).join("special.log");
    checkpoint(&c, &[]).ok();
    assert!(log.exists());
    restore(&c, &["--detach", "--work-path", &t.path("work")]).ok();
    assert!(t.dir.join("work/special.log").exists());
}

fn a_pidfd_goes_to_the_receiver(t: &Test) {
    if !criu_works() || (t.is_runc() && t.peer_lacks("annotations run.oci.*")) {
        return;
    }
    let socket = DescriptorSocket::new(&t.dir.join("receiver"));
    let c = t.container(Config::sh(COUNT).set("/annotations", json!({ "run.oci.pidfd_receiver": socket.path() })));
    up(&c);
    socket.receive_pidfd();
    checkpoint(&c, &[]).ok();
    restore(&c, &["--detach"]).ok();
    assert_eq!(socket.receive_pidfd(), c.pid());
}
