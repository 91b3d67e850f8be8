//! `berth validate` and `berth create` agree; and what `validate` prints.

use std::fs::{self, File};

use rustix::process::Resource;
use serde_json::{Value, json};

use crate::errors::wrong_values;
use crate::harness::{Config, Container, Output, Test};

e2e!(any:
    what_is_valid_here_can_be_created_and_what_is_not_cannot,
    what_the_host_lacks_is_named,
    all_errors_at_once_with_their_places,
    the_session_of_the_documentation,
    in_the_forms_for_programs,
    no_character_of_a_file_acts_on_a_terminal,
    hostile_files_are_judged_soon,
    what_is_no_file_is_not_read,
    how_it_is_called,
);

/// None of the peers has the command.
fn is_peer(t: &Test) -> bool {
    t.is_runc() || t.is_crun() || t.peer_lacks("validate")
}

#[track_caller]
fn prints(output: &Output, text: &str) {
    assert!(output.stdout.contains(text), "expected {text:?} on standard output: {output}");
}

/// Only the kernel knows these, when they are written.
const KERNELS: [&str; 1] = ["/linux/resources/cpu"];

fn with(c: &Container, pointer: &str, value: &Value) -> Config {
    let config = Config::sleep().set("/linux/cgroupsPath", c.cgroup.as_deref());
    let (list, index) = pointer.rsplit_once('/').unwrap();
    let length = config.json.pointer(list).and_then(Value::as_array).map(Vec::len);
    match index.parse().is_ok_and(|index: usize| Some(index) == length) {
        true => config.push(list, value.clone()),
        false => config.set(pointer, value.clone()),
    }
}

fn what_is_valid_here_can_be_created_and_what_is_not_cannot(t: &Test) {
    if is_peer(t) {
        return;
    }
    let bind = |source: &str| json!({ "destination": "/mnt", "source": source, "options": ["bind"] });
    let hook = |path: &str| json!([{ "path": path }]);
    let mut values = wrong_values();
    values.extend([
        ("/ociVersion", json!("1.0.2-dev")),
        ("/process/env/2", json!("HOME=")),
        ("/process/env/2", json!("NO_SIGN")),
        ("/process/user/additionalGids", json!([1, 2])),
        ("/process/rlimits/1", json!({ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 })),
        ("/process/capabilities/bounding/0", json!("CAP_NOT_ONE")),
        ("/process/unknown", json!({ "x": [1] })),
        ("/process/apparmorProfile", json!("")),
        ("/mounts/6", bind("/etc")),
        ("/mounts/6", bind("/no/such/source")),
        ("/mounts/6", bind("rootfs/bin")),
        ("/mounts/6", json!({ "destination": "/mnt", "source": "/etc", "options": ["bind", "nosiud"] })),
        ("/mounts/6", json!({ "destination": "/mnt", "type": "tmpfs", "options": ["size=1m", "idmap"] })),
        ("/root/path", json!("no-such-rootfs")),
        ("/root/readonly", json!(true)),
        ("/hooks/createRuntime", hook("/bin/true")),
        ("/hooks/createRuntime", hook("/no/such/hook")),
        ("/linux/namespaces/5", json!({ "type": "cgroup" })),
        ("/linux/namespaces/5", json!({ "type": "network" })),
        ("/linux/namespaces/1", json!({ "type": "network", "path": "/proc/self/ns/net" })),
        ("/linux/namespaces/1", json!({ "type": "network", "path": "/proc/self/ns/ipc" })),
        ("/linux/namespaces/1", json!({ "type": "network", "path": "/no/such/namespace" })),
        ("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" })),
        ("/hooks/poststop", hook("/no/such/hook")),
        ("/linux/netDevices", json!({ "no-such-device": {} })),
        ("/linux/devices", json!([{ "path": "/dev/x", "type": "p" }])),
        ("/linux/maskedPaths/0", json!("/proc/kcore/../kcore")),
        ("/linux/personality", json!({ "domain": "LINUX", "flags": ["x"] })),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW" })),
        ("/linux/intelRdt", json!({ "closID": "a/b" })),
        ("/annotations", json!({ "run.oci.keep_original_groups": "perhaps" })),
        ("/annotations", json!({ "run.oci.handler": "vm" })),
    ]);
    let (mut wrong, mut accepted) = (Vec::new(), 0);
    let c = t.container(Config::sleep());
    for (pointer, value) in values {
        c.write(&with(&c, pointer, &value));
        let validated = t.cli(["validate", "--host", "--bundle"]).arg(&c.bundle).run();
        let created = c.create();
        let valid = validated.status.code() == Some(0);
        accepted += usize::from(valid);
        if valid != created.status.success() && !KERNELS.contains(&pointer) {
            wrong.push(format!("{pointer} = {value}:\n{validated}\n{created}"));
        }
        c.delete_force();
        c.assert_gone();
    }
    assert!(wrong.is_empty() && accepted > 10, "{}", wrong.join("\n"));
}

fn what_the_host_lacks_is_named(t: &Test) {
    if is_peer(t) {
        return;
    }
    let plain = t.write("no-program", "");
    for (pointer, value, at) in [
        ("/root/path", json!("nowhere"), "/root/path: open("),
        (
            "/mounts/0",
            json!({ "destination": "/x", "source": "/no/such", "options": ["bind"] }),
            "/mounts/0/source: open(\"/no/such\"): no such file or directory",
        ),
        ("/hooks/createContainer", json!([{ "path": &plain }]), "/hooks/createContainer/0/path: access("),
        (
            "/linux/namespaces/0/path",
            json!("/etc/hostname"),
            "/linux/namespaces/0/path: \"/etc/hostname\" is not a pid namespace",
        ),
        ("/linux/netDevices", json!({ "none0": {} }), "/linux/netDevices/none0: the host has no such network device"),
        ("/linux/mountLabel", json!("a:b:c:s0"), "/linux/mountLabel: selinux label is specified"),
    ] {
        let c = t.container(Config::sleep().set(pointer, value));
        let here = t.cli(["validate", "--host"]).arg(c.bundle.join("config.json")).run().code(1);
        prints(&here, &format!(": error: {at}"));
        // Another host may have it.
        t.cli(["validate"]).arg(c.bundle.join("config.json")).run().code(0);
    }
    let later = t.container(Config::sleep().set("/hooks/poststop", json!([{ "path": &plain }])));
    let output = t.cli(["validate", "--host", "--bundle"]).arg(&later.bundle).run().code(0);
    prints(&output, ": warning: /hooks/poststop/0/path: access(");
    prints(&output, " [host]\n");
    let mapped = Config::sleep().userns(100_000).set("/mounts/0/type", "nosuchfs");
    let c = t.container(mapped.set("/linux/sysctl", json!({ "net.no.such": "1" })));
    let output = t.cli(["validate", "--host", "--bundle"]).arg(&c.bundle).run().code(0);
    prints(&output, "/mounts/0/type: \"nosuchfs\" is not in /proc/filesystems");
    prints(&output, "/linux/sysctl/net.no.such: there is no");
}

/// Everything wrong, one line for each value.
const WRONG: &str = r#"{
	"ociVersion": "2.0",
	"process": {
		"args": ["sh"], "cwd": "srv", "rlmits": [],
		"env": ["A=ä", "B", "A=2"], "oomScoreAdj": "5"
	},
	"root": {"path": "rootfs"},
	"Hostname": "web",
	"mounts": [
		{"destination": "/a", "type": "bind", "options": ["bind", "nosiud"]},
		{"destination": "/b", "type": "bind"},
		{"destination": "/c", "type": "tmpfs"}, {"type": "tmpfs"}
	],
	"linux": {
		"namespaces": [{"type": "net"}, {"type": "pid"}, {"type": "mount"}],
		"resources": {"unified": {"memory.max": "1"}, "cpu": {"shares": 1}},
		"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
		"SECCOMP": {"syscalls": [{"names": ["read"], "action": "DENY"}]}
	}
}
"#;

const FOUND: &str = r#"config.json:2:16: error: /ociVersion: "2.0" is not a version 1 of the runtime-spec
config.json:4:26: error: /process/cwd: Cwd must be an absolute path: "srv"
config.json:4:33: warning: /process/rlmits: is no field, and has no effect (a similar field exists: "rlimits") [unknown-field]
config.json:5:11: warning: /process/env/0: A is set again by /process/env/2, which counts [duplicate-env]
config.json:5:18: error: /process/env/1: invalid environment variable: missing '='
config.json:5:46: error: /process/oomScoreAdj: string "5", but expected a number from -2147483648 to 2147483647
config.json:8:2: warning: /Hostname: is taken for "hostname", which not all runtimes do [name-case]
config.json:10:61: error: /mounts/0/options/1: "nosiud" is no mount option: bind mounts cannot have any filesystem-specific options applied
config.json:11:33: error: /mounts/1/type: the type "bind" alone makes no bind mount (a bind mount has "bind" or "rbind" among its options)
config.json:12:43: error: /mounts/3/destination: is empty
config.json:15:27: error: /linux/namespaces/0/type: unknown namespace "net" (one of user, mount, pid, network, ipc, uts, cgroup, time)
config.json:16:28: warning: /linux/resources/unified: with cgroup v1: invalid configuration: cannot use unified on cgroup v1 [cgroup-version]
config.json:16:67: warning: /linux/resources/cpu/shares: with cgroup v1: the minimum allowed cpu-shares is 2 [cgroup-version]
config.json:18:3: warning: /linux/seccomp: the name is on line 17 as well: the two are merged [duplicate-name]
config.json:18:58: error: /linux/seccomp/syscalls/0/action: "DENY" is not a valid action for seccomp (one of SCMP_ACT_ALLOW, SCMP_ACT_ERRNO, SCMP_ACT_KILL, SCMP_ACT_KILL_PROCESS, SCMP_ACT_KILL_THREAD, SCMP_ACT_LOG, SCMP_ACT_NOTIFY, SCMP_ACT_TRACE, SCMP_ACT_TRAP)
"#;

fn all_errors_at_once_with_their_places(t: &Test) {
    if is_peer(t) {
        return;
    }
    t.write("config.json", WRONG);
    assert_eq!(t.cli(["validate"]).cwd(&t.dir).run().code(1).text(), FOUND.trim_end());
    t.write("config.json", "{\n\"a\": 1,\n}");
    let broken = t.cli(["validate"]).cwd(&t.dir).run().code(1);
    assert_eq!(broken.text(), "config.json:3:1: error: trailing comma");
}

fn the_session_of_the_documentation(t: &Test) {
    if is_peer(t) {
        return;
    }
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/validate.md")).unwrap();
    let block = |begin: &str, end: &str| page.split_once(begin).unwrap().1.split_once(end).unwrap().0.to_owned();
    t.write("config.json", &block("```json config.json\n", "```"));
    let output = t.cli(["validate"]).cwd(&t.dir).run().code(1);
    assert_eq!(output.stdout, block("$ berth validate\n", "$ echo $?\n1\n"));
}

fn in_the_forms_for_programs(t: &Test) {
    if is_peer(t) {
        return;
    }
    t.write("config.json", WRONG);
    let of = |format: &str| -> Value {
        let output = t.cli(["validate", "--format", format]).cwd(&t.dir).run().code(1);
        serde_json::from_str(output.text()).unwrap()
    };
    let (json, sarif) = (of("json"), of("sarif"));
    let short = t.cli(["validate", "--json"]).cwd(&t.dir).run().code(1);
    assert_eq!(serde_json::from_str::<Value>(short.text()).unwrap(), json);
    let findings = json["findings"].as_array().unwrap();
    assert_eq!((json["file"].as_str(), findings.len()), (Some("config.json"), FOUND.lines().count()));
    let expected = json!({
        "severity": "error", "rule": "refused", "pointer": "/process/cwd", "line": 4, "column": 26,
        "message": "Cwd must be an absolute path: \"srv\"", "hint": null
    });
    assert_eq!(findings[1], expected);

    // What SARIF 2.1.0 requires, and code scanners show.
    assert_eq!((&sarif["version"], sarif["runs"].as_array().unwrap().len()), (&json!("2.1.0"), 1));
    let (run, driver) = (&sarif["runs"][0], &sarif["runs"][0]["tool"]["driver"]);
    assert_eq!((&driver["name"], &run["columnKind"]), (&json!("berth"), &json!("unicodeCodePoints")));
    let rules: Vec<_> = driver["rules"].as_array().unwrap().iter().map(|rule| &rule["id"]).collect();
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), findings.len());
    for (result, finding) in results.iter().zip(findings) {
        assert!(rules.contains(&&result["ruleId"]), "{result}");
        assert_eq!((&result["ruleId"], &result["level"]), (&finding["rule"], &finding["severity"]));
        let message = result["message"]["text"].as_str().unwrap();
        assert!(message.contains(finding["message"].as_str().unwrap()), "{message}");
        let location = &result["locations"][0]["physicalLocation"];
        assert_eq!(location["artifactLocation"]["uri"], "config.json");
        let region = json!({ "startLine": finding["line"], "startColumn": finding["column"] });
        assert_eq!(location["region"], region);
    }
}

fn how_it_is_called(t: &Test) {
    if is_peer(t) {
        return;
    }
    let good = Config::sleep().json.to_string();
    fs::create_dir(t.dir.join("a b")).unwrap();
    let file = t.write("a b/other.json", &good);
    for args in [&["validate", &file][..], &["validate", "--bundle", "a b", "a b/other.json"]] {
        assert_eq!(t.cli(args.iter().copied()).cwd(&t.dir).run().code(0).text(), "", "{args:?}");
    }
    let output = t.cli(["validate", "-"]).stdin(File::open(&file).unwrap()).run();
    assert_eq!(output.code(0).text(), "");
    t.write("a b/other.json", &good.replace("\"cwd\":\"/\"", "\"cwd\":\"\""));
    prints(&t.cli(["validate", "-"]).stdin(File::open(&file).unwrap()).run().code(1), "<stdin>:1:");
    let sarif = t.cli(["validate", "--format=sarif", "a b/other.json"]).cwd(&t.dir).run().code(1);
    prints(&sarif, "\"uri\": \"a%20b/other.json\"");
    // Systemd has another form of the path.
    t.write("config.json", &Config::sleep().set("/linux/cgroupsPath", "/a").json.to_string());
    t.cli(["validate"]).cwd(&t.dir).run().code(0);
    let systemd = t.cli(["--systemd-cgroup", "validate"]).cwd(&t.dir).run().code(1);
    prints(&systemd, "/linux/cgroupsPath: expected");
    for wrong in [&["validate", "--nonsense"][..], &["validate", "--format", "xml"], &["validate", "/no/such/file"]] {
        t.cli(wrong.iter().copied()).run().code(2);
    }
    t.cli(["validate", "a", "b"]).run().code(2);
}

/// What a terminal takes for a command, or for the other direction of writing.
fn no_character_of_a_file_acts_on_a_terminal(t: &Test) {
    if is_peer(t) {
        return;
    }
    let file = t.write("config.json", "{\"ev\u{9b}2J\u{202e}\\u001b[2J\": 1, \"hostname\": 7}");
    for format in ["text", "json", "sarif"] {
        let output = t.cli(["validate", "--format", format, &file]).run().code(1);
        assert!(output.stdout.contains("2J"), "{format}: {output}");
        for character in ['\u{9b}', '\u{202e}', '\u{1b}'] {
            assert!(!output.stdout.contains(character), "{format}: {character:?}");
        }
    }
}

/// The command has a deadline, and here little memory too.
fn hostile_files_are_judged_soon(t: &Test) {
    if is_peer(t) {
        return;
    }
    let list = |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(",");
    let texts = [
        format!("{{\"{}\":[{}]}}", "k".repeat(500_000), list(50_000, &|_| "{}".into())),
        format!("{{{}}}", list(100_000, &|_| "\"a\":1".into())),
        format!("{{{}}}", list(100_000, &|i| format!("\"a{i}\":1"))),
        format!("{{\"annotations\":{{{}}}}}", list(100_000, &|i| format!("\"a{i}\":\"\""))),
        format!("{{\"process\":{{\"env\":[{}]}}}}", list(50_000, &|_| "\"A=1\"".into())),
    ];
    for (i, text) in texts.iter().enumerate() {
        let file = t.write(&format!("{i}.json"), text);
        let output = t.cli(["validate", &file]).limit(Resource::As, 1 << 30, 1 << 30).run();
        assert!(output.status.code().is_some_and(|code| code < 2), "{i}: {}", output.stderr);
    }
}

fn what_is_no_file_is_not_read(t: &Test) {
    if is_peer(t) {
        return;
    }
    t.command("/usr/bin/mkfifo").arg(t.path("fifo")).ok();
    std::os::unix::fs::symlink("/dev/zero", t.path("zero")).unwrap();
    for name in ["fifo", "zero"] {
        t.cli(["validate", &t.path(name)]).run().code(2).says("is no regular file");
    }
    t.cli(["validate", &t.path("")]).run().code(2).says("--bundle");
}
