//! Options that change what may be done in a mount, for every kind of mount: none is accepted and then not applied.

use std::fs;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};

use crate::harness::{Config, Mode, Output, Test};

e2e!(
    an_option_is_applied_to_every_kind_of_mount,
    an_option_is_applied_to_control_groups,
    an_option_is_applied_to_the_root,
    an_option_is_applied_to_what_is_filled_first,
    an_option_is_applied_to_the_sysfs_of_the_host,
    an_option_without_meaning_is_refused,
);

const OPTIONS: [&str; 14] = [
    "ro",
    "nosuid",
    "nodev",
    "noexec",
    "noatime",
    "nodiratime",
    "nosymfollow",
    "rro",
    "rnosuid",
    "rnodev",
    "rnoexec",
    "rnoatime",
    "rnodiratime",
    "rnosymfollow",
];

/// In a user namespace, those of the host's mounts, and of mounts that show the same as one of these, cannot be
/// changed.
const ACCESS_TIMES: [&str; 4] = ["noatime", "nodiratime", "rnoatime", "rnodiratime"];

fn lacks(t: &Test) -> bool {
    t.peer_lacks("options of mounts that are accepted and not applied")
}

/// What an option adds to a mount, and whether also to those below it.
fn meaning(option: &str) -> (&str, bool) {
    match option.strip_prefix('r').filter(|_| option != "ro") {
        Some(word) => (word, true),
        None => (option, false),
    }
}

/// Of the mounts at `point`, and for a recursive option also of those below it, this is what mountinfo must say.
#[track_caller]
fn assert_applied(output: &Output, point: &str, option: &str) {
    let (word, recursive) = meaning(option);
    let mut found = 0;
    for line in output.stdout.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let below = recursive && fields[4].strip_prefix(point).is_some_and(|rest| rest.starts_with('/'));
        if fields[4] == point || below {
            found += 1;
            assert!(fields[5].split(',').any(|flag| flag == word), "{option} is lost: {line}");
        }
    }
    assert!(found > 0, "nothing is mounted on {point}\n{output}");
}

fn config() -> Config {
    Config::new(["/bin/cat", "/proc/self/mountinfo"])
}

fn entry(kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "type": kind, "source": source, "options": options })
}

/// With the id mappings, which the kernel takes for a tmpfs since Linux 6.3.
fn mapped(mut entry: Value) -> Value {
    for field in ["uidMappings", "gidMappings"] {
        entry[field] = json!([{ "containerID": 0, "hostID": 1000, "size": 10 }]);
    }
    entry
}

fn at(destination: &str, mut entry: Value, option: Option<&str>) -> Value {
    entry["destination"] = destination.into();
    entry["options"].as_array_mut().unwrap().extend(option.map(Value::from));
    entry
}

/// Each kind with each option, all in one container. And each with an option that is refused, in one of its own.
fn each_with_each(t: &Test, config: &Config, kinds: &[(&str, Vec<Value>)], refused: &[&str]) {
    let add = |config: Config, entries: &[Value], destination: &str, option: &str| {
        let (last, before) = entries.split_last().unwrap();
        let config = before.iter().fold(config, |config, entry| config.mount(at(destination, entry.clone(), None)));
        config.mount(at(destination, last.clone(), Some(option)))
    };
    let mut all = config.clone();
    let mut points = Vec::new();
    for (name, entries) in kinds {
        for option in OPTIONS.iter().filter(|option| !refused.contains(option)) {
            let point = format!("/m/{name}/{option}");
            all = add(all, entries, &point, option);
            points.push((point, option));
        }
        for option in refused {
            let wrong = add(config.clone(), entries, "/m", option);
            let last = wrong.json["mounts"].as_array().unwrap().len() - 1;
            t.container(wrong).run().fails().says(&format!(" to rootfs at \"/m\": /mounts/{last}: "));
        }
    }
    let c = t.container(all);
    for (point, _) in &points {
        let dir = c.rootfs().join(&point[1..]);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("file"), "to be copied").unwrap();
    }
    let output = c.run().ok();
    points.iter().for_each(|(point, option)| assert_applied(&output, point, option));
}

fn an_option_is_applied_to_every_kind_of_mount(t: &Test) {
    if lacks(t) {
        return;
    }
    let host = t.path("host");
    fs::create_dir_all(format!("{host}/below")).unwrap();
    mount("tmpfs", format!("{host}/below"), "tmpfs", MountFlags::empty(), None).unwrap();
    let lower = |count: usize| {
        let dirs: Vec<_> = (0..count).map(|i| format!("{}/{i}", t.path("lower"))).collect();
        dirs.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        format!("lowerdir={}", dirs.join(":"))
    };
    let (short, long) = (lower(2), lower(12));
    assert!(short.len() < 250 && long.len() > 256 + "lowerdir=".len(), "{short} {long}");
    let tmpfs = || entry("tmpfs", "tmpfs", &[]);
    let kinds = [
        ("bind", vec![entry("bind", &host, &["bind"])]),
        ("rbind", vec![entry("bind", &host, &["rbind"])]),
        ("below-root", vec![entry("bind", "rootfs/etc", &["bind"])]),
        ("tmpfs", vec![tmpfs()]),
        ("copied-up", vec![entry("tmpfs", "tmpfs", &["tmpcopyup"])]),
        ("ramfs", vec![entry("ramfs", "ramfs", &[])]),
        ("mapped-tmpfs", vec![mapped(tmpfs())]),
        ("overlay", vec![entry("overlay", "overlay", &[&short])]),
        ("long-overlay", vec![entry("overlay", "overlay", &[&long])]),
        ("proc", vec![entry("proc", "proc", &[])]),
        ("sysfs", vec![entry("sysfs", "sysfs", &[])]),
        ("mqueue", vec![entry("mqueue", "mqueue", &[])]),
        ("devpts", vec![entry("devpts", "devpts", &["newinstance"])]),
        ("remount", vec![tmpfs(), entry("tmpfs", "", &["remount"])]),
        ("remount-bind", vec![tmpfs(), entry("", "", &["remount", "bind"])]),
        ("remount-overlay", vec![entry("overlay", "overlay", &[&long]), entry("", "", &["remount", "bind"])]),
    ];
    each_with_each(t, &config(), &kinds, &[]);
    let locked = [
        ("bind", vec![entry("bind", &host, &["rbind"])]),
        ("mapped-bind", vec![entry("bind", &t.path("lower"), &["bind", "idmap"])]),
        ("proc", vec![entry("proc", "proc", &[])]),
        ("sysfs", vec![entry("sysfs", "sysfs", &[])]),
    ];
    each_with_each(t, &config().userns(100_000), &locked, &ACCESS_TIMES);
    let own = [
        ("tmpfs", vec![tmpfs()]),
        ("mapped-and-copied-up", vec![entry("tmpfs", "tmpfs", &["tmpcopyup", "idmap"])]),
        ("mqueue", vec![entry("mqueue", "mqueue", &[])]),
    ];
    each_with_each(t, &config().userns(100_000), &own, &[]);
    unmount(format!("{host}/below"), UnmountFlags::DETACH).unwrap();
}

fn control_groups(t: &Test) -> Vec<(&'static str, Vec<Value>)> {
    let mut kinds = vec![("cgroup", vec![entry("cgroup", "cgroup", &[])])];
    if t.mode == Mode::V2 {
        kinds.push(("cgroup2", vec![entry("cgroup2", "cgroup2", &[])]));
    }
    kinds
}

fn an_option_is_applied_to_control_groups(t: &Test) {
    if lacks(t) {
        return;
    }
    let namespaced = |config: Config| config.namespace("cgroup", None);
    for (config, refused) in [
        (config(), &[][..]),
        (namespaced(config()), &[]),
        (config().userns(100_000), &ACCESS_TIMES),
        (namespaced(config().userns(100_000)), &[]),
    ] {
        each_with_each(t, &config, &control_groups(t), refused);
    }
}

fn an_option_is_applied_to_the_root(t: &Test) {
    if lacks(t) {
        return;
    }
    for option in OPTIONS {
        // What its programs are links to could not be found, or not be executed.
        if ["noexec", "rnoexec", "nosymfollow", "rnosymfollow"].contains(&option) {
            continue;
        }
        let mut config = Config::new(["/bin/busybox", "cat", "/proc/self/mountinfo"]);
        let root = at("/", entry("tmpfs", "tmpfs", &["tmpcopyup", "mode=755"]), Some(option));
        config.json["mounts"].as_array_mut().unwrap().insert(0, root);
        assert_applied(&t.container(config).run().ok(), "/", meaning(option).0);
    }
    // What lies below it goes with the old root, also if it was still to become read-only.
    let below = json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["ro"] });
    let root = entry("tmpfs", "tmpfs", &["tmpcopyup", "mode=755"]);
    let config = Config::new(["/bin/busybox", "true"]).set("/mounts", json!([below, at("/", root, None)]));
    t.container(config).run().ok();
}

fn an_option_is_applied_to_what_is_filled_first(t: &Test) {
    if lacks(t) {
        return;
    }
    for option in OPTIONS {
        // Devices do not work then.
        if option.ends_with("nodev") {
            continue;
        }
        let dev = at("/dev", entry("tmpfs", "tmpfs", &["mode=755"]), Some(option));
        let c = t.container(config().set("/mounts/1", dev));
        // What is mounted there later is not concerned.
        assert_applied(&c.run().ok(), "/dev", meaning(option).0);
    }
}

/// A user namespace that has the host's network cannot mount a sysfs.
fn an_option_is_applied_to_the_sysfs_of_the_host(t: &Test) {
    if lacks(t) {
        return;
    }
    let config = config().userns(100_000).without_namespace("network");
    each_with_each(t, &config, &[("sysfs", vec![entry("sysfs", "sysfs", &[])])], &ACCESS_TIMES);
}

fn an_option_without_meaning_is_refused(t: &Test) {
    if lacks(t) {
        return;
    }
    let tmpfs = || entry("tmpfs", "tmpfs", &[]);
    let idmap = "idmap=uids=0-1000-10;gids=0-1000-10";
    let on_tmpfs = |entry: Value| vec![tmpfs(), entry];
    let cases = |kind: &str| {
        [
            (on_tmpfs(mapped(entry("", "", &["remount", "bind"]))), "/mounts/7/uidMappings"),
            (on_tmpfs(mapped(entry("tmpfs", "", &["remount"]))), "/mounts/7/uidMappings"),
            (on_tmpfs(entry("", "", &["remount", "bind", idmap])), "/mounts/7/options"),
            (on_tmpfs(entry("", "", &["remount", "bind", "nosiud"])), "/mounts/7/options/2"),
            (on_tmpfs(entry("", "", &["remount", "bind", "tmpcopyup"])), "/mounts/7/options"),
            (vec![entry("bind", "/etc", &["bind", "tmpcopyup"])], "/mounts/6/options"),
            (vec![entry("proc", "proc", &["tmpcopyup"])], "/mounts/6/options"),
            (vec![mapped(entry(kind, "cgroup", &[]))], "/mounts/6/uidMappings"),
            (vec![entry(kind, "cgroup", &[idmap])], "/mounts/6/options"),
            (vec![entry(kind, "cgroup", &["tmpcopyup"])], "/mounts/6/options"),
            (vec![entry(kind, "cgroup", &["ro", "nosiud"])], "/mounts/6/options/1"),
        ]
    };
    for kind in control_groups(t).iter().map(|(kind, _)| *kind) {
        for config in [config(), config().namespace("cgroup", None)] {
            for (entries, pointer) in cases(kind) {
                let c = t.container(
                    entries.iter().fold(config.clone(), |config, entry| config.mount(at("/m", entry.clone(), None))),
                );
                c.run().fails().says(&format!("{pointer}: "));
            }
        }
    }
}
