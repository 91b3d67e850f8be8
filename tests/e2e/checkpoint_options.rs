//! What becomes of the options of `checkpoint` and `restore`: the requests that a stand-in for CRIU gets.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::checkpoint::{VERSION, checkpoint, images, make_images, restore, stand_in};
use crate::harness::shim::{any, number, text as field};
use crate::harness::{Config, Test};

e2e!(any: options_of_checkpoint_reach_criu, options_of_restore_reach_criu, who_waits_for_lazy_pages_is_told,
    options_of_the_shim_reach_criu);

/// Keeps what it is asked to do and refuses it. `announcement` comes before the refusal.
fn recorder(t: &Test, announcement: &str) -> String {
    let (request, asked) = (t.path("request"), t.path("asked"));
    let features = r"\010\011\020\001\102\004\010\001\020\001";
    let body = format!(
        r#"while dd bs=65536 count=1 <&$2 >{request} 2>/dev/null && test -s {request}; do
            kind=$(dd if={request} bs=1 skip=1 count=1 2>/dev/null | od -An -tu1)
            case $kind in
            *10) {VERSION} >&$2 ;;
            *9) printf '{features}' >&$2 ;;
            *6) printf "\\010\\00$last\\020\\000" >&$2 ;;
            *) last=${{kind##* }}; cat {request} > {asked}
                if test -n '{announcement}'; then printf '{announcement}' >&$2
                else printf "\\010\\00$last\\020\\000" >&$2; fi ;;
            esac
        done"#
    );
    stand_in(t, &body)
}

#[derive(Debug, PartialEq)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

/// The fields of a message (protobuf.dev, "Encoding"): varints and what has a length, as CRIU's requests have.
fn fields(mut rest: &[u8]) -> Vec<(u64, Value)> {
    fn varint(rest: &mut &[u8]) -> u64 {
        let length = rest.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let value = rest[..length].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
        *rest = &rest[length..];
        value
    }
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest);
        let number = varint(&mut rest);
        let value = match key & 7 {
            0 => Value::Number(number),
            2 => {
                let (bytes, after) = rest.split_at(number as usize);
                rest = after;
                Value::Bytes(bytes.to_owned())
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, value));
    }
    fields
}

/// What it was asked to do, and the options with it.
fn asked(t: &Test) -> (u64, Vec<(u64, Value)>) {
    let request = fields(&fs::read(t.path("asked")).unwrap());
    let [(1, Value::Number(kind)), (2, Value::Bytes(options))] = &request[..] else { panic!("{request:?}") };
    (*kind, fields(options))
}

fn text(text: &str) -> Value {
    Value::Bytes(text.as_bytes().to_owned())
}

const YES: Value = Value::Number(1);

/// Those that both commands have, and the field of `criu_opts` in CRIU's `rpc.proto` that they set.
fn common() -> Vec<(&'static [&'static str], u64, Value)> {
    vec![
        (&["--ext-unix-sk"], 4, YES),
        (&["--tcp-established"], 5, YES),
        (&["--shell-job"], 7, YES),
        (&["--file-locks"], 8, YES),
        (&["--auto-dedup"], 16, YES),
        (&["--lazy-pages"], 48, YES),
        (&["--manage-cgroups-mode", "ignore"], 34, Value::Number(0)),
        (&["--manage-cgroups-mode", "full"], 34, Value::Number(4)),
        (&["--manage-cgroups-mode", "strict"], 34, Value::Number(5)),
        (&["--network-lock", "iptables"], 64, Value::Number(1)),
        (&["--network-lock", "nftables"], 64, Value::Number(2)),
        (&["--network-lock", "skip"], 64, Value::Number(3)),
    ]
}

fn options_of_checkpoint_reach_criu(t: &Test) {
    if t.peer_lacks("tells CRIU more than it was told, or asks it by libcriu") {
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    let path = recorder(t, "");
    let ask = |options: &[&str]| {
        checkpoint(&c, options).env("PATH", &path).run().code(1).says("failed");
        asked(t)
    };
    let (kind, plain) = ask(&[]);
    assert_eq!(kind, 1, "a dump");
    assert!(plain.contains(&(34, Value::Number(3))), "soft: {plain:?}");
    // What is in the network namespace is made again by whoever made it.
    assert!(plain.contains(&(38, Value::Number(0x4000_0000))), "{plain:?}");
    assert_eq!(ask(&["--empty-ns", "network"]).1, plain);
    fs::create_dir_all(Path::new(&images(&c)).join("../earlier")).unwrap();
    let server = Value::Bytes(b"\x0a\x09192.0.2.7\x10\xfb\x0a".to_vec());
    let mut cases = common();
    cases.extend([
        (&["--leave-running"][..], 3, YES),
        (&["--link-remap"], 18, YES),
        (&["--tcp-skip-in-flight"], 46, YES),
        (&["--page-server", "192.0.2.7:1403"], 11, server),
        (&["--parent-path", "../earlier"], 14, text("../earlier")),
        (&["--parent-path", "../earlier"], 15, YES),
    ]);
    for (options, field, value) in cases {
        let wanted = (field, value);
        assert!(!plain.contains(&wanted), "{options:?}: {plain:?}");
        let (kind, given) = ask(options);
        assert!(kind == 1 && given.contains(&wanted), "{options:?}: {given:?}");
    }
    let (kind, given) = ask(&["--pre-dump"]);
    assert!(kind == 4 && given.contains(&(15, YES)), "{given:?}");
    assert_eq!(c.status(), "running");
}

fn options_of_restore_reach_criu(t: &Test) {
    if t.peer_lacks("tells CRIU more than it was told, or asks it by libcriu") {
        return;
    }
    let c = t.container(Config::sleep());
    make_images(&c);
    let path = recorder(t, "");
    let ask = |options: &[&str]| {
        restore(&c, options).env("PATH", &path).arg("--detach").run().code(1).says("failed");
        c.assert_gone();
        asked(t)
    };
    let (kind, plain) = ask(&[]);
    assert_eq!(kind, 2, "a restore");
    assert_eq!(ask(&["--empty-ns", "network"]).1.len(), plain.len());
    let mut cases = common();
    cases.extend([
        (&["--tcp-close"][..], 52, YES),
        (&["--lsm-profile", "selinux:a:b:c"], 53, text("selinux:a:b:c")),
        (&["--lsm-mount-context", "a:b:c"], 63, text("a:b:c")),
    ]);
    for (options, field, value) in cases {
        let wanted = (field, value);
        assert!(!plain.contains(&wanted), "{options:?}: {plain:?}");
        let (kind, given) = ask(options);
        assert!(kind == 2 && given.contains(&wanted), "{options:?}: {given:?}");
    }
}

fn who_waits_for_lazy_pages_is_told(t: &Test) {
    if t.peer_lacks("tells CRIU more than it was told, or asks it by libcriu") {
        return;
    }
    let c = t.container(Config::sleep());
    c.up();
    let path = recorder(t, r"\010\006\020\001\052\016\012\014status-ready");
    for told in [true, false] {
        let (read, write): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
        let options: &[&str] = if told { &["--lazy-pages", "--status-fd", "7"] } else { &["--lazy-pages"] };
        checkpoint(&c, options).env("PATH", &path).pass_fd(write, 7).run().code(1);
        let mut text = Vec::new();
        File::from(read).read_to_end(&mut text).unwrap();
        assert_eq!(text, if told { &b"\0"[..] } else { b"" });
    }
}

/// The fields of `containerd.runc.v1.CheckpointOptions`.
fn options_of_the_shim_reach_criu(t: &Test) {
    let _run = t.private_run();
    let path = recorder(t, "");
    let mut shim = t.shim_with(Config::sleep(), |start| start.env("PATH", &path));
    shim.create(false, ["", "", ""]).unwrap();
    shim.of("Start", "").unwrap();
    let mut ask = |options: Vec<u8>| {
        let options = any("containerd.runc.v1.CheckpointOptions", options);
        let payload = [field(1, shim.id()), field(2, t.path("images")), field(3, options)].concat();
        shim.call("Checkpoint", &payload).unwrap_err()
    };
    let failure = ask(Vec::new());
    assert!(failure.1.starts_with("checkpoint: "), "{failure:?}");
    let plain = asked(t).1;
    fs::create_dir(t.path("earlier")).unwrap();
    for (options, wanted) in [
        (Vec::new(), (3, YES)),
        (number(2, 1), (5, YES)),
        (number(3, 1), (4, YES)),
        (number(4, 1), (7, YES)),
        (number(5, 1), (8, YES)),
        (field(6, "network"), (38, Value::Number(0x4000_0000))),
        (field(10, "../earlier"), (14, text("../earlier"))),
    ] {
        ask(options.clone());
        let (kind, given) = asked(t);
        assert!(kind == 1 && given.contains(&wanted), "{options:?}: {given:?}");
        // Those are what it is told in any case.
        assert_eq!(plain.contains(&wanted), [3, 38].contains(&wanted.0), "{options:?}: {plain:?}");
    }
    ask(number(1, 1));
    assert!(!asked(t).1.contains(&(3, YES)), "a container that is to exit is not left running");
    for without_effect in [field(7, "strict"), field(8, t.path("elsewhere"))] {
        ask(without_effect);
        assert_eq!(asked(t).1, plain);
    }
    ask(field(9, t.path("work")));
    assert!(Path::new(&t.path("work")).is_dir());
    let failure = ask(field(6, "pid"));
    assert_eq!(failure, (3, "checkpoint: namespace \"pid\" cannot be restored as an empty one".into()));
    assert!(shim.container.bundle.join("criu-work").is_dir());
    shim.finish();
}
