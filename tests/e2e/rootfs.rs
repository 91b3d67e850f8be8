//! The root filesystem: mounts, devices, masked and read-only paths, propagation.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use serde_json::{Value, json};

use crate::harness::{Config, Test};
use crate::probe::Report;

e2e!(cgroup_mount);
e2e!(any:
    mounts_appear_in_order,
    missing_destinations_are_made,
    bind_options,
    recursive_options,
    file_binds,
    relative_sources,
    destinations_through_symlinks,
    a_missing_source,
    tmpfs_options,
    tmpfs_copy_up,
    readonly_root,
    masked_and_readonly_paths,
    devices,
    devices_with_a_user_namespace,
    propagation_into_the_container,
    propagation_stays_out,
    nothing_of_the_host_is_visible,
    without_mount_namespace,
    no_pivot,
    root_is_the_bundle,
    root_is_a_symlink_to_a_directory,
    idmapped_bind,
    only_what_the_host_has_is_idmapped,
    proc_with_options,
    without_dev_mount,
);

fn bind(source: impl Into<Value>, destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source.into(), "options": options })
}

fn tmpfs(destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options })
}

/// The container's own view of its mounts.
fn mountinfo(t: &Test, config: Config) -> Report {
    let config = config.set("/process/args", json!(["/bin/sh", "-c", "echo '## mountinfo'; cat /proc/self/mountinfo"]));
    Report::parse(&t.container(config).run().ok().stdout)
}

fn mounts_appear_in_order(t: &Test) {
    fs::create_dir(t.path("host")).unwrap();
    t.write("host/file", "of the host\n");
    let c = t.container(
        Config::sh("cat /a/host/file; ls /a")
            .mount(tmpfs("/a", &[]))
            .mount(bind(t.path("host"), "/a/host", &["rbind"]))
            .mount(tmpfs("/a/host2", &["mode=700"])),
    );
    assert_eq!(c.run().ok().text(), "of the host\nhost\nhost2");
}

fn missing_destinations_are_made(t: &Test) {
    fs::create_dir(t.path("host")).unwrap();
    let file = t.write("file", "x\n");
    let c = t.container(
        Config::sh("test -d /new/dir && cat /new/file/deep")
            .mount(bind(t.path("host"), "/new/dir", &["bind"]))
            .mount(bind(file, "/new/file/deep", &["bind"])),
    );
    assert_eq!(c.run().ok().text(), "x");
    assert_eq!(fs::metadata(c.rootfs().join("new/dir")).unwrap().mode() & 0o777, 0o755);
}

fn bind_options(t: &Test) {
    fs::create_dir(t.path("host")).unwrap();
    for (options, present, absent) in [
        (&["bind", "ro"][..], &["ro"][..], &["rw"][..]),
        (&["bind", "nosuid", "nodev", "noexec"], &["nosuid", "nodev", "noexec", "rw"], &["ro"]),
        (&["bind", "noatime"], &["noatime"], &["relatime"]),
        (&["rbind", "ro", "nosuid"], &["ro", "nosuid"], &["noexec"]),
        (&["bind", "ro", "rw"], &["rw"], &["ro"]),
        (&["bind", "rw", "ro"], &["ro"], &["rw"]),
    ] {
        let report = mountinfo(t, Config::new(["x"]).mount(bind(t.path("host"), "/m", options)));
        let mount = report.mount("/m").expect("a mount");
        assert!(present.iter().all(|option| mount.has(option)), "{options:?}: {mount:?}");
        assert!(!absent.iter().any(|option| mount.has(option)), "{options:?}: {mount:?}");
    }
}

fn recursive_options(t: &Test) {
    fs::create_dir_all(t.path("host/below")).unwrap();
    rustix::mount::mount("below", t.path("host/below"), "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    t.accept_mounts();
    let report = |options: &[&str]| mountinfo(t, Config::new(["x"]).mount(bind(t.path("host"), "/m", options)));
    assert!(report(&["rbind", "ro"]).mount("/m/below").unwrap().has("rw"), "ro is not recursive");
    let found = report(&["rbind", "rro", "rnosuid"]);
    for point in ["/m", "/m/below"] {
        let mount = found.mount(point).unwrap();
        assert!(mount.has("ro") && mount.has("nosuid"), "{mount:?}");
    }
    assert!(report(&["bind"]).mount("/m/below").is_none(), "bind is not recursive");
}

fn file_binds(t: &Test) {
    let file = t.write("file", "of the host\n");
    let c = t.container(
        Config::sh("cat /etc/passwd; echo more >> /etc/passwd; echo more >> /etc/group")
            .mount(bind(file.as_str(), "/etc/passwd", &["bind"]))
            .mount(bind(file.as_str(), "/etc/group", &["bind", "ro"])),
    );
    let output = c.run().fails().says("Read-only");
    assert_eq!(output.text(), "of the host");
    assert_eq!(fs::read_to_string(file).unwrap(), "of the host\nmore\n");
}

fn relative_sources(t: &Test) {
    let c = t.container(Config::sh("cat /m/file").mount(bind("beside", "/m", &["bind"])));
    fs::create_dir(c.bundle.join("beside")).unwrap();
    fs::write(c.bundle.join("beside/file"), "relative to the bundle\n").unwrap();
    assert_eq!(c.run().ok().text(), "relative to the bundle");
}

fn destinations_through_symlinks(t: &Test) {
    fs::create_dir(t.path("host")).unwrap();
    t.write("host/file", "x\n");
    let c = t.container(
        Config::sh("cat /real/file; cat /out/file; cat /dangling/file")
            .mount(bind(t.path("host"), "/link", &["bind"]))
            .mount(bind(t.path("host"), "/up", &["bind"]))
            .mount(bind(t.path("host"), "/dangling", &["bind"])),
    );
    fs::create_dir(c.rootfs().join("real")).unwrap();
    symlink("/real", c.rootfs().join("link")).unwrap();
    symlink("../../../../../../out", c.rootfs().join("up")).unwrap();
    fs::create_dir(c.rootfs().join("out")).unwrap();
    symlink("not/there/yet", c.rootfs().join("dangling")).unwrap();
    assert_eq!(c.run().ok().text(), "x\nx\nx");
}

fn a_missing_source(t: &Test) {
    let c = t.container(Config::new(["/bin/true"]).mount(bind("/no/such/source", "/m", &["bind"])));
    c.run().fails().says("/no/such/source").says("no such file or directory");
    c.assert_gone();
}

fn tmpfs_options(t: &Test) {
    let c = t.container(
        Config::sh("stat -c '%a %u %g' /a /b /c; df -k /a | tail -1 | tr -s ' ' | cut -d' ' -f2")
            .mount(tmpfs("/a", &["mode=750", "uid=1", "gid=2", "size=1m"]))
            .mount(tmpfs("/b", &["nosuid"]))
            .mount(tmpfs("/c", &[])),
    );
    fs::create_dir(c.rootfs().join("b")).unwrap();
    fs::set_permissions(c.rootfs().join("b"), fs::Permissions::from_mode(0o1711)).unwrap();
    // What is covered passes its mode on; what is made newly gets tmpfs' default or that of a new directory.
    let output = c.run().ok();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[..2], ["750 1 2", "1711 0 0"]);
    assert_eq!(lines[3], "1024");
}

fn tmpfs_copy_up(t: &Test) {
    if t.is_crun() {
        return;
    }
    let c = t.container(
        Config::sh("cat /etc/passwd | head -1; touch /etc/new; stat -c %a /etc/d; readlink /etc/link")
            .mount(tmpfs("/etc", &["tmpcopyup"])),
    );
    fs::create_dir(c.rootfs().join("etc/d")).unwrap();
    fs::set_permissions(c.rootfs().join("etc/d"), fs::Permissions::from_mode(0o701)).unwrap();
    symlink("/somewhere", c.rootfs().join("etc/link")).unwrap();
    let output = c.run().ok();
    assert_eq!(output.text(), "root:x:0:0:root:/root:/bin/sh\n701\n/somewhere");
    assert!(!c.rootfs().join("etc/new").exists());
}

fn readonly_root(t: &Test) {
    let c =
        t.container(Config::sh("touch /x; touch /dev/shm/x && touch /dev/x && echo dev").set("/root/readonly", true));
    let output = c.run().ok();
    assert!(output.stderr.contains("/x: Read-only file system"), "{output}");
    assert_eq!(output.text(), "dev");
    // The flag is of the container's mount, not of the host's.
    fs::write(c.rootfs().join("x"), "").unwrap();
}

fn masked_and_readonly_paths(t: &Test) {
    let c = t.container(
        Config::sh(
            "cat /secret/file; ls -A /secret/dir; cat /proc/kcore | head -c 1; echo x > /kept/x; echo x > /proc/sys/kernel/hostname; \
             echo x > /secret/dir/x; umount /secret/dir; echo end",
        )
        .push("/linux/maskedPaths", "/secret/file")
        .push("/linux/maskedPaths", "/secret/dir")
        .push("/linux/maskedPaths", "/secret/dir")
        .push("/linux/maskedPaths", "/not/there")
        .push("/linux/readonlyPaths", "/kept")
        .push("/linux/readonlyPaths", "/not/there"),
    );
    fs::create_dir_all(c.rootfs().join("secret/dir")).unwrap();
    fs::create_dir_all(c.rootfs().join("kept")).unwrap();
    fs::write(c.rootfs().join("secret/file"), "secret\n").unwrap();
    fs::write(c.rootfs().join("secret/dir/file"), "secret\n").unwrap();
    let output = c.run().ok();
    assert_eq!(output.text(), "end", "{output}");
    assert_eq!(output.stderr.matches("Read-only file system").count(), 3, "{output}");
    assert!(!c.rootfs().join("not").exists(), "what is not there is not made");
}

fn devices(t: &Test) {
    let device = |path: &str, kind: &str, minor: i64| json!({ "path": path, "type": kind, "major": 7, "minor": minor, "fileMode": 0o640, "uid": 3, "gid": 4 });
    let c = t.container(
        Config::sh("stat -c '%F %t %T %a %u %g' /dev/own /dev/deep/block /pipe; for d in null zero full random urandom tty; do stat -c '%F %a' /dev/$d; done; readlink /dev/ptmx; readlink /dev/fd")
            .push("/linux/devices", device("/dev/own", "c", 9))
            .push("/linux/devices", device("/dev/deep/block", "b", 8))
            .push("/linux/devices", json!({ "path": "/pipe", "type": "p", "fileMode": 0o600 })),
    );
    let output = c.run().ok();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(
        lines[..3],
        ["character special file 7 9 640 3 4", "block special file 7 8 640 3 4", "fifo 0 0 600 0 0"]
    );
    assert!(lines[3..9].iter().all(|line| *line == "character special file 666"), "{output}");
    assert_eq!(lines[9..11], ["pts/ptmx", "/proc/self/fd"]);
}

fn devices_with_a_user_namespace(t: &Test) {
    let c = t.container(
        Config::sh("echo x > /dev/null; head -c 1 /dev/zero | od -An -c; stat -c %F /dev/tty").userns(100_000),
    );
    assert_eq!(c.run().ok().text(), "  \\0\ncharacter special file");
}

fn propagation_into_the_container(t: &Test) {
    let shared = t.path("shared");
    fs::create_dir(&shared).unwrap();
    let none = rustix::mount::MountFlags::empty;
    rustix::mount::mount("shared", &shared, "tmpfs", none(), None).unwrap();
    rustix::mount::mount_change(&shared, rustix::mount::MountPropagationFlags::SHARED).unwrap();
    t.accept_mounts();
    for (options, expected) in
        [(&["rbind", "rslave"][..], "later"), (&["rbind", "rprivate"], ""), (&["rbind", "rshared"], "later")]
    {
        let config = Config::sleep().mount(bind(shared.as_str(), "/m", options));
        let config =
            if options.contains(&"rshared") { config.set("/linux/rootfsPropagation", "shared") } else { config };
        let c = t.container(config);
        c.up();
        let below = format!("{shared}/below");
        fs::create_dir_all(&below).unwrap();
        rustix::mount::mount("later", &below, "tmpfs", none(), None).unwrap();
        fs::write(format!("{below}/later"), "").unwrap();
        assert_eq!(c.inside("ls /m/below"), expected, "{options:?}");
        rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH).unwrap();
        c.delete_force().ok();
    }
}

fn propagation_stays_out(t: &Test) {
    let shared = t.path("shared");
    fs::create_dir(&shared).unwrap();
    rustix::mount::mount("shared", &shared, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::SHARED | rustix::mount::MountPropagationFlags::REC,
    )
    .unwrap();
    t.accept_mounts();
    let before = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let caps = ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"];
    let c = t.container(Config::sh("mount -t tmpfs x /m && mount | grep -c ' /m '").capabilities(&caps).mount(bind(
        shared,
        "/m",
        &["rbind"],
    )));
    assert_eq!(c.run().ok().text(), "2");
    assert_eq!(fs::read_to_string("/proc/thread-self/mountinfo").unwrap(), before, "no mount reaches the host");
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )
    .unwrap();
}

fn nothing_of_the_host_is_visible(t: &Test) {
    let config = Config::new(["x"]);
    let expected = config.json["mounts"].as_array().unwrap().len();
    let report = mountinfo(t, config);
    let points: Vec<&str> = report.section("mountinfo").lines().filter_map(|line| line.split(' ').nth(4)).collect();
    let allowed = ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/dev/console"];
    for point in &points {
        let masked = ["/proc/", "/sys/"].iter().any(|prefix| point.starts_with(prefix));
        assert!(allowed.contains(point) || masked, "{point} is not asked for: {points:#?}");
    }
    assert!(points.len() > expected);
}

fn without_mount_namespace(t: &Test) {
    let mut config = Config::sh("readlink /proc/self/ns/mnt; pwd").without_namespace("mount");
    for list in ["/mounts", "/linux/maskedPaths", "/linux/readonlyPaths"] {
        config = config.set(list, json!([]));
    }
    let c = t.container(config.mount(json!({ "destination": "/proc", "type": "proc", "source": "proc" })));
    let output = c.run();
    let unmounted = std::process::Command::new("umount").args(["-R", "--lazy"]).arg(c.rootfs()).status().unwrap();
    assert!(output.ok().text().ends_with("\n/"));
    // The mounts are made where the configuration has them made, and whoever owns that namespace ends them.
    assert!(unmounted.success());
}

fn no_pivot(t: &Test) {
    let c = t.container(Config::sh("ls / | grep -c busybox; ls /bin/busybox; ls /proc/1/root/bin/busybox"));
    let output = c.run_cmd(&["--no-pivot"]).run();
    assert!(output.stdout.contains("/bin/busybox"), "{output}");
}

fn root_is_the_bundle(t: &Test) {
    let c = t.container(Config::sh("ls -d /rootfs /config.json").set("/root/path", "."));
    for entry in fs::read_dir(c.rootfs()).unwrap().flatten() {
        fs::rename(entry.path(), c.bundle.join(entry.file_name())).unwrap();
    }
    assert_eq!(c.run().ok().text(), "/config.json\n/rootfs");
}

fn root_is_a_symlink_to_a_directory(t: &Test) {
    let c = t.container(Config::new(["/bin/true"]).set("/root/path", "link"));
    symlink("rootfs", c.bundle.join("link")).unwrap();
    let output = c.run();
    // The operator's own link is followed. Another runtime may refuse it.
    if t.is_berth() || output.status.success() {
        output.ok();
    } else {
        output.says("link");
    }
}

fn idmapped_bind(t: &Test) {
    fs::create_dir(t.path("host")).unwrap();
    // Of the file systems that tests may find themselves on, tmpfs can be mapped everywhere.
    rustix::mount::mount("host", t.path("host"), "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    t.accept_mounts();
    t.write("host/file", "x");
    std::os::unix::fs::chown(t.path("host/file"), Some(1000), Some(1001)).unwrap();
    let map = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": 65536 }]);
    let mut mount = bind(t.path("host"), "/m", &["bind"]);
    mount["uidMappings"] = map(100_000);
    mount["gidMappings"] = map(100_000);
    let c = t.container(Config::sh("stat -c '%u %g' /m/file").userns(100_000).mount(mount));
    fs::create_dir(c.rootfs().join("m")).unwrap();
    assert_eq!(c.run().ok().text(), "1000 1001");
}

fn only_what_the_host_has_is_idmapped(t: &Test) {
    // A source inside of the root file system, as crun has it. Whoever takes init over could have anything mounted
    // there.
    let map = json!([{ "containerID": 7, "hostID": 0, "size": 1 }]);
    for userns in [false, true] {
        let mut config = Config::sh("stat -c '%u %g' /m/file");
        if userns {
            config = config.userns(100_000);
        }
        let c = t.container(config.clone());
        let root = c.rootfs();
        fs::create_dir(root.join("m")).unwrap();
        fs::create_dir(root.join("inside")).unwrap();
        rustix::mount::mount("inside", root.join("inside"), "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        t.accept_mounts();
        fs::write(root.join("inside/file"), "x").unwrap();
        std::os::unix::fs::chown(root.join("inside/file"), Some(7), Some(7)).unwrap();
        let mut mapped = bind(root.join("inside").display().to_string(), "/m", &["bind"]);
        mapped["uidMappings"] = map.clone();
        mapped["gidMappings"] = map.clone();
        c.write(&config.clone().mount(mapped.clone()));
        assert_eq!(c.run().ok().text(), if userns { "65534 65534" } else { "0 0" });

        let over = json!({ "destination": "/inside", "type": "tmpfs", "source": "over" });
        c.write(&config.mount(over).mount(mapped));
        c.run().fails().says("is another file in the container's mount namespace than on the host");
    }
}

fn proc_with_options(t: &Test) {
    let c = t.container(Config::sh("ls /proc | grep -c meminfo; grep ' /proc ' /proc/self/mountinfo").set(
        "/mounts/0",
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "hidepid=2"] }),
    ));
    let output = c.run().ok();
    assert!(output.stdout.contains("hidepid="), "{output}");
}

fn without_dev_mount(t: &Test) {
    // Devices are then made in the image's own /dev.
    let config = Config::sh("stat -c %F /dev/null; echo x > /dev/null");
    let mounts = config.json["mounts"].as_array().unwrap().clone();
    let kept: Vec<Value> =
        mounts.into_iter().filter(|m| !m["destination"].as_str().unwrap().starts_with("/dev")).collect();
    let c = t.container(config.set("/mounts", kept));
    assert_eq!(c.run().ok().text(), "character special file");
}

fn cgroup_mount(t: &Test) {
    let mount = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"] });
    let c = t.container(Config::sh("ls /sys/fs/cgroup; cat /proc/self/mountinfo | grep cgroup").mount(mount));
    let output = c.run().ok();
    let expected = if t.mode == crate::harness::Mode::V1 { "devices" } else { "cgroup.procs" };
    assert!(output.stdout.lines().any(|line| line == expected), "{output}");
}
