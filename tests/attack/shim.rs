//! The shim: other users of the host and containers reach neither its socket nor its streams.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::actor;
use crate::harness::shim::{Shimmed, any, fifo, make_fifo, number, text, value_of};
use crate::harness::{Config, Mode, Test, eventually, left};

e2e!(any: the_socket_is_closed_to_others, another_user_is_not_answered, a_directory_that_is_open_is_not_used,
    a_message_that_is_too_long, a_group_is_no_path, a_fifo_that_others_can_reach_stays_closed, what_is_no_fifo,
    a_logger_knows_nothing_of_the_shim, environments_stay_apart, a_logger_that_dies, a_logger_that_is_not_ready,
    a_reader_that_never_reads, a_process_that_never_reads, connections_that_say_nothing,
    a_container_that_stops_who_joins_it, a_log_where_others_can_write, options_in_a_file_of_others,
    loggers_of_what_never_runs,
    layers_keep_their_owners_on_the_host);
e2e!(a_container_with_many_cgroups_is_killed);

fn user() -> rustix::thread::Uid {
    rustix::thread::Uid::from_raw(1000)
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// An abstract socket would be open to each container in the host's network namespace (CVE-2020-15257).
fn the_socket_is_closed_to_others(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    assert_eq!(mode(&shim.address), 0o600);
    assert_eq!(mode(shim.address.parent().unwrap()), 0o700);
    let abstracts = fs::read_to_string("/proc/net/unix").unwrap();
    assert!(!abstracts.lines().any(|line| line.contains("@") && line.contains("berth-shim")), "{abstracts}");
    shim.call("Shutdown", &[]).unwrap();
}

/// Even if somebody has opened the directory.
fn another_user_is_not_answered(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let body = [text(1, "containerd.task.v2.Task"), text(2, "Shutdown")].concat();
    let frame = [&(body.len() as u32).to_be_bytes()[..], &[0, 0, 0, 1, 1, 0], &body].concat();
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(shim.address.parent().unwrap(), 0o711);
    open(&shim.address, 0o666);
    let address = shim.address.clone();
    let asked = std::thread::spawn(move || {
        // Of this thread alone.
        rustix::thread::set_thread_res_uid(user(), user(), user()).unwrap();
        let mut socket = std::os::unix::net::UnixStream::connect(address).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        // It may be closed before or after this.
        let _ = socket.write_all(&frame);
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).map_or_else(|e| e.kind() == std::io::ErrorKind::ConnectionReset, |_| true)
            && answer.is_empty()
    });
    assert!(asked.join().unwrap(), "no answer, and the end of the connection");
    shim.again();
    assert_eq!(shim.of("State", "").unwrap_err().0, 5, "the shim goes on");
    shim.call("Shutdown", &[]).unwrap();
}

fn a_directory_that_is_open_is_not_used(t: &Test) {
    let _run = t.private_run();
    fs::create_dir("/run/berth-shim").unwrap();
    let c = t.container(Config::sleep());
    for (owner, mode) in [(0, 0o755), (0, 0o750), (0, 0o701), (4242, 0o700)] {
        std::os::unix::fs::chown("/run/berth-shim", Some(owner), Some(0)).unwrap();
        fs::set_permissions("/run/berth-shim", fs::Permissions::from_mode(mode)).unwrap();
        let whose = format!("\"/run/berth-shim\" is open to other users (uid {owner}, gid 0, mode {mode:o})");
        let hint = "it must belong to root or the caller, and its mode be 0700";
        t.shim_cmd(&c, "start").run().fails().says(&whose).says(hint);
    }
    assert_eq!(fs::read_dir("/run/berth-shim").unwrap().count(), 0);
}

fn a_message_that_is_too_long(t: &Test) {
    const TOO_LONG: usize = (4 << 20) + 1;
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let memory = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    };
    shim.create(false, ["", "", ""]).unwrap();
    let pid = shim.pid();
    let before = memory(pid);
    shim.send_raw(&(TOO_LONG as u32).to_be_bytes());
    shim.send_raw(&[0, 0, 0, 99, 1, 0]);
    let (stream, answer) = shim.receive();
    assert_eq!((stream, answer.unwrap_err().0), (99, 8));
    for _ in 0..TOO_LONG / 4096 {
        shim.send_raw(&[0; 4096]);
    }
    shim.send_raw(&[0; TOO_LONG % 4096]);
    // What comes afterwards is understood, and nothing was kept.
    assert_eq!(value_of(&shim.of("State", "").unwrap(), 4), 1);
    // The kernel adds its counters up per processor now and then only, so a sum may have become smaller.
    assert!(memory(pid).saturating_sub(before) < TOO_LONG / 2);
    shim.finish();
}

/// Else whoever may write annotations could have the address of another socket taken for the shim's.
fn a_group_is_no_path(t: &Test) {
    let _run = t.private_run();
    for group in ["../x", "a/../b", ".", ".."] {
        let annotations = serde_json::json!({ "io.containerd.runc.v2.group": group });
        let c = t.container(Config::sleep().set("/annotations", annotations));
        t.shim_cmd(&c, "start").run().fails().says("the pod \"");
    }
}

fn a_fifo_that_others_can_reach_stays_closed(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let (closed, open) = (fifo(t, "closed"), make_fifo(Path::new(&t.path("")), "open"));
    shim.create(false, ["", &closed, &open]).unwrap();
    assert_eq!((mode(&closed), mode(&open)), (0o622, 0o700));
    shim.finish();
}

/// It would be the container's to read and to change.
fn what_is_no_fifo(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let file = t.write("file", "kept");
    let link = t.path("link");
    std::os::unix::fs::symlink(fifo(t, "fifo"), &link).unwrap();
    for streams in [["", &*file, ""], ["", "", &file], [&file, "", ""], ["", &link, ""]] {
        assert_eq!(shim.create(false, streams).unwrap_err().0, 2);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    shim.call("Shutdown", &[]).unwrap();
    t.assert_no_process();
}

/// CVE-2021-21334: the environment of one container reached another's.
fn a_logger_knows_nothing_of_the_shim(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sh("echo logged; echo twice >&2"));
    let log = t.path("log");
    let script = format!(
        "#!/bin/sh\nenv > {log}.env\nls -l /proc/self/fd > {log}.fds\nexec 5>&-\ncat <&3 <&4 > {log}\ncat <&3 >> {log}\n"
    );
    let program = t.script("logger", &script);
    fs::File::open(&program).unwrap().flush().unwrap();
    shim.create(false, ["", &format!("binary://{program}?a=b"), ""]).unwrap();
    shim.of("Start", "").unwrap();
    shim.wait("");
    let read = |name: &str| fs::read_to_string(format!("{log}{name}")).unwrap_or_default();
    eventually("both streams", || read("").contains("logged") && read("").contains("twice"));
    let environment = read(".env");
    assert!(environment.contains(&format!("CONTAINER_ID={}", shim.id())), "{environment}");
    assert!(!environment.contains("TTRPC_ADDRESS"), "{environment}");
    assert!(!read(".fds").contains("socket:"), "{}", read(".fds"));
    shim.finish();
}

/// CVE-2021-21334: containers that were made at the same moment got the environment of one another. Here one process
/// makes all containers of a pod, in threads, and has an environment of containerd's itself.
fn environments_stay_apart(t: &Test) {
    const MEMBERS: usize = 4;
    let _run = t.private_run();
    let config = |owner: &str| {
        let env = ["PATH=/bin".to_owned(), "HOME=/".to_owned(), format!("SECRET=of {owner}")];
        Config::sleep().set("/process/env", env.to_vec())
    };
    let shim = |owner: &str| t.shim_with(config(owner), |start| start.env("SECRET", "of containerd"));
    let environ = |pid: u64| fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    let own = |owner: &str| format!("PATH=/bin\0HOME=/\0SECRET=of {owner}\0");
    // Sends all, and returns the answers in the order in which they were asked for.
    let at_once = |shim: &mut Shimmed, calls: Vec<(&str, Vec<u8>)>| {
        let asked: Vec<_> = calls.iter().map(|(method, payload)| shim.send(method, payload)).collect();
        let mut answers: Vec<_> = asked.iter().map(|_| shim.receive()).collect();
        answers.sort_by_key(|(stream, _)| *stream);
        answers.into_iter().map(|(_, answer)| value_of(&answer.unwrap(), 1)).collect::<Vec<_>>()
    };
    let names: Vec<_> = (0..MEMBERS).map(|n| format!("member {n}")).collect();
    let members: Vec<_> = names.iter().map(|name| t.container(config(name))).collect();
    let (mut pod, mut other) = (shim("the pod"), shim("another pod"));
    let first = other.create(false, ["", "", ""]).unwrap();
    pod.create(false, ["", "", ""]).unwrap();
    let create = |c: &crate::harness::Container| [text(1, &c.id), text(2, c.bundle.to_str().unwrap())].concat();
    let pids = at_once(&mut pod, members.iter().map(|c| ("Create", create(c))).collect());
    // Before the program is executed, it is a process of berth's.
    assert!(pids.iter().chain([&first]).all(|pid| environ(*pid).is_empty()), "{:?}", environ(pids[0]));
    at_once(&mut pod, members.iter().map(|c| ("Start", text(1, &c.id))).collect());
    other.of("Start", "").unwrap();
    let further = |name: &str| {
        let env = ["PATH=/bin".to_owned(), "HOME=/".to_owned(), format!("SECRET=of {name}")];
        let document = serde_json::json!({ "args": ["/bin/sleep", "1000"], "cwd": "/", "env": env }).to_string();
        text(7, [text(1, "types.containerd.io/opencontainers/runtime-spec/1/Process"), text(2, document)].concat())
    };
    for (c, name) in members.iter().zip(&names) {
        let exec = [text(1, &c.id), text(2, "further"), further(&format!("exec in {name}"))].concat();
        pod.call("Exec", &exec).unwrap();
    }
    let start = |c: &crate::harness::Container| [text(1, &c.id), text(2, "further")].concat();
    let further = at_once(&mut pod, members.iter().map(|c| ("Start", start(c))).collect());
    for ((name, pid), further) in names.iter().zip(pids).zip(further) {
        assert_eq!(environ(pid), own(name));
        assert_eq!(environ(further), own(&format!("exec in {name}")));
    }
    assert_eq!(environ(first), own("another pod"));
    for c in &members {
        pod.call("Kill", &[text(1, &c.id), number(3, 9)].concat()).unwrap();
        pod.call("Wait", &text(1, &c.id)).unwrap();
        pod.call("Delete", &text(1, &c.id)).unwrap();
    }
    other.kill("", libc::SIGKILL).unwrap();
    other.wait("");
    other.of("Delete", "").unwrap();
    other.call("Shutdown", &[]).unwrap();
    pod.finish();
}

/// Whoever writes to it gets an error, and it does not stay behind as a zombie.
fn a_logger_that_dies(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sh("trap '' PIPE; until ! echo line; do sleep 0.01; done 2> /dev/null; exit 3"));
    let program = t.script("logger", &format!("#!/bin/sh\necho $$ > {}\nexec 5>&-\nread line <&3\n", t.path("pid")));
    shim.create(false, ["", &format!("binary://{program}"), ""]).unwrap();
    shim.of("Start", "").unwrap();
    assert_eq!(shim.wait(""), 3);
    let logger = fs::read_to_string(t.path("pid")).unwrap();
    eventually("the end of the logger", || !Path::new("/proc").join(logger.trim()).exists());
    shim.finish();
}

/// It holds up its own container, and no other one of the pod.
fn a_logger_that_is_not_ready(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let go = fifo(t, "go");
    let program = t.script("logger", &format!("#!/bin/sh\nread line < {go}\nexec 5>&-\nexec cat <&3\n"));
    let other = t.container(Config::sh("exit 4"));
    let first = [text(1, shim.id()), text(2, shim.container.bundle.to_str().unwrap())].concat();
    let held = shim.send("Create", &[first, text(6, format!("binary://{program}"))].concat());
    // Each of these is answered before the one that waits.
    shim.call("Create", &[text(1, &other.id), text(2, other.bundle.to_str().unwrap())].concat()).unwrap();
    shim.call("Start", &text(1, &other.id)).unwrap();
    assert_eq!(value_of(&shim.call("Wait", &text(1, &other.id)).unwrap(), 1), 4);
    shim.call("Delete", &text(1, &other.id)).unwrap();
    fs::write(&go, "now\n").unwrap();
    let (stream, answer) = shim.receive();
    assert_eq!((stream, answer.is_ok()), (held, true));
    shim.finish();
}

/// Of a terminal's output, which the shim copies: only this stream stops.
fn a_reader_that_never_reads(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::new(["/bin/yes"]).set("/process/terminal", true));
    let (never, stdout) = (fifo(t, "never"), fifo(t, "out"));
    shim.create(true, ["", &never, ""]).unwrap();
    shim.of("Start", "").unwrap();
    let _filled = fs::File::open(&never).unwrap();
    let full = fs::OpenOptions::new().write(true).open(&never).unwrap();
    eventually("a full fifo", || {
        let mut fds = [rustix::event::PollFd::new(&full, rustix::event::PollFlags::OUT)];
        rustix::event::poll(&mut fds, Some(&Default::default())).unwrap() == 0
    });
    shim.exec("other", &["/bin/echo", "on"], ["", &stdout, ""]).unwrap();
    shim.of("Start", "other").unwrap();
    assert_eq!(shim.wait("other"), 0);
    // There is no writer any more.
    let mut text = String::new();
    let flags = libc::O_NONBLOCK;
    fs::OpenOptions::new().read(true).custom_flags(flags).open(&stdout).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "on\n");
    shim.finish();
}

/// Of its standard input.
fn a_process_that_never_reads(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let stdin = fifo(t, "in");
    shim.create(false, [&stdin, "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    let input = fs::OpenOptions::new().write(true).open(&stdin).unwrap();
    rustix::io::ioctl_fionbio(&input, true).unwrap();
    // More than fits into the fifo: the shim has copied as much as the process's pipe takes.
    let mut written = 0;
    eventually("both pipes to be full", || {
        while let Ok(count) = (&input).write(&[0; 4096]) {
            written += count;
        }
        written > 128 << 10
    });
    assert_eq!(value_of(&shim.of("State", "").unwrap(), 4), 2);
    shim.finish();
}

/// Connections that end, in the middle of a message as well, are forgotten.
fn connections_that_say_nothing(t: &Test) {
    const MANY: usize = 300;
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    shim.create(false, ["", "", ""]).unwrap();
    let pid = shim.pid();
    let open = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let before = open();
    let halves: Vec<_> = (0..MANY)
        .map(|n| {
            let mut socket = std::os::unix::net::UnixStream::connect(&shim.address).unwrap();
            // A part of a header, or of a message.
            socket.write_all(&[0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 7][..n % 12]).unwrap();
            socket
        })
        .collect();
    assert_eq!(value_of(&shim.of("State", "").unwrap(), 4), 1);
    eventually("all connections", || open() == before + MANY);
    drop(halves);
    eventually("the end of all connections", || open() == before);
    shim.finish();
}

/// Each of them has to be thawed, since the v1 freezer holds back even killed processes.
fn a_container_with_many_cgroups_is_killed(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    let cgroups = left::cgroups(shim.container.cgroup.as_deref().unwrap());
    let freezer = cgroups.iter().find(|dir| dir.join("freezer.state").exists() || t.mode == Mode::V2).unwrap();
    for n in 0..3000 {
        fs::create_dir(freezer.join(n.to_string())).unwrap();
    }
    let kill = shim.send("Kill", &[text(1, shim.id()), number(3, 9)].concat());
    let state = shim.send("State", &text(1, shim.id()));
    let (first, answer) = shim.receive();
    answer.unwrap();
    let (second, answer) = shim.receive();
    answer.unwrap();
    match t.mode {
        Mode::V1 => assert_eq!([first, second], [state, kill], "nobody waits for that"),
        Mode::V2 => assert!([first, second].contains(&kill)),
    }
    assert_eq!(shim.wait(""), 128 + 9);
    shim.finish();
}

/// The process that joins is one of the container as soon as it is in its PID namespace, and not yet its program.
fn a_container_that_stops_who_joins_it(t: &Test) {
    let _run = t.private_run();
    let c = actor::container(t, Config::new(actor::command("stop-others")));
    let mut shim = t.shim_of(c);
    let other = t.container(Config::sh("exit 4"));
    shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    let ids: Vec<_> = (0..10).map(|n| format!("joins{n}")).collect();
    // Before the first start, whose answer may come at any time.
    for id in &ids {
        shim.exec(id, &["/bin/sleep", "1000"], ["", "", ""]).unwrap();
    }
    let started: Vec<_> =
        ids.iter().map(|id| shim.send("Start", &[text(1, shim.id()), text(2, id)].concat())).collect();
    // Some may have started. Whatever else is asked is answered.
    let payload = [text(1, &other.id), text(2, other.bundle.to_str().unwrap())].concat();
    let mut late = Vec::new();
    for (method, payload) in [
        ("State", text(1, shim.id())),
        ("Create", payload),
        ("Start", text(1, &other.id)),
        ("Wait", text(1, &other.id)),
        ("Delete", text(1, &other.id)),
        ("Kill", [text(1, shim.id()), number(3, 9)].concat()),
        ("Wait", text(1, shim.id())),
    ] {
        let stream = shim.send(method, &payload);
        loop {
            let (answered, answer) = shim.receive();
            if answered == stream {
                answer.unwrap();
                break;
            }
            late.push(answered);
        }
    }
    // With the container, all that wait for it come to their end.
    while late.len() < started.len() {
        late.push(shim.receive().0);
    }
    late.sort_unstable();
    assert_eq!(late, started);
    shim.finish();
}

/// Layers are shown with other owners to one overlay. Elsewhere, root's programs would be those of a container's root,
/// who could change them there, and put files with the bits of set-user-id among the host's.
fn layers_keep_their_owners_on_the_host(t: &Test) {
    use std::os::unix::fs::MetadataExt;
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep().userns(100_000));
    let lower = t.path("lower");
    fs::rename(shim.container.rootfs(), &lower).unwrap();
    for name in ["upper", "work", "empty"] {
        fs::create_dir(t.path(name)).unwrap();
        std::os::unix::fs::chown(t.path(name), Some(100_000), Some(100_000)).unwrap();
    }
    // As the host's mounts are under systemd: what is mounted in one namespace appears in all.
    rustix::mount::mount_bind(&lower, &lower).unwrap();
    rustix::mount::mount_change(&lower, rustix::mount::MountPropagationFlags::SHARED).unwrap();
    let (layers, upper, work) = (t.path("empty"), t.path("upper"), t.path("work"));
    let options = [
        "uidmap=0:100000:65536".to_owned(),
        "gidmap=0:100000:65536".to_owned(),
        format!("lowerdir={layers}:{lower}"),
        format!("upperdir={upper}"),
        format!("workdir={work}"),
    ];
    let options: Vec<u8> = options.iter().flat_map(|option| text(4, option)).collect();
    let mount = [text(1, "overlay"), text(2, "overlay"), options].concat();
    shim.create_with(false, ["", "", ""], &text(3, mount)).unwrap();
    assert_eq!(fs::metadata(format!("{lower}/bin/busybox")).unwrap().uid(), 0);
    shim.finish();
    rustix::mount::unmount(&lower, rustix::mount::UnmountFlags::DETACH).unwrap();
}

/// A link there would have root's shim write into any file; a fifo would have it wait.
fn a_log_where_others_can_write(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sh("echo logged"));
    let dir = t.path("theirs");
    fs::create_dir(&dir).unwrap();
    let kept = t.write("kept", "");
    let log = make_fifo(Path::new(&dir), "fifo");
    let _reader = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&log).unwrap();
    std::os::unix::fs::symlink(&kept, format!("{dir}/link")).unwrap();
    std::os::unix::fs::symlink(t.path(""), format!("{dir}/directories")).unwrap();
    for name in ["", "/fifo", "/link", "/directories"] {
        std::os::unix::fs::lchown(format!("{dir}{name}"), Some(1000), Some(1000)).unwrap();
    }
    for (name, complaint) in [
        ("fifo", "is not a regular file"),
        ("link", "is a link of user 1000"),
        ("directories/new/log", "is a link of user 1000"),
        ("new/log", "is open to other users"),
    ] {
        let failure = shim.create(false, ["", &format!("file://{dir}/{name}"), ""]).unwrap_err();
        assert!(failure.1.contains(complaint), "{name}: {failure:?}");
    }
    assert_eq!(fs::read_to_string(&kept).unwrap(), "");
    assert!(!Path::new(&t.path("new")).exists());
    shim.call("Shutdown", &[]).unwrap();
    t.assert_no_process();
}

/// They are read by the loop that answers for all containers.
fn options_in_a_file_of_others(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    let theirs = t.write("theirs", "NoPivotRoot = true");
    std::os::unix::fs::chown(&theirs, Some(1000), Some(1000)).unwrap();
    let long = t.write("long", &"#".repeat((1 << 20) + 1));
    let fifo = fifo(t, "options");
    for (path, complaint) in [
        (&*theirs, "is open to other users"),
        (&long, "is longer than"),
        (&fifo, "is not a regular file"),
        ("/dev/zero", "is not a regular file"),
    ] {
        let options = any("runtimeoptions.v1.Options", text(2, path));
        let failure = shim.create_with(false, ["", "", ""], &text(10, &options)).unwrap_err();
        assert!(failure.1.contains(complaint), "{path}: {failure:?}");
    }
    shim.call("Shutdown", &[]).unwrap();
    t.assert_no_process();
}

/// An image decides whether its program exists.
fn loggers_of_what_never_runs(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::new(["/nonexistent"]));
    let program = t.script("logger", "#!/bin/sh\nexec 5>&-\nexec sleep 1000\n");
    let logger = format!("binary://{program}");
    for _ in 0..3 {
        shim.create(false, ["", &logger, ""]).unwrap_err();
    }
    let children = |pid: i32| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    assert_eq!(children(shim.server()), "");
    shim.call("Shutdown", &[]).unwrap();
    t.assert_no_process();
}
