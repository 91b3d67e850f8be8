//! Images whose links decide what is mounted, or changed, while a container is created.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use rustix::fs::{CWD, FlockOperation, RenameFlags, renameat_with};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount_bind};
use serde_json::{Value, json};

use crate::harness::inject::{Action, Point};
use crate::harness::{Config, Mode, Test, make_rootfs};

const PATIENCE: Duration = Duration::from_secs(20);

e2e!(any:
    a_remount_follows_no_link,
    a_source_below_the_root_does_not_lead_to_the_kernel,
    a_source_below_the_root_by_another_name_leads_nowhere_else,
    parts_of_proc_are_not_covered_by_way_of_a_link,
    hooks_have_the_umask_of_the_caller,
    a_directory_exchanged_at_any_call,
);

e2e!(
    the_host_keeps_the_flags_of_the_hierarchy,
    a_joined_mount_namespace_does_not_say_what_the_hierarchy_is,
    what_is_bound_of_the_hierarchy_is_as_asked,
    later_mounts_of_the_host_are_not_in_what_is_bound_of_the_hierarchy,
    a_link_in_a_joined_mount_namespace_is_no_source_that_leads_to_the_kernel,
);

fn mount(kind: &str, source: &str, destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn a_remount_follows_no_link(t: &Test) {
    fs::create_dir(t.path("host")).unwrap();
    let read_only = mount("none", &t.path("host"), "/data", &["bind", "ro"]);
    let script =
        "touch /data/x 2> /dev/null && echo written; awk '$2 == \"/sys\" { print substr($4, 1, 2) }' /proc/mounts";
    for (target, destination) in
        [("sys", "/x"), ("/sys", "/x"), ("../sys", "/x"), ("data", "/x"), ("/", "/x/sys"), ("/", "/x/data")]
    {
        for options in [&["remount", "bind", "rw"][..], &["remount", "rw"]] {
            let remount = mount("none", "none", destination, options);
            let c = t.container(Config::sh(script).mount(read_only.clone()).mount(remount));
            symlink(target, c.rootfs().join("x")).unwrap();
            let output = c.run().fails();
            output.says("too many levels of symbolic links").says(&format!("at {destination:?}: /mounts/"));
            assert!(!fs::exists(t.path("host/x")).unwrap());
        }
    }
    // Under the name that it was mounted by it is found, though that is a link.
    let by_link = mount("none", &t.path("host"), "/x/data", &["bind", "ro"]);
    let again = mount("none", "none", "/x/data", &["remount", "bind", "rw"]);
    let c = t.container(Config::sh("touch /data/y && echo written").mount(by_link).mount(again));
    symlink("/", c.rootfs().join("x")).unwrap();
    assert_eq!(c.run().ok().text(), "written");
}

/// A copy of /proc has nothing of what hides parts of the original.
fn a_source_below_the_root_does_not_lead_to_the_kernel(t: &Test) {
    for target in ["/proc", "proc", "../proc/sys", "/sys", "/sys/fs/cgroup"] {
        for source in ["rootfs/data", "rootfs/./data"] {
            let c = t.container(Config::sh("ls /leak").mount(mount("none", source, "/leak", &["rbind", "rw"])));
            symlink(target, c.rootfs().join("data")).unwrap();
            c.run().fails().says("leads to a filesystem of the kernel by a link");
            c.assert_gone();
        }
    }
}

/// The link of an image is followed inside the root, however the configuration names the root.
fn a_source_below_the_root_by_another_name_leads_nowhere_else(t: &Test) {
    fs::create_dir(t.path("host")).unwrap();
    fs::write(t.path("host/key"), "of the host\n").unwrap();
    symlink(&t.dir, t.path("elsewhere")).unwrap();
    let dir = t.dir.display();
    for (index, source) in [
        "rootfs/data",
        "rootfs/../rootfs/data",
        "rootfs/../rootfs/dir/../data",
        &format!("{dir}/elsewhere/bundle-ID/rootfs/data"),
        &format!("{dir}/elsewhere/elsewhere/bundle-ID/rootfs/dir/../data"),
        &format!("/proc/self/root/{dir}/bundle-ID/rootfs/data"),
        "by-name/data",
        "by-parts/dir/../data",
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("web{index}");
        let source = source.replace("ID", &id);
        let mount = mount("none", &source, "/leak", &["rbind", "ro"]);
        let c = t.container_named(&id, Config::sh("cat /leak/key").mount(mount));
        fs::create_dir(c.rootfs().join("dir")).unwrap();
        symlink(t.path("host"), c.rootfs().join("data")).unwrap();
        symlink("rootfs", c.bundle.join("by-name")).unwrap();
        symlink(format!("../bundle-{id}/rootfs/."), c.bundle.join("by-parts")).unwrap();
        let output = c.run().fails();
        assert!(!output.text().contains("of the host"), "{source}: {output}");
        c.assert_gone();
        // A link that stays inside the root is followed.
        fs::remove_file(c.rootfs().join("data")).unwrap();
        symlink("dir", c.rootfs().join("data")).unwrap();
        fs::write(c.rootfs().join("dir/key"), "of the image").unwrap();
        if !source.ends_with("dir/../data") {
            assert_eq!(c.run().ok().text(), "of the image", "{source}");
        }
    }
}

fn parts_of_proc_are_not_covered_by_way_of_a_link(t: &Test) {
    // CVE-2019-16884, with the image's help.
    fs::create_dir(t.path("host")).unwrap();
    for (target, destination) in [
        ("proc/self/attr", "/x"),
        ("/proc", "/x/self/attr"),
        ("proc/sys", "/x"),
        ("..", "/x/proc/sys/kernel"),
        ("/proc/self", "/x/attr"),
        ("/proc/bus", "/x"),
    ] {
        for mount in [mount("none", &t.path("host"), destination, &["bind"]), mount("tmpfs", "tmpfs", destination, &[])]
        {
            let c = t.container(Config::new(["/bin/true"]).mount(mount));
            symlink(target, c.rootfs().join("x")).unwrap();
            c.run().fails().says("cannot be mounted because it is inside /proc");
            c.assert_gone();
        }
    }
}

/// CVE-2021-30465, CVE-2024-45310: another container has the volume, too, and exchanges a directory and a link to the
/// host while init looks for the mount points below it.
fn a_directory_exchanged_at_any_call(t: &Test) {
    for directory in ["host/deep", "volume/point/deep"] {
        fs::create_dir_all(t.path(directory)).unwrap();
    }
    symlink(t.path("host"), t.path("volume/link")).unwrap();
    let exchange = || {
        renameat_with(CWD, t.path("volume/point"), CWD, t.path("volume/link"), RenameFlags::EXCHANGE).unwrap();
    };
    let below = |dir: &str| {
        let mut names: Vec<_> = fs::read_dir(t.path(dir)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let config = Config::new(["/bin/true"])
        .mount(mount("bind", &t.path("volume"), "/volume", &["bind"]))
        .mount(mount("tmpfs", "tmpfs", "/volume/point/deep", &[]))
        .mount(mount("tmpfs", "tmpfs", "/volume/point/new/er", &[]));
    let c = t.container(config);
    let nowhere = Point { process: usize::MAX, number: 0, occurrence: 1 };
    let (output, seen) = c.run_cmd(&[]).trace(&[], nowhere, Action::Watch, PATIENCE).wait();
    output.ok();
    // Those that look something up, in init.
    let looks = [libc::SYS_openat, libc::SYS_openat2, libc::SYS_mkdirat, libc::SYS_move_mount];
    let points: Vec<_> = seen.points.into_iter().filter(|p| p.process > 0 && looks.contains(&p.number)).collect();
    assert!(points.len() > 10, "{points:?}");
    for point in points {
        let _ = fs::remove_dir_all(t.path("volume/point/new"));
        let run = c.run_cmd(&[]).trace(&[], point, Action::Pause, PATIENCE);
        if run.reached() {
            exchange();
            run.go_on();
            let (output, _) = run.wait();
            exchange();
            assert_eq!(below("host"), ["deep"], "at {point:?}: {output}");
        } else {
            run.wait();
        }
        c.delete_force();
    }
}

fn hooks_have_the_umask_of_the_caller(t: &Test) {
    let hook = t.script("hook", &format!("echo $1 $(umask) >> {0}; touch {1}$1", t.path("out"), t.path("made-")));
    let mut config = Config::sh("umask").set("/process/cwd", "/new/dir");
    let host = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    for kind in host {
        let env = ["PATH=/bin:/usr/bin"];
        config = config.push(&format!("/hooks/{kind}"), json!({ "path": hook, "args": ["hook", kind], "env": env }));
    }
    let inside = json!({ "path": "/bin/sh", "args": ["sh", "-c", "umask > /started"] });
    config = config.push("/hooks/startContainer", inside);
    for (umask, mode) in [("0022", 0o644), ("0077", 0o600), ("0000", 0o666)] {
        let c = t.container(config.clone());
        let shell = t.command("/bin/sh").args(["-c", "umask $1; shift; exec \"$@\"", "sh", umask]);
        let berth = shell.arg(t.runtime_path()).arg("--root").arg(&t.root);
        let output = berth.args(["run", "--bundle"]).arg(&c.bundle).arg(&c.id).ok();
        assert_eq!(output.text(), "0022", "the process has that of the configuration, or a fixed one");
        let seen = fs::read_to_string(t.path("out")).unwrap();
        assert_eq!(seen, host.map(|kind| format!("{kind} {umask}\n")).concat());
        assert_eq!(fs::read_to_string(c.rootfs().join("started")).unwrap(), "0022\n");
        for kind in host {
            let made = t.path(&format!("made-{kind}"));
            assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, mode, "{kind}");
            fs::remove_file(made).unwrap();
        }
        // What berth makes for the container does not depend on it.
        assert_eq!(fs::metadata(c.rootfs().join("new/dir")).unwrap().permissions().mode() & 0o777, 0o755);
        fs::remove_file(t.path("out")).unwrap();
    }
}

/// Outside of a cgroup namespace, the options of a new mount count for the whole hierarchy, and so does the lack of
/// any.
/// `nsdelegate` is what keeps a delegated cgroup from changing its own limits (cgroup2(7)).
fn the_host_keeps_the_flags_of_the_hierarchy(t: &Test) {
    /// Other tests, with other runtimes, may mount the hierarchy in the meantime.
    const ROUNDS: u32 = 10;
    let own = t.dir.join("hierarchy");
    fs::create_dir(&own).unwrap();
    // All mounts of the hierarchy show them.
    let flags = || {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        line.map(|line| line.rsplit(' ').next().unwrap().trim_start_matches("rw").trim_matches(',').to_owned())
    };
    let set = |flags: &str| {
        let data = CString::new(flags).unwrap();
        rustix::mount::mount("cgroup2", &own, "cgroup2", MountFlags::empty(), Some(data.as_c_str())).unwrap();
        rustix::mount::unmount(&own, UnmountFlags::DETACH).unwrap();
    };
    // One of these tests at a time: each leaves the flags as it finds them.
    let lock = fs::File::open("/sys/kernel/cgroup").unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    let before = flags().expect("a mount of the v2 hierarchy");
    let of_the_host = format!("/proc/{}/ns/cgroup", std::process::id());
    let config = |kind: &str, again: &str, namespace: Option<&str>, readonly: &str| {
        let config = Config::sh("ls /cgroup/cgroup.controllers && grep ' /cgroup cgroup2' /proc/mounts");
        let config = config.mount(mount(kind, "cgroup", "/cgroup", &["nosuid", readonly]));
        let again = (!again.is_empty()).then(|| mount(again, "cgroup", "/cgroup", &["remount", readonly]));
        let config = again.into_iter().fold(config, Config::mount);
        namespace.into_iter().fold(config, |config, path| config.namespace("cgroup", Some(path)))
    };
    let keeps = |kind: &str, again: &str, namespace: Option<&str>, readonly: &str| {
        let kept = (0..ROUNDS).any(|_| {
            set("nsdelegate");
            let output = t.container(config(kind, again, namespace, readonly)).run().ok();
            let seen = output.text().lines().last().unwrap();
            assert!(seen.contains(&format!(" cgroup2 {readonly},")), "{seen}");
            flags().unwrap().contains("nsdelegate")
        });
        assert!(kept, "{kind}, {again}, {namespace:?}, {readonly}: {:?}", flags());
    };
    // A hybrid's `cgroup` are the v1 hierarchies.
    let kinds = if t.mode == Mode::V2 { &["cgroup", "cgroup2"][..] } else { &["cgroup2"] };
    for &kind in kinds {
        for again in ["", "cgroup2", "none"] {
            for namespace in [None, Some(of_the_host.as_str())] {
                ["ro", "rw"].into_iter().for_each(|readonly| keeps(kind, again, namespace, readonly));
            }
        }
    }
    // A runtime in another cgroup and PID namespace does not know the first one by its own, nor by that of pid 1.
    let first = t.dir.join("first");
    fs::write(&first, "").unwrap();
    mount_bind("/proc/thread-self/ns/cgroup", &first).unwrap();
    // With nsdelegate it reaches only cgroups below the one that its namespace begins with.
    let nested = |from: &str| {
        let join = format!("test ! -e $dir/cgroup.procs || echo $$ > $dir{from}/cgroup.procs");
        let text = format!(
            "#!/bin/sh\nfor dir in /sys/fs/cgroup /sys/fs/cgroup/unified; do {join}; done\n\
             exec unshare --cgroup --pid --fork --mount-proc -- \"$@\"\n"
        );
        t.call_by(t.script("nested", &text).into());
    };
    nested("");
    keeps("cgroup2", "", first.to_str(), "ro");
    if t.mode == Mode::V2 {
        let beside = format!("{}/beside", t.cgroup);
        fs::create_dir_all(format!("/sys/fs/cgroup{beside}")).unwrap();
        nested(&beside);
        set("nsdelegate");
        let out_of_reach = t.container(config("cgroup2", "", first.to_str(), "ro")).run().fails();
        out_of_reach
            .says("adding pid of the new process to cgroups: clone3(")
            .says("out of reach of this cgroup namespace");
        fs::remove_dir(format!("/sys/fs/cgroup{beside}")).unwrap();
    }
    rustix::mount::unmount(&first, UnmountFlags::DETACH).unwrap();
    set(&before);
}

/// Its processes could have a link to /proc there, whose copy would have no masked and no read-only paths.
fn a_joined_mount_namespace_does_not_say_what_the_hierarchy_is(t: &Test) {
    let (place, kind) = match t.mode {
        Mode::V1 => ("/sys/fs/cgroup/unified", "cgroup2"),
        Mode::V2 => ("/sys/fs/cgroup", "cgroup"),
    };
    let link = format!("mkdir -p ${{0%/*}} && ln -s /proc {place}");
    for (make, refusal) in [
        (&*link, "too many levels of symbolic links"),
        ("mkdir -p $0", "does not hold the control groups that berth has found there"),
    ] {
        let proc = mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]);
        let sibling = t.container(Config::sleep().set("/root/readonly", false).set("/mounts", json!([proc])));
        make_rootfs(&sibling.rootfs().join("inner"));
        sibling.up();
        sibling.exec(&["/bin/sh", "-c", make, place]).ok();
        let joined = format!("/proc/{}/ns/mnt", sibling.pid());
        let config = Config::new(["/bin/true"]).namespace("mount", Some(&joined)).set("/root/path", "/inner");
        let config = config.remove("/linux/maskedPaths").remove("/linux/readonlyPaths");
        let config = config.set("/mounts", json!([mount(kind, "cgroup", "/cgroup", &["nosuid"])]));
        t.container(config).run().fails().says(refusal);
        sibling.delete_force().ok();
    }
}

fn what_is_bound_of_the_hierarchy_is_as_asked(t: &Test) {
    for (word, named) in [("readonly", "readonly"), ("ro,nosuid", "nosuid"), ("foo=1", "foo")] {
        let config = Config::new(["/bin/true"]).mount(mount("cgroup2", "cgroup", "/cgroup", &["nosuid", word]));
        t.container(config)
            .run()
            .fails()
            .says(&format!("{named:?} is neither a mount option nor a parameter of cgroup2"));
    }
    // containerd names those of the host.
    let options = ["nosuid", "nsdelegate", "memory_recursiveprot"];
    let config = Config::new(["/bin/true"]).mount(mount("cgroup2", "cgroup", "/cgroup", &options));
    t.container(config).run().ok();
}

fn a_link_in_a_joined_mount_namespace_is_no_source_that_leads_to_the_kernel(t: &Test) {
    let sibling = t.container(Config::sleep().set("/root/readonly", false));
    make_rootfs(&sibling.rootfs().join("inner"));
    fs::create_dir(sibling.rootfs().join("plain")).unwrap();
    for (name, target) in [("whole", "/proc"), ("part", "/proc/sys"), ("kernel", "/sys"), ("harmless", "/plain")] {
        symlink(target, sibling.rootfs().join(name)).unwrap();
    }
    sibling.up();
    let joined = format!("/proc/{}/ns/mnt", sibling.pid());
    let run = |source: &str| {
        let config = Config::new(["/bin/true"]).namespace("mount", Some(&joined)).set("/root/path", "/inner");
        let config = config.remove("/linux/maskedPaths").remove("/linux/readonlyPaths");
        t.container(config.set("/mounts", json!([mount("none", source, "/data", &["bind"])]))).run()
    };
    for source in ["/whole", "/part", "/kernel", "/whole/sys"] {
        run(source).fails().says(&format!("the source {source:?} leads to a filesystem of the kernel by a link"));
    }
    for source in ["/plain", "/harmless", "/proc"] {
        run(source).ok();
    }
}

fn later_mounts_of_the_host_are_not_in_what_is_bound_of_the_hierarchy(t: &Test) {
    let hierarchy = if t.mode == Mode::V1 { "/sys/fs/cgroup/unified" } else { "/sys/fs/cgroup" };
    rustix::mount::mount_change(hierarchy, MountPropagationFlags::SHARED).unwrap();
    let c = t.container(Config::sleep().mount(mount("cgroup2", "cgroup", "/cgroup", &["nosuid"])));
    c.up();
    let below = t.cgroup.trim_start_matches('/');
    let covered = format!("{hierarchy}/{below}");
    rustix::mount::mount("tmpfs", &*covered, "tmpfs", MountFlags::empty(), None).unwrap();
    let seen = fs::exists(format!("/proc/{}/root/cgroup/{below}/cgroup.procs", c.pid())).unwrap();
    rustix::mount::unmount(&*covered, UnmountFlags::DETACH).unwrap();
    rustix::mount::mount_change(hierarchy, MountPropagationFlags::PRIVATE).unwrap();
    assert!(seen);
}
