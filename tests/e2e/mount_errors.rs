//! Whatever a mount fails for is said with the mount's place in the configuration, its destination, its source, and the
//! cause.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use rustix::mount::{MountFlags, mount_bind, mount_remount};
use serde_json::{Value, json};

use crate::harness::{Config, Container, Mode, Test};
use crate::rootless::{self, USER};

e2e!(any: of_root, below_read_only_mounts, made_by_the_runtime, of_a_user, options_are_named);
e2e!(of_cgroups);

fn mount(kind: &str, source: &str, destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
    mount("bind", source, destination, &[&["rbind"], options].concat())
}

/// The configuration's last mount is refused: with its own name, and each of `says`.
struct Case {
    config: Config,
    says: Vec<String>,
}

fn case(config: Config, mount: Value, says: &[&str]) -> Case {
    Case { config: config.mount(mount), says: says.iter().map(|text| (*text).to_owned()).collect() }
}

/// All that is wrong, so that the whole table is seen at once.
#[track_caller]
fn check(t: &Test, cases: Vec<Case>, prepare: impl Fn(&Container)) {
    if t.peer_lacks("names no field") {
        return;
    }
    let mut wrong = Vec::new();
    for Case { config, mut says } in cases {
        let mounts = config.json["mounts"].as_array().unwrap().clone();
        let last = mounts.last().unwrap().clone();
        says.push(format!("/mounts/{}", mounts.len() - 1));
        for field in ["source", "destination"] {
            let value = last[field].as_str().unwrap();
            // What is too long for a message is cut.
            says.push(value.get(..100).unwrap_or(value).to_owned());
        }
        let c = t.container(config);
        prepare(&c);
        let output = c.create();
        if output.status.success() {
            wrong.push(format!("{last}: succeeds"));
            c.delete_force().ok();
        }
        let missing: Vec<_> = says.iter().filter(|text| !output.stderr.contains(*text)).collect();
        if !missing.is_empty() {
            wrong.push(format!("{last}: {} does not say {missing:?}", output.stderr.trim()));
        }
        c.assert_gone();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn image(c: &Container) {
    let root = c.rootfs();
    fs::create_dir_all(root.join("dir")).unwrap();
    for (link, target) in [("loop", "/loop2"), ("loop2", "/loop"), ("through", "/etc/passwd/x")] {
        symlink(target, root.join(link)).unwrap();
    }
}

fn of_root(t: &Test) {
    let dir = t.path("source");
    let file = t.write("file", "x");
    fs::create_dir(&dir).unwrap();
    symlink("source-loop", t.dir.join("source-loop")).unwrap();
    let looped = t.path("source-loop");
    let through = format!("{file}/below");
    let long = format!("/{}", "n".repeat(256));
    let deep = format!("/{}", "d/".repeat(2100));
    let plain = || Config::sleep();
    const NONE: &str = "no such file or directory";
    const NO_DIR: &str = "not a directory";
    const LOOP: &str = "too many levels of symbolic links";
    const LONG: &str = "file name too long";
    const INVALID: &str = "invalid argument";
    check(
        t,
        vec![
            case(plain(), bind("/no/such", "/m", &[]), &["open_tree(", NONE, "must exist on the host"]),
            case(plain(), bind(&through, "/m", &[]), &["open_tree(", NO_DIR]),
            case(plain(), bind(&looped, "/m", &[]), &["open_tree(", LOOP]),
            case(plain(), bind(&long, "/m", &[]), &["open_tree(", LONG]),
            case(plain(), bind(&dir, "/etc/passwd", &[]), &[NO_DIR, "hint: a directory cannot be mounted on a file"]),
            case(plain(), bind(&file, "/dir", &[]), &[NO_DIR, "hint: a file cannot be mounted on a directory"]),
            case(plain(), bind(&dir, "/loop", &[]), &[LOOP]),
            case(plain(), bind(&dir, "/loop/x", &[]), &[LOOP]),
            case(plain(), bind(&dir, "/etc/passwd/x", &[]), &[NO_DIR]),
            case(plain(), bind(&dir, "/through", &[]), &[NO_DIR]),
            case(plain(), bind(&dir, &long, &[]), &[LONG]),
            case(plain(), bind(&dir, &deep, &[]), &[LONG]),
            case(
                plain(),
                bind(&dir, "/proc/x", &[]),
                &["nothing can be made in \"/proc\", a filesystem of the kernel"],
            ),
            case(
                plain().mount(mount("proc", "proc", "../..", &[])),
                bind(&dir, "/none", &[]),
                &["nothing can be made in \"/\", a filesystem of the kernel"],
            ),
            case(plain(), bind(&dir, "/proc/sys", &[]), &["inside /proc"]),
            case(plain(), bind(&dir, "/proc", &[]), &["not of type proc"]),
            case(
                plain(),
                mount("nosuchfs", "x", "/m", &[]),
                &["fsopen(\"nosuchfs\")", "no such device", "hint: the kernel does not know this filesystem"],
            ),
            case(plain(), mount("tmpfs", "tmpfs", "/m", &["size=abc"]), &["size", "abc", INVALID]),
            case(plain(), mount("tmpfs", "tmpfs", "/m", &["nosuch"]), &["nosuch", INVALID]),
            case(plain(), mount("tmpfs", "tmpfs", "/etc/passwd", &[]), &[NO_DIR]),
            case(plain(), mount("tmpfs", "tmpfs", "/etc/passwd/x", &[]), &[NO_DIR]),
            case(plain(), mount("tmpfs", "tmpfs", "/loop", &[]), &[LOOP]),
            case(plain(), mount("proc", "proc", "/proc2", &["nosuch"]), &["nosuch", INVALID]),
            case(plain(), mount("proc", "proc", "/loop", &[]), &["must be mounted on ordinary directory"]),
            case(plain(), mount("ext4", "/no/such", "/m", &[]), &["/no/such", NONE]),
            case(plain(), mount("ext4", &file, "/m", &[]), &["block device required"]),
            case(
                plain(),
                mount("overlay", "overlay", "/m", &["lowerdir=/no/such", "upperdir=/no/such2", "workdir=/no/such3"]),
                &[NONE],
            ),
            case(plain(), mount("none", "", "/dir", &["remount", "ro"]), &[INVALID]),
            case(plain(), mount("none", "", "/no/such", &["remount", "ro"]), &[NONE]),
            case(plain(), mount("none", "", "/dir", &["rprivate", "remount", "bind", "ro"]), &[INVALID]),
        ],
        image,
    );
}

/// Where nothing can be made, the mount that is in the way is named.
fn below_read_only_mounts(t: &Test) {
    let dir = t.path("source");
    fs::create_dir(&dir).unwrap();
    const READ_ONLY: &str = "read-only file system";
    let image = "the root filesystem is read-only: make the mount point in the image";
    let volume = "\"/volume\" is mounted read-only by /mounts/6: make the mount point in its source";
    let with_volume = || Config::sleep().mount(bind(&dir, "/volume", &["ro"]));
    check(
        t,
        vec![
            case(with_volume(), bind(&dir, "/volume/sub/dir", &[]), &["mkdir(", READ_ONLY, volume]),
            case(with_volume(), bind("/etc/passwd", "/volume/sub", &[]), &[READ_ONLY, volume]),
            case(with_volume(), mount("tmpfs", "tmpfs", "/volume/sub", &[]), &[READ_ONLY, volume]),
            case(with_volume(), mount("proc", "proc", "/volume/proc", &[]), &[READ_ONLY, volume]),
            case(
                Config::sleep(),
                mount("tmpfs", "tmpfs", "/sys/sub", &[]),
                &[READ_ONLY, "nothing can be made in \"/sys\", a filesystem of the kernel"],
            ),
        ],
        |_| {},
    );
    check(
        t,
        vec![
            case(Config::sleep(), bind(&dir, "/none", &[]), &["mkdir(\"/none\")", READ_ONLY, image]),
            case(
                Config::sleep(),
                mount("tmpfs", "tmpfs", "/etc/none", &[]),
                &["mkdir(\"/etc/none\")", READ_ONLY, image],
            ),
        ],
        |c| {
            let root = c.rootfs();
            mount_bind(&root, &root).unwrap();
            mount_remount(&root, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
            t.accept_mounts();
        },
    );
}

/// What only the runtime may open, or make: its errors are those of any other.
fn made_by_the_runtime(t: &Test) {
    let file = t.write("file", "x");
    let through = format!("{file}/below");
    let map = "idmap=uids=0-1000-1;gids=0-1000-1";
    let hierarchy = if t.mode == Mode::V1 { "/sys/fs/cgroup/devices" } else { "/sys/fs/cgroup" };
    let userns = || Config::sleep().userns(100_000).set("/root/readonly", false);
    let give = |c: &Container| {
        image(c);
        for dir in ["", "dir"] {
            chown(c.rootfs().join(dir), Some(100_000), Some(100_000)).unwrap();
        }
    };
    for config in [&Config::sleep, &userns] as [&dyn Fn() -> Config; 2] {
        check(
            t,
            vec![
                case(
                    config(),
                    bind("/no/such", "/dir", &[map]),
                    &["open_tree(", "no such file", "must exist on the host"],
                ),
                case(config(), bind(&through, "/dir", &[map]), &["open_tree(", "not a directory"]),
                case(
                    config(),
                    bind("/proc", "/dir", &[map]),
                    &["MOUNT_ATTR_IDMAP", "invalid argument", "filesystem proc does not"],
                ),
                case(
                    config(),
                    bind("/sys", "/dir", &[map]),
                    &["MOUNT_ATTR_IDMAP", "invalid argument", "filesystem sysfs does not"],
                ),
                case(
                    config(),
                    bind(hierarchy, "/dir", &[map]),
                    &["MOUNT_ATTR_IDMAP", "invalid argument", "filesystem cgroup"],
                ),
                case(
                    config(),
                    bind(&file, "/dir", &[map]),
                    &["not a directory", "hint: a file cannot be mounted on a directory"],
                ),
            ],
            give,
        );
    }
    check(t, vec![case(userns(), bind("/no/such", "/dir", &["idmap"]), &["no such file"])], give);
}

/// The rights that a user lacks are EACCES, as the kernel has it, whoever tried.
fn of_a_user(t: &Test) {
    let secret = t.dir.join("secret");
    fs::create_dir(&secret).unwrap();
    fs::create_dir(secret.join("in")).unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o700)).unwrap();
    let secret = format!("{}/in", secret.display());
    t.become_user(USER, None);
    let plain = || rootless::config(t, "true").set("/root/readonly", false);
    check(
        t,
        vec![
            case(plain(), bind(&secret, "/dir", &[]), &["open_tree(", "permission denied"]),
            case(plain(), bind("/no/such", "/dir", &[]), &["open_tree(", "no such file"]),
            case(plain(), bind("/etc/passwd", "/dir", &[]), &["not a directory"]),
            case(plain(), bind("/etc", "/locked/x", &[]), &["permission denied"]),
            case(plain(), mount("tmpfs", "tmpfs", "/locked/x", &[]), &["permission denied"]),
            case(plain(), bind("/etc", "/dir", &["idmap=uids=0-0-1;gids=0-0-1"]), &["only root of the host"]),
            case(plain(), mount("tmpfs", "tmpfs", "/dir", &["uid=5"]), &["uid", "invalid argument", "mapping"]),
            case(plain(), mount("ext4", "/dev/null", "/dir", &[]), &["operation not permitted"]),
        ],
        |c| {
            image(c);
            fs::create_dir(c.rootfs().join("locked")).unwrap();
            fs::set_permissions(c.rootfs().join("locked"), PermissionsExt::from_mode(0o700)).unwrap();
        },
    );
}

/// The word, not only its mount.
fn options_are_named(t: &Test) {
    let plain = || Config::sleep();
    if !t.peer_lacks("names no field") {
        for word in ["roo", "slve", "nosiud"] {
            let c = t.container(plain().mount(bind("/etc", "/m", &[word])));
            c.create().fails().says(&format!("/mounts/6/options/1: {word:?} is no mount option"));
            c.assert_gone();
        }
    }
    check(
        t,
        vec![
            case(plain(), mount("tmpfs", "tmpfs", "/m", &["nosuid", "nosiud"]), &["\"nosiud\"", "invalid argument"]),
            case(plain(), mount("tmpfs", "tmpfs", "/m", &["mode=755", "ro", "size=abc"]), &["\"size\", \"abc\""]),
        ],
        |_| {},
    );
}

fn of_cgroups(t: &Test) {
    let mounted = |destination: &str, options: &[&str]| mount("cgroup", "cgroup", destination, options);
    let plain = || Config::sleep().namespace("cgroup", None);
    check(
        t,
        vec![
            case(plain(), mounted("/etc/passwd", &["ro"]), &["not a directory"]),
            case(plain(), mounted("/loop", &["ro"]), &["too many levels of symbolic links"]),
        ],
        image,
    );
}
