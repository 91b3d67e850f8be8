//! Limits that a host with many containers runs into.

use rustix::process::{Resource, getrlimit};

use super::{Report, number};

/// A limit of the kernel, below which many containers fail, and what fails.
const SYSCTLS: [(&str, u64, &str); 9] = [
    ("fs.inotify.max_user_instances", 512, "programs that watch files fail with `too many open files`"),
    ("fs.inotify.max_user_watches", 8192, "programs that watch files fail with `no space left on device`"),
    ("kernel.pid_max", 32768, "a new process fails with `resource temporarily unavailable`"),
    ("kernel.keys.root_maxkeys", 1000, "the next container, which has a keyring, fails with `disk quota exceeded`"),
    ("user.max_mnt_namespaces", 1000, "the next container fails with `no space left on device`"),
    ("user.max_net_namespaces", 1000, "the next container fails with `no space left on device`"),
    ("user.max_pid_namespaces", 1000, "the next container fails with `no space left on device`"),
    ("user.max_ipc_namespaces", 1000, "the next container fails with `no space left on device`"),
    ("fs.mount-max", 10_000, "the next mount fails with `no space left on device`"),
];

/// runc's and systemd's default for a service.
const FILES: u64 = 1024;

pub fn examine(report: &mut Report) {
    let mut enough = 0;
    for (name, least, what) in SYSCTLS {
        match number(&format!("/proc/sys/{}", name.replace('.', "/"))) {
            Some(value) if value < least => {
                let cure = format!("sysctl -w {name}={least}, and a line {name}={least} in /etc/sysctl.d/berth.conf");
                report.notice("limits", format!("{name} is {value}; when that many are in use, {what}"), cure);
            }
            Some(_) => enough += 1,
            None => report.unseen("limits", format!("{name} cannot be read")),
        }
    }
    if enough > 0 {
        report.ok("limits", format!("{enough} of the kernel's limits are high enough"));
    }
    let files = getrlimit(Resource::Nofile);
    if files.maximum.is_some_and(|hard| hard < FILES) {
        let found = format!("RLIMIT_NOFILE is at most {} here", files.maximum.unwrap_or_default());
        report.warning("open files", found, "ulimit -Hn, LimitNOFILE= of the service");
    }
}
