//! berth as containerd's shim, without containerd: what is said on the socket, and what is left.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use crate::harness::shim::{fifo, number, text, texts_of, value_of};
use crate::harness::{Config, Test, eventually, left};

e2e!(any: a_life, further_processes, a_terminal, what_is_written_while_nobody_reads, another_user_opens_its_streams,
    a_log_file_is_not_the_containers, a_shim_that_was_killed, what_is_not_known, a_start_that_fails,
    a_created_container_is_deleted, pausing, one_shim_for_a_pod, a_wait_does_not_hold_up_others,
    an_overlay_with_other_owners);

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
