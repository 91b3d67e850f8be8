//! The shim under load: whatever it has served, nothing of it is left. `SHIM_LOAD=10` does ten times as much.

use std::fs;
use std::path::Path;

use crate::harness::shim::{NAMESPACE, Shimmed, fifo, number, text, value_of};
use crate::harness::{Config, Test, left};

e2e!(any: processes_leave_nothing, containers_of_a_pod_leave_nothing, shims_leave_nothing,
    a_shim_that_is_killed_at_any_moment);

fn load(count: usize) -> usize {
    count * std::env::var("SHIM_LOAD").map_or(1, |factor| factor.parse().unwrap())
}

/// Has the shim do something so many times. After a tenth of it, its descriptors and threads must not become more, and
/// its own memory must not grow.
fn flat(shim: &mut Shimmed, count: usize, mut something: impl FnMut(&mut Shimmed, usize)) {
    let pid = shim.pid();
    let measure = || {
        let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        // Not "Private_Dirty": pages of a binary that has just been built are dirty, too.
        let own = memory.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        let own: usize = own.split_whitespace().next().unwrap().parse().unwrap();
        let entries = |name: &str| fs::read_dir(format!("/proc/{pid}/{name}")).unwrap().count();
        (entries("fd"), entries("task"), own)
    };
    let warm = count / 10;
    (0..warm).for_each(|n| something(shim, n));
    // Threads of jobs may be about to end.
    let settled = || {
        crate::harness::eventually("the end of all jobs", || measure().1 == 1);
        measure()
    };
    let before = settled();
    (warm..count).for_each(|n| something(shim, n));
    let after = settled();
    println!("after {warm}: {before:?}, after {count}: {after:?}");
    assert_eq!((after.0, after.1), (before.0, before.1), "descriptors and threads");
    // On aarch64, glibc 2.43 takes and gives back its heap by huge pages.
    let page = if cfg!(target_arch = "aarch64") { 2048 } else { 0 };
    assert!(after.2 <= before.2 + page + 128, "KiB of memory: {} after {warm}, {} after {count}", before.2, after.2);
}

fn processes_leave_nothing(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    let stdout = fifo(t, "out");
    flat(&mut shim, load(200), |shim, n| {
        let id = format!("p{n}");
        shim.exec(&id, &["/bin/true"], ["", &stdout, ""]).unwrap();
        shim.of("Start", &id).unwrap();
        assert_eq!(shim.wait(&id), 0);
        shim.of("Delete", &id).unwrap();
    });
    shim.finish();
}

fn containers_of_a_pod_leave_nothing(t: &Test) {
    let _run = t.private_run();
    let mut shim = t.shim(Config::sleep());
    shim.create(false, ["", "", ""]).unwrap();
    let member = t.container(Config::sh("exit 4"));
    let bundle = member.bundle.to_str().unwrap();
    flat(&mut shim, load(50), |shim, n| {
        let id = text(1, format!("{}-{n}", member.id));
        shim.call("Create", &[&*id, &text(2, bundle)].concat()).unwrap();
        shim.call("Start", &id).unwrap();
        assert_eq!(value_of(&shim.call("Wait", &id).unwrap(), 1), 4);
        shim.call("Delete", &id).unwrap();
    });
    shim.finish();
}

fn shims_leave_nothing(t: &Test) {
    let _run = t.private_run();
    for _ in 0..load(10) {
        let mut shim = t.shim(Config::sleep());
        shim.create(false, ["", "", ""]).unwrap();
        shim.of("Start", "").unwrap();
        // Nothing of the container, of the shim and of its socket.
        shim.finish();
    }
    assert_eq!(fs::read_dir("/run/berth-shim").unwrap().count(), 0);
    t.assert_no_process();
}

/// While it creates, starts, executes and deletes: what containerd calls then clears all away.
fn a_shim_that_is_killed_at_any_moment(t: &Test) {
    let _run = t.private_run();
    let c = t.container(Config::sleep());
    let root = c.rootfs();
    let image = c.bundle.join("image");
    fs::rename(&root, &image).unwrap();
    fs::create_dir(&root).unwrap();
    let mount = [text(1, "bind"), text(2, image.to_str().unwrap()), text(4, "rbind")].concat();
    let create = [text(1, &c.id), text(2, c.bundle.to_str().unwrap()), text(3, mount)].concat();
    let life = |shim: &mut Shimmed| {
        let id = text(1, &c.id);
        let exec = shim.exec_payload("more", &["/bin/sleep", "1000"], ["", "", ""]);
        let of_exec = [&*id, &text(2, "more")].concat();
        let kill = [&*id, &number(3, 9)].concat();
        [
            ("Create", &*create),
            ("Start", &id),
            ("Exec", &exec),
            ("Start", &of_exec),
            ("Kill", &kill),
            ("Wait", &id),
            ("Delete", &id),
        ]
        .into_iter()
        .all(|(method, payload)| shim.asked(method, payload))
    };
    // What all of it takes here.
    let mut shim = t.shim_of(c.clone());
    let pid = shim.server();
    let begin = std::time::Instant::now();
    assert!(life(&mut shim));
    let whole = begin.elapsed();
    shim.call("Shutdown", &[]).unwrap();
    shim.assert_ended(pid);
    let count = u32::try_from(load(40)).unwrap();
    for n in 0..count {
        let mut shim = t.shim_of(c.clone());
        let pid = shim.server();
        let moment = whole / count * n;
        let killer = std::thread::spawn(move || {
            std::thread::sleep(moment);
            crate::harness::sys::kill(pid, libc::SIGKILL).unwrap();
        });
        life(&mut shim);
        killer.join().unwrap();
        shim.assert_ended(pid);
        t.shim_cmd(&c, "delete").ok();
        assert_eq!(left::containers(&Path::new("/run/containerd/berth").join(NAMESPACE)), [""; 0], "{moment:?}");
        assert!(left::mounts_below(&root).is_empty(), "{moment:?}");
        assert!(!shim.address.exists(), "{moment:?}");
        t.assert_no_process();
    }
}
