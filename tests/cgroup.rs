//! The container's cgroup, made for real: in this machine's hierarchies, and in a cgroup2 mounted for the purpose.
//! Each test works below a directory of its own and removes it; all need root.

#[path = "e2e/harness/skip.rs"]
mod skip;

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use berth::internal::cgroup::{Cgroup, Entry, Join};
use berth::internal::host;
use berth::internal::plan::cgroup::{self, CgroupPlan, Manager};
use berth::internal::plan::hierarchy::Layout;
use berth::internal::spec::Spec;
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use skip::skip;

const SECOND: Duration = Duration::from_secs(1);

fn is_pure_v2() -> bool {
    host::cgroup_layout(false).unwrap().is_pure_v2()
}

/// A path that no other test uses.
fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // A killed test of the same pid may have left a cgroup.
    let random = RandomState::new().hash_one(0) as u16;
    format!("/berth-test-{}-{random:x}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A mount namespace of this thread's own, in which /sys/fs/cgroup is pure v2, unless it is everywhere.
#[allow(unsafe_code)]
fn pure_v2() {
    if is_pure_v2() {
        return;
    }
    // SAFETY: only the mount namespace is left, and nothing in this process relies on it.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MountFlags::empty(), None).unwrap();
}

fn plan(layout: &Layout, path: &str, resources: &str) -> CgroupPlan {
    let spec = format!(r#"{{"ociVersion":"1.2.0","linux":{{"cgroupsPath":"{path}/c","resources":{resources}}}}}"#);
    cgroup::plan(&Spec::parse(spec.as_bytes()).unwrap(), "id", layout, false, Manager::Cgroupfs, &mut Vec::new())
        .unwrap()
}

/// Puts a process of one thread where it would else bring itself.
fn put(child: &Reaped, v1: &Entry, v2: Option<BorrowedFd>) {
    let pid = child.0.id().to_string();
    for tasks in v1.fds() {
        rustix::io::write(tasks, pid.as_bytes()).unwrap();
    }
    if let Some(dir) = v2 {
        let procs = openat(dir, "cgroup.procs", OFlags::WRONLY, Mode::empty()).unwrap();
        rustix::io::write(procs, pid.as_bytes()).unwrap();
    }
}

/// A cgroup made below a directory of the test's own.
struct Made {
    cgroup: Cgroup,
    layout: Layout,
    parent: String,
}

impl Made {
    fn new(resources: &str) -> Self {
        let layout = host::cgroup_layout(false).unwrap();
        let parent = unique();
        let plan = plan(&layout, &parent, resources);
        let mut cgroup = Cgroup::planned(&plan);
        cgroup.create(&plan, &|_| Ok(())).unwrap();
        let made = Self { cgroup, layout, parent };
        made.cgroup.apply(&plan).unwrap();
        made.cgroup.apply_devices(&plan).unwrap();
        made
    }

    fn dir(&self, controller: &str) -> PathBuf {
        let hierarchy = self.layout.v1.iter().find(|h| h.controllers.iter().any(|c| c == controller));
        hierarchy
            .or(self.layout.unified.as_ref())
            .unwrap()
            .mountpoint
            .join(self.parent.strip_prefix('/').unwrap())
            .join("c")
    }

    fn read(&self, controller: &str, file: &str) -> String {
        fs::read_to_string(self.dir(controller).join(file)).unwrap().trim().to_owned()
    }

    /// A script that begins in the cgroup.
    fn run(&self, script: &str) -> Reaped {
        let mut child = Reaped::spawn(&format!("read line; {script}"));
        put(&child, &self.cgroup.entry().unwrap(), self.cgroup.dirfd().unwrap());
        drop(child.0.stdin.take());
        child
    }

    fn sleeper(&self) -> Reaped {
        self.run("exec sleep 60")
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = self.cgroup.kill(libc::SIGKILL);
        let removed = self.cgroup.remove(5 * SECOND);
        for hierarchy in self.layout.v1.iter().chain(&self.layout.unified) {
            let _ = fs::remove_dir(hierarchy.mountpoint.join(self.parent.strip_prefix('/').unwrap()));
        }
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// A child that does not outlive the test.
struct Reaped(Child);

impl Reaped {
    fn spawn(script: &str) -> Self {
        Self(Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// The signal that ended it, within a few seconds.
    fn ended_by(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let deadline = Instant::now() + 5 * SECOND;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.signal();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("still runs")
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Both kinds of host, one after the other: the second leaves the first behind. Only the second where there is no v1.
fn on_v1_and_v2(test: impl Fn()) {
    if is_pure_v2() {
        skip("no cgroup v1 hierarchies on this machine");
    } else {
        test();
    }
    pure_v2();
    test();
}

/// What `create` says to a cgroup at the same place.
fn create_again(made: &Made, sub: &str) -> (Cgroup, String) {
    let plan = plan(&made.layout, &format!("{}/c{sub}", made.parent), "{}");
    let mut other = Cgroup::planned(&plan);
    let error = other.create(&plan, &|_| Ok(())).unwrap_err().to_string();
    (other, error)
}

/// The lines of /proc/PID/cgroup that are of hierarchies mounted here: nobody can join another one.
fn memberships(child: &Reaped) -> Vec<String> {
    let mountinfo = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    // Behind the dash: type, source, options.
    let mounts: Vec<Vec<_>> =
        mountinfo.lines().map(|line| line.split_once(" - ").unwrap().1.splitn(3, ' ').collect()).collect();
    let is_mounted = |names: &str| match names.split(',').next().unwrap() {
        "" => mounts.iter().any(|mount| mount[0] == "cgroup2"),
        first => mounts.iter().any(|mount| mount[0] == "cgroup" && mount[2].split(',').any(|option| option == first)),
    };
    let text = fs::read_to_string(format!("/proc/{}/cgroup", child.0.id())).unwrap();
    let lines: Vec<_> = text.lines().filter(|l| is_mounted(l.split(':').nth(1).unwrap())).map(str::to_owned).collect();
    assert!(!lines.is_empty(), "{text}{mountinfo}");
    lines
}

#[test]
fn limits_are_written_and_processes_join_every_hierarchy() {
    let made = Made::new(
        r#"{"pids":{"limit":77},"memory":{"limit":67108864,"swap":134217728},
            "cpu":{"shares":512,"quota":5000,"period":10000,"cpus":"0"}}"#,
    );
    let v1: &[_] = &[
        ("pids", "pids.max", "77"),
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "134217728"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "5000"),
        ("cpu", "cpu.cfs_period_us", "10000"),
        ("cpuset", "cpuset.cpus", "0"),
    ];
    let v2: &[_] = &[
        ("pids", "pids.max", "77"),
        ("memory", "memory.max", "67108864"),
        ("memory", "memory.swap.max", "67108864"),
        ("cpu", "cpu.weight", "59"),
        ("cpu", "cpu.max", "5000 10000"),
        ("cpuset", "cpuset.cpus", "0"),
    ];
    for (controller, file, value) in if made.layout.is_pure_v2() { v2 } else { v1 } {
        assert_eq!(made.read(controller, file), *value, "{file}");
    }
    let mems = if made.layout.is_pure_v2() { "cpuset.mems.effective" } else { "cpuset.mems" };
    assert!(!made.read("cpuset", mems).is_empty());
    let child = made.sleeper();
    let memberships = memberships(&child);
    assert!(memberships.iter().all(|line| line.ends_with(&format!("{}/c", made.parent))), "{memberships:?}");
    assert_eq!(made.cgroup.oom_kills(), Some(0));
}

#[test]
fn memory_limits_change_in_either_direction() {
    let made = Made::new(r#"{"memory":{"limit":16777216,"swap":33554432}}"#);
    for (limit, swap) in [(67_108_864, 67_108_864), (8_388_608, 16_777_216), (67_108_864, 134_217_728), (-1, -1)] {
        let asked = format!(r#"{{"memory":{{"limit":{limit},"swap":{swap}}}}}"#);
        made.cgroup.write_all(&plan(&made.layout, &made.parent, &asked).writes).unwrap();
        let on_v1 = made.layout.v1.iter().any(|h| h.controllers.iter().any(|c| c == "memory"));
        let now = made.read("memory", if on_v1 { "memory.limit_in_bytes" } else { "memory.max" });
        let now = if now == "max" { i64::MAX } else { now.parse().unwrap() };
        // On v1 "unlimited" is the largest multiple of the page size below 2^63.
        assert!(now == limit || limit == -1 && now > 1 << 62, "{now} for {limit}");
    }
}

#[test]
fn processes_are_killed_and_the_cgroup_is_removed() {
    on_v1_and_v2(|| {
        let made = Made::new("{}");
        let mut child = made.sleeper();
        assert_eq!(made.cgroup.pids().unwrap(), [child.0.id()]);
        made.cgroup.kill(libc::SIGTERM).unwrap();
        assert_eq!(child.ended_by(), Some(libc::SIGTERM));
        let mut child = made.sleeper();
        made.cgroup.kill(libc::SIGKILL).unwrap();
        assert_eq!(child.ended_by(), Some(libc::SIGKILL));
        // What another command has put there since goes with it.
        let mut child = made.sleeper();
        made.cgroup.remove(5 * SECOND).unwrap();
        assert_eq!(child.ended_by(), Some(libc::SIGKILL));
        assert!(!exists(&made.dir("memory")));
        made.cgroup.remove(SECOND).unwrap();
        made.cgroup.kill(libc::SIGKILL).unwrap();
        made.cgroup.thaw().unwrap();
    });
}

#[test]
fn processes_that_multiply_are_all_killed() {
    on_v1_and_v2(|| {
        let made = Made::new("{}");
        let mut child = made.run("while :; do sh -c 'sleep 30 & sleep 0.01' & sleep 0.01; done");
        let deadline = Instant::now() + 20 * SECOND;
        while made.cgroup.pids().unwrap().len() <= 3 {
            assert!(Instant::now() < deadline, "they do not multiply");
            std::thread::sleep(SECOND / 100);
        }
        made.cgroup.kill(libc::SIGKILL).unwrap();
        assert_eq!(child.ended_by(), Some(libc::SIGKILL));
        made.cgroup.remove(5 * SECOND).unwrap();
    });
}

#[test]
fn the_frozen_stand_still_and_can_be_killed() {
    on_v1_and_v2(|| {
        let made = Made::new("{}");
        let mut child = made.sleeper();
        assert!(!made.cgroup.is_frozen().unwrap());
        made.cgroup.freeze().unwrap();
        assert!(made.cgroup.is_frozen().unwrap());
        made.cgroup.kill(libc::SIGTERM).unwrap();
        // On v2 those that it ends do not wait until then.
        assert!(made.cgroup.is_frozen().unwrap(), "a signal does not thaw");
        made.cgroup.thaw().unwrap();
        assert_eq!(child.ended_by(), Some(libc::SIGTERM));
        let mut child = made.sleeper();
        made.cgroup.freeze().unwrap();
        made.cgroup.kill(libc::SIGKILL).unwrap();
        assert_eq!(child.ended_by(), Some(libc::SIGKILL));
    });
}

#[test]
fn a_used_cgroup_is_refused_and_left_alone() {
    on_v1_and_v2(|| {
        let made = Made::new("{}");
        let mut child = made.sleeper();
        let plan = plan(&made.layout, &made.parent, "{}");
        let mut other = Cgroup::planned(&plan);
        let error = other.create(&plan, &|_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("container's cgroup is not empty: 1 process(es) found"), "{error}");
        other.kill(libc::SIGKILL).unwrap();
        other.remove(SECOND).unwrap();
        assert!(child.0.try_wait().unwrap().is_none());
        assert!(exists(&made.dir("memory")));
        // Also when they are in a cgroup below.
        for controller in ["devices", "freezer"] {
            fs::create_dir_all(made.dir(controller).join("sub")).unwrap();
        }
        let pid = child.0.id().to_string();
        fs::write(made.dir("devices").join("sub/cgroup.procs"), pid).unwrap();
        assert!(Cgroup::planned(&plan).create(&plan, &|_| Ok(())).is_err());
    });
}

#[test]
fn a_frozen_cgroup_is_refused_at_once() {
    on_v1_and_v2(|| {
        let made = Made::new("{}");
        made.cgroup.freeze().unwrap();
        for sub in ["", "/deeper"] {
            let (_, error) = create_again(&made, sub);
            assert!(error.contains("container's cgroup unexpectedly frozen"), "{error}");
        }
        assert!(!exists(&made.dir("memory").join("c")), "what was made on the way is gone");
        made.cgroup.thaw().unwrap();
    });
}

#[test]
fn an_empty_cgroup_is_taken_over() {
    on_v1_and_v2(|| {
        let made = Made::new("{}");
        let plan = plan(&made.layout, &made.parent, "{}");
        let mut other = Cgroup::planned(&plan);
        other.create(&plan, &|_| Ok(())).unwrap();
        other.apply(&plan).unwrap();
        other.remove(SECOND).unwrap();
        assert!(!exists(&made.dir("memory")));
    });
}

#[test]
fn what_was_made_is_unmade_on_failure() {
    let mut layout = host::cgroup_layout(false).unwrap();
    // It takes a hierarchy before the one that fails.
    let Some(first) = layout.v1.first().map(|first| first.mountpoint.clone()) else {
        return skip("no cgroup v1 hierarchies on this machine");
    };
    layout.v1.last_mut().unwrap().mountpoint = "/proc".into();
    let parent = unique();
    let plan = plan(&layout, &parent, "{}");
    let error = Cgroup::planned(&plan).create(&plan, &|_| Ok(())).unwrap_err().to_string();
    assert!(error.starts_with("unable to apply cgroup configuration: mkdir("), "{error}");
    assert!(!exists(&first.join(&parent[1..])), "also the parents");
}

#[test]
fn cgroups_that_the_container_made_are_removed_with_it() {
    on_v1_and_v2(|| {
        let made = Made::new("{}");
        let deep: PathBuf = std::iter::repeat_n("deep", 40).collect();
        for controller in ["devices", "memory", "freezer"] {
            fs::create_dir_all(made.dir(controller).join(&deep)).unwrap();
            fs::create_dir_all(made.dir(controller).join("a/b")).unwrap();
        }
        let mut child = made.sleeper();
        let pid = child.0.id();
        fs::write(made.dir("devices").join(&deep).join("cgroup.procs"), pid.to_string()).unwrap();
        assert_eq!(made.cgroup.pids().unwrap(), [pid]);
        made.cgroup.kill(libc::SIGKILL).unwrap();
        made.cgroup.remove(5 * SECOND).unwrap();
        assert!(!exists(&made.dir("devices")) && !exists(&made.dir("memory")));
        assert_eq!(child.ended_by(), Some(libc::SIGKILL));
    });
}

#[test]
fn threads_apart_from_their_process_are_found() {
    pure_v2();
    let made = Made::new("{}");
    let mut child = made.sleeper();
    let threaded = made.dir("").join("threaded");
    fs::create_dir(&threaded).unwrap();
    fs::write(threaded.join("cgroup.type"), "threaded").unwrap();
    fs::write(threaded.join("cgroup.threads"), child.0.id().to_string()).unwrap();
    assert_eq!(made.cgroup.pids().unwrap(), [child.0.id()]);
    // As seen from a container that was put below a threaded cgroup.
    let plan = plan(&made.layout, &made.parent, "{}");
    let mut below = CgroupPlan { devices: None, ..plan };
    below.directories[0].path.push("below");
    let mut inner = Cgroup::planned(&below);
    inner.create(&below, &|_| Ok(())).unwrap();
    let record = fs::read_to_string(made.dir("").join("below/cgroup.type")).unwrap();
    assert_eq!(record.trim(), "threaded");
    fs::write(made.dir("").join("below/cgroup.threads"), child.0.id().to_string()).unwrap();
    assert_eq!(inner.pids().unwrap(), [child.0.id()]);
    inner.kill(libc::SIGKILL).unwrap();
    assert_eq!(child.ended_by(), Some(libc::SIGKILL));
    inner.remove(5 * SECOND).unwrap();
}

#[test]
fn a_record_finds_what_was_made() {
    on_v1_and_v2(|| {
        let made = Made::new("{}");
        let mut child = made.sleeper();
        let record = postcard::to_stdvec(&made.cgroup).unwrap();
        assert!(record.len() < 1024, "{}", record.len());
        let found: Cgroup = postcard::from_bytes(&record).unwrap();
        assert_eq!(found.pids().unwrap(), [child.0.id()]);
        found.kill(libc::SIGKILL).unwrap();
        found.remove(5 * SECOND).unwrap();
        assert_eq!(child.ended_by(), Some(libc::SIGKILL));
        assert!(!exists(&made.dir("memory")));
    });
}

/// Whether a process in the cgroup can read the device.
fn can_read(made: &Made, device: &str) -> bool {
    made.run(&format!("exec 3< {device}")).0.wait().unwrap().success()
}

#[test]
fn devices_are_allowed_by_the_rules() {
    const KMSG: &str = r#"{"devices":[{"allow":false,"access":"rwm"},
                           {"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;
    on_v1_and_v2(|| {
        fs::File::open("/dev/kmsg").expect("some device that containers do not have");
        let made = Made::new("{}");
        assert!(can_read(&made, "/dev/zero"));
        assert!(!can_read(&made, "/dev/kmsg"));
        // Again, as on a cgroup that an earlier container left: no rule of that one stays.
        for (rules, readable) in [(KMSG, true), ("{}", false), (r#"{"devices":[{"allow":true,"access":"rwm"}]}"#, true)]
        {
            let plan = plan(&made.layout, &made.parent, rules);
            let mut again = Cgroup::planned(&plan);
            again.create(&plan, &|_| Ok(())).unwrap();
            again.apply(&plan).unwrap();
            again.apply_devices(&plan).unwrap();
            assert_eq!(can_read(&made, "/dev/kmsg"), readable, "{rules}");
            assert!(can_read(&made, "/dev/zero"));
        }
    });
}

#[test]
#[allow(unsafe_code)]
fn a_process_brings_itself_in() {
    use rustix::io::write;
    use std::os::unix::process::CommandExt;
    if is_pure_v2() {
        return skip("no cgroup v1 hierarchies on this machine");
    }
    let made = Made::new("{}");
    let entry = made.cgroup.entry().unwrap();
    assert_eq!(entry.fds().count(), made.layout.v1.len());
    let mut command = Command::new("sleep");
    // SAFETY: the closure only writes.
    unsafe {
        command.arg("60").pre_exec(move || Ok(entry.fds().try_for_each(|tasks| write(tasks, b"0").map(drop))?));
    }
    let child = Reaped(command.spawn().unwrap());
    let memberships = memberships(&child);
    let mut v1 = memberships.iter().filter(|line| !line.starts_with("0:"));
    assert!(v1.all(|line| line.ends_with(&format!("{}/c", made.parent))), "{memberships:?}");
    assert_eq!(made.cgroup.pids().unwrap(), [child.0.id()]);
}

#[test]
fn exec_joins_the_cgroup_that_it_names() {
    on_v1_and_v2(|| {
        let made = Made::new("{}");
        let join = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(ToString::to_string).collect();
            made.cgroup.join(&paths, None)
        };
        let error = join(&[".."]).unwrap_err().to_string();
        assert!(error.contains("bad sub cgroup path"), "{error}");
        let error = join(&["nonexistent"]).unwrap_err().to_string();
        assert!(error.contains(" adding pid ") && error.ends_with("no such file or directory"), "{error}");
        let error = join(&["whaaat:/"]).unwrap_err().to_string();
        assert!(error.contains("unknown controller whaaat"), "{error}");
        let child = Reaped::spawn("exec sleep 60");
        let pid = child.0.id();
        let enter = |mut join: Join| {
            let entry = join.take_entry();
            put(&child, &entry, join.dirfd());
        };
        let cgroups = || fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        fs::create_dir(made.dir("memory").join("sub")).unwrap();
        let joined = if made.layout.is_pure_v2() { join(&["sub"]) } else { join(&["memory:/sub"]) };
        enter(joined.unwrap());
        let text = cgroups();
        // Another hierarchy may have the number 10.
        let is_meant = |l: &&str| if made.layout.is_pure_v2() { l.starts_with("0:") } else { l.contains(":memory:") };
        let mut lines = text.lines().filter(is_meant);
        assert!(lines.all(|l| l.ends_with(&format!("{}/c/sub", made.parent))), "{text}");
        enter(join(&[]).unwrap());
        assert!(!cgroups().contains("/sub"));
        assert_eq!(made.cgroup.pids().unwrap(), [pid]);
    });
}

#[test]
fn exec_follows_init_when_the_containers_own_cgroup_is_gone() {
    pure_v2();
    let made = Made::new("{}");
    let elsewhere = Made::new("{}");
    let init = elsewhere.sleeper();
    made.cgroup.remove(SECOND).unwrap();
    let found: Cgroup = postcard::from_bytes(&postcard::to_stdvec(&made.cgroup).unwrap()).unwrap();
    let mut join = found.join(&[], Some(init.0.id())).unwrap();
    assert!(join.dirfd().is_some());
    let child = Reaped::spawn("exec sleep 60");
    put(&child, &join.take_entry(), join.dirfd());
    assert_eq!(elsewhere.cgroup.pids().unwrap().len(), 2);
    assert!(found.join(&["/".into()], Some(init.0.id())).is_err(), "a path that is named is not replaced");
    let mut beside = found.join_init(init.0.id()).unwrap().unwrap();
    let entry = beside.take_entry();
    assert_eq!(entry.fds().count(), 0);
    put(&child, &entry, beside.dirfd());
}

#[test]
fn a_user_does_without_a_cgroup_unless_asked_for_one() {
    let layout = host::cgroup_layout(true).unwrap();
    let planned = |id: &str, path: &str, resources: &str| {
        let spec = format!(r#"{{"linux":{{"cgroupsPath":"{path}","resources":{resources}}}}}"#);
        cgroup::plan(&Spec::parse(spec.as_bytes()).unwrap(), id, &layout, true, Manager::Cgroupfs, &mut Vec::new())
            .unwrap()
    };
    let id = &unique()[1..];
    let roots_plan = planned(id, "", "{}");
    let mut roots = Cgroup::planned(&roots_plan);
    roots.create(&roots_plan, &|_| Ok(())).unwrap();
    // Of this thread only.
    let become_user = |id: u32| {
        let (root, user) = (rustix::process::Uid::ROOT, rustix::process::Uid::from_raw(id));
        rustix::thread::set_thread_res_uid(root, user, root).unwrap();
    };
    become_user(65534);
    let create_as = |id: &str, path: &str, resources: &str| {
        let plan = planned(id, path, resources);
        let mut cgroup = Cgroup::planned(&plan);
        let created = cgroup.create(&plan, &|_| Ok(()));
        let created = created.and_then(|()| cgroup.apply(&plan)).and_then(|()| cgroup.apply_devices(&plan));
        if created.is_err() {
            cgroup.remove(SECOND).unwrap();
        }
        created.map(|()| cgroup)
    };
    let create = |path: &str, resources: &str| create_as(&unique()[1..], path, resources);
    // There is none, or root has one of this name.
    for cgroup in [create("", "{}").unwrap(), create_as(id, "", "{}").unwrap()] {
        assert!(cgroup.is_empty());
        assert!(cgroup.dirfd().unwrap().is_none() && cgroup.entry().unwrap().fds().next().is_none());
        cgroup.add_unified(std::process::id() as i32).unwrap();
        cgroup.kill(libc::SIGKILL).unwrap();
        cgroup.thaw().unwrap();
        assert!(cgroup.freeze().is_err());
        cgroup.remove(SECOND).unwrap();
    }
    let error = create("", r#"{"pids":{"limit":5}}"#).unwrap_err().to_string();
    let why = match layout.is_pure_v2() {
        true => "rootless needs no limits + no cgrouppath when no permission is granted for cgroups",
        false => "cannot set pids limit: container could not join or create cgroup",
    };
    assert!(error.contains(why), "{error}");
    let error = create("/some/where", "{}").unwrap_err().to_string();
    assert!(
        error.starts_with("unable to apply cgroup configuration") && error.ends_with("permission denied"),
        "{error}"
    );
    // A runtime that died before it knew that it may not have the cgroup.
    Cgroup::planned(&roots_plan).remove(SECOND).unwrap();
    become_user(0);
    roots.remove(SECOND).unwrap();
}

#[test]
fn a_value_that_the_kernel_refuses_is_named() {
    let made = Made::new("{}");
    for (asked, start, hint) in [
        (r#"{"cpu":{"cpus":"4000"}}"#, "/linux/resources/cpu/cpus: write(\"/sys", "not a list of processors"),
        (r#"{"cpu":{"quota":1}}"#, "/linux/resources/cpu/quota: write(\"/sys", "out of range"),
        (
            r#"{"hugepageLimits":[{"pageSize":"3MB","limit":3145728}]}"#,
            "/linux/resources/hugepageLimits/0/limit: write(\"/sys",
            "",
        ),
    ] {
        let error = made.cgroup.write_all(&plan(&made.layout, &made.parent, asked).writes).unwrap_err();
        assert!(error.to_string().starts_with(start), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
    }
}

#[test]
fn v2_enables_controllers_above_and_is_given_away() {
    pure_v2();
    let made = Made::new("{}");
    let available = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    assert_eq!(made.read("", "cgroup.controllers"), available.trim());
    assert_eq!(made.read("", "cgroup.subtree_control"), "", "not the container's own");
    let plan = CgroupPlan { owner: Some(100_000), ..plan(&made.layout, &made.parent, "{}") };
    made.cgroup.apply(&plan).unwrap();
    let owner = |file: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(made.dir("").join(file)).unwrap().uid()
    };
    let owners = ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.freeze"].map(owner);
    assert_eq!(owners, [100_000, 100_000, 100_000, 0]);
}

#[test]
fn the_killed_for_want_of_memory_are_counted() {
    let made = Made::new(r#"{"memory":{"limit":8388608,"swap":8388608}}"#);
    assert!(!made.run("head -c 100000000 /dev/zero | tail").0.wait().unwrap().success());
    // The shell may go with the process that took too much.
    assert!(made.cgroup.oom_kills() >= Some(1));
}
