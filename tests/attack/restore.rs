//! Images of whoever: what a restore may take from them, and what lies in the directories that CRIU works in.
//!
//! A stand-in that speaks CRIU's messages restores a process as evil images would have it: with more than the
//! configuration of the bundle gives.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use crate::harness::{Config, Container, Operator, Output, Test, busybox, eventually, script};

e2e!(no_more_privileges_than_the_configuration_gives);
e2e!(any:
    a_criu_whose_processes_died_is_ended,
    images_hold_no_links,
    a_fifo_may_be_beside_the_log_but_not_in_its_place,
    earlier_images_are_checked_as_well,
    directories_of_others_are_refused,
    earlier_images_of_others_are_refused,
    nothing_is_made_where_others_lead,
    the_log_is_not_with_the_images,
    the_operators_terminal_is_not_restored,
    a_configuration_that_the_container_wrote_is_not_taken,
);

/// The functions of the stand-in. `notify` and `answer` take a pid, whose bytes are those of protocol buffers.
const FUNCTIONS: &str = r#"
    read_one() { dd bs=65536 count=1 <&$fd 2>/dev/null >/dev/null; }
    varint() { v=$1 bytes=
        while test $v -gt 127; do bytes="$bytes\\$(printf %03o $((v % 128 + 128)))" v=$((v / 128)); done
        bytes="$bytes\\$(printf %03o $v)" length=$((${#bytes} / 4)); }
    notify() { varint $2; name=${#1}
        printf "\\010\\006\\020\\001\\052\\$(printf %03o $((name + length + 3)))\\012\\$(printf %03o $name)$1\\020$bytes" >&$fd
        read_one; }
    answer() { varint $1; printf "\\010\\002\\020\\001\\042\\$(printf %03o $((length + 1)))\\010$bytes" >&$fd; read_one; }
    # Until it is what it executes in the end.
    restored() { pid=$1; until test "$(cat /proc/$pid/comm 2>/dev/null)" = sleep; do test -e /proc/$pid || exit; sleep 0.01; done; echo $pid > $where/pid; }
"#;

/// A `criu swrk FD` that tells its version, is asked to restore, and does this; returns the PATH by which it is found.
fn stand_in(t: &Test, body: &str) -> String {
    let dir = t.dir.join("stand-in");
    fs::create_dir_all(&dir).unwrap();
    let _ = fs::remove_file(t.dir.join("pid"));
    for applet in ["dd", "cat", "sleep", "readlink"] {
        let _ = symlink(busybox(), dir.join(applet));
    }
    let (path, file) = (dir.to_str().unwrap(), dir.join("criu"));
    script(&file, "");
    let version = r"printf '\010\012\020\001\122\006\010\004\020\002\040\001' >&$fd";
    let text = format!(
        "#!{} sh\nPATH={path} where={} fd=$2\n{FUNCTIONS}\nread_one; {version}; read_one\n{body}\n",
        busybox().display(),
        t.dir.display()
    );
    fs::write(&file, text).unwrap();
    path.to_owned()
}

fn images(c: &Container) -> String {
    let images = c.bundle.join("images");
    fs::create_dir_all(&images).unwrap();
    fs::write(images.join("inventory.img"), "").unwrap();
    images.to_str().unwrap().to_owned()
}

fn restore(c: &Container, path: &str) -> Output {
    c.cli("restore", &["--detach", "--image-path", &images(c)]).arg(&c.id).env("PATH", path).run()
}

#[track_caller]
fn assert_dead(t: &Test) {
    let pid = fs::read_to_string(t.path("pid")).unwrap().trim().to_owned();
    let alive = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        !status.is_empty() && !status.contains("State:\tZ")
    };
    eventually("the end of what was restored", || !alive());
}

/// What is restored, as a command that ends in sleep.
const MODEST: &str =
    "/usr/bin/unshare --mount /usr/bin/setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+kill sleep 1000";

fn no_more_privileges_than_the_configuration_gives(t: &Test) {
    let config = ["pid", "network", "ipc", "uts"].into_iter().fold(Config::sleep(), Config::without_namespace);
    let config = config.remove("/hostname").capabilities(&["CAP_KILL"]);
    let restoring = |command: &str| {
        stand_in(
            t,
            &format!(
                "(eval \"exec $fd>&-\"; exec {command}) & restored $!
                 notify setup-namespaces $pid; notify post-restore $pid; notify pre-resume $pid; answer $pid"
            ),
        )
    };
    // What the configuration gives is restored, so nothing below fails for another reason.
    let c = t.container(config.clone());
    restore(&c, &restoring(MODEST)).ok();
    assert_eq!(c.status(), "running");
    c.delete_force().ok();
    assert_dead(t);
    let filter =
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["reboot"], "action": "SCMP_ACT_ERRNO" }] });
    let child = format!("/usr/bin/unshare --mount {} sh -c 'sleep 1000 & exec {MODEST}'", busybox().display());
    let own_ipc = format!("/proc/{}/ns/ipc", std::process::id());
    for (config, command, complaint) in [
        (&config, MODEST.replace("+kill", "+kill,+sys_admin"), "CapBnd with CAP_SYS_ADMIN"),
        (&config, MODEST.replace("--no-new-privs ", ""), "new privileges"),
        (&config, MODEST.replace("--no-new-privs", "--no-new-privs --reuid 7 --clear-groups"), "Uid 7"),
        (&config, MODEST.replace("--no-new-privs", "--no-new-privs --groups 0,7"), "Groups 7"),
        (&config, MODEST.replace("/usr/bin/unshare --mount ", ""), "in the host's mount namespace"),
        (&config, child, "(sleep) CapBnd with"),
        (&config.clone().set("/linux/seccomp", filter), MODEST.to_owned(), "no seccomp filter"),
        (&config.clone().namespace("network", None), MODEST.to_owned(), "in the host's network namespace"),
        (
            &config.clone().namespace("ipc", Some(&own_ipc)),
            format!("/usr/bin/unshare --ipc {MODEST}"),
            "another ipc namespace",
        ),
        (&config.clone().userns(100_000), "/usr/bin/unshare --user --mount sleep 1000".to_owned(), "another uid_map"),
    ] {
        let c = t.container(config.clone());
        let refused = restore(&c, &restoring(&command)).code(1).says(complaint);
        refused.says("the images");
        assert_dead(t);
        c.assert_gone();
        t.assert_no_process();
    }
}

fn a_criu_whose_processes_died_is_ended(t: &Test) {
    let c = t.container(Config::sleep().without_namespace("network"));
    // One that is gone, and one that nobody waits for.
    for body in ["(exit 0) & pid=$!; wait", "(exit 0) & pid=$!; sleep 0.1"] {
        let path = stand_in(
            t,
            &format!("{body}; echo $$ > $where/pid; notify setup-namespaces $pid; sleep 1000 & exec sleep 1000"),
        );
        let begin = Instant::now();
        restore(&c, &path).code(1).says("what it restores has died");
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
        assert_dead(t);
        c.assert_gone();
        t.assert_no_process();
    }
}

fn images_hold_no_links(t: &Test) {
    let secret = t.write("secret", "precious");
    let c = t.container(Config::sleep());
    let (images, path) = (images(&c), stand_in(t, "exit 1"));
    let page = format!("{images}/pages-1.img");
    let refused = |what: &str| {
        restore(&c, &path).code(1).says("--image-path").says(what);
        c.assert_gone();
    };
    symlink(&secret, &page).unwrap();
    refused("pages-1.img\" is a Symlink");
    fs::remove_file(&page).unwrap();
    mknodat(CWD, &page, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    refused("pages-1.img\" is a Fifo");
    fs::remove_file(&page).unwrap();
    // Those of an earlier dump, which the later one builds on.
    fs::create_dir(t.path("earlier")).unwrap();
    symlink(&secret, t.path("earlier/pages-1.img")).unwrap();
    symlink(t.path("earlier"), format!("{images}/parent")).unwrap();
    refused("parent/pages-1.img\" is a Symlink");
}

/// conmon has its own in the directory that Podman names. CRIU opens what it writes, and would wait for a reader.
fn a_fifo_may_be_beside_the_log_but_not_in_its_place(t: &Test) {
    let c = t.container(Config::sleep());
    let path = stand_in(t, "exit 1");
    let work = t.path("work");
    fs::create_dir(&work).unwrap();
    let make = |name: &str| {
        mknodat(CWD, format!("{work}/{name}"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    };
    let restore = || {
        let options = ["--detach", "--image-path", &images(&c), "--work-path", &work];
        c.cli("restore", &options).arg(&c.id).env("PATH", &path).run().code(1)
    };
    make("ctl");
    make("winsz");
    assert!(!restore().stderr.contains("--work-path"), "CRIU is asked, and fails");
    for name in ["restore.log", "stats-restore", "irmap-cache", "tty-info.img"] {
        make(name);
        restore().says("--work-path").says(&format!("{name}\" is a Fifo"));
        fs::remove_file(format!("{work}/{name}")).unwrap();
    }
    c.assert_gone();
}

/// CRIU opens `parent` by name, and what is below it: whether it is a link or a directory, and at each level.
fn earlier_images_are_checked_as_well(t: &Test) {
    let secret = t.write("secret", "precious");
    let c = t.container(Config::sleep());
    let (images, path) = (images(&c), stand_in(t, "exit 1"));
    let parent = format!("{images}/parent");
    let refused = |what: &str| {
        restore(&c, &path).code(1).says("--image-path").says(what);
        c.assert_gone();
    };
    fs::create_dir(&parent).unwrap();
    symlink(&secret, format!("{parent}/pages-1.img")).unwrap();
    refused("parent/pages-1.img\" is a Symlink");
    fs::remove_file(format!("{parent}/pages-1.img")).unwrap();
    fs::create_dir_all(format!("{parent}/parent")).unwrap();
    symlink(&secret, format!("{parent}/parent/pages-1.img")).unwrap();
    refused("parent/parent/pages-1.img\" is a Symlink");
    fs::remove_dir_all(format!("{parent}/parent")).unwrap();
    for (owner, mode) in [(0, 0o1777), (0, 0o702), (4242, 0o700)] {
        chown(&parent, Some(owner), None).unwrap();
        fs::set_permissions(&parent, fs::Permissions::from_mode(mode)).unwrap();
        refused("parent\" is open to other users");
    }
    fs::remove_dir(&parent).unwrap();
    symlink(".", &parent).unwrap();
    refused("leads to the images of more than");
    fs::remove_file(&parent).unwrap();

    // What is found there now is root's, but others can have the same name lead elsewhere.
    fs::create_dir(t.path("earlier")).unwrap();
    fs::create_dir_all(t.path("theirs/earlier")).unwrap();
    symlink(t.path("earlier"), t.path("theirs/link")).unwrap();
    for path in ["theirs/link", "theirs"] {
        lchown(t.path(path), Some(4242), Some(4242)).unwrap();
    }
    fs::create_dir_all(t.path("shared/earlier")).unwrap();
    fs::set_permissions(t.path("shared"), fs::Permissions::from_mode(0o777)).unwrap();
    symlink(t.path("earlier"), t.path("link")).unwrap();
    lchown(t.path("link"), Some(4242), Some(4242)).unwrap();
    for (target, complaint) in
        [("theirs/link", "theirs"), ("theirs/earlier", "theirs"), ("shared/earlier", "shared"), ("link", "link")]
    {
        symlink(t.path(target), &parent).unwrap();
        refused(&format!("{complaint}\" is open to other users"));
        fs::remove_file(&parent).unwrap();
    }
    // Nothing is wrong with root's own, also in a sticky directory.
    fs::set_permissions(t.path("shared"), fs::Permissions::from_mode(0o1777)).unwrap();
    symlink(t.path("shared/earlier"), &parent).unwrap();
    restore(&c, &path).code(1).says("ended without an answer");
    c.assert_gone();
}

fn directories_of_others_are_refused(t: &Test) {
    let victim = t.write("victim", "precious");
    let c = t.container(Config::sleep());
    c.up();
    let path = stand_in(t, "exit 1");
    let checkpoint = |options: &[&str]| c.cli("checkpoint", options).arg(&c.id).env("PATH", &path).run();
    let (theirs, shared, own) = (t.path("theirs"), t.path("shared"), t.path("own"));
    for dir in [&theirs, &shared, &own] {
        fs::create_dir(dir).unwrap();
    }
    chown(&theirs, Some(4242), Some(4242)).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    for dir in [&theirs, &shared] {
        for name in ["stats-dump", "inventory.img", "descriptors.json", "dump.log"] {
            symlink(&victim, format!("{dir}/{name}")).unwrap();
        }
        checkpoint(&["--image-path", dir]).code(1).says("--image-path").says("is open to other users");
        checkpoint(&["--image-path", &own, "--work-path", dir])
            .code(1)
            .says("--work-path")
            .says("is open to other users");
    }
    symlink(&victim, format!("{own}/stats-dump")).unwrap();
    checkpoint(&["--image-path", &own]).code(1).says("stats-dump\" is a Symlink");
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    for dir in [theirs, shared] {
        assert_eq!(fs::read_dir(dir).unwrap().count(), 4, "nothing is made or removed");
    }
    assert_eq!(c.status(), "running");
    c.delete_force().ok();
    let options = ["--detach", "--image-path", &t.path("theirs")];
    c.cli("restore", &options).arg(&c.id).env("PATH", &path).run().code(1).says("is open to other users");
}

fn earlier_images_of_others_are_refused(t: &Test) {
    let secret = t.write("secret", "precious");
    let c = t.container(Config::sleep());
    c.up();
    let path = stand_in(t, "exit 1");
    let own = t.path("own");
    for dir in ["own", "theirs", "shared", "links", "first", "theirs/below"] {
        fs::create_dir(t.path(dir)).unwrap();
    }
    let checkpoint = |parent: &str| {
        let options = ["--leave-running", "--image-path", &own, "--parent-path", parent];
        c.cli("checkpoint", &options).arg(&c.id).env("PATH", &path).run().code(1)
    };
    checkpoint("../first").says("ended without an answer");
    for path in ["theirs", "link"] {
        let _ = symlink("first", t.path("link"));
        lchown(t.path(path), Some(4242), Some(4242)).unwrap();
    }
    fs::set_permissions(t.path("shared"), fs::Permissions::from_mode(0o1777)).unwrap();
    for name in ["theirs", "shared", "links"] {
        symlink(&secret, t.dir.join(name).join("pages-1.img")).unwrap();
    }
    for (parent, complaint) in [
        ("../theirs", "theirs\" is open to other users"),
        ("../theirs/below", "theirs\" is open to other users"),
        ("../shared", "shared\" is open to other users"),
        ("../link", "link\" is open to other users"),
        ("../links", "pages-1.img\" is a Symlink"),
    ] {
        checkpoint(parent).says("invalid --parent-path").says(complaint);
    }
    assert_eq!(c.status(), "running");
}

fn nothing_is_made_where_others_lead(t: &Test) {
    let c = t.container(Config::sleep());
    c.up();
    let (path, images) = (stand_in(t, "exit 1"), images(&c));
    for dir in ["victim", "theirs", "shared"] {
        fs::create_dir(t.path(dir)).unwrap();
    }
    symlink(t.path("victim"), t.path("theirs/link")).unwrap();
    symlink(t.path("victim"), t.path("link")).unwrap();
    for path in ["theirs/link", "theirs", "link"] {
        lchown(t.path(path), Some(4242), Some(4242)).unwrap();
    }
    fs::set_permissions(t.path("shared"), fs::Permissions::from_mode(0o777)).unwrap();
    let run = |command: &str, options: &[&str]| c.cli(command, options).arg(&c.id).env("PATH", &path).run();
    let places = ["theirs/link", "theirs", "link", "shared"];
    for place in places {
        let new = t.path(&format!("{place}/new/below"));
        run("checkpoint", &["--image-path", &new]).code(1).says("--image-path");
        run("checkpoint", &["--image-path", &images, "--work-path", &new]).code(1).says("--work-path");
    }
    // In a sticky directory, and below it, nobody can exchange what root makes.
    fs::set_permissions(t.path("shared"), fs::Permissions::from_mode(0o1777)).unwrap();
    let sticky = t.path("shared/new/below");
    run("checkpoint", &["--image-path", &sticky]).code(1).says("ended without an answer");
    for made in ["shared/new", "shared/new/below"] {
        assert_eq!(fs::metadata(t.path(made)).unwrap().permissions().mode() & 0o7777, 0o700);
    }
    fs::remove_dir_all(t.path("shared/new")).unwrap();
    fs::set_permissions(t.path("shared"), fs::Permissions::from_mode(0o777)).unwrap();
    c.delete_force().ok();
    for place in places {
        let new = t.path(&format!("{place}/new/below"));
        run("restore", &["--detach", "--image-path", &images, "--work-path", &new]).code(1).says("--work-path");
        c.assert_gone();
    }
    for (dir, count) in [("victim", 0), ("theirs", 1), ("shared", 0)] {
        assert_eq!(fs::read_dir(t.path(dir)).unwrap().count(), count, "{dir}");
    }
}

fn the_log_is_not_with_the_images(t: &Test) {
    let c = t.container(Config::sleep());
    let path = stand_in(t, "for fd in /proc/$PPID/fd/*; do readlink $fd; done > $where/open; exit 1");
    restore(&c, &path).code(1).says("with --work-path CRIU's log is kept");
    let open = fs::read_to_string(t.path("open")).unwrap();
    let work = t.root.join(&c.id).join("criu-work");
    assert!(open.lines().any(|path| path == work.to_str().unwrap()), "{open}");
    c.assert_gone();
}

fn the_operators_terminal_is_not_restored(t: &Test) {
    // What is restored has CRIU's streams in the place of those that were pipes.
    for (options, wanted) in [(&[][..], "pipe:"), (&["--shell-job"], "/dev/pts/")] {
        let c = t.container(Config::sleep());
        let path = stand_in(
            t,
            "open=$(for fd in 0 1 2; do readlink /proc/$$/fd/$fd; done); echo \"$open\" > $where/streams; exit 1",
        );
        let images = images(&c);
        let options: Vec<_> = ["--image-path", &images].into_iter().chain(options.iter().copied()).collect();
        Operator::new().types(c.cli("restore", &options).arg(&c.id).env("PATH", &path)).run().code(1);
        let streams = fs::read_to_string(t.path("streams")).unwrap();
        assert!(streams.lines().count() == 3 && streams.lines().all(|name| name.starts_with(wanted)), "{streams}");
    }
}

fn a_configuration_that_the_container_wrote_is_not_taken(t: &Test) {
    let path = stand_in(t, "exit 1");
    let (own, theirs) = (t.write("own.conf", ""), t.write("theirs.conf", ""));
    chown(&theirs, Some(4242), Some(4242)).unwrap();
    let inside = t.path("inside.conf");
    let group = t.write("group.conf", "");
    chown(&group, Some(0), Some(4242)).unwrap();
    fs::set_permissions(&group, fs::Permissions::from_mode(0o664)).unwrap();
    let missing = t.path("missing");
    for (file, taken) in [(&own, true), (&theirs, false), (&group, false), (&inside, false), (&missing, false)] {
        let c = t.container(Config::sleep().set("/annotations/org.criu.config", &**file));
        fs::write(c.rootfs().join("evil.conf"), "action-script /evil").unwrap();
        if *file == inside {
            symlink(c.rootfs().join("evil.conf"), file).unwrap();
        }
        c.up();
        let checkpoint =
            c.cli("checkpoint", &["--image-path", &images(&c)]).arg(&c.id).env("PATH", &path).run().code(1);
        let complaint = "/annotations/org.criu.config: ";
        assert_eq!(checkpoint.stderr.contains(complaint), !taken, "{checkpoint}");
        let told = if taken { "ended without an answer" } else { "is not taken" };
        checkpoint.says(told);
        c.delete_force().ok();
    }
}
