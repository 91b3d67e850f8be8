//! The root filesystem for real: each test has a mount namespace of its own and looks around inside after `enter`.

#[path = "e2e/harness/skip.rs"]
mod skip;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use berth::internal::error::{Error, Result};
use berth::internal::plan::hierarchy::{Hierarchy, Layout};
use berth::internal::plan::mounts::MountPlan;
use berth::internal::plan::mounts::cgroup::CgroupMount;
use berth::internal::plan::rootfs::{self as plan, Facts, RootfsPlan};
use berth::internal::rootfs::{Namespaces, Rootfs, open_source};
use berth::internal::spec::Spec;
use berth::internal::sys::procfs::ProcFs;
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};
use skip::skip;

/// A bundle in a tmpfs that is gone with the test's mount namespace.
struct Bundle {
    dir: PathBuf,
    config: Value,
}

impl Bundle {
    fn new() -> Self {
        let flags = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC;
        #[allow(deprecated)]
        // It is marked unsafe for sharing descriptors with other threads, which this leaves as is.
        rustix::thread::unshare(flags).expect("these tests need root");
        let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let dir = PathBuf::from("/tmp");
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &dir, "tmpfs", flags, Some(c"mode=755")).unwrap();
        for name in ["dev", "etc", "proc", "sys", "tmp", "srv"] {
            fs::create_dir_all(dir.join("rootfs").join(name)).unwrap();
        }
        let config = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                 "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]},
            ],
            "linux": {
                "namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "ipc"}],
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi", "/sys/firmware",
                                "/sys/devices/virtual", "/nothing/here", "/proc/keys"],
                "readonlyPaths": ["/proc/sys", "/proc/irq", "/proc/nothing"],
            },
        });
        Self { dir, config }
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    fn mount(&mut self, mount: Value) -> &mut Self {
        self.config["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    fn plan(&self) -> Result<RootfsPlan> {
        self.plan_with(&Layout::default(), false)
    }

    fn plan_with(&self, layout: &Layout, no_pivot: bool) -> Result<RootfsPlan> {
        let spec = Spec::parse(self.config.to_string().as_bytes())?;
        let cgroup = |hierarchy: &Hierarchy| Some(hierarchy.mountpoint.clone());
        let namespaces = &berth::internal::plan::namespaces::Namespaces::plan(&spec.linux).unwrap();
        plan::plan(
            &spec,
            &self.dir,
            &Facts { layout, namespaces, cgroup: &cgroup, no_pivot, rootless: false },
            &mut Vec::new(),
        )
    }

    fn enter(&self) -> Result<ProcFs> {
        enter(&self.plan()?)
    }
}

/// The runtime's part, in the same process.
fn host(mount: &MountPlan) -> Result<OwnedFd> {
    let namespace = fs::File::open("/proc/thread-self/ns/mnt").unwrap();
    open_source(mount, "/nonexistent", Namespaces { mount: Some(namespace.as_fd()), user: None })
}

fn enter(plan: &RootfsPlan) -> Result<ProcFs> {
    let proc = ProcFs::private()?;
    Rootfs::prepare(plan, &proc, &mut host)?.enter(&proc)?;
    Ok(proc)
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The options of the topmost mount on `path`, of the mount itself.
fn options(path: &str) -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = table.lines().rfind(|line| line.split(' ').nth(4) == Some(path));
    let line = line.unwrap_or_else(|| panic!("{path} is not mounted in\n{table}"));
    line.split(' ').nth(5).unwrap().split(',').map(str::to_owned).collect()
}

fn has(path: &str, option: &str) -> bool {
    options(path).iter().any(|o| o == option)
}

#[test]
fn a_usual_container() {
    let bundle = Bundle::new();
    bundle.enter().unwrap();
    assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert_eq!(table.lines().filter(|line| line.split(' ').nth(4) == Some("/")).count(), 1, "{table}");
    assert!(!table.contains(" ext4 "), "{table}");
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let found = fs::metadata(format!("/dev/{name}")).unwrap();
        assert!(found.file_type().is_char_device());
        assert_eq!((rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev())), (major, minor));
        assert_eq!(found.permissions().mode() & 0o7777, 0o666);
    }
    for (name, target) in [("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stderr", "/proc/self/fd/2")] {
        assert_eq!(fs::read_link(format!("/dev/{name}")).unwrap(), Path::new(target));
    }
    assert_eq!((mode("/dev"), mode("/dev/shm")), (0o755, 0o1777));
    assert!(has("/sys", "ro") && has("/sys", "noexec") && has("/proc", "nodev"));
    assert!(!has("/dev", "relatime") && !has("/dev", "noatime"), "{:?}", options("/dev"));
}

#[test]
fn masked_and_readonly_paths() {
    let bundle = Bundle::new();
    bundle.enter().unwrap();
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list"] {
        if Path::new(path).exists() {
            assert_eq!(fs::metadata(path).unwrap().rdev(), rustix::fs::makedev(1, 3), "{path}");
        }
    }
    let (first, second) = (fs::metadata("/sys/firmware").unwrap(), fs::metadata("/sys/devices/virtual").unwrap());
    assert_eq!(first.dev(), second.dev());
    assert_eq!(fs::read_dir("/sys/firmware").unwrap().count(), 0);
    assert!(fs::write("/sys/firmware/x", "").is_err());
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert_eq!(table.lines().filter(|line| line.split(' ').nth(4) == Some("/proc/keys")).count(), 1);
    assert!(has("/proc/sys", "ro") && has("/proc/sys", "nosuid") && has("/proc/irq", "ro"));
    assert!(fs::write("/proc/sys/kernel/msgmax", "8192").is_err());
}

#[test]
fn the_private_procfs_still_writes_where_the_container_cannot() {
    let bundle = Bundle::new();
    let proc = bundle.enter().unwrap();
    proc.write("sys/kernel/msgmax", b"8191").unwrap();
    assert_eq!(proc.read("sys/kernel/msgmax").unwrap(), b"8191\n");
}

#[test]
fn bind_mounts() {
    let mut bundle = Bundle::new();
    fs::create_dir(bundle.dir.join("data")).unwrap();
    fs::write(bundle.dir.join("data/file"), "content").unwrap();
    bundle
        .mount(json!({"destination": "/srv/a/b", "source": "data", "options": ["rbind", "rprivate", "ro"]}))
        .mount(json!({"destination": "etc/hosts", "source": "data/file", "options": ["bind", "nosuid"]}));
    bundle.enter().unwrap();
    assert_eq!(fs::read_to_string("/srv/a/b/file").unwrap(), "content");
    assert_eq!(fs::read_to_string("/etc/hosts").unwrap(), "content");
    assert!(has("/srv/a/b", "ro") && has("/etc/hosts", "nosuid") && has("/etc/hosts", "rw"));
    assert_eq!(mode("/srv/a"), 0o755);
}

#[test]
fn proc_or_sys_as_a_link_is_refused() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::new();
        fs::remove_dir(bundle.rootfs().join(name)).unwrap();
        symlink("/tmp", bundle.rootfs().join(name)).unwrap();
        let error = bundle.enter().map(drop).unwrap_err().to_string();
        assert!(error.contains("must be mounted on ordinary directory"), "{error}");
    }
}

#[test]
fn dev_as_a_link_is_refused() {
    let mut bundle = Bundle::new();
    let outside = bundle.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("ptmx"), "").unwrap();
    fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
    symlink("../outside", bundle.rootfs().join("dev")).unwrap();
    bundle.config["mounts"] = json!([]);
    assert!(bundle.enter().is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn a_foreign_null_device_is_not_used_to_mask() {
    let mut bundle = Bundle::new();
    bundle.config["mounts"].as_array_mut().unwrap().retain(|m| m["type"] == "proc");
    fs::write(bundle.rootfs().join("dev/null"), "forged").unwrap();
    let error = bundle.enter().map(drop).unwrap_err().to_string();
    assert!(error.contains("/dev/null"), "{error}");
}

#[test]
fn the_terminal() {
    let bundle = Bundle::new();
    let (plan, proc) = (bundle.plan().unwrap(), ProcFs::private().unwrap());
    let rootfs = Rootfs::prepare(&plan, &proc, &mut host).unwrap();
    let terminal = rootfs.terminal(1000).unwrap();
    rootfs.enter(&proc).unwrap();
    let slave = rustix::fs::fstat(&terminal.slave).unwrap();
    assert_eq!((slave.st_uid, slave.st_gid, slave.st_mode & 0o777), (1000, 5, 0o620));
    assert_eq!(fs::metadata("/dev/console").unwrap().rdev(), slave.st_rdev);
    assert_eq!(fs::metadata("/dev/pts/0").unwrap().rdev(), slave.st_rdev);
    rustix::io::write(&terminal.slave, b"x").unwrap();
    let mut byte = [0];
    assert_eq!((rustix::io::read(&terminal.master, &mut byte), byte), (Ok(1), *b"x"));
}

#[test]
fn a_console_that_is_a_link_is_refused() {
    let mut bundle = Bundle::new();
    bundle.config["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev");
    let target = bundle.dir.join("made");
    symlink(&target, bundle.rootfs().join("dev/console")).unwrap();
    let (plan, proc) = (bundle.plan().unwrap(), ProcFs::private().unwrap());
    let rootfs = Rootfs::prepare(&plan, &proc, &mut host).unwrap();
    let error: Error = rootfs.terminal(0).map(drop).unwrap_err();
    assert!(error.to_string().contains("/dev/console"), "{error}");
    assert!(!target.exists());
}

#[test]
fn a_tmpfs_takes_the_mode_of_what_it_covers() {
    let mut bundle = Bundle::new();
    for (name, mode) in [("inherit", 0o710), ("explicit", 0o710), ("sticky", 0o5755), ("setgid", 0o7755)] {
        fs::create_dir(bundle.rootfs().join(name)).unwrap();
        fs::set_permissions(bundle.rootfs().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let tmpfs = |destination: &str, options: Value| json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options});
    bundle
        .mount(tmpfs("/inherit", json!(["nosuid"])))
        .mount(tmpfs("/explicit", json!(["mode=1500", "ro"])))
        .mount(tmpfs("/sticky", json!([])))
        .mount(tmpfs("/new/a/b", json!([])))
        .mount(tmpfs("/setgid/a/b", json!(["ro", "nodev"])));
    let rootfs = rustix::fs::open(bundle.rootfs(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    bundle.enter().unwrap();
    assert_eq!((mode("/inherit"), mode("/explicit"), mode("/sticky")), (0o710, 0o1500, 0o5755));
    assert_eq!((mode("/new"), mode("/new/a"), mode("/new/a/b")), (0o755, 0o755, 0o1777));
    assert_eq!((mode("/setgid"), mode("/setgid/a")), (0o7755, 0o2755));
    assert!(has("/explicit", "ro") && has("/setgid/a/b", "ro") && has("/inherit", "rw"));
    let below = |name: &str| rustix::fs::statat(&rootfs, name, rustix::fs::AtFlags::empty()).unwrap().st_mode & 0o7777;
    assert_eq!((below("explicit"), below("setgid/a/b"), below("new/a/b")), (0o710, 0o2755, 0o755));
}

#[test]
fn what_is_readonly_is_filled_first() {
    let mut bundle = Bundle::new();
    bundle.config["mounts"][1]["options"].as_array_mut().unwrap().push(json!("ro"));
    bundle.config["root"]["readonly"] = json!(true);
    bundle.config["process"] = json!({"cwd": "/made/by/us"});
    bundle.enter().unwrap();
    assert!(has("/dev", "ro") && has("/", "ro"));
    assert!(Path::new("/dev/null").exists() && Path::new("/made/by/us").is_dir());
    assert!(fs::write("/x", "").is_err() && fs::write("/dev/x", "").is_err());
    fs::write("/dev/null", "x").unwrap();
}

#[test]
fn tmpcopyup() {
    let mut bundle = Bundle::new();
    let covered = bundle.rootfs().join("data");
    fs::create_dir_all(covered.join("sub/deep")).unwrap();
    fs::write(covered.join("sub/file"), vec![b'x'; 3_000_000]).unwrap();
    symlink("/etc/shadow", covered.join("link")).unwrap();
    for (name, mode) in [("sub", 0o777), ("sub/deep", 0o2711), ("sub/file", 0o4750)] {
        std::os::unix::fs::chown(covered.join(name), Some(12), Some(34)).unwrap();
        fs::set_permissions(covered.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    bundle.mount(json!({"destination": "/data", "type": "tmpfs", "options": ["tmpcopyup", "nosuid"]}));
    bundle.mount(json!({"destination": "/small", "type": "tmpfs", "options": ["size=4k"]}));
    bundle.enter().unwrap();
    assert_eq!((mode("/data/sub"), mode("/data/sub/deep"), mode("/data/sub/file")), (0o777, 0o2711, 0o4750));
    let file = fs::metadata("/data/sub/file").unwrap();
    assert_eq!((file.len(), file.uid(), file.gid()), (3_000_000, 12, 34));
    assert_eq!(fs::read_link("/data/link").unwrap(), Path::new("/etc/shadow"));
    assert!(has("/data", "nosuid"));
}

#[test]
fn a_copy_that_does_not_fit_is_an_error() {
    let mut bundle = Bundle::new();
    fs::create_dir(bundle.rootfs().join("data")).unwrap();
    fs::write(bundle.rootfs().join("data/big"), vec![b'x'; 100_000]).unwrap();
    bundle.mount(json!({"destination": "/data", "type": "tmpfs", "options": ["tmpcopyup", "size=4k"]}));
    let error = bundle.enter().map(drop).unwrap_err().to_string();
    assert!(error.contains("tmpcopyup") && error.ends_with("no space left on device"), "{error}");
}

/// A directory whose mount has these flags.
fn flagged(bundle: &Bundle, name: &str, flags: u64) -> PathBuf {
    use berth::internal::sys::mount::{MountAttr, mount_setattr};
    let dir = bundle.dir.join(name);
    fs::create_dir(&dir).unwrap();
    rustix::mount::mount("tmpfs", &dir, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let mount = fs::File::open(&dir).unwrap();
    let attr = MountAttr { attr_set: flags, attr_clr: 0x70, ..MountAttr::default() };
    mount_setattr(mount.as_fd(), false, &attr).unwrap();
    dir
}

const RO_NOEXEC: u64 = 0x1 | 0x8 | 0x80 | 0x20_0000;

#[test]
fn options_of_bind_mounts() {
    let mut bundle = Bundle::new();
    let odd = flagged(&bundle, "odd", RO_NOEXEC);
    let noatime = flagged(&bundle, "noatime", 0x10);
    for (name, source, options) in [
        ("keep", &odd, json!(["bind"])),
        ("clear", &odd, json!(["bind", "dev"])),
        ("atime", &noatime, json!(["bind", "atime"])),
        ("rel", &noatime, json!(["bind", "relatime"])),
        ("nodir", &noatime, json!(["bind", "nodiratime"])),
        ("strict", &odd, json!(["bind", "strictatime"])),
        ("rro", &noatime, json!(["rbind", "rro", "rnosuid"])),
    ] {
        bundle.mount(json!({"destination": format!("/{name}"), "source": source, "options": options}));
    }
    bundle.enter().unwrap();
    for (path, options) in [
        ("/keep", "ro,noexec,nodiratime,relatime,nosymfollow"),
        ("/clear", "rw,nodiratime,relatime"),
        ("/atime", "rw,noatime"),
        ("/rel", "rw,relatime"),
        ("/nodir", "rw,nodiratime,relatime"),
        ("/strict", "rw"),
        ("/rro", "ro,nosuid,noatime"),
    ] {
        assert_eq!(self::options(path).join(","), options, "{path}");
    }
}

#[test]
fn a_source_below_the_rootfs_shows_the_mounts_made_before() {
    let mut bundle = Bundle::new();
    for name in ["a/x", "b/y"] {
        fs::create_dir_all(bundle.dir.join("src").join(name)).unwrap();
        fs::write(bundle.dir.join("src").join(name).join("file"), name).unwrap();
    }
    let (src, rootfs) = (bundle.dir.join("src"), bundle.rootfs());
    bundle
        .mount(json!({"destination": "/mnt", "source": src.join("a"), "options": ["bind"]}))
        .mount(json!({"destination": "/mnt/x", "source": src.join("b"), "options": ["bind"]}))
        .mount(json!({"destination": rootfs.join("final"), "source": rootfs.join("mnt"), "options": ["rbind"]}));
    bundle.enter().unwrap();
    assert_eq!(fs::read_to_string("/final/x/y/file").unwrap(), "b/y");
}

#[test]
fn a_source_below_the_rootfs_does_not_lead_out_of_it() {
    let mut bundle = Bundle::new();
    fs::create_dir(bundle.dir.join("secret")).unwrap();
    symlink("../secret", bundle.rootfs().join("way")).unwrap();
    bundle.mount(json!({"destination": "/got", "source": "rootfs/way", "options": ["bind"]}));
    let error = bundle.enter().map(drop).unwrap_err().to_string();
    assert!(error.ends_with("no such file or directory"), "{error}");
}

#[test]
fn destinations_through_links() {
    let mut bundle = Bundle::new();
    fs::write(bundle.dir.join("file"), "content").unwrap();
    let rootfs = bundle.rootfs();
    fs::create_dir_all(rootfs.join("real/conf")).unwrap();
    for (target, link) in
        [("/real/conf", "conf"), ("/tmp/foo/bar", "jump"), ("/jump/baz/hosts", "etc/hosts"), ("../../..", "up")]
    {
        symlink(target, rootfs.join(link)).unwrap();
    }
    symlink("/loop", rootfs.join("loop")).unwrap();
    bundle
        .mount(json!({"destination": "/conf/stack", "type": "tmpfs", "options": ["ro"]}))
        .mount(json!({"destination": "/etc/hosts", "source": "file", "options": ["bind"]}))
        .mount(json!({"destination": "/up/up/new", "source": "file", "options": ["bind"]}));
    bundle.enter().unwrap();
    assert!(has("/real/conf/stack", "ro"));
    assert_eq!(fs::read_to_string("/tmp/foo/bar/baz/hosts").unwrap(), "content");
    assert_eq!(fs::read_to_string("/new").unwrap(), "content");
}

#[test]
fn a_loop_of_links_is_an_error() {
    let mut bundle = Bundle::new();
    symlink("/loop", bundle.rootfs().join("loop")).unwrap();
    bundle.mount(json!({"destination": "/loop/x", "type": "tmpfs"}));
    let error = bundle.enter().map(drop).unwrap_err();
    assert_eq!(error.errno(), Some(rustix::io::Errno::LOOP), "{error}");
}

#[test]
fn proc_is_not_covered() {
    for (mount, text) in [
        (json!({"destination": "/proc", "type": "tmpfs"}), "not of type proc"),
        (json!({"destination": "/proc", "source": "/etc", "options": ["bind"]}), "not of type proc"),
        (json!({"destination": "/proc/sys", "type": "tmpfs"}), "inside /proc"),
        (json!({"destination": "/way/self", "source": "/etc", "options": ["bind"]}), "inside /proc"),
        (json!({"destination": "/proc/self/attr", "source": "/etc", "options": ["bind"]}), "inside /proc"),
    ] {
        let mut bundle = Bundle::new();
        symlink("proc", bundle.rootfs().join("way")).unwrap();
        bundle.mount(mount);
        let error = bundle.enter().map(drop).unwrap_err().to_string();
        assert!(error.starts_with("error mounting ") && error.contains(text), "{error}");
    }
    let mut bundle = Bundle::new();
    fs::write(bundle.dir.join("cpus"), "one").unwrap();
    bundle
        .mount(json!({"destination": "/proc/cpuinfo", "source": "cpus", "options": ["bind"]}))
        .mount(json!({"destination": "/proc", "source": "/proc", "options": ["rbind"]}));
    bundle.enter().unwrap();
}

#[test]
fn propagation_of_the_root_and_of_mounts() {
    for (word, root) in
        [("", ""), ("shared", "shared"), ("rshared", "shared"), ("slave", ""), ("runbindable", "unbindable")]
    {
        let mut bundle = Bundle::new();
        bundle.config["linux"]["rootfsPropagation"] = json!(word);
        bundle.mount(json!({"destination": "/sh", "type": "tmpfs", "options": ["shared"]}));
        bundle.enter().unwrap();
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let tags = |path: &str| {
            let line = table.lines().rfind(|line| line.split(' ').nth(4) == Some(path)).unwrap();
            line.split(' ').skip(6).take_while(|field| *field != "-").collect::<Vec<_>>().join(" ")
        };
        assert!(tags("/").starts_with(root) && tags("/").is_empty() == root.is_empty(), "{word}: {table}");
        assert_eq!(tags("/sh").starts_with("shared"), word != "runbindable", "{word}: {table}");
    }
}

#[test]
fn nothing_reaches_a_shared_host() {
    let bundle = Bundle::new();
    let shared = rustix::mount::MountPropagationFlags::SHARED | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", shared).unwrap();
    let count = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap().lines().count();
    let before = count();
    let plan = bundle.plan().unwrap();
    let inside = std::thread::spawn(move || {
        #[allow(deprecated)]
        rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
        enter(&plan).map(drop)
    });
    inside.join().unwrap().unwrap();
    assert_eq!(count(), before);
}

#[test]
fn hooks_can_mount_below_the_rootfs_path() {
    let bundle = Bundle::new();
    let (plan, proc) = (bundle.plan().unwrap(), ProcFs::private().unwrap());
    let rootfs = Rootfs::prepare(&plan, &proc, &mut host).unwrap();
    rustix::mount::mount("hook", bundle.rootfs().join("srv"), "tmpfs", rustix::mount::MountFlags::NOEXEC, None)
        .unwrap();
    fs::write(bundle.rootfs().join("srv/gpu"), "").unwrap();
    rootfs.enter(&proc).unwrap();
    assert!(Path::new("/srv/gpu").exists() && has("/srv", "noexec"));
}

#[test]
fn without_pivot_the_hosts_proc_and_sys_are_gone() {
    let mut bundle = Bundle::new();
    bundle.config["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "proc" && m["type"] != "sysfs");
    bundle.config["linux"]["maskedPaths"] = json!([]);
    bundle.config["linux"]["readonlyPaths"] = json!([]);
    let (plan, proc) = (bundle.plan_with(&Layout::default(), true).unwrap(), ProcFs::private().unwrap());
    Rootfs::prepare(&plan, &proc, &mut host).unwrap().enter(&proc).unwrap();
    assert!(Path::new("/dev/null").exists() && !Path::new("/proc/self").exists());
    let table = String::from_utf8(proc.read("thread-self/mountinfo").unwrap()).unwrap();
    assert!(!table.lines().any(|line| line.contains(" - proc ") || line.contains(" - sysfs ")), "{table}");
}

#[test]
fn without_a_mount_namespace() {
    let mut bundle = Bundle::new();
    bundle.config["linux"] = json!({"namespaces": []});
    bundle.enter().unwrap();
    assert!(Path::new("/dev/null").exists() && Path::new("/proc/self").exists());
    assert!(!Path::new("/rootfs").exists());
}

#[test]
fn idmapped_mounts() {
    let mut bundle = Bundle::new();
    let source = bundle.dir.join("owned");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "").unwrap();
    std::os::unix::fs::chown(source.join("file"), Some(1001), Some(1002)).unwrap();
    let ids = json!([{"containerID": 1000, "hostID": 3000, "size": 10}]);
    bundle
        .mount(json!({"destination": "/mapped", "source": source, "options": ["bind", "idmap"],
                      "uidMappings": ids, "gidMappings": ids}))
        .mount(json!({"destination": "/fresh", "type": "tmpfs", "options": ["idmap", "mode=755"],
                      "uidMappings": [{"containerID": 0, "hostID": 4000, "size": 1}],
                      "gidMappings": [{"containerID": 0, "hostID": 4000, "size": 1}]}));
    bundle.enter().unwrap();
    let file = fs::metadata("/mapped/file").unwrap();
    assert_eq!((file.uid(), file.gid()), (3001, 3002));
    assert_eq!(fs::metadata("/fresh").unwrap().uid(), 4000);
}

#[test]
fn a_filesystem_that_cannot_be_idmapped_is_named() {
    let mut bundle = Bundle::new();
    let ids = json!([{"containerID": 0, "hostID": 3000, "size": 10}]);
    bundle.mount(json!({"destination": "/proc", "source": "/proc", "options": ["bind", "idmap"],
                        "uidMappings": ids, "gidMappings": ids}));
    let error = bundle.enter().map(drop).unwrap_err();
    assert!(error.hint().unwrap().contains("filesystem proc does not support"), "{error} {:?}", error.hint());
}

/// What the tests beside this one open and close does not count from here on.
fn own_descriptors() {
    #[allow(deprecated)]
    rustix::thread::unshare(UnshareFlags::FILES).unwrap();
}

#[test]
fn the_runtime_opens_sources_in_inits_namespace() {
    let mut bundle = Bundle::new();
    let odd = flagged(&bundle, "odd", RO_NOEXEC);
    fs::create_dir(bundle.dir.join("odd_")).unwrap();
    bundle.mount(json!({"destination": "/odd", "source": odd, "options": ["bind"]}));
    let plan = bundle.plan().unwrap();
    let mount = plan.mounts.last().unwrap();
    own_descriptors();
    let before = fs::read_dir("/proc/thread-self/fd").unwrap().count();
    let tree = host(mount).unwrap();
    let flags = rustix::fs::fstatvfs(&tree).unwrap().f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY | rustix::fs::StatVfsMountFlags::NOEXEC));
    drop(tree);
    assert_eq!(fs::read_dir("/proc/thread-self/fd").unwrap().count(), before);
    let mut gone = mount.clone();
    gone.kind = berth::internal::plan::mounts::MountKind::Bind {
        source: berth::internal::plan::mounts::BindSource::Host("/nothing".into()),
        recursive: true,
    };
    assert_eq!(host(&gone).unwrap_err().errno(), Some(rustix::io::Errno::NOENT));
}

#[test]
fn an_overlay_of_many_layers() {
    let mut bundle = Bundle::new();
    let mut layers = Vec::new();
    for n in 0..20 {
        let layer = bundle.dir.join(format!("layer-with-a-longer-name-{n}"));
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join(format!("file{n}")), "").unwrap();
        layers.push(layer.to_str().unwrap().to_owned());
    }
    let lower = format!("lowerdir={}", layers.join(":"));
    bundle.mount(json!({"destination": "/over", "type": "overlay", "source": "overlay", "options": [lower, "nosuid"]}));
    bundle.enter().unwrap();
    assert_eq!(fs::read_dir("/over").unwrap().count(), 20);
    assert!(has("/over", "nosuid"));
}

#[test]
fn what_a_filesystem_says_is_in_the_error() {
    let mut bundle = Bundle::new();
    bundle.mount(json!({"destination": "/srv", "type": "tmpfs", "source": "x", "options": ["nosuid", "sizzle=1"]}));
    let error = bundle.enter().map(drop).unwrap_err().to_string();
    assert!(
        error.starts_with("error mounting \"x\" to rootfs at \"/srv\": /mounts/6/options/1: fsconfig(\"sizzle\""),
        "{error}"
    );
    assert!(error.contains("Unknown parameter 'sizzle'"), "{error}");
}

#[test]
fn no_descriptor_is_left() {
    let bundle = Bundle::new();
    let count = |proc: &ProcFs| {
        let dir = proc.open("thread-self/fd", rustix::fs::OFlags::RDONLY).unwrap();
        rustix::fs::Dir::read_from(dir).unwrap().count()
    };
    own_descriptors();
    let before = count(&ProcFs::private().unwrap());
    let proc = bundle.enter().unwrap();
    assert_eq!(count(&proc), before);
}

/// A directory below the rootfs keeps being exchanged with a link out of it, as another container could do with a
/// volume that both share (CVE-2021-30465, CVE-2024-45310).
#[test]
fn exchanged_components_do_not_lead_out() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut bundle = Bundle::new();
    let (volume, outside) = (bundle.rootfs().join("volume"), bundle.dir.join("outside"));
    fs::create_dir_all(volume.join("dir")).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink("../../outside", volume.join("link")).unwrap();
    bundle.config["mounts"] = json!([]);
    bundle.mount(json!({"destination": "/volume/dir/a/b", "type": "tmpfs"}));
    bundle.config["linux"]["maskedPaths"] = json!(["/volume/dir/a"]);
    bundle.config["linux"]["readonlyPaths"] = json!(["/volume/dir"]);
    let plan = bundle.plan().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = fs::File::open(&volume).unwrap();
            while !done.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&dir, "dir", &dir, "link", exchange).unwrap();
            }
        });
        let runs: Vec<_> = (0..200)
            .map(|_| {
                let plan = plan.clone();
                let run = scope.spawn(move || {
                    #[allow(deprecated)]
                    rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
                    enter(&plan).is_ok()
                });
                run.join().unwrap()
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        assert_eq!(runs.len(), 200);
    });
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_terminal_needs_a_real_devpts() {
    let mut bundle = Bundle::new();
    for mount in bundle.config["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "devpts" {
            *mount = json!({"destination": "/dev/pts", "type": "tmpfs", "options": []});
        }
    }
    let (plan, proc) = (bundle.plan().unwrap(), ProcFs::private().unwrap());
    let rootfs = Rootfs::prepare(&plan, &proc, &mut host).unwrap();
    let error = rootfs.terminal(0).map(drop).unwrap_err().to_string();
    assert!(error.contains("/dev/pts is not a devpts"), "{error}");
}

#[test]
fn the_null_device_for_standard_streams() {
    let bundle = Bundle::new();
    let (plan, proc) = (bundle.plan().unwrap(), ProcFs::private().unwrap());
    let rootfs = Rootfs::prepare(&plan, &proc, &mut host).unwrap();
    let null = rootfs.open_null(&proc).unwrap().unwrap();
    rootfs.enter(&proc).unwrap();
    let (ours, path) = (rustix::fs::fstat(&null).unwrap(), fs::metadata("/dev/null").unwrap());
    assert_eq!((ours.st_ino, ours.st_dev), (path.ino(), path.dev()));
    assert_eq!(rustix::io::write(&null, b"x"), Ok(1));
}

/// Whether the caller is in a user namespace; if not, runs the test of this name again in one, with `around` done
/// before in the mount namespace that it inherits.
fn in_user_namespace(test: &str, around: impl FnOnce()) -> bool {
    const INSIDE: &str = "BERTH_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    #[allow(deprecated)]
    rustix::thread::unshare(UnshareFlags::NEWNS).expect("these tests need root");
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    around();
    let again = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--pid", "--fork", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output();
    let output = again.expect("these tests need unshare (Debian: util-linux)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    false
}

fn user_bundle() -> Bundle {
    let mut bundle = Bundle::new();
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    for ids in ["uidMappings", "gidMappings"] {
        bundle.config["linux"][ids] = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    }
    for mount in bundle.config["mounts"].as_array_mut().unwrap() {
        mount["options"].as_array_mut().unwrap().retain(|option| option != "gid=5");
    }
    bundle
}

#[test]
fn in_a_user_namespace_devices_are_the_hosts() {
    if in_user_namespace("in_a_user_namespace_devices_are_the_hosts", || ()) {
        let bundle = user_bundle();
        bundle.enter().unwrap();
        for (name, minor) in [("null", 3), ("zero", 5)] {
            assert_eq!(fs::metadata(format!("/dev/{name}")).unwrap().rdev(), rustix::fs::makedev(1, minor));
        }
        assert_eq!(fs::metadata("/proc/keys").unwrap().rdev(), rustix::fs::makedev(1, 3));
        assert!(options("/dev/null").contains(&"rw".to_owned()));
        fs::write("/dev/null", "x").unwrap();
    }
}

#[test]
fn in_a_user_namespace_flags_are_locked() {
    let around = || {
        let none = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", "/mnt", "tmpfs", none, None).unwrap();
        let outer = Bundle { dir: "/mnt".into(), config: Value::Null };
        flagged(&outer, "odd", RO_NOEXEC);
        flagged(&outer, "noatime", 0x10);
        fs::create_dir_all("/mnt/secret/data").unwrap();
        std::os::unix::fs::chown("/mnt/secret", Some(12345), None).unwrap();
        fs::set_permissions("/mnt/secret", fs::Permissions::from_mode(0o700)).unwrap();
    };
    if !in_user_namespace("in_a_user_namespace_flags_are_locked", around) {
        return;
    }
    let locked = "noexec,nodiratime,relatime";
    for (source, options, result) in [
        ("/mnt/odd", json!(["bind"]), Some(format!("ro,{locked},nosymfollow"))),
        ("/mnt/odd", json!(["bind", "dev"]), Some(format!("ro,{locked}"))),
        ("/mnt/odd", json!(["bind", "nosuid"]), Some(format!("ro,nosuid,{locked}"))),
        ("/mnt/odd", json!(["bind", "ro", "nodiratime"]), Some(format!("ro,{locked}"))),
        ("/mnt/odd", json!(["bind", "rw"]), None),
        ("/mnt/odd", json!(["bind", "ro", "exec"]), None),
        ("/mnt/odd", json!(["bind", "strictatime"]), None),
        ("/mnt/noatime", json!(["bind", "norelatime"]), Some("rw,noatime".to_owned())),
        ("/mnt/noatime", json!(["bind", "relatime"]), None),
    ] {
        let plan = {
            let mut bundle = user_bundle();
            bundle.mount(json!({"destination": "/srv", "source": source, "options": options}));
            bundle.plan().unwrap()
        };
        // One after the other, each in a namespace of its own that has seen no other's root.
        let run = std::thread::spawn(move || {
            #[allow(deprecated)]
            rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
            enter(&plan).map(|_| self::options("/srv").join(","))
        });
        match (run.join().unwrap(), result) {
            (Ok(found), Some(expected)) => assert_eq!(found, expected, "{options}"),
            (Err(error), None) => {
                let text = error.to_string();
                assert!(text.starts_with("error mounting") && text.ends_with("operation not permitted"), "{text}");
            }
            (found, expected) => panic!("{source} {options}: {found:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn in_a_user_namespace_the_runtime_opens_what_init_cannot() {
    let around = || {
        rustix::mount::mount("tmpfs", "/mnt", "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        fs::create_dir_all("/mnt/secret/data").unwrap();
        std::os::unix::fs::chown("/mnt/secret", Some(12345), None).unwrap();
        fs::set_permissions("/mnt/secret", fs::Permissions::from_mode(0o700)).unwrap();
    };
    if in_user_namespace("in_a_user_namespace_the_runtime_opens_what_init_cannot", around) {
        let mut bundle = user_bundle();
        bundle.mount(json!({"destination": "/srv", "source": "/mnt/secret/data", "options": ["bind"]}));
        let (plan, proc) = (bundle.plan().unwrap(), ProcFs::private().unwrap());
        let mut asked = Vec::new();
        let mut host = |mount: &MountPlan| {
            asked.push(mount.source.clone());
            Err(Error::new("asked"))
        };
        assert!(Rootfs::prepare(&plan, &proc, &mut host).is_err());
        assert_eq!(asked, ["/mnt/secret/data"]);
    }
}

#[test]
fn legacy_cgroups_of_the_host() {
    legacy_cgroups(false);
}

#[test]
fn legacy_cgroups_in_a_namespace() {
    legacy_cgroups(true);
}

fn legacy_cgroups(namespaced: bool) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let found = mounts.lines().filter(|line| line.contains(" - cgroup ")).map(|line| line.split(' ').nth(4).unwrap());
    let hierarchies: Vec<_> = found
        .filter(|point| point.starts_with("/sys/fs/cgroup/"))
        .map(|point| {
            let name = point.rsplit('/').next().unwrap();
            let name = if name == "systemd" { "name=systemd" } else { name };
            Hierarchy {
                mountpoint: point.into(),
                controllers: name.split(',').map(str::to_owned).collect(),
                own: "/".into(),
            }
        })
        .collect();
    if hierarchies.is_empty() {
        return skip("no cgroup v1 hierarchies on this machine");
    }
    let names: Vec<_> = hierarchies.iter().map(|h| h.mountpoint.file_name().unwrap().to_owned()).collect();
    let layout = Layout { v1: hierarchies, unified: None };
    let mut bundle = Bundle::new();
    if namespaced {
        bundle.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "cgroup"}));
        #[allow(deprecated)]
        rustix::thread::unshare(UnshareFlags::NEWCGROUP).unwrap();
    }
    bundle.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                        "options": ["ro", "nosuid", "noexec", "nodev", "relatime"]}));
    let plan = bundle.plan_with(&layout, false).unwrap();
    enter(&plan).unwrap();
    for name in &names {
        let path = format!("/sys/fs/cgroup/{}", name.to_str().unwrap());
        assert!(Path::new(&path).join("cgroup.procs").exists(), "{path}");
        assert_eq!(options(&path).join(","), "ro,nosuid,nodev,noexec,relatime", "{path}");
    }
    assert!(has("/sys/fs/cgroup", "ro"));
}

fn unified(mountpoint: &str) -> Layout {
    Layout {
        v1: Vec::new(),
        unified: Some(Hierarchy { mountpoint: mountpoint.into(), controllers: Vec::new(), own: "/".into() }),
    }
}

fn cgroup_mount() -> Value {
    json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "nodev"]})
}

#[test]
fn the_unified_hierarchy() {
    let mut bundle = Bundle::new();
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "cgroup"}));
    #[allow(deprecated)]
    rustix::thread::unshare(UnshareFlags::NEWCGROUP).unwrap();
    bundle.mount(cgroup_mount());
    enter(&bundle.plan_with(&unified("/nothing"), false).unwrap()).unwrap();
    assert!(Path::new("/sys/fs/cgroup/cgroup.procs").exists());
    assert_eq!(options("/sys/fs/cgroup").join(","), "ro,nosuid,nodev,relatime");
}

#[test]
fn in_a_user_namespace_the_unified_hierarchy_is_the_hosts() {
    if in_user_namespace("in_a_user_namespace_the_unified_hierarchy_is_the_hosts", || ()) {
        let mut bundle = user_bundle();
        bundle.mount(cgroup_mount());
        let hybrid = "/sys/fs/cgroup/unified";
        let mountpoint = if Path::new(hybrid).join("cgroup.procs").exists() { hybrid } else { "/sys/fs/cgroup" };
        enter(&bundle.plan_with(&unified(mountpoint), false).unwrap()).unwrap();
        assert!(Path::new("/sys/fs/cgroup/cgroup.procs").exists());
        assert!(has("/sys/fs/cgroup", "ro"));
    }
}

#[test]
fn in_a_user_namespace_an_unreachable_hierarchy_is_hidden() {
    if in_user_namespace("in_a_user_namespace_an_unreachable_hierarchy_is_hidden", || ()) {
        let mut bundle = user_bundle();
        bundle.mount(cgroup_mount());
        let mut plan = bundle.plan_with(&unified("/nothing"), false).unwrap();
        assert!(enter(&plan).is_err());
        let Some(mount) = plan.mounts.last_mut() else { panic!() };
        let berth::internal::plan::mounts::MountKind::Cgroup(CgroupMount::Unified { hide_if_missing, .. }) =
            &mut mount.kind
        else {
            panic!()
        };
        *hide_if_missing = true;
        enter(&plan).unwrap();
        assert_eq!(fs::read_dir("/sys/fs/cgroup").unwrap().count(), 0);
    }
}

#[test]
fn remounts() {
    let mut bundle = Bundle::new();
    bundle
        .mount(json!({"destination": "/dev/shm", "type": "tmpfs", "options": ["remount", "nosuid", "size=8k"]}))
        .mount(json!({"destination": "/sys", "options": ["remount", "bind", "noexec", "ro"]}));
    for (name, option) in [("kept", "noexec"), ("undone", "rw"), ("undone-below", "rrw")] {
        let destination = format!("/{name}");
        bundle
            .mount(json!({"destination": destination, "type": "tmpfs", "options": ["ro"]}))
            .mount(json!({"destination": destination, "options": ["remount", "bind", option]}));
    }
    bundle.enter().unwrap();
    assert!(has("/kept", "ro") && has("/undone", "rw") && has("/undone-below", "rw"));
    assert_eq!(options("/dev/shm").join(","), "rw,nosuid,relatime");
    assert!(fs::write("/dev/shm/big", vec![0; 10_000]).is_err());
    assert_eq!(options("/sys").join(","), "ro,noexec,relatime");
}

#[test]
fn over_the_root() {
    let mut bundle = Bundle::new();
    let other = bundle.dir.join("other");
    for name in ["proc", "dev", "sys"] {
        fs::create_dir_all(other.join(name)).unwrap();
    }
    fs::write(other.join("mark"), "").unwrap();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.insert(0, json!({"destination": "/", "source": other, "options": ["bind"]}));
    bundle.enter().unwrap();
    assert!(Path::new("/mark").exists() && Path::new("/dev/null").exists());
}

#[test]
fn devices_of_the_configuration() {
    let mut bundle = Bundle::new();
    bundle.config["linux"]["devices"] = json!([
        {"path": "/dev/sub/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o640, "uid": 5, "gid": 6},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o4777},
        {"path": "/srv/loop", "type": "b", "major": 7, "minor": 0},
    ]);
    bundle.enter().unwrap();
    let full = fs::metadata("/dev/sub/full").unwrap();
    assert_eq!((full.rdev(), full.uid(), full.gid()), (rustix::fs::makedev(1, 7), 5, 6));
    assert_eq!((mode("/dev/sub/full"), mode("/dev/pipe"), mode("/srv/loop")), (0o640, 0o4777, 0o666));
    assert!(fs::metadata("/dev/pipe").unwrap().file_type().is_fifo());
    assert!(fs::metadata("/srv/loop").unwrap().file_type().is_block_device());
}

#[test]
fn a_device_in_the_image_must_be_the_right_one() {
    let mut bundle = Bundle::new();
    let path = bundle.rootfs().join("srv/node");
    let number = rustix::fs::makedev(1, 5);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::CharacterDevice, 0o600.into(), number).unwrap();
    let device = |minor| json!([{"path": "/srv/node", "type": "c", "major": 1, "minor": minor}]);
    bundle.config["linux"]["devices"] = device(7);
    let error = bundle.enter().map(drop).unwrap_err().to_string();
    assert!(error.contains("/srv/node: what is there is CharacterDevice 1:5"), "{error}");
    bundle.config["linux"]["devices"] = device(5);
    bundle.enter().unwrap();
}

#[test]
fn a_directory_does_not_go_on_a_file() {
    let mut bundle = Bundle::new();
    fs::write(bundle.rootfs().join("file"), "").unwrap();
    bundle.mount(json!({"destination": "/file", "source": "/srv", "options": ["bind"]}));
    let error = bundle.enter().map(drop).unwrap_err();
    assert!(error.hint().unwrap().contains("a directory cannot be mounted on a file"), "{error}");
    assert_eq!(error.errno(), Some(rustix::io::Errno::NOTDIR));
}

/// Where the kernel gives us no procfs of our own, files of the host's that are covered are not used (CVE-2019-16884).
#[test]
fn in_a_user_namespace_covered_files_of_proc_are_not_used() {
    let around = || rustix::mount::mount_bind("/dev/null", "/proc/keys").unwrap();
    if in_user_namespace("in_a_user_namespace_covered_files_of_proc_are_not_used", around) {
        #[allow(deprecated)]
        rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
        let proc = ProcFs::private().unwrap();
        assert!(proc.detached().is_none());
        assert!(!proc.read("self/stat").unwrap().is_empty());
        let error = proc.open("keys", rustix::fs::OFlags::RDONLY).unwrap_err();
        assert_eq!(error.errno(), Some(rustix::io::Errno::XDEV), "{error}");
    }
}

#[test]
fn who_joins_a_container_uses_its_proc_only_if_it_is_one() {
    let bundle = Bundle::new();
    bundle.enter().unwrap();
    let proc = ProcFs::joined().unwrap();
    assert!(proc.detached().is_none() && proc.has("self/stat"));
    // A file that the container has covered is not what we would write to.
    rustix::mount::mount_bind("/dev/null", "/proc/thread-self/attr").unwrap_err();
    rustix::mount::mount_bind("/proc/version", "/proc/loadavg").unwrap();
    let error = proc.read("loadavg").unwrap_err();
    assert_eq!(error.errno(), Some(rustix::io::Errno::XDEV), "{error}");
    for cover in ["/dev", "/proc/tty"] {
        rustix::mount::mount_bind(cover, "/proc").unwrap();
        assert!(ProcFs::joined().unwrap().detached().is_some(), "{cover}");
        rustix::mount::unmount("/proc", rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}
