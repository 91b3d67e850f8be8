//! A container in which berth prints its own version: it takes all that most containers take.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getpid};
use serde_json::json;

use super::{Report, is_root};
use crate::error;
use crate::library::{CreateOptions, Error, Result, Runtime, Spec, Stdio};
use crate::runtime::CgroupManager;

const PATIENCE: Duration = Duration::from_secs(30);

pub fn examine(report: &mut Report, manager: CgroupManager) {
    // Root may have another user's TMPDIR. Not every container has a /run.
    let parent = match is_root() {
        true if Path::new("/run").is_dir() => PathBuf::from("/run"),
        true => PathBuf::from("/"),
        false => std::env::temp_dir(),
    };
    let dir = parent.join(format!("berth-doctor-{}", getpid().as_raw_nonzero()));
    let made = make(&dir).map_err(|e| {
        let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
        Error::from(error::Error::sys(format_args!("mkdir({dir:?})"), errno))
    });
    let outcome = made.and_then(|()| run(&dir, manager));
    // What the container left is gone, so only what `make` made is left.
    let _ = std::fs::remove_dir_all(&dir);
    match outcome {
        Ok(()) => report.ok("container", "one was made, it ran, and it was removed"),
        Err(e) => {
            let cure = e.hint().unwrap_or("the other errors may tell why").to_owned();
            report.error("container", e.to_string(), cure);
        }
    }
}

/// The bundle, for nobody else.
fn make(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(dir)?;
    for name in ["rootfs", "rootfs/proc", "rootfs/dev", "state"] {
        std::fs::DirBuilder::new().mode(0o755).create(dir.join(name))?;
    }
    std::fs::write(dir.join("rootfs/berth"), "")
}

fn run(dir: &Path, manager: CgroupManager) -> Result<()> {
    let id = format!("berth-doctor-{}", getpid().as_raw_nonzero());
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let mut config = json!({
        "ociVersion": crate::spec::VERSION,
        "process": {"args": ["/berth", "--version"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "noNewPrivileges": true},
        "root": {"path": dir.join("rootfs")},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/berth", "type": "bind", "source": program, "options": ["bind", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    });
    if is_root() {
        let systemd = manager == CgroupManager::Systemd;
        let path = if systemd { format!("system.slice:berth:{id}") } else { format!("/{id}") };
        config["linux"]["cgroupsPath"] = json!(path);
    } else {
        let map = |own: u32| json!([{"containerID": 0, "hostID": own, "size": 1}]);
        config["linux"]["uidMappings"] = map(geteuid().as_raw());
        config["linux"]["gidMappings"] = map(getegid().as_raw());
        if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
            namespaces.push(json!({"type": "user"}));
        }
    }
    let runtime = Runtime::builder(dir.join("state")).cgroup_manager(manager).build();
    let options = CreateOptions::new().spec(Spec::from_json(config.to_string())?).stdio(Stdio::null());
    let container = runtime.create(&id, dir, options)?;
    let ended = container.start().and_then(|()| match container.process() {
        Some(process) => process.wait_timeout(PATIENCE),
        None => Ok(None),
    });
    container.delete(true)?;
    match ended? {
        Some(status) if status.code() == Some(0) => Ok(()),
        Some(status) => {
            Err(error::Error::new(format_args!("its process ended with {}", status.shell_code().unwrap_or(-1))).into())
        }
        None => Err(error::Error::new("its process did not end within 30 seconds").into()),
    }
}
