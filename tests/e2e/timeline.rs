//! `--timeline`: where the time went, as a trace and as a picture.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::checkpoint::{checkpoint, criu_works, restore};
use crate::harness::inject::{Action, Point};
use crate::harness::{Config, Test};

e2e!(each_command_has_one, a_restore_has_one);
e2e!(any:
    a_failed_start_has_one_up_to_its_failure,
    what_cannot_be_written_is_told_before_anything_is_made,
    names_are_no_markup,
    with_a_stage_and_with_id_maps,
    what_is_off_makes_no_call,
    the_session_of_the_documentation,
);

fn is_peer(t: &Test) -> bool {
    t.is_runc() || t.is_crun() || t.peer_lacks("timelines")
}

/// An event, in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    thread: u64,
    kind: String,
    name: String,
    begin: u64,
    end: u64,
}

/// A trace that a viewer can draw: the command, which contains the phases of the runtime, which follow each other
/// without a gap, and the phases of init.
struct Trace {
    command: Event,
    error: Option<String>,
    runtime: Vec<Event>,
    init: Vec<Event>,
}

fn trace(path: &str) -> Trace {
    let text = fs::read_to_string(path).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let all = json["traceEvents"].as_array().unwrap();
    let is = |event: &&Value, phase: &str| event["ph"] == phase;
    let complete: Vec<_> = all.iter().filter(|event| is(event, "X")).collect();
    assert_eq!(complete.len() + all.iter().filter(|event| is(event, "M")).count(), all.len(), "{text}");
    let nanos = |micros: &Value| (micros.as_f64().unwrap() * 1000.0).round() as u64;
    let mut events = complete.iter().map(|event| Event {
        thread: event["tid"].as_u64().unwrap(),
        kind: event["cat"].as_str().unwrap().to_owned(),
        name: event["name"].as_str().unwrap().to_owned(),
        begin: nanos(&event["ts"]),
        // There is a nanosecond between two phases.
        end: nanos(&event["ts"]) + nanos(&event["dur"]) + u64::from(event["cat"] != "command"),
    });
    for phases in complete[1..].windows(2).filter(|phases| phases[0]["tid"] == phases[1]["tid"]) {
        let micros = |event: usize, what: &str| phases[event][what].as_f64().unwrap();
        assert!(micros(0, "ts") + micros(0, "dur") < micros(1, "ts"), "as viewers compute: {text}");
    }
    let command = events.next().unwrap();
    assert_eq!((command.kind.as_str(), command.begin), ("command", 0), "{text}");
    let (runtime, init): (Vec<_>, Vec<_>) = events.partition(|event| event.thread == command.thread);
    assert_eq!((runtime[0].begin, runtime.last().unwrap().end), (0, command.end), "{text}");
    assert!(runtime.windows(2).all(|two| two[0].end == two[1].begin), "the phases make up the command: {text}");
    assert!(init.windows(2).all(|two| two[0].end <= two[1].begin), "{text}");
    assert!(init.iter().all(|event| event.begin <= event.end && event.end <= command.end), "{text}");
    let error = complete[0]["args"]["error"].as_str().map(str::to_owned);
    Trace { command, error, runtime, init }
}

impl Trace {
    /// These are among the phases, in this order.
    #[track_caller]
    fn has(&self, runtime: &[&str], init: &[&str]) {
        for (lane, expected) in [(&self.runtime, runtime), (&self.init, init)] {
            let mut names = lane.iter().map(|event| event.name.as_str());
            for name in expected {
                assert!(names.any(|found| found == *name), "{name:?} in its place: {lane:#?}");
            }
        }
    }
}

fn each_command_has_one(t: &Test) {
    if is_peer(t) {
        return;
    }
    let file = t.path("trace.json");
    let hook = t.script("hook", "exit 0");
    let config = Config::sleep().push("/hooks/createRuntime", json!({ "path": hook }));
    let c = t.container(config);
    c.create_cmd(&["--timeline", &file]).ok();
    let create = trace(&file);
    assert_eq!(create.command.name, format!("berth create {}", c.id));
    assert_eq!(create.error, None);
    let hook = format!("waits: createRuntime hook 0: {hook}");
    create.has(
        &[
            "configuration",
            "plan",
            "state directory, record",
            "cgroups",
            "start socket",
            "clone",
            "init's image",
            "placement, hard limits",
            "waits: init",
            "hooks",
            &hook,
            "waits: init",
            "record, pid file",
        ],
        &[
            "descriptors, joined namespaces",
            "waits: Placed",
            "session, keyring, namespaces, names",
            "mounts, devices",
            "waits: hooks",
            "mounts, devices",
            "terminal, pivot_root",
            "privileges, user, descriptors",
            "waits: start",
        ],
    );
    // Init waits while the runtime runs the hooks.
    let of = |events: &[Event], name: &str| events.iter().find(|event| event.name == name).unwrap().clone();
    let (waits, runs) = (of(&create.init, "waits: hooks"), of(&create.runtime, &hook));
    assert!(waits.begin <= runs.begin && runs.end <= waits.end && runs.kind == "wait", "{waits:?} {runs:?}");

    c.cli("start", &["--timeline", &file]).arg(&c.id).ok();
    trace(&file)
        .has(&["record", "waits: exec"], &["start, startContainer hooks", "limits, seccomp, exec", "the process"]);
    c.exec_cmd(&["--timeline", &file], &["/bin/true"]).ok();
    let exec = trace(&file);
    assert_eq!(exec.command.name, format!("berth exec {}", c.id));
    exec.has(
        &[
            "record",
            "plan",
            "cgroups",
            "init's image",
            "clone",
            "waits: stage",
            "placement, hard limits",
            "waits: init",
            "record, pid file",
            "waits: exec",
            "waits: the process",
        ],
        &[
            "descriptors, joined namespaces",
            "forked by the stage",
            "privileges, user, descriptors",
            "limits, seccomp, exec",
            "the process",
        ],
    );
    let run = t.container(Config::sh("exit 7"));
    run.run_cmd(&["--timeline", &file]).run().code(7);
    let run = trace(&file);
    run.has(
        &["plan", "clone", "waits: init", "waits: exec", "waits: the process", "delete"],
        &["mounts, devices", "the process"],
    );
    assert_eq!(of(&run.init, "the process").kind, "process");
    assert_eq!(run.error, None, "the status of the process is no failure of the command");
}

fn a_restore_has_one(t: &Test) {
    if is_peer(t) || !criu_works() {
        return;
    }
    let c = t.container(Config::sh(
        "exec </dev/null >/dev/null 2>&1; mkfifo /tmp/wait; exec 9<>/tmp/wait; while true; do read -t 1 x <&9; done",
    ));
    c.up();
    c.wait_status("running");
    checkpoint(&c, &[]).ok();
    let file = t.path("trace.json");
    restore(&c, &["--detach", "--timeline", &file]).ok();
    let runtime = [
        "plan",
        "cgroups",
        "mounts for CRIU",
        "waits: CRIU: version",
        "request to CRIU",
        "waits: CRIU reads the images",
        "CRIU's post-restore",
        "record, pid file",
    ];
    trace(&file).has(&runtime, &["restored by CRIU", "the process"]);
}

fn a_failed_start_has_one_up_to_its_failure(t: &Test) {
    if is_peer(t) {
        return;
    }
    let file = t.path("trace.json");
    // Refused by the plan, by init, and by exec.
    let script = "#!/no/such/interpreter\n";
    for (config, says, runtime, init) in [
        (Config::sleep().set("/process/cwd", "relative"), "Cwd must be an absolute path", "plan", None),
        (Config::new(["/no/such/program"]), "no such file", "delete", Some("privileges, user, descriptors")),
        (Config::new(["/script"]), "exec /script", "delete", Some("limits, seccomp, exec")),
    ] {
        let c = t.container(config);
        let path = c.rootfs().join("script");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        c.run_cmd(&["--timeline", &file]).run().fails().says(says);
        let trace = trace(&file);
        let error = trace.error.as_deref().unwrap_or_default();
        assert!(error.contains(says), "{error:?}");
        trace.has(&[runtime], &init.into_iter().collect::<Vec<_>>());
        let (last, died) = (trace.runtime.last().unwrap(), trace.init.last());
        assert_eq!(last.name, runtime);
        assert_eq!(died.map(|event| event.name.as_str()), init);
        assert!(died.is_none_or(|event| event.end < trace.command.end), "it ends when init does: {died:?}");
        c.assert_gone();
    }
}

fn what_cannot_be_written_is_told_before_anything_is_made(t: &Test) {
    if is_peer(t) {
        return;
    }
    let (hook, ran) = (t.script("hook", &format!("touch {}", t.path("ran"))), t.path("ran"));
    let c = t.container(Config::sleep().push("/hooks/createRuntime", json!({ "path": hook })));
    for (file, says) in [
        (t.path("no/such/directory/file"), "no such file or directory"),
        (t.dir.to_str().unwrap().to_owned(), "is a directory"),
        ("/proc/timeline".to_owned(), "--timeline: write(\"/proc/timeline\"): "),
    ] {
        for command in [c.create_cmd(&["--timeline", &file]), c.run_cmd(&["--timeline", &file])] {
            command.run().code(1).says("berth: --timeline: ").says(says);
            c.assert_gone();
            assert!(!Path::new(&ran).exists(), "{file}");
        }
    }
    // An existing file stays what it is until the new one is complete.
    let file = t.write("trace.json", "old");
    c.create_cmd(&["--timeline", &file]).ok();
    trace(&file);
    c.exec_cmd(&["--timeline", &t.path("no/file")], &["/bin/true"]).run().code(255).says("berth: --timeline: open(");
    assert_eq!(c.status(), "created");
}

fn names_are_no_markup(t: &Test) {
    if is_peer(t) {
        return;
    }
    let hook = t.script("a <b> & \"c\" 'd' \u{1b}[2J", "exit 0");
    let config = Config::new(["/bin/echo", "<&\">"]).set("/annotations/<&\"", "]]>");
    let c = t.container(config.push("/hooks/createRuntime", json!({ "path": hook })));
    let (picture, file) = (t.path("timeline.svg"), t.path("trace.json"));
    c.run_cmd(&["--timeline", &picture]).ok();
    let svg = fs::read_to_string(&picture).unwrap();
    // `timeline::svg` has the tests of the form.
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    assert!(svg.contains("/a &lt;b&gt; &amp; &quot;c&quot; &#39;d&#39; \\x1b[2J"), "{svg}");
    assert!(svg.contains(&format!("berth run {}: ", c.id)), "{svg}");
    assert!(!svg.contains("<b>") && !svg.contains('\u{1b}'), "{svg}");
    c.run_cmd(&["--timeline", &file]).ok();
    let name = format!("waits: createRuntime hook 0: {}", hook.replace('\u{1b}', "\\x1b"));
    trace(&file).has(&[&name], &[]);
}

fn with_a_stage_and_with_id_maps(t: &Test) {
    if is_peer(t) {
        return;
    }
    let file = t.path("trace.json");
    let up = t.container(Config::sleep());
    up.up();
    // In the place of mqueue, which a user namespace may show of an IPC namespace of its own only.
    let tmpfs = json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" });
    let mapped = || Config::new(["/bin/true"]).userns(100_000);
    let join = |config: Config, kind| config.namespace(kind, Some(&format!("/proc/{}/ns/{kind}", up.pid())));
    for (config, runtime, init) in [
        (mapped(), &["clone", "id maps", "init's image", "waits: init"][..], &["mounts, devices"][..]),
        (
            join(Config::new(["/bin/true"]), "pid"),
            &["init's image", "waits: stage", "waits: init"],
            &["mounts, devices"],
        ),
        (
            join(mapped().set("/mounts/4", tmpfs), "ipc"),
            &["init's image", "waits: stage", "id maps"],
            &["waits: id maps", "mounts, devices"],
        ),
    ] {
        t.container(config).run_cmd(&["--timeline", &file]).ok();
        trace(&file).has(runtime, init);
    }
}

/// Neither the runtime nor init.
fn what_is_off_makes_no_call(t: &Test) {
    if is_peer(t) {
        return;
    }
    let calls = |options: &[&str]| {
        let c = t.container(Config::new(["/bin/true"]));
        let nowhere = Point { process: usize::MAX, number: 0, occurrence: 0 };
        let (output, seen) = c.run_cmd(options).trace(&[], nowhere, Action::Watch, Duration::from_secs(30)).wait();
        assert!(output.status.success() && seen.hang.is_none(), "{output}");
        move |process: usize, numbers: &[i64]| {
            seen.points.iter().filter(|point| point.process == process && numbers.contains(&point.number)).count()
        }
    };
    let (off, on) = (calls(&[]), calls(&["--timeline", &t.path("trace.json")]));
    // The kernel's times of messages; init's messages, as it sends no other ones for this configuration.
    let (stamp, send) = (&[libc::SYS_setsockopt][..], &[libc::SYS_sendmsg][..]);
    assert_eq!((off(0, stamp), off(1, send)), (0, 0));
    assert_eq!((on(0, stamp), on(1, send)), (1, 6));
    // Deadlines need the time, too: but for a clock like these, it is read without a call.
    let source = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource").unwrap();
    if !["hpet", "acpi_pm", "jiffies"].contains(&source.trim()) {
        let clock = &[libc::SYS_clock_gettime, libc::SYS_gettimeofday][..];
        assert_eq!((off(0, clock), off(1, clock)), (0, 0));
    }
}

/// It shows the phases that there are, in their order.
fn the_session_of_the_documentation(t: &Test) {
    if is_peer(t) {
        return;
    }
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/timeline.md")).unwrap();
    let session = page.split_once("start.json\n1 ").unwrap().1.split_once("```").unwrap().0;
    let lines: Vec<_> = session.lines().skip(1).map(|line| line.splitn(3, ' ').collect::<Vec<_>>()).collect();
    let of = |thread: &str| lines.iter().filter(|line| line[0] == thread).map(|line| line[2]).collect::<Vec<_>>();
    let file = t.path("trace.json");
    let config = Config::new(["/bin/true"]).set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" }));
    t.container(config).run_cmd(&["--timeline", &file]).ok();
    let trace = trace(&file);
    trace.has(&of("1"), &of("2"));
    assert_eq!((trace.runtime.len(), trace.init.len()), (of("1").len(), of("2").len()));
}
