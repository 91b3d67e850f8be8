//! The command line as engines and people meet it: the binary itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const COMMANDS: &[&str] = &[
    "checkpoint",
    "completion",
    "create",
    "delete",
    "doctor",
    "events",
    "exec",
    "features",
    "kill",
    "list",
    "mounts",
    "pause",
    "ps",
    "restore",
    "resume",
    "run",
    "spec",
    "start",
    "state",
    "update",
    "validate",
];

fn berth(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_berth")).args(args).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// A directory of the test's own.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("berth-cli-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn read_json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_version_is_what_engines_parse() {
    for flag in ["-v", "--version", "-version"] {
        let output = berth(&[flag]);
        assert_eq!(output.status.code(), Some(0));
        let lines: Vec<_> = stdout(&output).lines().collect();
        assert_eq!(lines[0], concat!("berth version ", env!("CARGO_PKG_VERSION")));
        assert!(lines[1].starts_with("commit: ") && lines[1].len() > 8, "{lines:?}");
        assert_eq!(lines[2], "spec: 1.3.0");
        assert!(lines[3].starts_with("target: ") && lines[3].contains("-linux-"), "{lines:?}");
    }
}

/// containerd calls a shim like this. A link of another name does not make berth one.
#[test]
fn a_shim_of_another_name_is_told_of_the_right_one() {
    let output = berth(&["-namespace", "default", "-id", "web", "start"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("ln -s berth containerd-shim-berth-v2"), "{}", stderr(&output));
}

#[test]
fn help_is_no_failure() {
    for flag in ["-h", "--help", "-help"] {
        let output = berth(&[flag]);
        assert_eq!(output.status.code(), Some(0), "{flag}");
        let lines: Vec<_> = stdout(&output).lines().map(str::trim).collect();
        assert_eq!(lines[..2], ["NAME:", "berth - Open Container Initiative runtime"]);
        for command in COMMANDS {
            assert!(lines.iter().any(|line| line.starts_with(&format!("{command} "))), "{command}");
            let output = berth(&[command, flag]);
            assert_eq!(output.status.code(), Some(0), "{command} {flag}");
            let lines: Vec<_> = stdout(&output).lines().map(str::trim).collect();
            assert!(lines[0] == "NAME:" && lines[1].starts_with(&format!("berth {command} - ")), "{lines:?}");
        }
    }
    for (args, wanted) in
        [(&[][..], "berth - "), (&["help"], "berth - "), (&["help", "kill"], "berth kill - "), (&["h"], "berth - ")]
    {
        let output = berth(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(stdout(&output).contains(wanted), "{args:?}");
    }
}

/// The long options that are not hidden, of a command, or without one the global ones.
fn options(command: &clap::Command) -> Vec<String> {
    let mut command = command.clone();
    command.build();
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown.filter_map(|arg| arg.get_long().map(|long| format!("--{long}"))).collect()
}

#[test]
fn every_command_and_option_is_in_help_manual_and_completions() {
    let definition = berth::internal::cli::definition();
    let shells = ["bash", "zsh", "fish"].map(|shell| {
        let output = berth(&["completion", shell]);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output).to_owned()
    });
    let commands: Vec<_> = definition.get_subcommands().map(clap::Command::get_name).collect();
    assert_eq!(commands, COMMANDS);
    for command in std::iter::once(&definition).chain(definition.get_subcommands()) {
        let name = if command.get_name() == "berth" { "" } else { command.get_name() };
        let words = name.split_whitespace().chain(["--help"]).collect::<Vec<_>>();
        let help = stdout(&berth(&words)).to_owned();
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone()).render(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap().replace('\\', "");
        let head = if name.is_empty() { "    \'\')\n".to_owned() } else { format!("    {name})\n") };
        let bash = shells[0].split_once(&head).unwrap().1.split_once("        ;;\n").unwrap().0;
        let head = if name.is_empty() { "\n_berth() {".to_owned() } else { format!("\n_berth_{name}() {{") };
        let zsh = shells[1].split_once(&head).unwrap().1.split_once("\n}\n").unwrap().0;
        let condition = format!("'__berth_at {}", if name.is_empty() { "\"\" " } else { name });
        let fish: String = shells[2].lines().filter(|line| line.contains(&condition)).collect::<Vec<_>>().join("\n");
        for option in options(command) {
            assert!(help.contains(&option), "{name} {option}: {help}");
            assert!(page.contains(&option), "{name} {option}: {page}");
            assert!(bash.split(|c: char| " \'".contains(c)).any(|word| word == option), "{name} {option}: {bash}");
            assert!(["", "="].iter().any(|end| zsh.contains(&format!("\'*{option}{end}["))), "{name} {option}: {zsh}");
            assert!(fish.contains(&format!("-l {} ", &option[2..])), "{name} {option}: {fish}");
        }
    }
}

#[test]
fn flags_of_other_runtimes_are_accepted() {
    let dir = Dir::new("compat");
    let root = dir.path("root");
    for args in [
        &["create", "--no-subreaper", "-f", "/nonexistent", "a"][..],
        &["exec", "--no-subreaper", "-g", "5", "-c", "CAP_KILL", "a", "true"],
    ] {
        let output = berth(&[&["--root", &root][..], args].concat());
        assert!(!stderr(&output).contains("argument"), "{args:?}: {}", stderr(&output));
    }
    assert!(stdout(&berth(&["-V"])).starts_with("berth version "));
    let log = dir.path("log");
    let output = berth(&["-r", "/nonexistent", "-l", &log, "-s", "list"]);
    assert!(stderr(&output).contains("list: stat(\"/nonexistent\")"), "{}", stderr(&output));
    assert!(std::fs::read_to_string(&log).unwrap().contains("level=error"));
    let output = berth(&["spec", "-b", dir.0.to_str().unwrap(), "-f", "other.json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(read_json(&dir.path("other.json"))["hostname"], "berth");
}

#[test]
fn help_goes_by_the_name_we_were_called() {
    let dir = Dir::new("name");
    let link = dir.path("runc");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_berth"), &link).unwrap();
    let output = Command::new(&link).arg("-h").output().unwrap();
    assert!(stdout(&output).contains("runc - Open Container Initiative runtime"));
    for (shell, line) in [("bash", "-F _berth runc\n"), ("zsh", "#compdef runc\n"), ("fish", "complete -c runc ")] {
        let output = Command::new(&link).args(["completion", shell]).output().unwrap();
        assert!(stdout(&output).contains(line), "{}", stdout(&output));
    }
}

#[test]
fn wrong_usage_is_told_on_one_line_with_a_hint() {
    for (args, code, message) in [
        (&["foo", "-h"][..], 3, "berth: No help topic for 'foo'"),
        (&["help", "foo"], 3, "berth: No help topic for 'foo'"),
        (&["rm", "a"], 3, "berth: No help topic for 'rm': there is no such command\n  hint: `berth delete CONTAINER` "),
        (&["version"], 3, "berth: No help topic for 'version': there is no such command\n  hint: `berth --version` "),
        (&["state"], 1, "berth: the following required arguments were not provided: <CONTAINER>\n"),
        (&["state", "a", "b"], 1, "berth: unexpected argument 'b' found\n"),
        (&["kill", "--nope", "a"], 1, "berth: unexpected argument '--nope' found\n"),
        (&["run", "--detach=maybe", "a"], 1, "berth: --detach=maybe: "),
        (&["create", "--preserve-fds", "x", "a"], 1, "berth: invalid value 'x' for '--preserve-fds <N>'"),
        (&["kill", "a", "NOPE"], 1, "berth: kill a: unknown signal \"NOPE\"\n"),
        (&["list", "-f", "xml"], 1, "berth: list: "),
        (&["exec", "a"], 255, "berth: exec a: exec args cannot be empty\n"),
        (&["exec"], 1, "berth: the following required arguments were not provided: <CONTAINER>\n"),
        (&["exec", "-g", "x", "a", "sh"], 1, "berth: invalid value 'x' for '--additional-gids <GID>'"),
        (&["exec", "--nope", "a", "sh"], 1, "berth: unexpected argument '--nope' found\n"),
        (&["exec", "-u", "1x", "a", "sh"], 255, "berth: exec a: bad uid \"1x\" in --user"),
        (&["--cgroup-manager", "docker", "list"], 1, "berth: invalid value 'docker' for '--cgroup-manager <MANAGER>'"),
        (&["--rootless", "perhaps", "list"], 1, "berth: --rootless perhaps: "),
        (&["--root", "/", "list"], 1, "berth: --root must not be"),
        (&["--root", "/nonexistent", "list"], 1, "berth: list: stat(\"/nonexistent\"): no such file"),
        (&["--log-format", "xml", "list"], 1, "berth: invalid value 'xml' for '--log-format <FORMAT>'"),
        (&["--log", "/nonexistent/log", "list"], 1, "berth: --log: open(\"/nonexistent/log\"): no such file"),
    ] {
        let output = berth(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(stderr(&output).starts_with(message), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(stderr(&output).lines().skip(1).all(|line| line.starts_with("  hint: ")), "{}", stderr(&output));
    }
}

#[test]
fn engines_forms_are_understood() {
    let dir = Dir::new("forms");
    let (root, log) = (dir.path("root"), dir.path("log.json"));
    for args in [
        &["list"][..],
        &["run", "-no-subreaper", "-bundle", "/nonexistent", "--detach=true", "--pid-file=/x", "a"],
        &["run", "a", "-d", "--keep", "--bundle=/nonexistent"],
        &["create", "--bundle", "/nonexistent", "--pid-file", "/x", "--no-pivot", "a"],
        &["exec", "--process", "/nonexistent", "--detach", "--pid-file", "/x", "a"],
        &[
            "exec",
            "-e",
            "A=-b",
            "-c",
            "CAP_KILL",
            "-g",
            "5",
            "-u",
            "1:2",
            "--cgroup",
            "cpu,memory:/x",
            "a",
            "-x",
            "--y",
        ],
        &["kill", "--all", "a", "9"],
        &["kill", "a", "SIGTERM", "-a"],
        &["delete", "a", "--force=false"],
    ] {
        let output = berth(&[&["--root", &root, "--log", &log, "--log-format", "json"], args].concat());
        let error = stderr(&output);
        let usage = ["unexpected argument", "required arguments", "invalid value", "cannot be used"];
        assert!(!usage.iter().any(|words| error.contains(words)), "{args:?}: {error}");
    }
}

#[test]
fn engines_find_the_error_in_the_log() {
    let dir = Dir::new("log");
    let log = dir.path("log.json");
    let output = berth(&["--log", &log, "--log-format=json", "--debug", "--root", "/nonexistent", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("berth: list: ") && !stderr(&output).contains("level="));
    let text = std::fs::read_to_string(&log).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records[0]["level"], "debug");
    let last = records.last().unwrap();
    assert_eq!(last["level"], "error");
    assert_eq!(last["msg"], "list: stat(\"/nonexistent\"): no such file or directory");
    let time = last["time"].as_str().unwrap();
    assert!(time.len() == 20 && time.starts_with("20") && time.ends_with('Z'), "{time}");

    let output = berth(&["--log", &log, "--root", "/nonexistent", "list"]);
    assert_eq!(output.status.code(), Some(1));
    let text = std::fs::read_to_string(&log).unwrap();
    let last = text.lines().last().unwrap();
    assert!(last.contains(" level=error msg=\"list: stat(\\\"/nonexistent\\\"): no such file"), "{last}");
}

#[test]
fn without_a_file_the_format_says_who_reads() {
    let output = berth(&["--log-format", "json", "--root", "/nonexistent", "list"]);
    let record: Value = serde_json::from_str(stderr(&output)).unwrap();
    assert_eq!(record["level"], "error");
    let output = berth(&["--log-format", "text", "--root", "/nonexistent", "list"]);
    assert!(stderr(&output).starts_with("time=\"20"), "{}", stderr(&output));
    let output = berth(&["--debug", "--root", "/nonexistent", "list"]);
    assert!(stderr(&output).contains("level=debug") && stderr(&output).contains("\nberth: list: "));
}

/// A second reader of the documents that berth writes: the crate that other runtimes and tools read them with.
fn read_by_others<T: serde::de::DeserializeOwned + serde::Serialize>(document: &Value) -> Value {
    let read: T = serde_json::from_value(document.clone()).unwrap_or_else(|e| panic!("{e}: {document}"));
    serde_json::to_value(read).unwrap()
}

/// Everything in `document` was understood: a field that the reader does not know would be missing in `read`.
fn assert_understood(pointer: &str, document: &Value, read: &Value) {
    match (document, read) {
        (Value::Object(document), Value::Object(read)) => {
            for (key, value) in document {
                let read = read.get(key).unwrap_or_else(|| panic!("{pointer}/{key} was not understood"));
                assert_understood(&format!("{pointer}/{key}"), value, read);
            }
        }
        (Value::Array(document), Value::Array(read)) => {
            assert_eq!(document.len(), read.len(), "{pointer}");
            // Sets come in any order.
            if document.iter().all(Value::is_string) {
                let sorted = |list: &[Value]| {
                    let mut words: Vec<_> = list.iter().map(Value::to_string).collect();
                    words.sort();
                    words
                };
                return assert_eq!(sorted(document), sorted(read), "{pointer}");
            }
            for (n, (document, read)) in document.iter().zip(read).enumerate() {
                assert_understood(&format!("{pointer}/{n}"), document, read);
            }
        }
        _ => assert_eq!(document, read, "{pointer}"),
    }
}

#[test]
fn other_readers_understand_spec_and_features() {
    use oci_spec::runtime::{Features, Spec};
    for args in [&[][..], &["--rootless"]] {
        let dir = Dir::new(&format!("others-{}", args.len()));
        let config = spec(&dir, args);
        assert_understood("", &config, &read_by_others::<Spec>(&config));
    }
    let features: Value = serde_json::from_slice(&berth(&["features"]).stdout).unwrap();
    assert_understood("", &features, &read_by_others::<Features>(&features));
}

fn spec(dir: &Dir, args: &[&str]) -> Value {
    let output = berth(&[&["spec", "--bundle", dir.0.to_str().unwrap()], args].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    read_json(&dir.path("config.json"))
}

fn destinations(config: &Value) -> Vec<&str> {
    config["mounts"].as_array().unwrap().iter().map(|mount| mount["destination"].as_str().unwrap()).collect()
}

fn namespaces(config: &Value) -> Vec<&str> {
    let all = config["linux"]["namespaces"].as_array().unwrap().iter();
    all.map(|namespace| namespace["type"].as_str().unwrap()).filter(|kind| *kind != "cgroup").collect()
}

#[test]
fn spec_writes_what_suites_build_on() {
    let dir = Dir::new("spec");
    let config = spec(&dir, &[]);
    let process = &config["process"];
    assert_eq!((&process["terminal"], &process["args"]), (&json!(true), &json!(["sh"])));
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(process["capabilities"]["bounding"], json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]));
    assert!(process["capabilities"].get("inheritable").is_none());
    assert_eq!(process["rlimits"], json!([{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }]));
    assert_eq!(config["root"], json!({ "path": "rootfs", "readonly": true }));
    let wanted = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"];
    assert_eq!(destinations(&config), wanted);
    assert!(config["mounts"][2]["options"].as_array().unwrap().contains(&json!("gid=5")));
    assert_eq!(namespaces(&config), ["pid", "network", "ipc", "uts", "mount"]);
    assert_eq!(config["linux"]["resources"]["devices"], json!([{ "allow": false, "access": "rwm" }]));

    let output = berth(&["spec", "-b", dir.0.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("file exists\n  hint: remove"), "{}", stderr(&output));

    // Half a file is not left.
    let other = Dir::new("spec-limited");
    let script = "ulimit -f 0; exec \"$0\" spec --bundle \"$1\"";
    let mut limited = Command::new("/bin/sh");
    let output = limited.args(["-c", script, env!("CARGO_BIN_EXE_berth")]).arg(&other.0).output().unwrap();
    assert!(stderr(&output).contains("file too large"), "{}", stderr(&output));
    assert!(!other.0.join("config.json").exists());
}

#[test]
fn spec_for_a_user_has_a_user_namespace() {
    let dir = Dir::new("rootless");
    let config = spec(&dir, &["--rootless"]);
    assert_eq!(namespaces(&config), ["pid", "ipc", "uts", "mount", "user"]);
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&dir.0).unwrap());
    assert_eq!(config["linux"]["uidMappings"], json!([{ "containerID": 0, "hostID": uid, "size": 1 }]));
    assert!(config["linux"].get("resources").is_none());
}

#[test]
fn features_have_the_keys_of_the_spec() {
    let output = berth(&["features"]);
    let features: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!((&features["ociVersionMin"], &features["ociVersionMax"]), (&json!("1.0.0"), &json!("1.3.0")));
    let linux = &features["linux"];
    for list in [
        &features["hooks"],
        &features["mountOptions"],
        &linux["namespaces"],
        &linux["capabilities"],
        &linux["seccomp"]["actions"],
        &linux["seccomp"]["operators"],
        &linux["seccomp"]["archs"],
        &linux["seccomp"]["knownFlags"],
        &linux["seccomp"]["supportedFlags"],
        &linux["memoryPolicy"]["modes"],
        &linux["memoryPolicy"]["flags"],
    ] {
        assert!(list.as_array().is_some_and(|list| !list.is_empty()), "{list}");
    }
    assert_eq!(linux["capabilities"].as_array().unwrap().len(), 41);
    assert!(features["mountOptions"].as_array().unwrap().contains(&json!("rro")));
    for enabled in [
        &linux["seccomp"]["enabled"],
        &linux["apparmor"]["enabled"],
        &linux["selinux"]["enabled"],
        &linux["intelRdt"]["enabled"],
        &linux["mountExtensions"]["idmap"]["enabled"],
        &linux["netDevices"]["enabled"],
        &linux["cgroup"]["v1"],
        &linux["cgroup"]["v2"],
        &linux["cgroup"]["systemd"],
        &linux["cgroup"]["systemdUser"],
        &linux["cgroup"]["rdma"],
    ] {
        assert_eq!(enabled, &json!(true));
    }
    let prefixes = json!(["org.criu.config", "org.systemd.property.", "run.oci."]);
    assert_eq!(features["potentiallyUnsafeConfigAnnotations"], prefixes);
    // Engines read this one word, by which they offer checkpoints.
    assert_eq!(features["annotations"]["org.opencontainers.runc.checkpoint.enabled"], json!("true"));
}

#[test]
fn output_that_nobody_reads_is_an_error_and_no_panic() {
    let full = std::fs::File::options().write(true).open(Path::new("/dev/full")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_berth")).arg("features").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("berth: features: write(stdout): no space left on device\n"), "{output:?}");
}

/// Words that those who drive runc look for, next to our own.
#[test]
fn known_words_are_in_the_message() {
    let dir = Dir::new("words");
    let (root, bundle) = (dir.path("root"), dir.path("nothing"));
    for (args, words) in [
        (&["state", ""][..], "container id cannot be empty"),
        (&["state", ".."], "invalid container ID format"),
        (&["create", "--bundle", &bundle, "a"], "JSON specification file config.json not found"),
        (&["create", "--bundle", &dir.path("."), "a"], "JSON specification file config.json not found"),
        (&["kill", "a", ""], "container does not exist"),
    ] {
        let output = berth(&[&["--root", &root], args].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).contains(words), "{args:?}: {}", stderr(&output));
    }
}
