//! The shim: other users of the host and containers reach neither its socket nor its streams.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::shim::{fifo, make_fifo, text, value_of};
use crate::harness::{Config, Test};

e2e!(any: the_socket_is_closed_to_others, another_user_is_not_answered, a_directory_that_is_open_is_not_used,
    a_message_that_is_too_long, a_group_is_no_path, a_fifo_that_others_can_reach_stays_closed, what_is_no_fifo,
    a_logger_knows_nothing_of_the_shim);

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
    for mode in [0o755, 0o750, 0o701] {
        fs::set_permissions("/run/berth-shim", fs::Permissions::from_mode(mode)).unwrap();
        t.shim_cmd(&c, "start").run().fails().says("is open to other users");
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
    assert!(memory(pid) - before < TOO_LONG / 2);
    shim.finish();
}

/// Else whoever may write annotations could have the address of another socket taken for the shim's.
fn a_group_is_no_path(t: &Test) {
    let _run = t.private_run();
    for group in ["../x", "a/../b", ".", ".."] {
        let annotations = serde_json::json!({ "io.containerd.runc.v2.group": group });
        let c = t.container(Config::sleep().set("/annotations", annotations));
        t.shim_cmd(&c, "start").run().fails().says("is no id of containerd's");
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
    crate::harness::eventually("both streams", || read("").contains("logged") && read("").contains("twice"));
    let environment = read(".env");
    assert!(environment.contains(&format!("CONTAINER_ID={}", shim.id())), "{environment}");
    assert!(!environment.contains("TTRPC_ADDRESS"), "{environment}");
    assert!(!read(".fds").contains("socket:"), "{}", read(".fds"));
    shim.finish();
}
