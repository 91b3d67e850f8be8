//! berth as containerd's shim, without containerd: what is said on the socket, and what is left.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use crate::checkpoint::{READ, VERSION, criu_works, stand_in};
use crate::harness::inject::{Action, Point};
use crate::harness::shim::{NAMESPACE, any, fifo, make_fifo, number, runc_options, text, texts_of, value_of};
use crate::harness::{Config, Mode, Test, busybox, eventually, left};

e2e!(any: a_life, further_processes, a_terminal, a_terminal_that_is_closed_for_a_moment,
    what_is_written_while_nobody_reads, another_user_opens_its_streams,
    a_log_file_is_not_the_containers, a_shim_that_was_killed, what_is_not_known, a_start_that_fails, a_hint_follows_the_message,
    a_start_that_fails_leaves_no_socket, calls_by_hand, a_created_container_is_deleted,
    a_created_container_that_is_killed, a_container_that_another_program_deletes, pausing, one_shim_for_a_pod,
    a_wait_does_not_hold_up_others,
    each_containerd_reads_the_answer, what_the_runtime_can, it_is_killed_before_containerd, streams_have_an_owner,
    options_that_are_not_understood, the_log_names_the_container, a_process_that_is_traced,
    an_end_is_told_of_its_own_process, a_start_that_ends_late,
    a_process_that_cannot_be_looked_after, a_logger_that_cannot_be_watched,
    events_that_cannot_be_watched, an_input_that_cannot_be_watched, an_image_in_a_file, an_overlay_with_other_owners, a_restore_that_fails,
    a_container_goes_on_from_files);
e2e!(the_shim_in_a_cgroup, others_may_pause, limits_are_changed);

const CREATED: u64 = 1;
const RUNNING: u64 = 2;
const STOPPED: u64 = 3;
const PAUSED: u64 = 4;

/// A file, or what is and will be written to a fifo. Does not wait for a writer: there may have been one.
fn read(path: &str) -> String {
    let mut file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    rustix::io::ioctl_fionbio(&file, false).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

fn a_life(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sh("read line; echo out $line; echo err >&2; exit 7"));
    let (stdin, stdout, stderr) = (fifo(t, "in"), fifo(t, "out"), fifo(t, "err"));
    let pid = shim.create(false, [&stdin, &stdout, &stderr]).unwrap();
    assert_eq!(value_of(&shim.of("State", "").unwrap(), 4), CREATED);
    assert_eq!(value_of(&shim.of("Start", "").unwrap(), 1), pid);
    assert_eq!(value_of(&shim.of("State", "").unwrap(), 4), RUNNING);
    // Nobody copies: the streams are the fifos themselves.
    let link = fs::read_link(format!("/proc/{pid}/fd/1")).unwrap();
    assert_eq!(link.to_str(), Some(&*stdout));
    let mut input = fs::OpenOptions::new().write(true).open(&stdin).unwrap();
    input.write_all(b"typed\n").unwrap();
    assert_eq!((read(&stdout), read(&stderr)), ("out typed\n".into(), "err\n".into()));
    assert_eq!(shim.wait(""), 7);
    let state = shim.of("State", "").unwrap();
    assert_eq!((value_of(&state, 4), value_of(&state, 9)), (STOPPED, 7));
    let deleted = shim.of("Delete", "").unwrap();
    assert_eq!((value_of(&deleted, 1), value_of(&deleted, 2)), (pid, 7));
    shim.call("Shutdown", &[]).unwrap();
    eventually("the end of the shim", || !shim.address.exists());
    t.assert_no_process();
}

fn further_processes(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let first = shim.create(false, ["", "", ""]).unwrap();
    let stdout = fifo(t, "out");
    shim.of("Start", "").unwrap();
    shim.exec("echo", &["/bin/sh", "-c", "echo $0 $PATH; exit 3", "name"], ["", &stdout, ""]).unwrap();
    assert_eq!(value_of(&shim.of("State", "echo").unwrap(), 4), CREATED);
    let pid = value_of(&shim.of("Start", "echo").unwrap(), 1);
    assert_ne!(pid, first);
    assert_eq!(read(&stdout), "name /bin\n");
    assert_eq!(shim.wait("echo"), 3);
    assert_eq!(value_of(&shim.of("Delete", "echo").unwrap(), 2), 3);
    assert_eq!(shim.of("State", "echo").unwrap_err().0, 5);

    shim.exec("long", &["/bin/sleep", "1000"], ["", "", ""]).unwrap();
    assert_eq!(shim.exec("long", &["/bin/true"], ["", "", ""]).unwrap_err().0, 6);
    let long = value_of(&shim.of("Start", "long").unwrap(), 1);
    assert_eq!(shim.of("Delete", "long").unwrap_err().0, 9);
    let pids = texts_of(&shim.of("Pids", "").unwrap(), 1);
    let mut listed: Vec<_> = pids.iter().map(|info| (value_of(info, 1), texts_of(info, 2).is_empty())).collect();
    listed.sort_unstable();
    assert_eq!(listed, [(first, true), (long, false)]);
    shim.kill("long", libc::SIGTERM).unwrap();
    assert_eq!(shim.wait("long"), 128 + libc::SIGTERM as u64);
    assert_eq!(shim.kill("long", libc::SIGTERM).unwrap_err(), (5, "process already finished".into()));
    shim.finish();
}

fn a_terminal(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sh("stty size; read line; echo got $line").set("/process/terminal", true));
    let (stdin, stdout) = (fifo(t, "in"), fifo(t, "out"));
    shim.create(true, [&stdin, &stdout, ""]).unwrap();
    let size = [text(1, shim.id()), number(3, 77), number(4, 33)].concat();
    shim.call("ResizePty", &size).unwrap();
    shim.of("Start", "").unwrap();
    fs::OpenOptions::new().write(true).open(&stdin).unwrap().write_all(b"hello\n").unwrap();
    let output = read(&stdout);
    assert!(["33 77\r\n", "got hello\r\n"].iter().all(|line| output.contains(line)), "{output:?}");
    assert_eq!(shim.wait(""), 0);
    shim.finish();
}

/// As when containerd is being restarted.
fn what_is_written_while_nobody_reads(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sh("echo kept; echo more"));
    let stdout = fifo(t, "out");
    shim.create(false, ["", &stdout, ""]).unwrap();
    shim.of("Start", "").unwrap();
    assert_eq!(shim.wait(""), 0);
    assert_eq!(read(&stdout), "kept\nmore\n");
    shim.finish();
}

fn another_user_opens_its_streams(t: &Test) {
    let _run = t.private_run();
    let config = Config::sh("echo again > /dev/stdout; cat /dev/stdin").set("/process/user/uid", 1000);
    let mut shim = t.shim(config);
    let (stdin, stdout) = (fifo(t, "in"), fifo(t, "out"));
    shim.create(false, [&stdin, &stdout, &stdout]).unwrap();
    shim.of("Start", "").unwrap();
    fs::OpenOptions::new().write(true).open(&stdin).unwrap().write_all(b"typed").unwrap();
    let close = [text(1, shim.id()), number(3, 1)].concat();
    shim.call("CloseIO", &close).unwrap();
    assert_eq!(read(&stdout), "again\ntyped");
    assert_eq!(shim.wait(""), 0);
    shim.finish();
}

fn a_log_file_is_not_the_containers(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sh("echo one; echo two >&2; : > /dev/stdout; echo three"));
    let path = t.path("logs/out put");
    shim.create(false, ["", &format!("file://{}", path.replace(' ', "%20")), ""]).unwrap();
    shim.of("Start", "").unwrap();
    assert_eq!(shim.wait(""), 0);
    eventually("all of the output", || read(&path).ends_with("three\n"));
    assert_eq!(read(&path), "one\ntwo\nthree\n");
    shim.finish();
}

fn a_shim_that_was_killed(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let pid = shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    let shim_pid = shim.pid();
    crate::harness::sys::kill(shim_pid, libc::SIGKILL).unwrap();
    shim.assert_ended(shim_pid);
    assert!(shim.address.exists());
    let delete = t.shim_cmd(&shim.container, "delete");
    let path = delete.stdout_path();
    delete.ok();
    let stdout = fs::read(path).unwrap();
    assert_eq!((value_of(&stdout, 1), value_of(&stdout, 2)), (pid, 137));
    eventually("the end of the container", || {
        left::is_zombie(pid as i32) || !fs::exists(format!("/proc/{pid}")).unwrap()
    });
    assert!(!shim.address.exists());
    t.assert_no_process();
}

fn what_is_not_known(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    assert_eq!(shim.call("Nothing", &[]).unwrap_err(), (12, "method Nothing".into()));
    let stream = shim.send_to("some.Service", "State", &[]);
    assert_eq!(shim.receive(), (stream, Err((12, "service some.Service".into()))));
    assert_eq!(shim.of("State", "").unwrap_err().0, 5, "it is not created yet");
    assert_eq!(shim.call("State", b"\xff").unwrap_err().0, 3);
    let stream = shim.send_to("containerd.task.v3.Task", "Shutdown", &[]);
    assert_eq!(shim.receive(), (stream, Ok(Vec::new())));
    eventually("the end of the shim", || !shim.address.exists());
}

fn a_start_that_fails(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::new(["nosuchcommand"]).set("/process/env", vec!["PATH=/bin"]));
    let failure = match shim.create(false, ["", "", ""]) {
        Ok(_) => {
            let failure = shim.of("Start", "").unwrap_err();
            shim.wait("");
            shim.of("Delete", "").unwrap();
            failure
        }
        Err(failure) => failure,
    };
    assert!(failure.1.contains("\"nosuchcommand\": executable file not found in $PATH"), "{failure:?}");
    shim.of("Shutdown", "").unwrap();
    eventually("the end of the shim", || !shim.address.exists());
    t.assert_no_process();
}

/// Docker reads causes from some words of it.
fn a_hint_follows_the_message(t: &Test) {
    let _run = t.private_run();
    let mount =
        serde_json::json!({ "source": "/usr", "destination": "/etc/passwd", "type": "bind", "options": ["bind"] });
    let mut shim = t.shim(Config::sleep().mount(mount));
    let failure = shim.create(false, ["", "", ""]).unwrap_err();
    assert!(failure.1.contains("not a directory (a directory cannot be mounted on a file: "), "{failure:?}");
    shim.of("Shutdown", "").unwrap();
    eventually("the end of the shim", || !shim.address.exists());
    t.assert_no_process();
}

/// The address cannot be written; nor can the shim enter its cgroup.
fn a_start_that_fails_leaves_no_socket(t: &Test) {
    let _run = t.private_run();
    let c = t.container(Config::sleep());
    fs::create_dir(c.bundle.join("address")).unwrap();
    t.shim_cmd(&c, "start").run().code(1).says("write(\"./address\")");
    fs::remove_dir(c.bundle.join("address")).unwrap();
    let options = runc_options(&text(3, "/nonexistent/cgroup"));
    t.shim_cmd(&c, "start").stdin(t.file("input", &options)).run().code(1).says("shim_cgroup");
    assert_eq!(fs::read_dir("/run/berth-shim").unwrap().count(), 0, "a socket is left");
}

/// Mistakes are named, and no shim is left.
fn calls_by_hand(t: &Test) {
    let _run = t.private_run();
    let c = t.container(Config::sleep());
    let start = || t.shim_cmd(&c, "start");
    let help = t.shim_cmd(&c, "-help").ok();
    assert!(help.text().starts_with("usage: containerd-shim-berth-v2 -namespace NAME -id ID"), "{help}");
    start().arg("extra").run().code(1).says("unexpected argument \"extra\"");
    start().cwd(t.path("")).run().code(1).says("`start` runs in the bundle: cd there first");
    t.shim_cmd(&c, "-bundle").args(["/nonexistent", "start"]).run().code(1).says("chdir(\"/nonexistent\")");
    start().stdin(t.file("input", b"\xff")).run().code(1).says("by hand use < /dev/null");
    assert!(!fs::exists("/run/berth-shim").unwrap());
    // The bundle may be named in place of the working directory.
    let bundle = c.bundle.to_str().unwrap();
    let output = t.shim_cmd(&c, "-bundle").args([bundle, "start"]).cwd(t.path("")).ok();
    let address = output.text().strip_prefix("unix://").unwrap().to_owned();
    assert_eq!(fs::read_to_string(c.bundle.join("address")).unwrap(), output.text());
    shut_down(&address);
}

fn a_created_container_is_deleted(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let pid = shim.create(false, ["", "", ""]).unwrap();
    let waiting = shim.send("Wait", &text(1, shim.id()));
    let deleting = shim.send("Delete", &text(1, shim.id()));
    let answers = [shim.receive(), shim.receive()];
    assert_eq!(answers.each_ref().map(|(stream, _)| *stream), [waiting, deleting]);
    assert_eq!(value_of(answers[0].1.as_ref().unwrap(), 1), 137);
    assert_eq!(value_of(answers[1].1.as_ref().unwrap(), 1), pid);
    shim.of("Shutdown", "").unwrap();
    t.assert_no_process();
}

fn a_created_container_that_is_killed(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let pid = shim.create(false, ["", "", ""]).unwrap();
    crate::harness::sys::kill(pid as i32, libc::SIGKILL).unwrap();
    assert_eq!(shim.wait(""), 128 + 9);
    assert_eq!(value_of(&shim.of("State", "").unwrap(), 4), STOPPED);
    assert_eq!(shim.of("Start", "").unwrap_err(), (9, "cannot start a process that has ended".into()));
    shim.of("Delete", "").unwrap();
    shim.call("Shutdown", &[]).unwrap();
    t.assert_no_process();
}

fn a_container_that_another_program_deletes(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    let root = format!("/run/containerd/berth/{NAMESPACE}");
    t.runtime().args(["--root", &root, "delete", "--force", shim.id()]).ok();
    assert_eq!(shim.kill("", libc::SIGKILL).unwrap_err().0, 5);
    assert_eq!(shim.wait(""), 128 + 9);
    shim.of("Delete", "").unwrap();
    shim.call("Shutdown", &[]).unwrap();
    t.assert_no_process();
}

fn pausing(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    shim.of("Pause", "").unwrap();
    assert_eq!(value_of(&shim.of("State", "").unwrap(), 4), PAUSED);
    assert_eq!(shim.of("Pause", "").unwrap_err().0, 9);
    shim.of("Resume", "").unwrap();
    assert_eq!(value_of(&shim.of("State", "").unwrap(), 4), RUNNING);
    let stats = shim.of("Stats", "").unwrap();
    let kind = texts_of(&texts_of(&stats, 1)[0], 1).concat();
    assert!(kind.starts_with(b"io.containerd.cgroups.v"), "{kind:?}");
    shim.finish();
}

fn one_shim_for_a_pod(t: &Test) {
    let _run = t.private_run();
    let mut pod = t.shim(Config::sleep());
    pod.create(false, ["", "", ""]).unwrap();
    // The bundles of containerd have the ids for names.
    let bundles = pod.container.bundle.parent().unwrap().to_owned();
    std::os::unix::fs::symlink(&pod.container.bundle, bundles.join(pod.id())).unwrap();
    let annotations = serde_json::json!({ "io.kubernetes.cri.sandbox-id": pod.id() });
    let member = t.container(Config::sh("exit 4").set("/annotations", annotations));
    let output = t.shim_cmd(&member, "start").ok();
    assert_eq!(output.text(), format!("unix://{}", pod.address.display()));
    let payload = [text(1, &member.id), text(2, member.bundle.to_str().unwrap())].concat();
    pod.call("Create", &payload).unwrap();
    pod.call("Start", &text(1, &member.id)).unwrap();
    assert_eq!(value_of(&pod.call("Wait", &text(1, &member.id)).unwrap(), 1), 4);
    // As long as there are others, the shim goes on.
    pod.call("Shutdown", &[]).unwrap();
    pod.call("Delete", &text(1, &member.id)).unwrap();
    pod.finish();
}

fn a_wait_does_not_hold_up_others(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    let waiting = shim.send("Wait", &text(1, shim.id()));
    assert_eq!(value_of(&shim.of("State", "").unwrap(), 4), RUNNING);
    let killing = shim.send("Kill", &[text(1, shim.id()), number(3, 9)].concat());
    let answers = [shim.receive(), shim.receive()];
    let mut streams = answers.each_ref().map(|(stream, _)| *stream);
    streams.sort_unstable();
    assert_eq!(streams, [waiting, killing]);
    shim.finish();
}

/// containerd 1.6 and 1.7 read nothing but the address; 2.3 writes a message, and reads one.
fn each_containerd_reads_the_answer(t: &Test) {
    let _run = t.private_run();
    let mut addresses = Vec::new();
    for by_message in [false, true, false] {
        let c = t.container(Config::sleep());
        let options = runc_options(&number(9, 1));
        let message = [text(1, &c.id), text(2, NAMESPACE), text(4, "2.3.4"), text(8, text(1, &options))].concat();
        let start = match (by_message, addresses.len()) {
            (true, _) => t.shim_cmd(&c, "start").stdin(t.file("input", &message)),
            (_, 0) => t.shim_cmd(&c, "start"),
            _ => t.shim_cmd(&c, "start").stdin(t.file("input", &options)),
        };
        let path = start.stdout_path();
        start.ok();
        let answer = fs::read(path).unwrap();
        let kept = fs::read_to_string(c.bundle.join("address")).unwrap();
        if by_message {
            assert_eq!(answer, [number(1, 3), text(2, &kept), text(3, "ttrpc")].concat());
        } else {
            assert_eq!(answer, kept.as_bytes());
        }
        addresses.push(kept);
    }
    for address in addresses {
        shut_down(address.strip_prefix("unix://").unwrap());
    }
}

/// Ends a shim without containers.
fn shut_down(path: &str) {
    let mut socket = std::os::unix::net::UnixStream::connect(path).unwrap();
    let body = [text(1, "containerd.task.v3.Task"), text(2, "Shutdown")].concat();
    let frame = [&(body.len() as u32).to_be_bytes()[..], &[0, 0, 0, 1, 1, 0], &body].concat();
    socket.write_all(&frame).unwrap();
    eventually("the end of the shim", || !fs::exists(path).unwrap());
}

fn what_the_runtime_can(t: &Test) {
    let c = t.container(Config::sleep());
    let info = |input: &[u8]| {
        let command = t.shim_cmd(&c, "-info").stdin(t.file("input", input));
        let path = command.stdout_path();
        command.ok();
        fs::read(path).unwrap()
    };
    let first = |message: &[u8], field| texts_of(message, field).pop().unwrap_or_default();
    let plain = info(&[]);
    assert_eq!(first(&plain, 1), b"io.containerd.berth.v2");
    assert!(first(&plain, 3).is_empty(), "no options");
    let features: serde_json::Value = serde_json::from_slice(&first(&first(&plain, 4), 2)).unwrap();
    assert!(features["linux"]["namespaces"].as_array().unwrap().contains(&"user".into()), "{features}");
    let options = runc_options(&text(3, "/shims"));
    assert_eq!(first(&info(&options), 3), options);
    t.shim_cmd(&c, "-info").stdin(t.file("input", b"\xff")).run().code(1).says("standard input");
}

/// As runc's shim is: it can be replaced, and its container cannot do without either.
fn it_is_killed_before_containerd(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    shim.create(false, ["", "", ""]).unwrap();
    let score = |pid: &str| -> i32 {
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    };
    assert_eq!(score(&shim.pid().to_string()), (score("self") + 1).min(1000));
    shim.finish();
}

fn the_shim_in_a_cgroup(t: &Test) {
    let _run = t.private_run();
    let path = format!("{}/shims", t.cgroup);
    let hierarchy = if t.mode == Mode::V1 { "/sys/fs/cgroup/pids" } else { "/sys/fs/cgroup" };
    let dir = format!("{hierarchy}{path}");
    fs::create_dir_all(&dir).unwrap();
    // As Docker and `ctr` pass the option; as the CRI plugin does.
    let toml = format!("ShimCgroup = {path:?}\n");
    for options in [runc_options(&text(3, &path)), any("runtimeoptions.v1.Options", text(3, toml))] {
        let mut shim = t.shim_with(Config::sleep(), |start| start.stdin(t.file("input", &options)));
        shim.create(false, ["", "", ""]).unwrap();
        let pid = shim.pid();
        assert_eq!(fs::read_to_string(format!("{dir}/cgroup.procs")).unwrap(), format!("{pid}\n"));
        shim.finish();
    }
    // A shim leaves its cgroup a moment after it has become a zombie.
    eventually("an empty cgroup", || fs::remove_dir(&dir).is_ok());
    let c = t.container(Config::sleep());
    let options = runc_options(&text(3, &path));
    t.shim_cmd(&c, "start").stdin(t.file("input", &options)).run().code(1).says("shim_cgroup: there is no cgroup");
    assert_eq!(fs::read_dir("/run/berth-shim").unwrap().count(), 0, "a socket is left");
}

/// Root of a user namespace may open them anew.
fn streams_have_an_owner(t: &Test) {
    use std::os::unix::fs::MetadataExt;
    const OWNER: (u32, u32) = (100_000, 100_000);
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep().userns(OWNER.0));
    let (stdin, stdout, stderr) = (fifo(t, "in"), fifo(t, "out"), fifo(t, "err"));
    let options = runc_options(&[number(4, OWNER.0.into()), number(5, OWNER.1.into())].concat());
    let pid = shim.create_with(false, [&stdin, &stdout, &stderr], &text(10, &options)).unwrap();
    shim.of("Start", "").unwrap();
    let out = fifo(t, "further");
    shim.exec("further", &["/bin/sleep", "1000"], ["", &out, ""]).unwrap();
    let further = value_of(&shim.of("Start", "further").unwrap(), 1);
    for (pid, stream) in [(pid, 0), (pid, 1), (pid, 2), (further, 1)] {
        let stat = fs::metadata(format!("/proc/{pid}/fd/{stream}")).unwrap();
        assert_eq!((stat.uid(), stat.gid()), OWNER, "stream {stream}");
    }
    shim.finish();
}

/// As some init programs do.
fn a_terminal_that_is_closed_for_a_moment(t: &Test) {
    let _run = t.private_run();
    let script =
        "echo first; exec <&- >&- 2>&-; sleep 0.3; exec < /dev/console > /dev/console 2>&1; echo second; exit 7";
    let mut shim = t.shim(Config::sh(script).set("/process/terminal", true));
    let stdout = fifo(t, "out");
    shim.create(true, ["", &stdout, ""]).unwrap();
    shim.of("Start", "").unwrap();
    assert_eq!(shim.wait(""), 7);
    assert_eq!(read(&stdout), "first\r\nsecond\r\n");
    shim.finish();
}

fn options_that_are_not_understood(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let toml = any("runtimeoptions.v1.Options", text(3, "SystemdCgroup = yes"));
    let file = any("runtimeoptions.v1.Options", text(2, "/nonexistent"));
    for (options, complaint) in [
        (toml, "SystemdCgroup = yes is not understood: true or false"),
        (file, "no such file or directory"),
        (any("containerd.runc.v1.Options", b"\xff"), "containerd.runc.v1.Options"),
    ] {
        let failure = shim.create_with(false, ["", "", ""], &text(10, &options)).unwrap_err();
        assert!(failure.0 == 3 && failure.1.contains(complaint), "{failure:?}");
    }
    shim.call("Shutdown", &[]).unwrap();
    t.assert_no_process();
}

fn the_log_names_the_container(t: &Test) {
    let _run = t.private_run();
    let c = t.container(Config::sleep());
    // As containerd opens it: before the shim is there.
    let path = make_fifo(&c.bundle, "log");
    let log = fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    let mut shim = t.shim_of(c);
    let options = runc_options(&text(7, "/elsewhere"));
    shim.create_with(false, ["", "", ""], &text(10, &options)).unwrap();
    let mut bytes = [0; 4096];
    let length = (&log).read(&mut bytes).unwrap();
    let line = String::from_utf8_lossy(&bytes[..length]);
    let end = format!(
        "Z\" level=warning msg=\"berth: the option Root has no effect: the state is in /run/containerd/berth\" id={} \
         namespace={NAMESPACE}\n",
        shim.id()
    );
    assert!(line.starts_with("time=\"20") && line.contains(&end), "{line}");
    shim.of("Start", "").unwrap();
    shim.finish();
}

/// By a command that containerd knows nothing of.
fn others_may_pause(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    shim.exec("further", &["/bin/sleep", "1000"], ["", "", ""]).unwrap();
    shim.of("Start", "further").unwrap();
    let root = format!("/run/containerd/berth/{NAMESPACE}");
    for (command, status) in [("pause", PAUSED), ("resume", RUNNING), ("pause", PAUSED)] {
        t.runtime().args(["--root", &root, command, shim.id()]).ok();
        for process in ["", "further"] {
            assert_eq!(value_of(&shim.of("State", process).unwrap(), 4), status, "{command} {process:?}");
        }
    }
    shim.of("Resume", "").unwrap();
    assert_eq!(value_of(&shim.of("State", "").unwrap(), 4), RUNNING);
    shim.finish();
}

/// All that the CRI plugin has in the configuration is sent again when a container is resized in place.
fn limits_are_changed(t: &Test) {
    if !t.has_controller("memory") {
        return skip!("no memory controller in this mode");
    }
    let file = if t.mode == Mode::V1 { "memory.limit_in_bytes" } else { "memory.max" };
    let _run = t.private_run();
    let limits = |memory: u64| {
        serde_json::json!({
            "devices": [{ "allow": false, "access": "rwm" }],
            "memory": { "limit": memory, "swap": memory, "oom_score_adj": 2 },
            "cpu": { "shares": 512, "quota": 50000, "period": 100_000, "cpus": "", "mems": "" },
            "unified": {},
        })
    };
    let mut shim = t.shim(Config::sleep().set("/linux/resources", limits(128 << 20)));
    shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    let kind = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
    for memory in [64 << 20, 256 << 20] {
        let annotations = text(3, [text(1, "io.kubernetes.cri.container-type"), text(2, "container")].concat());
        let resources = any(kind, limits(memory).to_string());
        let payload = [text(1, shim.id()), text(2, resources), annotations].concat();
        shim.call("Update", &payload).unwrap();
        assert_eq!(shim.container.cgroup_file("memory", file), memory.to_string());
    }
    let payload = [text(1, shim.id()), text(2, any(kind, r#"{"memory":{"limit":"a"}}"#))].concat();
    assert_ne!(shim.call("Update", &payload).unwrap_err().0, 0);
    assert_eq!(shim.container.cgroup_file("memory", file), (256 << 20).to_string());
    shim.finish();
}

/// A mount of the root file system, as a field of the request.
fn rootfs_mount(kind: &str, source: &str, options: &[&str]) -> Vec<u8> {
    let options: Vec<u8> = options.iter().flat_map(|option| text(4, option)).collect();
    text(3, [text(1, kind), text(2, source), options].concat())
}

/// The snapshotters "blockfile" and "erofs" ask for loop devices.
fn an_image_in_a_file(t: &Test) {
    let make = |image: &str, root: &std::path::Path| {
        fs::File::create(image).unwrap().set_len(16 << 20).unwrap();
        let made = std::process::Command::new("mkfs.ext4").args(["-q", "-d"]).arg(root).arg(image).output();
        made.is_ok_and(|made| made.status.success())
    };
    let _run = t.private_run();
    for options in [&["loop"][..], &["ro", "loop"], &["loop", "direct-io"]] {
        let mut shim =
            t.shim(Config::sh("touch /new; echo $? > /dev/console; sleep 1000").set("/root/readonly", false));
        let image = t.path(&format!("image{}", options.len()));
        if !fs::exists("/dev/loop-control").unwrap() || !make(&image, &shim.container.rootfs()) {
            skip!("there are no loop devices or no mkfs.ext4 here");
            shim.call("Shutdown", &[]).unwrap();
            return;
        }
        let pid = shim.create_with(false, ["", "", ""], &rootfs_mount("ext4", &image, options)).unwrap();
        shim.of("Start", "").unwrap();
        let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
        let flags = if options.contains(&"ro") { " / ext4 ro," } else { " / ext4 rw," };
        assert!(mounts.lines().next().unwrap().contains(flags), "{mounts}");
        shim.finish();
        let is_free = || {
            let mut devices = fs::read_dir("/sys/block").unwrap().map(|device| device.unwrap().path());
            let file = |device: std::path::PathBuf| fs::read_to_string(device.join("loop/backing_file"));
            devices.all(|device| file(device).unwrap_or_default().trim() != image)
        };
        eventually("the release of the device", is_free);
    }
}

/// The tracer is told first. CRIU traces what it saves.
fn a_process_that_is_traced(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sh("read line; exit 7"));
    let stdin = fifo(t, "in");
    let pid = shim.create(false, [&stdin, "", ""]).unwrap() as i32;
    shim.of("Start", "").unwrap();
    crate::harness::sys::trace(pid).unwrap();
    fs::OpenOptions::new().write(true).open(&stdin).unwrap().write_all(b"\n").unwrap();
    eventually("the end of the process", || left::is_zombie(pid));
    // The shim has seen it, and goes on: no thread waits for the tracer.
    shim.of("State", "").unwrap();
    let shim_pid = shim.pid();
    eventually("one thread", || fs::read_dir(format!("/proc/{shim_pid}/task")).unwrap().count() == 1);
    let waiting = shim.send("Wait", &text(1, shim.id()));
    crate::harness::sys::wait_for(pid).unwrap();
    let (stream, answer) = shim.receive();
    assert_eq!((stream, value_of(&answer.unwrap(), 1)), (waiting, 7));
    assert_eq!(children(shim.pid()), "");
    shim.finish();
}

/// A process that is traced may be there still when its ids have been given to a new one.
fn an_end_is_told_of_its_own_process(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep().without_namespace("pid"));
    let sleep = ["/bin/sleep", "1000"];
    shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    shim.exec("other", &sleep, ["", "", ""]).unwrap();
    let old = value_of(&shim.of("Start", "other").unwrap(), 1) as i32;
    crate::harness::sys::trace(old).unwrap();
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("");
    eventually("the end of the process", || left::is_zombie(old));
    // So that the shim has seen it.
    shim.of("State", "").unwrap();
    shim.of("Delete", "").unwrap();
    shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    shim.exec("other", &sleep, ["", "", ""]).unwrap();
    shim.of("Start", "other").unwrap();
    crate::harness::sys::wait_for(old).unwrap();
    eventually("the old process to be collected", || !std::path::Path::new(&format!("/proc/{old}")).exists());
    assert_eq!(value_of(&shim.of("State", "other").unwrap(), 4), RUNNING);
    shim.kill("other", libc::SIGKILL).unwrap();
    assert_eq!(shim.wait("other"), 128 + 9);
    shim.finish();
}

/// A start may be at work still when its ids have been given to a new process, which may be started already.
fn a_start_that_ends_late(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let sleep = ["/bin/sleep", "1000"];
    let go = fifo(t, "go");
    let program = t.script("logger", &format!("#!/bin/sh\nread line < {go}\nexec 5>&-\nexec cat <&3\n"));
    let logger = format!("binary://{program}");
    for started_meanwhile in [false, true] {
        shim.create(false, ["", "", ""]).unwrap();
        shim.of("Start", "").unwrap();
        shim.exec("other", &sleep, ["", &logger, ""]).unwrap();
        let payload = [text(1, shim.id()), text(2, "other")].concat();
        let late = shim.send("Start", &payload);
        shim.kill("", libc::SIGKILL).unwrap();
        shim.wait("");
        shim.of("Delete", "").unwrap();
        shim.create(false, ["", "", ""]).unwrap();
        shim.of("Start", "").unwrap();
        shim.exec("other", &sleep, ["", "", ""]).unwrap();
        let waiting = started_meanwhile.then(|| shim.send("Start", &payload));
        fs::write(&go, "now\n").unwrap();
        let (stream, answer) = shim.receive();
        assert_eq!((stream, answer.is_err()), (late, true));
        match waiting {
            None => {
                assert_eq!(value_of(&shim.of("State", "other").unwrap(), 4), CREATED);
                shim.of("Start", "other").unwrap();
            }
            Some(waiting) => {
                let (stream, answer) = shim.receive();
                answer.unwrap();
                assert_eq!(stream, waiting);
            }
        }
        assert_eq!(value_of(&shim.of("State", "other").unwrap(), 4), RUNNING);
        shim.kill("", libc::SIGKILL).unwrap();
        shim.wait("");
        shim.wait("other");
        shim.of("Delete", "").unwrap();
    }
    shim.create(false, ["", "", ""]).unwrap();
    shim.finish();
}

/// Has the `occurrence`th `call` of a process fail that is made meanwhile. Returns whether it came to that.
fn with_fault(t: &Test, pid: i32, call: libc::c_long, occurrence: usize, meanwhile: impl FnOnce()) -> bool {
    let end = make_fifo(std::path::Path::new(&t.path("")), "end");
    let at = Point { process: 1, number: call, occurrence };
    let beside = t.command(busybox()).args(["sh", "-c", &format!("read line < {end}")]);
    let beside = beside.trace(&[pid], at, Action::Fail(libc::ENOMEM), std::time::Duration::from_secs(20));
    // It can be opened once the other process is executed, and both are traced.
    let mut opened = fs::OpenOptions::new().write(true).open(&end).unwrap();
    fs::remove_file(end).unwrap();
    meanwhile();
    opened.write_all(b"now\n").unwrap();
    beside.wait().1.hit
}

/// It is killed, and its streams are closed: containerd keeps its ends open, and nobody would ever close the shim's.
fn a_process_that_cannot_be_looked_after(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    let pid = shim.pid();
    let open = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let (before, mut failures) = (open(), [0, 0]);
    for terminal in [false, true] {
        // The first is about the connection, which would end.
        for occurrence in 2..8 {
            let id = format!("process{terminal}{occurrence}");
            let (stdin, stdout) = (fifo(t, &format!("{id}in")), fifo(t, &format!("{id}out")));
            let both = |path: &str| fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            let _containerds = (both(&stdin), both(&stdout));
            let payload = shim.exec_payload(&id, &["/bin/sleep", "1000"], [&stdin, &stdout, ""]);
            shim.call("Exec", &[payload, number(3, terminal.into())].concat()).unwrap();
            let payload = [text(1, shim.id()), text(2, &id)].concat();
            // Else the first calls would be about the answer before.
            eventually("the shim to wait", || {
                let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
                [libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2].iter().any(|n| call.starts_with(&format!("{n} ")))
            });
            let hit = with_fault(t, pid, libc::SYS_epoll_ctl, occurrence, || {
                // The answer may be lost, and the connection with it. Then nothing more fails.
                if !shim.asked("Start", &payload) {
                    shim.again();
                    eventually("the end of the start", || value_of(&shim.of("State", &id).unwrap(), 4) != CREATED);
                }
            });
            shim.again();
            if shim.kill(&id, libc::SIGKILL).is_err() {
                assert!(hit, "{occurrence}");
                failures[usize::from(terminal)] += 1;
            }
            shim.wait(&id);
            shim.of("Delete", &id).unwrap();
            // The old connection ends as well.
            eventually("all descriptors to be closed", || open() == before);
            eventually("the end of the process", || children(pid).lines().count() == 1);
        }
    }
    assert!(failures.iter().all(|count| *count > 0), "{failures:?}");
    shim.finish();
}

/// What root may watch (fs.epoll.max_user_watches) can be used up by others. The shim goes on, and so do its
/// containers.
fn events_that_cannot_be_watched(t: &Test) {
    let _run = t.private_run();
    let address = t.path("events");
    let listener = std::os::unix::net::UnixListener::bind(&address).unwrap();
    let mut shim = t.shim_with(Config::sleep(), |start| start.env("TTRPC_ADDRESS", &address));
    // containerd, which takes one event.
    shim.create(false, ["", "", ""]).unwrap();
    let (mut containerd, _) = listener.accept().unwrap();
    let mut header = [0; 10];
    containerd.read_exact(&mut header).unwrap();
    let mut event = vec![0; u32::from_be_bytes(header[..4].try_into().unwrap()) as usize];
    containerd.read_exact(&mut event).unwrap();
    let answer = [&[0; 4][..], &header[4..8], &[2, 0]].concat();
    containerd.write_all(&answer).unwrap();
    let pid = shim.pid();
    let payload = text(1, shim.id());
    // The shim may still be at the connection before, so that a round is about that one.
    for occurrence in [1, 2, 3, 1, 2, 3] {
        // The connection of who asks may end.
        with_fault(t, pid, libc::SYS_epoll_ctl, occurrence, || {
            shim.asked("State", &payload);
            // It waits for the next request after that.
            std::thread::sleep(std::time::Duration::from_millis(500));
        });
        shim.again();
        assert_eq!(value_of(&shim.of("State", "").unwrap(), 4), CREATED, "{occurrence}");
    }
    drop((containerd, listener));
    shim.finish();
}

fn an_input_that_cannot_be_watched(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sh("cat > /got"));
    let stdin = fifo(t, "in");
    shim.create(false, [&stdin, "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    let mut input = fs::OpenOptions::new().write(true).open(&stdin).unwrap();
    let got = || fs::read_to_string(shim.container.rootfs().join("got")).unwrap_or_default();
    input.write_all(b"0").unwrap();
    eventually("the first", || got() == "0");
    let pid = shim.server();
    let mut hits = 0;
    for occurrence in 1..4 {
        let expected = format!("0{}", "12".repeat(occurrence));
        hits += usize::from(with_fault(t, pid, libc::SYS_epoll_ctl, occurrence, || {
            input.write_all(b"1").unwrap();
            eventually("the next", || got() == expected[..expected.len() - 1]);
            // It waits after that.
            std::thread::sleep(std::time::Duration::from_millis(200));
        }));
        input.write_all(b"2").unwrap();
        eventually("what follows", || got() == expected);
    }
    assert!(hits > 0);
    shim.finish();
}

/// It is ended, as nobody would wait for it.
fn a_logger_that_cannot_be_watched(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let program = t.script("logger", "#!/bin/sh\nexec 5>&-\nexec cat <&3\n");
    let pid = shim.server();
    let mut failures = Vec::new();
    // Others are made for the container.
    for occurrence in 1..4 {
        let mut created = Ok(0);
        let create = || created = shim.create(false, ["", &format!("binary://{program}"), ""]);
        with_fault(t, pid, libc::SYS_pidfd_open, occurrence, create);
        match created {
            Ok(_) => drop(shim.of("Delete", "").unwrap()),
            Err((_, message)) => failures.push(message),
        }
        eventually("the end of all children", || children(pid).is_empty());
    }
    assert!(failures.iter().any(|message| message.contains("pidfd_open(logger)")), "{failures:?}");
    shim.call("Shutdown", &[]).unwrap();
    t.assert_no_process();
}

fn a_restore_that_fails(t: &Test) {
    let _run = t.private_run();
    let path = stand_in(t, &format!(r"{READ}; {VERSION} >&$2; {READ}; printf '\010\002\020\001' >&$2; {READ}"));
    let mut shim = t.shim_with(Config::sleep(), |start| start.env("PATH", &path));
    let images = t.path("images");
    fs::create_dir(&images).unwrap();
    fs::write(images.clone() + "/inventory.img", "").unwrap();
    let stdout = fifo(t, "out");
    for field in [text(8, &images), text(10, runc_options(&text(10, &images)))] {
        assert_eq!(shim.create_with(false, ["", &stdout, ""], &field).unwrap(), 0, "there is no process yet");
        assert_eq!(value_of(&shim.of("State", "").unwrap(), 4), CREATED);
        for method in ["Pause", "Stats", "Pids", "Checkpoint"] {
            assert_eq!(shim.of(method, "").unwrap_err(), (9, "the container has not been restored yet".into()));
        }
        let failure = shim.of("Start", "").unwrap_err();
        assert!(failure.1.contains("OCI runtime restore failed: CRIU does not tell which process"), "{failure:?}");
        assert_eq!(value_of(&shim.of("State", "").unwrap(), 4), CREATED);
        shim.of("Delete", "").unwrap();
        assert_eq!(children(shim.pid()), "");
    }
    shim.call("Shutdown", &[]).unwrap();
}

/// Also those that have ended, and that nobody has waited for.
fn children(pid: i32) -> String {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children =
        threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).unwrap_or_default());
    let status = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    children.collect::<String>().split_whitespace().map(status).collect()
}

/// The streams are fifos of containerd's, which the container cannot reach.
fn a_container_goes_on_from_files(t: &Test) {
    if !criu_works() {
        return;
    }
    let _run = t.private_run();
    let script =
        "mkfifo /tmp/wait; exec 9<>/tmp/wait; n=0; while true; do n=$((n+1)); echo $n; read -t 0.05 x <&9; done";
    let mut shim = t.shim_with(Config::sh(script), |start| start.env("PATH", &std::env::var("PATH").unwrap()));
    let (stdin, stdout) = (fifo(t, "in"), fifo(t, "out"));
    let numbers = |path: &str| {
        let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
        rustix::io::ioctl_fionbio(&file, false).unwrap();
        std::io::BufRead::lines(std::io::BufReader::new(file)).map(|line| line.unwrap().parse::<u64>().unwrap())
    };
    shim.create(false, [&stdin, &stdout, &stdout]).unwrap();
    shim.of("Start", "").unwrap();
    let mut lines = numbers(&stdout);
    assert!(lines.by_ref().take(3).eq([1, 2, 3]));
    for exit in [0, 1] {
        let options = any("containerd.runc.v1.CheckpointOptions", number(1, exit));
        let payload = [text(1, shim.id()), text(2, t.path(&format!("images{exit}"))), text(3, options)].concat();
        shim.call("Checkpoint", &payload).unwrap();
    }
    assert_eq!(shim.wait(""), 137);
    shim.of("Delete", "").unwrap();
    let last = lines.last().unwrap();
    let (stdin, stdout) = (fifo(t, "in2"), fifo(t, "out2"));
    shim.create_with(false, [&stdin, &stdout, &stdout], &text(8, t.path("images1"))).unwrap();
    let pid = value_of(&shim.of("Start", "").unwrap(), 1);
    assert_eq!(value_of(&shim.of("State", "").unwrap(), 3), pid);
    // What nobody had read then is in the images as well.
    let mut lines = numbers(&stdout);
    let first = lines.next().unwrap();
    assert!(first <= last + 1, "{last}, then {first}");
    assert!(lines.take_while(|line| *line <= last + 5).eq(first + 1..=last + 5));
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/2")).unwrap().to_str(), Some(&*stdout));
    shim.kill("", libc::SIGKILL).unwrap();
    assert_eq!(shim.wait(""), 137);
    shim.of("Delete", "").unwrap();

    // What CRIU has made before it fails is a child of the shim.
    let path = shim.container.bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["hooks"] = serde_json::json!({ "createRuntime": [{ "path": "/bin/false" }] });
    fs::write(&path, config.to_string()).unwrap();
    shim.create_with(false, ["", &stdout, &stdout], &text(8, t.path("images1"))).unwrap();
    let failure = shim.of("Start", "").unwrap_err();
    assert!(failure.1.contains("error running createRuntime hook"), "{failure:?}");
    shim.of("Delete", "").unwrap();
    assert_eq!(children(shim.pid()), "");
    shim.call("Shutdown", &[]).unwrap();
}

/// As of a pod with a user namespace: the files of the image are those of the container's root.
fn an_overlay_with_other_owners(t: &Test) {
    let _run = t.private_run();
    let script = "stat -c '%u %g' /bin /extra; touch /new; stat -c %u /new";
    let config = Config::sh(script).userns(100_000);
    let mut shim = t.shim(config);
    let bundle = shim.container.bundle.to_str().unwrap().to_owned();
    let path = |name: &str| format!("{bundle}/{name}");
    fs::rename(path("rootfs"), path("lower")).unwrap();
    fs::create_dir_all(path("second/extra")).unwrap();
    for name in ["upper", "work", "rootfs"] {
        fs::create_dir(path(name)).unwrap();
    }
    // What is changed in the container belongs to its users on the host as well.
    std::os::unix::fs::chown(path("upper"), Some(100_000), Some(100_000)).unwrap();
    let options = [
        "uidmap=0:100000:65536".to_owned(),
        "gidmap=0:100000:65536".to_owned(),
        format!("lowerdir={}:{}", path("second"), path("lower")),
        format!("upperdir={}", path("upper")),
        format!("workdir={}", path("work")),
    ];
    let options: Vec<u8> = options.iter().flat_map(|option| text(4, option)).collect();
    let mount = [text(1, "overlay"), text(2, "overlay"), options].concat();
    let stdout = fifo(t, "out");
    let create = [text(1, shim.id()), text(2, &bundle), text(3, mount), text(6, &stdout), text(7, &stdout)].concat();
    shim.call("Create", &create).unwrap();
    let root = std::path::Path::new(&path("rootfs")).to_owned();
    assert_eq!(left::mounts_below(&root), [&*root], "the layers are not");
    shim.of("Start", "").unwrap();
    assert_eq!(read(&stdout), "0 0\n0 0\n0\n");
    assert_eq!(shim.wait(""), 0);
    shim.finish();
    assert_eq!(left::mounts_below(&root).len(), 0);
}
