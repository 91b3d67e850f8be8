//! docs/errors.md: what it says that berth says.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::process::Resource;
use serde_json::json;

use crate::harness::{Config, Container, Output, Test, busybox};

e2e!(any: the_texts_are_those_of_the_page, what_ordinary_users_are_told, engines_get_the_same_texts);

/// Rows that take a kernel without a security module that the machine may have.
const ELSEWHERE: [&str; 2] = ["no AppArmor in the kernel", "no SELinux in the kernel"];

fn the_texts_are_those_of_the_page(t: &Test) {
    if t.peer_lacks("the texts of berth") {
        return;
    }
    let mut page = Page::read(|section| section != OF_USERS);
    documents(t, &mut page);
    programs(t, &mut page);
    mounts(t, &mut page);
    namespaces(t, &mut page);
    restrictions(t, &mut page);
    cgroups(t, &mut page);
    read_only_cgroups(t, &mut page);
    surroundings(t, &mut page);
    states(t, &mut page);
    page.0.retain(|(what, _)| !ELSEWHERE.contains(&what.as_str()));
    assert_eq!(page.0, [], "rows that nobody holds true");
}

fn fails(t: &Test, page: &mut Page, what: &str, config: Config) {
    let c = t.container(config);
    page.demand(what, c.run(), &c);
    c.assert_gone();
}

fn documents(t: &Test, page: &mut Page) {
    let c = t.container(Config::sleep());
    let no_bundle = t.cli(["create", "--bundle", "/srv/none", &c.id]).run();
    page.demand("the bundle does not exist", no_bundle, &c);
    let file = c.bundle.join("config.json");
    for (what, text) in [
        ("an empty file", ""),
        ("a byte order mark", "\u{feff}{}"),
        ("a comma too much", "{\"process\": {\"args\": [\"sh\",]}}"),
        ("a comma is missing", "{\"hostname\": \"web\"\n \"process\": {}}"),
        ("the file was cut", "{\"process\": {"),
        ("text in place of a number", "{\"process\": {\"user\": {\"uid\": \"1000\"}}}"),
        ("text in place of an array", "{\"process\": {\"args\": \"sh -c true\"}}"),
        ("no `ociVersion`", "{}"),
    ] {
        fs::write(&file, text).unwrap();
        page.demand(what, c.run(), &c);
    }
    fs::remove_file(&file).unwrap();
    page.demand("no `config.json` in the bundle", c.run(), &c);
    fails(t, page, "the root filesystem does not exist", Config::sleep().set("/root/path", "none"));
    fails(t, page, "no `process`", Config::sleep().remove("/process"));
}

fn programs(t: &Test, page: &mut Page) {
    let c = t.container(Config::sleep());
    let foreign = [b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf3\0".as_slice(), &[0; 44]].concat();
    for (name, content, mode) in [
        ("script", b"#!/bin/none\n".as_slice(), 0o755),
        ("windows", b"#!/bin/sh\r\n", 0o755),
        ("foreign", &foreign, 0o755),
        ("text", b"echo hello\n", 0o755),
        ("plain", b"", 0o644),
    ] {
        fs::write(c.rootfs().join(name), content).unwrap();
        fs::set_permissions(c.rootfs().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    // Debian's is linked dynamically.
    fs::copy("/bin/true", c.rootfs().join("dynamic")).unwrap();
    for (what, command) in [
        ("no such command in the PATH", "none"),
        ("no such file", "/bin/none"),
        ("no interpreter for the script", "/script"),
        ("a script from Windows", "/windows"),
        ("no dynamic loader", "/dynamic"),
        ("built for another machine", "/foreign"),
        ("neither a binary nor a script", "/text"),
        ("not executable", "/plain"),
        ("a directory in place of a program", "/etc"),
    ] {
        c.write(&Config::new([command]).set("/linux/cgroupsPath", c.cgroup.as_deref()));
        page.demand(what, c.run(), &c);
        c.assert_gone();
    }
    fails(t, page, "no command", Config::new([""; 0]));
    fails(t, page, "the working directory is a file", Config::sleep().set("/process/cwd", "/etc/passwd"));
    fails(t, page, "the working directory is relative", Config::sleep().set("/process/cwd", "etc"));
    fails(t, page, "a variable without a value", Config::sleep().push("/process/env", "DEBUG"));
}

fn mounts(t: &Test, page: &mut Page) {
    let bind = |source: &str, destination: &str| json!({ "source": source, "destination": destination, "type": "bind", "options": ["bind"] });
    let tmpfs =
        |option: &str| json!({ "source": "tmpfs", "destination": "/data", "type": "tmpfs", "options": [option] });
    for (what, mount) in [
        ("the source does not exist", bind("/srv/none", "/data")),
        ("a directory on a file", bind("/usr", "/etc/passwd")),
        ("a file on a directory", bind("/etc/passwd", "/home")),
        (
            "an option that no mount has",
            json!({ "source": "/usr", "destination": "/data", "options": ["rbind", "roo"] }),
        ),
        ("an option that tmpfs lacks", tmpfs("nosiud")),
        ("a wrong value of an option", tmpfs("size=abc")),
        ("a filesystem that the kernel lacks", json!({ "source": "x", "destination": "/data", "type": "nosuchfs" })),
    ] {
        fails(t, page, what, Config::sleep().mount(mount));
    }
    let read_only = json!({ "source": "/usr", "destination": "/data", "options": ["bind", "ro"] });
    let inside = json!({ "source": "tmpfs", "destination": "/data/none", "type": "tmpfs" });
    fails(t, page, "a place within a read-only mount", Config::sleep().mount(read_only).mount(inside));
    let device = json!({ "path": "/dev/x", "type": "char", "major": 1, "minor": 3 });
    fails(t, page, "an unknown type of a device", Config::sleep().push("/linux/devices", device));
    fails(t, page, "an unknown propagation", Config::sleep().set("/linux/rootfsPropagation", "slve"));
    fails(t, page, "a hidden path that is relative", Config::sleep().push("/linux/maskedPaths", "proc/x"));
}

fn namespaces(t: &Test, page: &mut Page) {
    let typed = |kind: &str| Config::sleep().push("/linux/namespaces", json!({ "type": kind }));
    fails(t, page, "an unknown namespace", typed("net"));
    fails(t, page, "a namespace twice", typed("pid"));
    fails(t, page, "a namespace that does not exist", Config::sleep().namespace("network", Some("/run/netns/none")));
    fails(t, page, "a namespace of another type", Config::sleep().namespace("network", Some("/proc/self/ns/uts")));
    fails(t, page, "a user namespace without mappings", typed("user"));
    let twice = json!([{ "containerID": 0, "hostID": 100_000, "size": 10 }, { "containerID": 5, "hostID": 200_000, "size": 10 }]);
    fails(t, page, "mappings that overlap", Config::sleep().userns(100_000).set("/linux/uidMappings", twice));
    fails(t, page, "a user who is not mapped", Config::sleep().userns(100_000).set("/process/user/uid", 70_000));
    let closed = t.container(Config::sleep().userns(100_000));
    fs::set_permissions(&closed.bundle, fs::Permissions::from_mode(0o700)).unwrap();
    page.demand("a directory above the root filesystem is closed", closed.run(), &closed);
    let device = json!({ "path": "/dev/none", "type": "c", "major": 1, "minor": 3 });
    fails(t, page, "a device that the host lacks", Config::sleep().userns(100_000).push("/linux/devices", device));
    fails(t, page, "a name for the host", Config::sleep().without_namespace("uts"));
    let sysctl = |name: &str, value: &str| Config::sleep().set("/linux/sysctl", json!({ name: value }));
    fails(t, page, "a sysctl of the whole host", sysctl("vm.swappiness", "10"));
    fails(t, page, "a sysctl that the kernel lacks", sysctl("net.ipv4.none", "1"));
    fails(t, page, "a wrong value of a sysctl", sysctl("net.ipv4.ip_forward", "banana"));
}

fn restrictions(t: &Test, page: &mut Page) {
    let profile = |profile| Config::new(["/bin/true"]).set("/linux/seccomp", profile);
    let but = |name: &str| json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": [name], "action": "SCMP_ACT_ERRNO" }] });
    fails(t, page, "an unknown action", profile(json!({ "defaultAction": "SCMP_ACT_ALOW" })));
    let architecture = json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X64"] });
    fails(t, page, "an unknown architecture", profile(architecture));
    fails(t, page, "a profile without `execve`", profile(but("execve")));
    fails(t, page, "a profile without `capset`", profile(but("capset")).set("/process/noNewPrivileges", false));
    let limit = |kind: &str, soft: u64, hard: u64| {
        Config::sleep().set("/process/rlimits", json!([{ "type": kind, "soft": soft, "hard": hard }]))
    };
    fails(t, page, "an unknown limit", limit("RLIMIT_FOO", 1, 1));
    fails(t, page, "a soft limit above the hard one", limit("RLIMIT_NOFILE", 10, 5));
    fails(t, page, "a limit above that of the caller", limit("RLIMIT_NOFILE", 99_999_999_999, 99_999_999_999));
    fails(t, page, "a score out of range", Config::sleep().set("/process/oomScoreAdj", 2000));
    fails(t, page, "an unknown scheduler", Config::sleep().set("/process/scheduler", json!({ "policy": "SCHED_FOO" })));
    fails(t, page, "an unknown personality", Config::sleep().set("/linux/personality", json!({ "domain": "LINUX64" })));
}

fn cgroups(t: &Test, page: &mut Page) {
    for (what, controller, pointer, value) in [
        ("processors that are not there", "cpuset", "/linux/resources/cpu", json!({ "cpus": "999" })),
        ("too small a quota", "cpu", "/linux/resources/cpu", json!({ "quota": 10, "period": 100_000 })),
        ("too little memory", "memory", "/linux/resources/memory", json!({ "limit": 4096 })),
    ] {
        if t.has_controller(controller) {
            fails(t, page, what, Config::sleep().set(pointer, value));
        } else {
            crate::harness::skip(&format!("no {controller} controller in this mode"));
            page.0.retain(|(cell, _)| cell != what);
        }
    }
}

fn read_only_cgroups(t: &Test, page: &mut Page) {
    let c = t.container(Config::new(["/bin/true"]));
    let remount = |flags| {
        for path in crate::errors::hierarchies() {
            mount_remount(&path, MountFlags::BIND | flags, c"").unwrap();
        }
    };
    remount(MountFlags::RDONLY);
    let output = c.run();
    let helped = t.cli(["--cgroup-manager", "disabled", "run", "--bundle"]).arg(&c.bundle).arg(&c.id).run();
    remount(MountFlags::empty());
    page.demand("cgroups are read-only", output, &c);
    helped.ok();
}

fn surroundings(t: &Test, page: &mut Page) {
    let hook = |hook| Config::sleep().push("/hooks/createRuntime", hook);
    fails(t, page, "a hook that does not exist", hook(json!({ "path": "/srv/none" })));
    let sh = |script: &str| json!({ "path": busybox(), "args": ["sh", "-c", script], "timeout": 1 });
    fails(t, page, "a hook that fails", hook(sh("echo cannot reach 10.0.0.1 >&2; exit 4")));
    fails(t, page, "a hook that takes too long", hook(sh("exec sleep 100")));
    let c = t.container(Config::sleep().set("/process/terminal", true));
    page.demand("`create` with a terminal", c.create(), &c);
    page.demand("`run` without a terminal", c.run(), &c);
    page.demand("no console socket there", c.create_cmd(&["--console-socket", "/srv/none"]).run(), &c);
    let c = t.container(Config::sleep());
    page.demand("a console socket for no terminal", c.create_cmd(&["--console-socket", "/srv/none"]).run(), &c);
    page.demand("no directory for the pid file", c.run_cmd(&["--pid-file", "/srv/none/pid"]).run(), &c);
    page.demand("no directory for the log", t.runtime().args(["--log", "/srv/none/log", "list"]).run(), &c);
    page.demand("a wrong id", t.cli(["state", "a/b"]).run(), &c);
    page.demand("an id twice", c.up().create(), &c);
    c.delete_force().ok();
    let root = |root: &str| t.runtime().args(["--root", root, "run", "--bundle"]).arg(&c.bundle).arg(&c.id).run();
    let place = |name: &str, flags, data| {
        let dir = t.path(name);
        fs::create_dir(&dir).unwrap();
        mount("tmpfs", dir.as_str(), "tmpfs", flags, Some(data)).unwrap();
        dir
    };
    page.demand("`--root` is read-only", root(&(place("read-only", MountFlags::RDONLY, c"") + "/berth")), &c);
    let full = place("full", MountFlags::empty(), c"mode=755,size=4k");
    let _ = fs::write(full.clone() + "/file", [0; 8192]);
    page.demand("`--root` is full", root(&(full + "/berth")), &c);
    page.demand(
        "others can write to `--root`",
        root(&(place("open", MountFlags::empty(), c"mode=777") + "/berth")),
        &c,
    );
    page.demand("few open files", c.run_cmd(&[]).limit(Resource::Nofile, 8, 8).run(), &c);
    page.demand("hardly any open files", c.run_cmd(&[]).limit(Resource::Nofile, 4, 4).run(), &c);
    t.accept_mounts();
}

fn states(t: &Test, page: &mut Page) {
    let c = t.container(Config::sleep());
    let on = |command: &str| t.cli([command, &c.id]).run();
    page.demand("no such container", on("start"), &c);
    c.up();
    page.demand("`start` of one that runs", on("start"), &c);
    page.demand("`delete` of one that runs", on("delete"), &c);
    page.demand("`resume` of one that runs", on("resume"), &c);
    page.demand("an unknown signal", c.kill("NOPE"), &c);
    page.demand("`exec` of an unknown command", c.exec(&["none"]), &c);
    page.demand("`exec` for a name", c.exec_cmd(&["--user", "ada"], &["true"]).run(), &c);
    page.demand("`exec` in a file", c.exec_cmd(&["--cwd", "/etc/passwd"], &["true"]).run(), &c);
    page.demand("`exec` without a command", c.exec(&[]), &c);
    c.cli("pause", &[]).arg(&c.id).ok();
    page.demand("`exec` in one that is paused", c.exec(&["true"]), &c);
    c.cli("resume", &[]).arg(&c.id).ok();
    c.kill("KILL").ok();
    c.wait_status("stopped");
    page.demand("`exec` after the end", c.exec(&["true"]), &c);
    page.demand("`kill` after the end", c.kill("TERM"), &c);
    page.demand("`start` after the end", on("start"), &c);
    page.demand("`pause` after the end", on("pause"), &c);
    let path = c.cgroup.as_deref().unwrap();
    let next = t.container(Config::sleep().without_cgroups_path().set("/linux/cgroupsPath", path));
    page.demand("the cgroup of one that has ended", next.run(), &next);
    c.delete().ok();
    let elsewhere = "exec unshare -U -r -m sh -c 'echo in > /tmp/there; exec sleep 1000'";
    let c = t.container(Config::sh(elsewhere).set("/process/user", json!({ "uid": 1000, "gid": 1000 })));
    fs::set_permissions(c.rootfs().join("tmp"), fs::Permissions::from_mode(0o777)).unwrap();
    c.up();
    c.wait_file("/tmp/there");
    page.demand("`exec` in one whose first process is elsewhere", c.exec(&["true"]), &c);
    c.delete_force().ok();
}

const OF_USERS: &str = "Ordinary users";

fn what_ordinary_users_are_told(t: &Test) {
    const USER: u32 = 2_100_000;
    if t.peer_lacks("the texts of berth") {
        return;
    }
    let mut page = Page::read(|section| section == OF_USERS);
    t.become_user(USER, None);
    let c = t.container(Config::sleep());
    page.demand("the configuration of root", c.run(), &c);
    let c = t.container(Config::sleep().without_cgroups_path().userns(100_000));
    page.demand("ids that are not granted", c.run(), &c);
    page.demand("no `newuidmap`", c.run_cmd(&[]).env("PATH", "/srv/none").run(), &c);
    assert_eq!(page.0, [], "rows that nobody holds true");
}

/// The rows of the page: what is wrong, and what berth says.
/// The events of Kubernetes have the texts of the other tables, with the hint in parentheses.
fn engines_get_the_same_texts(_: &Test) {
    let page = Page::read(|_| true);
    let text = text();
    let (_, section) = text.split_once("\n## Kubernetes\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let (mut compared, mut alone) = (0, Vec::new());
    for line in section.lines() {
        let cells: Vec<_> = line.split(" | ").collect();
        let [what, _, event, _] = cells[..] else { continue };
        let Some((_, told)) = page.0.iter().find(|(row, _)| Some(row.as_str()) == what.strip_prefix("| ")) else {
            alone.push(what);
            continue;
        };
        let wanted = match told.split_once("<br>hint: ") {
            Some((message, hint)) => format!("{} ({})", bare(message), bare(hint)),
            None => bare(told).to_owned(),
        };
        assert_eq!(bare(event), wanted, "{what}");
        compared += 1;
    }
    assert!(compared > 9, "{compared} rows");
    let only_here = [
        "| what is wrong",
        "| a file, as by `subPath`, on a directory",
        "| a volume that cannot be mapped, with `hostUsers: false`",
        "| far too little memory for the pod",
        "| too little memory for the pod",
        "| the command of a probe",
    ];
    assert_eq!(alone, only_here);
}

fn text() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md")).unwrap()
}

struct Page(Vec<(String, String)>);

impl Page {
    fn read(wanted: impl Fn(&str) -> bool) -> Self {
        let text = text();
        let tables = text.split("\n### ").skip(1).filter_map(|section| section.split_once('\n'));
        let row = |line: &str| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            Some((cells.next()?.to_owned(), cells.next()?.to_owned()))
        };
        let rows = tables.filter(|(head, _)| wanted(head)).flat_map(|(_, table)| table.lines().skip(3).filter_map(row));
        Self(rows.collect())
    }

    /// Takes the row, and demands that `output` is what it says. "..." on the page stands for any text.
    fn demand(&mut self, what: &str, output: Output, c: &Container) {
        let output = output.fails();
        let mut said = output.stderr.trim().replace("\n  hint: ", "<br>hint: ");
        for (own, shown) in
            [(c.bundle.to_str().unwrap(), "/srv/web"), (c.t.dir.to_str().unwrap(), "/srv"), (&c.id, "web")]
        {
            said = said.replace(own, shown);
        }
        let said = said.strip_prefix("berth: ").unwrap_or(&said);
        // Behind the command and the id.
        let said = said
            .split_once(": ")
            .filter(|(course, _)| course.ends_with(" web") || course.ends_with(" a/b"))
            .map_or(said, |(_, said)| said);
        // Engines would conclude something else from these, and so are not told such a hint.
        let misleading = ["no such file", "not found", "permission denied", "not a directory", "is a directory"];
        let hint = said.split_once("<br>hint: ").map_or("", |(_, hint)| hint);
        assert!(!misleading.iter().any(|words| hint.contains(words)), "{hint}");
        let Some(place) = self.0.iter().position(|(cell, _)| cell == what) else { panic!("no row {what:?}: {said}") };
        let (_, cell) = self.0.remove(place);
        let wanted = cell.split("<br>hint: ").map(bare).collect::<Vec<_>>().join("<br>hint: ");
        assert!(is_like(said, &wanted), "the page has of {what}:\n{wanted}\nberth says:\n{said}");
    }
}

/// The text of a span of code.
fn bare(code: &str) -> &str {
    let inner = |mark| code.strip_prefix(mark).and_then(|rest: &str| rest.strip_suffix(mark));
    inner("``").map(str::trim).or_else(|| inner("`")).unwrap_or_else(|| panic!("no code: {code}"))
}

fn is_like(said: &str, wanted: &str) -> bool {
    let Some((head, rest)) = wanted.split_once("...") else { return said == wanted };
    let Some(said) = said.strip_prefix(head) else { return false };
    (0..=said.len()).filter(|at| said.is_char_boundary(*at)).any(|at| is_like(&said[at..], rest))
}
