//! The environment that root has taken over from another user: `su` without `-`, `sudo` where it is kept.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use crate::harness::{Cmd, Config, Container, Test, script};

e2e!(any:
    criu_sees_nothing_of_it,
    programs_of_others_are_not_executed,
    the_state_of_root_is_roots,
    init_sees_nothing_of_it,
);

/// A directory of an ordinary user's.
fn home(t: &Test) -> String {
    let path = t.path("home");
    fs::create_dir(&path).unwrap();
    chown(&path, Some(4242), Some(4242)).unwrap();
    path
}

fn checkpoint(c: &Container) -> Cmd {
    c.cli("checkpoint", &["--image-path", &c.t.path("images")]).arg(&c.id)
}

fn criu_sees_nothing_of_it(t: &Test) {
    fs::create_dir(t.path("bin")).unwrap();
    script(&t.dir.join("bin/criu"), &format!("/usr/bin/env > {}; exit 1", t.path("environment")));
    let home = home(t);
    let c = t.container(Config::sleep());
    c.up();
    // Each of them names files that CRIU would believe.
    let variables = ["HOME", "CRIU_CONFIG_FILE", "CRIU_LIBS_DIR", "LD_PRELOAD", "TMPDIR"];
    let path = format!("{home}:{}:relative", t.path("bin"));
    let command = variables.iter().fold(checkpoint(&c).env("PATH", &path), |cmd, name| cmd.env(name, &home));
    command.run().code(1).says("ended without an answer");
    let environment = fs::read_to_string(t.path("environment")).unwrap();
    let names = |line: &str| line.split('=').next().unwrap().to_owned();
    let mut seen: Vec<_> =
        environment.lines().map(names).filter(|name| !["PWD", "SHLVL", "_"].contains(&&**name)).collect();
    seen.sort();
    assert_eq!(seen, ["PATH"], "{environment}");
    let search = format!("PATH={}", t.path("bin"));
    assert!(environment.lines().any(|line| line == search), "where only root can put a program: {environment}");
}

fn programs_of_others_are_not_executed(t: &Test) {
    let (home, proof) = (home(t), t.path("proof"));
    let evil = |dir: &str| script(&t.dir.join(dir).join("criu"), &format!("id > {proof}"));
    let c = t.container(Config::sleep());
    c.up();
    let refused = |dir: &str| {
        let complaint = format!("criu is not in PATH but as \"{dir}/criu\"");
        checkpoint(&c).env("PATH", dir).run().code(1).says(&complaint).says("other users may write there");
        assert!(!fs::exists(&proof).unwrap(), "{dir}");
    };
    evil("home");
    refused(&home);
    // Below a directory of theirs root's own is as good as theirs.
    fs::create_dir(t.path("home/bin")).unwrap();
    evil("home/bin");
    refused(&t.path("home/bin"));
    for mode in [0o777, 0o1777] {
        let dir = t.path("shared");
        let _ = fs::create_dir(&dir);
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        evil("shared");
        refused(&dir);
    }
    // Members of a group other than root's are others as well.
    fs::create_dir(t.path("group")).unwrap();
    let file = evil("group");
    for path in [&t.dir.join("group"), &t.dir.join("group/criu")] {
        chown(path, Some(0), Some(4242)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o775)).unwrap();
    }
    refused(&t.path("group"));
    fs::set_permissions(t.path("group"), fs::Permissions::from_mode(0o755)).unwrap();
    refused(&t.path("group"));
    fs::set_permissions(t.path("group"), fs::Permissions::from_mode(0o775)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    refused(&t.path("group"));
    // A file of theirs in a directory of root's.
    fs::create_dir(t.path("bin")).unwrap();
    let file = evil("bin");
    chown(&file, Some(4242), Some(4242)).unwrap();
    checkpoint(&c).env("PATH", &t.path("bin")).run().code(1).says("criu is not in PATH");
    assert!(!fs::exists(&proof).unwrap());
    // `ps` calls a program as well.
    script(&t.dir.join("home/ps"), &format!("id > {proof}"));
    c.cli("ps", &[])
        .arg(&c.id)
        .env("PATH", &home)
        .run()
        .code(1)
        .says(&format!("ps is not in PATH but as \"{home}/ps\""));
    assert!(!fs::exists(&proof).unwrap());
    c.cli("ps", &[]).arg(&c.id).env("PATH", &format!("{home}:/usr/bin:/bin")).ok();
    assert!(!fs::exists(&proof).unwrap());
}

fn the_state_of_root_is_roots(t: &Test) {
    let home = home(t);
    let list =
        t.runtime().args(["--debug", "list"]).env("XDG_RUNTIME_DIR", &home).env("HOME", &home).env("USER", "user");
    list.ok().says("containers in \\\"/run/berth\\\"");
    assert_eq!(fs::read_dir(home).unwrap().count(), 0);
}

fn init_sees_nothing_of_it(t: &Test) {
    let c = t.container(Config::sleep());
    c.create_cmd(&[]).env("SECRET", "of the operator").ok();
    let seen = || fs::read_to_string(format!("/proc/{}/environ", c.pid())).unwrap();
    assert!(!seen().contains("SECRET"), "{}", seen());
    c.start().ok();
    assert!(!seen().contains("SECRET"), "{}", seen());
}
