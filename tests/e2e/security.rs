//! Ways out of a container that once worked, in one runtime or another.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::harness::{Config, Container, Test};

e2e!(any:
    the_runtime_cannot_be_overwritten,
    leaked_descriptors_are_no_working_directory,
    exec_into_a_leaked_directory,
    capabilities_are_not_inheritable,
    proc_must_be_a_directory,
    sys_must_be_a_directory,
    dev_may_not_lead_out,
    a_forged_null_device_masks_nothing,
    standard_streams_are_not_reopened_through_the_image,
    destinations_may_not_lead_out,
    working_directories_may_not_lead_out,
    devices_may_not_lead_out,
    masked_paths_may_not_lead_out,
    swapped_mount_points,
    processes_of_the_runtime_cannot_be_traced,
    the_state_directory_is_private,
    a_container_gets_no_secrets_of_its_creator,
    proc_may_not_be_covered_by_a_mount,
    the_joining_process_cannot_be_traced_by_whoever_may_trace,
    not_even_a_tracer_finds_descriptors_of_the_caller,
    capabilities_of_the_caller_do_not_pass,
    secure_bits_of_the_caller_do_not_pass,
    no_container_without_device_rules,
    nothing_joins_a_container_in_the_making,
    start_container_hooks_run_under_the_filter,
    holes_among_preserved_descriptors_stay_empty,
    a_waiting_init_gives_nothing_away,
    no_process_has_the_keys_of_its_creator,
    state_directories_of_others_are_not_trusted,
    a_lethal_filter_does_not_hide_why_exec_failed,
    a_filter_that_forbids_everything_is_the_end,
    the_hosts_sysfs_is_read_only_to_its_last_mount,
    a_container_without_cgroup_can_be_killed,
    processes_that_were_there_before_are_nobodys_to_kill,
);

fn hash(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

fn the_runtime_cannot_be_overwritten(t: &Test) {
    // CVE-2019-5736: the image makes the runtime execute itself, and writes to it through /proc/PID/exe.
    let before = hash(t.runtime_path());
    let c = t.container(Config::new(["/attack"]));
    let attack = c.rootfs().join("attack");
    fs::write(&attack, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&attack, fs::Permissions::from_mode(0o755)).unwrap();
    c.run().fails();
    c.assert_gone();
    assert!(hash(t.runtime_path()) == before);

    // While it runs, the file is busy: the attack holds it open until the process has gone.
    let c = t.container(Config::sh(
        "echo up > /up; while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in ''|*busybox) continue ;; esac; \
         { sleep 0.05; echo x >> /proc/self/fd/9; } 9< $p/exe 2> /dev/null & done; done",
    ));
    c.up();
    c.wait_file("/up");
    for _ in 0..10 {
        c.exec(&["/bin/true"]).ok();
    }
    c.delete_force().ok();
    assert!(hash(t.runtime_path()) == before);
}

fn leaked_descriptors_are_no_working_directory(t: &Test) {
    // CVE-2024-21626: a directory of the host that stays open becomes the working directory.
    for n in 3..24 {
        let c = t.container(Config::sh("pwd; ls ../../../../..").set("/process/cwd", format!("/proc/self/fd/{n}")));
        let output = c.run_cmd(&[]).pass_fd(File::open("/").unwrap(), 9).run();
        assert!(!output.status.success(), "descriptor {n} is a way out: {output}");
        c.assert_gone();
    }
}

fn exec_into_a_leaked_directory(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    for n in 3..24 {
        let cwd = format!("/proc/self/fd/{n}");
        let exec = c.exec_cmd(&["--cwd", &cwd], &["/bin/sh", "-c", "pwd; ls ../../../../.."]);
        let output = exec.pass_fd(File::open("/").unwrap(), 9).run();
        assert!(!output.status.success(), "descriptor {n} is a way out: {output}");
    }
    // A symlink inside the image does the same.
    symlink("/proc/self/fd/9", c.rootfs().join("link")).unwrap();
    let exec = c.exec_cmd(&["--cwd", "/link"], &["/bin/ls"]);
    exec.pass_fd(File::open("/").unwrap(), 9).run().fails();
}

fn capabilities_are_not_inheritable(t: &Test) {
    // CVE-2022-29162, CVE-2022-27650, CVE-2025-27612
    let c = t.container(Config::sh("grep CapInh /proc/self/status; sleep 1000"));
    c.up();
    let inside =
        |options: &[&str]| c.exec_cmd(options, &["/bin/grep", "CapInh", "/proc/self/status"]).ok().text().to_owned();
    for options in [&[][..], &["--cap", "CAP_NET_ADMIN"], &["--user", "1000", "--cap", "CAP_NET_ADMIN"]] {
        if options.contains(&"--user") && !t.is_runc() {
            continue;
        }
        assert_eq!(inside(options), "CapInh:\t0000000000000000", "{options:?}");
    }
}

/// Demands that the container is refused, and that nothing appeared in `host`.
fn refused_without_trace(c: &Container, host: &Path) {
    let before = listing(host);
    let output = c.create();
    assert_eq!(listing(host), before, "something was made outside the rootfs: {output}");
    output.fails();
    c.assert_gone();
}

/// Demands that, whether or not it is refused, nothing happens in `host`.
fn contained(c: &Container, host: &Path) {
    let before = listing(host);
    let output = c.run();
    assert_eq!(listing(host), before, "something was made outside the rootfs: {output}");
    c.assert_gone();
}

fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|entry| {
            let meta = entry.metadata().unwrap();
            format!("{:?} {:o} {} {}", entry.file_name(), meta.mode(), meta.uid(), meta.len())
        })
        .collect();
    names.sort();
    names
}

/// A directory of the host, reached from inside a rootfs by a symlink, absolute or relative.
fn host_directory(t: &Test) -> [(std::path::PathBuf, String); 2] {
    let host = t.dir.join("host");
    fs::create_dir_all(&host).unwrap();
    fs::write(host.join("file"), "of the host\n").unwrap();
    [(host.clone(), host.to_str().unwrap().to_owned()), (host, "../../host".to_owned())]
}

fn replace(c: &Container, path: &str, target: &str) {
    let path = c.rootfs().join(path);
    let _ = fs::remove_dir_all(&path);
    let _ = fs::remove_file(&path);
    symlink(target, path).unwrap();
}

fn proc_must_be_a_directory(t: &Test) {
    // CVE-2019-19921, CVE-2023-27561, CVE-2025-54867
    for (host, target) in host_directory(t) {
        let c = t.container(Config::sleep());
        replace(&c, "proc", &target);
        refused_without_trace(&c, &host);
    }
    let c = t.container(Config::sleep());
    replace(&c, "proc", "tmp");
    refused_without_trace(&c, &c.rootfs().join("tmp"));
}

fn sys_must_be_a_directory(t: &Test) {
    for (host, target) in host_directory(t) {
        let c = t.container(Config::sleep());
        replace(&c, "sys", &target);
        refused_without_trace(&c, &host);
    }
}

fn dev_may_not_lead_out(t: &Test) {
    // CVE-2026-41579, CVE-2026-47766: /dev of the image is a symlink.
    for with_mount in [true, false] {
        for (host, target) in host_directory(t) {
            let config = Config::new(["/bin/true"]);
            let config = if with_mount { config } else { without_dev(config) };
            let c = t.container(config);
            replace(&c, "dev", &target);
            fs::write(host.join("ptmx"), "").unwrap();
            contained(&c, &host);
        }
    }
}

/// Without any mount below /dev: the devices are then made in the image.
fn without_dev(mut config: Config) -> Config {
    let mounts = config.json["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    config
}

fn a_forged_null_device_masks_nothing(t: &Test) {
    // CVE-2025-31133: a masked path is covered by what the image calls /dev/null.
    for (host, target) in host_directory(t) {
        let c = t.container(
            without_dev(Config::sh("cat /proc/kcore | head -c 4; cat /secret")).push("/linux/maskedPaths", "/secret"),
        );
        fs::write(c.rootfs().join("secret"), "secret\n").unwrap();
        replace(&c, "dev/null", &format!("{target}/file"));
        let before = listing(&host);
        let output = c.run();
        assert!(!output.stdout.contains("secret") && !output.stdout.contains("of the host"), "{output}");
        assert_eq!(listing(&host), before);
    }
    let c =
        t.container(without_dev(Config::sh("cat /secret; echo x > /dev/null")).push("/linux/maskedPaths", "/secret"));
    fs::write(c.rootfs().join("secret"), "secret\n").unwrap();
    fs::write(c.rootfs().join("dev/null"), "forged\n").unwrap();
    let output = c.run();
    assert!(!output.stdout.contains("secret") && !output.stdout.contains("forged"), "{output}");
}

fn standard_streams_are_not_reopened_through_the_image(t: &Test) {
    // CVE-2026-88265: /dev/null of the image is a symlink, opened as a standard stream and given to the user.
    for (host, target) in host_directory(t) {
        let c = t.container(without_dev(Config::sh("echo x; readlink /proc/$$/fd/0")).set("/process/user/uid", 1000));
        replace(&c, "dev/null", &format!("{target}/file"));
        contained(&c, &host);
    }
}

fn destinations_may_not_lead_out(t: &Test) {
    // CVE-2019-18837, CVE-2024-45310: mount points are made inside the rootfs, whatever the image links to.
    for (host, target) in host_directory(t) {
        for destination in ["/link", "/link/new", "/link/new/deep", "/a/link/../link/x"] {
            for kind in ["tmpfs", "bind"] {
                let mount = json!({ "destination": destination, "type": kind, "source": "/etc", "options": if kind == "bind" { json!(["bind"]) } else { json!([]) } });
                let c = t.container(Config::new(["/bin/true"]).mount(mount));
                fs::create_dir(c.rootfs().join("a")).unwrap();
                replace(&c, "link", &target);
                replace(&c, "a/link", &target);
                contained(&c, &host);
            }
        }
    }
}

fn working_directories_may_not_lead_out(t: &Test) {
    for (host, target) in host_directory(t) {
        for cwd in ["/link", "/link/new"] {
            let c = t.container(Config::new(["/bin/true"]).set("/process/cwd", cwd));
            replace(&c, "link", &target);
            contained(&c, &host);
        }
    }
}

fn devices_may_not_lead_out(t: &Test) {
    for (host, target) in host_directory(t) {
        let device = json!({ "path": "/link/device", "type": "c", "major": 1, "minor": 3 });
        let c = t.container(Config::new(["/bin/true"]).push("/linux/devices", device));
        replace(&c, "link", &target);
        contained(&c, &host);
    }
}

fn masked_paths_may_not_lead_out(t: &Test) {
    let host = t.dir.join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "of the host\n").unwrap();
    let c = t.container(
        Config::sleep()
            .push("/linux/maskedPaths", "/link/file")
            .push("/linux/readonlyPaths", "/link/file")
            .push("/linux/maskedPaths", "/up/host/file"),
    );
    replace(&c, "link", host.to_str().unwrap());
    replace(&c, "up", "../..");
    c.up();
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "of the host\n", "the host's file is as before");
}

fn swapped_mount_points(t: &Test) {
    // CVE-2021-30465: a symlink and a directory change places while the mount is made.
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::sync::atomic::{AtomicBool, Ordering};
    let host = t.dir.join("host");
    fs::create_dir_all(host.join("deep")).unwrap();
    let volume = t.dir.join("volume");
    fs::create_dir_all(volume.join("point/deep")).unwrap();
    symlink(&host, volume.join("link")).unwrap();
    let c = t.container(
        Config::new(["/bin/true"])
            .mount(json!({ "destination": "/volume", "type": "bind", "source": volume, "options": ["bind"] }))
            .mount(json!({ "destination": "/volume/point/deep", "type": "tmpfs", "source": "tmpfs" }))
            .mount(json!({ "destination": "/volume/point/new", "type": "tmpfs", "source": "tmpfs" })),
    );
    static STOP: AtomicBool = AtomicBool::new(false);
    let (a, b) = (volume.join("point"), volume.join("link"));
    let swapper = std::thread::spawn(move || {
        while !STOP.load(Ordering::Relaxed) {
            let _ = renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE);
        }
    });
    let before = listing(&host);
    for _ in 0..30 {
        let output = c.run();
        assert_eq!(listing(&host), before, "{output}");
        c.assert_gone();
    }
    STOP.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
}

fn processes_of_the_runtime_cannot_be_traced(t: &Test) {
    // CVE-2016-9962: while exec joins, the container's root must not reach the descriptors of the joining process.
    let c = t.container(Config::sh(
        "echo up > /up; while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in *busybox) continue ;; esac; \
         ls $p/fd/ > /dev/null 2>&1 || continue; e=$(readlink $p/exe); case $e in *busybox|'') ;; *) echo $p $e >> /reached ;; \
         esac; done; done",
    ));
    c.up();
    c.wait_file("/up");
    for _ in 0..20 {
        c.exec(&["/bin/true"]).ok();
    }
    let reached = fs::read_to_string(c.rootfs().join("reached")).unwrap_or_default();
    assert!(reached.is_empty(), "{reached}");
}

fn the_state_directory_is_private(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let mode = fs::metadata(t.root.join(&c.id)).unwrap().mode();
    assert_eq!(mode & 0o066, 0, "{mode:o}: others may neither list nor change it");
}

fn a_container_gets_no_secrets_of_its_creator(t: &Test) {
    let c = t.container(Config::sh("cat /proc/1/environ /proc/$$/environ | tr '\\0' '\\n'; cat /proc/1/cmdline"));
    let output = c.run_cmd(&[]).env("SECRET", "of the caller").ok();
    assert!(!output.stdout.contains("of the caller"), "{output}");
}

fn proc_may_not_be_covered_by_a_mount(t: &Test) {
    // CVE-2019-16884, CVE-2025-52881: a mount over parts of /proc would redirect the runtime's own writes.
    for destination in ["/proc/self", "/proc/self/attr", "/proc/sys", "/proc/1", "/proc/../proc/self/attr/exec"] {
        let source = t.path("cover");
        fs::create_dir_all(&source).unwrap();
        let mount = json!({ "destination": destination, "type": "bind", "source": source, "options": ["bind"] });
        let c = t.container(Config::new(["/bin/true"]).mount(mount));
        c.create().fails();
        c.assert_gone();
    }
}

fn the_joining_process_cannot_be_traced_by_whoever_may_trace(t: &Test) {
    // CVE-2016-9962: CAP_SYS_PTRACE in the container's user namespace reaches every process there that is dumpable.
    let script = "echo up > /tmp/up; while :; do for p in /proc/[0-9]*; do \
         if [ $p/exe -nt /bin/busybox ]; then echo $p >> /tmp/reached; fi; done; done";
    let capabilities = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"];
    let c = t.container(Config::sh(script).userns(100_000).capabilities(&capabilities));
    c.up();
    c.wait_file("/tmp/up");
    for _ in 0..30 {
        c.exec(&["/bin/true"]).ok();
    }
    let reached = fs::read_to_string(c.rootfs().join("tmp/reached")).unwrap_or_default();
    assert!(reached.is_empty(), "{reached}");
}

fn a_waiting_init_gives_nothing_away(t: &Test) {
    let c = t.container(Config::sleep());
    c.create_cmd(&[]).pass_fd(File::open("/").unwrap(), 9).ok();
    let script = "for f in exe cwd root fd/0 fd/3 fd/4 fd/5 fd/9; do readlink /proc/1/$f; done; cat /proc/1/environ; ls /proc/1/map_files";
    let output = c.exec(&["/bin/sh", "-c", &format!("{script}; true")]).ok();
    assert_eq!(output.text(), "");
}

fn no_process_has_the_keys_of_its_creator(t: &Test) {
    // /proc/keys shows to a user without rights only what is in its own keyrings.
    let keys = |cmd: crate::harness::Cmd| cmd.with_session_key("berth-secret").ok().stdout;
    let script = "cat /proc/keys; echo end; sleep 1000";
    let config = Config::sh(script).set("/linux/maskedPaths", serde_json::json!([])).set("/process/user/uid", 1000);
    let c = t.container(config.clone());
    let create = c.create_cmd(&[]).with_session_key("berth-secret");
    let stdout = create.stdout_path();
    create.ok();
    c.start().ok();
    crate::harness::eventually("the keys", || fs::read_to_string(&stdout).unwrap_or_default().contains("end"));
    for shown in [fs::read_to_string(&stdout).unwrap(), keys(c.exec_cmd(&[], &["/bin/cat", "/proc/keys"]))] {
        assert!(!shown.contains("berth-secret"), "{shown}");
        assert!(shown.contains(&format!("_ses.{}", c.id)), "{shown}");
    }

    let c = t.container(config);
    let create = c.create_cmd(&["--no-new-keyring"]).with_session_key("berth-secret");
    create.ok();
    c.start().ok();
    let shown = keys(c.exec_cmd(&[], &["/bin/cat", "/proc/keys"]));
    assert!(shown.contains("berth-secret"), "what was asked for: {shown}");
}

fn state_directories_of_others_are_not_trusted(t: &Test) {
    // What is in there names processes to kill and hooks to run.
    let c = t.container(Config::sleep());
    c.up();
    let dir = t.root.join(&c.id);
    let refused = || {
        for output in [c.kill("KILL"), c.delete_force(), c.exec(&["/bin/true"])] {
            output.fails().says("only who made a container may manage it");
        }
    };
    std::os::unix::fs::chown(&dir, Some(1000), None).unwrap();
    refused();
    std::os::unix::fs::chown(&dir, Some(0), None).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    refused();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(c.status(), "running");
    let elsewhere = t.dir.join("elsewhere");
    fs::rename(&dir, &elsewhere).unwrap();
    symlink(&elsewhere, &dir).unwrap();
    c.cli("state", &[]).arg(&c.id).run().fails();
    fs::remove_file(&dir).unwrap();
    fs::rename(&elsewhere, &dir).unwrap();
}

fn a_lethal_filter_does_not_hide_why_exec_failed(t: &Test) {
    for action in ["SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL", "SCMP_ACT_TRAP"] {
        let allowed = json!(["execve", "write", "exit_group", "exit", "brk", "mmap", "munmap"]);
        let c = t.container(Config::new(["/damaged"]).set(
            "/linux/seccomp",
            json!({ "defaultAction": action, "syscalls": [{ "names": allowed, "action": "SCMP_ACT_ALLOW" }] }),
        ));
        let damaged = c.rootfs().join("damaged");
        fs::write(&damaged, "neither ELF nor script").unwrap();
        fs::set_permissions(&damaged, fs::Permissions::from_mode(0o755)).unwrap();
        c.create().ok();
        c.start().fails().says("exec /damaged: exec format error");
    }
}

/// Not even to report that, or to end.
fn a_filter_that_forbids_everything_is_the_end(t: &Test) {
    for allowed in [json!([]), json!([{ "names": ["exit_group"], "action": "SCMP_ACT_ALLOW" }])] {
        for action in ["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE", "SCMP_ACT_KILL_THREAD"] {
            let profile = json!({ "defaultAction": action, "syscalls": allowed });
            let c = t.container(Config::new(["/bin/true"]).set("/linux/seccomp", profile));
            c.create().ok();
            c.start().fails().says("init ended without reporting an error").says("/linux/seccomp");
            c.assert_gone();
            c.run().fails().says("init").says("/linux/seccomp");
            c.assert_gone();
        }
    }
}

fn the_hosts_sysfs_is_read_only_to_its_last_mount(t: &Test) {
    // CVE-2023-25809: without a network namespace of its own a user namespace gets the host's /sys, control groups
    // included.
    let c = t.container(Config::sh("grep ' /sys' /proc/mounts").userns(100_000).without_namespace("network"));
    let output = c.run().ok();
    let mounts: Vec<_> = output.stdout.lines().map(|line| line.split(' ').collect::<Vec<_>>()).collect();
    assert!(mounts.iter().any(|mount| mount[1].starts_with("/sys/fs/cgroup")), "{output}");
    for mount in mounts {
        assert!(mount[3].split(',').any(|option| option == "ro"), "{mount:?}");
    }
}

fn a_container_without_cgroup_can_be_killed(t: &Test) {
    t.enter_rootless(100_000);
    let config = Config::sleep().userns(0).without_namespace("pid").without_cgroups_path().remove("/linux/resources");
    let mut config = config.set("/process/rlimits", json!([]));
    config.json["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/proc");
    let config = config.set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
    let c = t.container_named(&format!("without-cgroup-{}", std::process::id()), config);
    c.up();
    c.kill("KILL").ok();
    c.wait_status("stopped");
}

fn processes_that_were_there_before_are_nobodys_to_kill(t: &Test) {
    let c = t.container(Config::sleep());
    let Some(cgroup) = &c.cgroup else { panic!("the container has a cgroup of its own") };
    let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .map(Path::new)
        .into_iter()
        .find(|dir| dir.join("cgroup.procs").exists() && dir.join("cgroup.controllers").exists());
    let Some(unified) = unified else { return skip!("no cgroup v2") };
    let dir = unified.join(&cgroup[1..]);
    fs::create_dir_all(&dir).unwrap();
    let mut other = t.command("/bin/sleep").arg("1000").spawn();
    fs::write(dir.join("cgroup.procs"), other.pid().to_string()).unwrap();
    c.create().fails().says("not empty");
    c.delete_force();
    assert!(fs::read_to_string(dir.join("cgroup.procs")).unwrap().contains(&other.pid().to_string()));
    other.kill();
    other.wait_quietly();
    fs::remove_dir(dir).unwrap();
}

fn not_even_a_tracer_finds_descriptors_of_the_caller(t: &Test) {
    // With CAP_SYS_PTRACE on the host everything in the PID namespace is open to the container.
    let script = "echo up > /tmp/up; while :; do for p in /proc/[0-9]*; do \
         if [ -d $p/fd/9 ]; then echo $p >> /tmp/reached; fi; done; done";
    let c = t.container(Config::sh(script).capabilities(&["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]));
    c.up();
    c.wait_file("/tmp/up");
    for _ in 0..30 {
        c.exec_cmd(&[], &["/bin/true"]).pass_fd(File::open("/").unwrap(), 9).ok();
    }
    let reached = fs::read_to_string(c.rootfs().join("tmp/reached")).unwrap_or_default();
    assert!(reached.is_empty(), "{reached}");
}

fn capabilities_of_the_caller_do_not_pass(t: &Test) {
    // Inheritable and ambient ones, and the secure bit that keeps all over a change of user.
    let c = t.container(
        Config::sh("grep Cap /proc/self/status; sleep 1000").capabilities(&["CAP_KILL"]).set("/process/user/uid", 1000),
    );
    let raised = |cmd: &str| {
        let caps = "+net_admin,+sys_admin,+kill";
        let setpriv = t.command("/usr/bin/setpriv").args(["--inh-caps", caps, "--ambient-caps", caps]);
        let setpriv = setpriv.args(["--securebits", "+no_setuid_fixup"]).arg(t.runtime_path());
        setpriv.arg("--root").arg(&t.root).arg(cmd)
    };
    let create = raised("create").arg("--bundle").arg(&c.bundle).arg(&c.id);
    let stdout = create.stdout_path();
    create.ok();
    c.start().ok();
    let exec = raised("exec").arg(&c.id).args(["/bin/grep", "Cap", "/proc/self/status"]).ok().stdout;
    for status in [crate::harness::wait_file(&stdout), exec] {
        for (set, wanted) in [("Inh", 0), ("Prm", 0), ("Eff", 0), ("Bnd", 1 << 5), ("Amb", 0)] {
            assert!(status.contains(&format!("Cap{set}:\t{wanted:016x}\n")), "{set}: {status}");
        }
    }
}

fn start_container_hooks_run_under_the_filter(t: &Test) {
    let seccomp = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }]
    });
    for no_new_privileges in [true, false] {
        let hook = "grep -E 'Seccomp:|CapEff|CapBnd|NoNewPrivs' /proc/self/status > /tmp/hook; mkdir /tmp/made; :";
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", hook], "env": ["PATH=/bin"] });
        let config = Config::sh("mkdir /tmp/made; :").set("/linux/seccomp", seccomp.clone());
        let config = config.set("/process/noNewPrivileges", no_new_privileges).capabilities(&["CAP_KILL"]);
        let c = t.container(config.push("/hooks/startContainer", hook));
        c.run().ok();
        let status = c.wait_file("/tmp/hook");
        let wanted = format!(
            "CapEff:\t{0:016x}\nCapBnd:\t{0:016x}\nNoNewPrivs:\t{1}\nSeccomp:\t2\n",
            1 << 5,
            u32::from(no_new_privileges)
        );
        assert_eq!(status, wanted);
        assert!(!c.rootfs().join("tmp/made").exists());
    }
}

fn holes_among_preserved_descriptors_stay_empty(t: &Test) {
    // The numbers that the caller does not use are free for the runtime's own descriptors.
    let c = t.container(Config::sh("ls -l /proc/$$/fd; sleep 1000"));
    let create = c.create_cmd(&["--preserve-fds", "8"]).pass_fd(File::open("/etc/passwd").unwrap(), 9);
    let stdout = create.stdout_path();
    create.pass_fd(File::open("/").unwrap(), 20).ok();
    c.start().ok();
    let exec = c.exec_cmd(&["--preserve-fds", "8"], &["/bin/sh", "-c", "ls -l /proc/$$/fd; :"]);
    let exec = exec.pass_fd(File::open("/etc/passwd").unwrap(), 9).pass_fd(File::open("/").unwrap(), 20).ok();
    for listed in [crate::harness::wait_file(&stdout), exec.stdout] {
        let numbers = listed.lines().filter_map(|line| line.split(" -> ").next()?.rsplit(' ').next()?.parse().ok());
        let numbers: Vec<u32> = numbers.filter(|number| *number > 2).collect();
        assert_eq!(numbers, [9], "{listed}");
    }
}

fn secure_bits_of_the_caller_do_not_pass(t: &Test) {
    // Under SECBIT_NOROOT, root is an ordinary user: the container would not have the capabilities that it was given.
    let c = t.container(Config::sh("grep CapEff /proc/self/status").capabilities(&["CAP_KILL"]));
    let caps = "+chown,+dac_override,+fowner,+kill,+setgid,+setuid,+setpcap,+sys_admin,+sys_chroot,+mknod,+net_admin";
    let setpriv = t.command("/usr/bin/setpriv").args(["--inh-caps", caps, "--ambient-caps", caps]);
    let run = setpriv.args(["--securebits", "+noroot"]).arg(t.runtime_path()).arg("--root").arg(&t.root);
    let output = run.arg("run").arg("--bundle").arg(&c.bundle).arg(&c.id).ok();
    assert_eq!(output.text(), format!("CapEff:\t{:016x}", 1 << 5));
}

fn no_container_without_device_rules(t: &Test) {
    // Where no cgroup hierarchy is mounted nothing could hold root back from the host's disks.
    use rustix::mount::{UnmountFlags, unmount};
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let cgroups = mounts.lines().rev().filter(|line| line.contains(" - cgroup"));
    for point in cgroups.map(|line| line.split(' ').nth(4).unwrap()) {
        unmount(point, UnmountFlags::DETACH).unwrap();
    }
    t.accept_mounts();
    let c = t.container(Config::new(["/bin/true"]).without_cgroups_path());
    c.create().fails().says("no cgroup hierarchy is mounted");
    c.assert_gone();
    let c = t.container(Config::new(["/bin/true"]).set("/linux/resources/pids", json!({ "limit": 7 })));
    c.create().fails().says("/linux/resources/pids").says("no cgroup hierarchy is mounted");
    c.assert_gone();
}

fn nothing_joins_a_container_in_the_making(t: &Test) {
    // Its mount namespace still holds the host's tree: what joins it then has that as its root.
    t.write("secret", "of the host");
    for command in ["create", "run"] {
        let c = t.container(Config::new(["/bin/true"]));
        let (runtime, root) = (t.runtime_path().display(), t.root.display());
        let (seen, id) = (t.path(&format!("seen-{command}")), &c.id);
        let script =
            format!("{runtime} --root {root} exec {id} /bin/cat {} > {seen} 2>&1; echo $? >> {seen}", t.path("secret"));
        let hook = json!({ "path": t.script(&format!("hook-{command}"), &script), "env": ["PATH=/bin:/usr/bin"] });
        c.write(&Config::new(["/bin/true"]).push("/hooks/createRuntime", hook));
        c.cli(command, &[]).arg(&c.id).ok();
        let seen = fs::read_to_string(&seen).unwrap();
        assert!(!seen.contains("of the host"), "{command}: {seen}");
        assert!(seen.contains("being created") && seen.ends_with("255\n"), "{command}: {seen}");
    }
}
