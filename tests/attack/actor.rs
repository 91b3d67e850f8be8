//! What an attacker does inside a container by system calls for which busybox has no program.
//!
//! The attacker is this very test program, which is static: it is mounted into the container and runs one test, [`act`],
//! which does what its environment says. What it prints begins with [`MARK`].
#![allow(unsafe_code)]

use std::io;

use rustix::io::Errno;
use serde_json::json;

use crate::harness::{Config, Container, Output, Test};

const PLACE: &str = "/actor";
const DEED: &str = "ACTOR_DEED";
const MARK: &str = "ACTOR: ";

/// A container in which [`command`] can be executed.
pub fn container(t: &Test, config: Config) -> Container<'_> {
    let source = std::env::current_exe().unwrap();
    let mount = json!({ "destination": PLACE, "type": "bind", "source": source, "options": ["bind", "ro"] });
    let c = t.container(config.mount(mount));
    // The root of a user namespace may not make it.
    std::fs::write(c.rootfs().join(&PLACE[1..]), "").unwrap();
    c
}

/// The program and its arguments, by way of a shell for the environment.
pub fn command(deed: &str) -> Vec<String> {
    ["/bin/env", &format!("{DEED}={deed}"), PLACE, "--exact", "actor::act", "--nocapture", "--test-threads=1"]
        .map(str::to_owned)
        .to_vec()
}

/// What the actor had to say.
pub fn told(output: &Output) -> String {
    let lines: Vec<_> = output.stdout.lines().filter_map(|line| line.split_once(MARK)).map(|(_, text)| text).collect();
    assert!(!lines.is_empty(), "the actor did not act: {output}");
    lines.join("\n")
}

/// Not a test: nothing is done outside of a container.
#[test]
fn act() {
    let Ok(deed) = std::env::var(DEED) else { return };
    let words: Vec<_> = deed.split(' ').collect();
    let done = match words.as_slice() {
        ["trace", pid] => trace(pid.parse().unwrap()),
        other => panic!("{other:?}"),
    };
    let said =
        done.unwrap_or_else(|e| Errno::from_io_error(&e).map_or_else(|| e.to_string(), |errno| errno.to_string()));
    said.lines().for_each(|line| println!("\n{MARK}{line}"));
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn trace(pid: i32) -> io::Result<String> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes no address.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) })?;
    Ok("traced".to_owned())
}
