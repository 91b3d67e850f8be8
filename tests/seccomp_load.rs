//! Compiled filters in force: the kernel takes them and decides as the profile says.

use berth::internal::plan::seccomp::{Filter, compile};
use berth::internal::sys::seccomp::set_mode_filter;
use rustix::io::{Errno, FdFlags, fcntl_getfd};
use rustix::process::{getpriority_pgrp, getpriority_process, getsid};
use serde_json::{Value, json};

fn filter(profile: Value) -> Filter {
    compile(&serde_json::from_value(profile).unwrap()).unwrap().unwrap()
}

/// A filter binds the thread that loads it, and never lets it go.
fn filtered<T: Send + 'static>(
    profile: Value,
    then: impl FnOnce(Option<std::os::fd::OwnedFd>) -> T + Send + 'static,
) -> T {
    let filter = filter(profile);
    let thread = std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        then(set_mode_filter(filter.flags, filter.program.as_bytes()).unwrap())
    });
    thread.join().unwrap()
}

#[test]
fn rules_and_conditions_hold() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["getsid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
            {"names": ["getpriority"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
        ],
    });
    let (session, group, process) =
        filtered(profile, |_| (getsid(None), getpriority_pgrp(None), getpriority_process(None)));
    assert_eq!(session, Err(Errno::from_raw_os_error(77)));
    assert_eq!(group, Err(Errno::PERM));
    assert!(process.is_ok(), "{process:?}");
}

#[test]
fn a_listener_comes_with_notify() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "/run/agent.sock",
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["getsid"], "action": "SCMP_ACT_NOTIFY"}],
    });
    let flags = filtered(profile, |listener| fcntl_getfd(listener.unwrap()));
    assert_eq!(flags, Ok(FdFlags::CLOEXEC));
}

#[test]
fn engines_filters_are_accepted() {
    let bundles = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/bundles");
    let mut loaded = 0;
    for entry in std::fs::read_dir(bundles).unwrap() {
        let config: Value = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let profile = config["linux"]["seccomp"].clone();
        if !profile.is_null() {
            assert!(filtered(profile, |listener| listener.is_none()));
            loaded += 1;
        }
    }
    assert!(loaded > 0);
}
