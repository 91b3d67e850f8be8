//! One bundle and the container made from it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::command::DEADLINE;
use super::{Cmd, Config, Mode, Output, Test};

#[derive(Clone)]
pub struct Container<'t> {
    pub t: &'t Test,
    pub id: String,
    pub bundle: PathBuf,
    /// The `cgroupsPath` it was given, if any.
    pub cgroup: Option<String>,
}

impl Container<'_> {
    pub fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    /// Rewrites `config.json` with this changed configuration.
    pub fn write(&self, config: &Config) {
        fs::write(self.bundle.join("config.json"), serde_json::to_vec_pretty(&config.json).unwrap()).unwrap();
    }

    /// `COMMAND OPTIONS`, before the id is given.
    pub fn cli(&self, command: &str, options: &[&str]) -> Cmd {
        let cmd = self.t.cli([command]);
        let cmd =
            if matches!(command, "create" | "run" | "restore") { cmd.arg("--bundle").arg(&self.bundle) } else { cmd };
        cmd.args(options)
    }

    pub fn create_cmd(&self, options: &[&str]) -> Cmd {
        self.cli("create", options).arg(&self.id)
    }

    pub fn run_cmd(&self, options: &[&str]) -> Cmd {
        self.cli("run", options).arg(&self.id)
    }

    pub fn exec_cmd(&self, options: &[&str], args: &[&str]) -> Cmd {
        self.cli("exec", options).arg(&self.id).args(args)
    }

    pub fn create(&self) -> Output {
        self.create_cmd(&[]).run()
    }

    pub fn start_cmd(&self) -> Cmd {
        self.cli("start", &[]).arg(&self.id)
    }

    pub fn start(&self) -> Output {
        self.start_cmd().run()
    }

    /// Creates and starts, detached from the caller.
    pub fn up(&self) -> &Self {
        self.create().ok();
        self.start().ok();
        self
    }

    /// Runs in the foreground until the container's process ends.
    pub fn run(&self) -> Output {
        self.run_cmd(&[]).run()
    }

    pub fn exec(&self, args: &[&str]) -> Output {
        self.exec_cmd(&[], args).run()
    }

    /// What a shell script prints inside the running container.
    #[track_caller]
    pub fn inside(&self, script: &str) -> String {
        self.exec(&["/bin/sh", "-c", script]).ok().text().to_owned()
    }

    pub fn kill(&self, signal: &str) -> Output {
        self.cli("kill", &[]).arg(&self.id).arg(signal).run()
    }

    pub fn delete(&self) -> Output {
        self.cli("delete", &[]).arg(&self.id).run()
    }

    pub fn delete_force(&self) -> Output {
        self.cli("delete", &["--force"]).arg(&self.id).run()
    }

    #[track_caller]
    pub fn state(&self) -> Value {
        let output = self.cli("state", &[]).arg(&self.id).run().ok();
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"))
    }

    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().expect("status is a string").to_owned()
    }

    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().expect("pid is a number").try_into().unwrap()
    }

    /// Waits for a status, for a few seconds.
    #[track_caller]
    pub fn wait_status(&self, status: &str) {
        super::eventually(&format!("status {status}"), || self.status() == status);
    }

    /// Demands that the runtime knows nothing of this container.
    #[track_caller]
    pub fn assert_gone(&self) {
        self.cli("state", &[]).arg(&self.id).run().fails();
        assert!(!self.t.root.join(&self.id).exists(), "a state directory is left");
        self.t.assert_no_cgroup_below(self.cgroup.as_deref().unwrap_or(&self.t.cgroup));
    }

    /// Reads a cgroup file of the container on the host's side; `controller` matters on v1 only.
    #[track_caller]
    pub fn cgroup_file(&self, controller: &str, file: &str) -> String {
        let path = self.cgroup_dir(controller).join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        text.trim().to_owned()
    }

    pub fn cgroup_dir(&self, controller: &str) -> PathBuf {
        let hierarchy = if self.t.mode == Mode::V1 { format!("/{controller}") } else { String::new() };
        PathBuf::from(format!("/sys/fs/cgroup{hierarchy}{}", self.cgroup.as_deref().expect("a cgroup path")))
    }

    /// The content of a file below the rootfs, as the host sees it, once it is there and not empty.
    #[track_caller]
    pub fn wait_file(&self, path: &str) -> String {
        let path = self.rootfs().join(path.trim_start_matches('/'));
        super::wait_file(&path)
    }
}

/// Waits, for a few seconds, for a file that has content.
#[track_caller]
pub fn wait_file(path: &Path) -> String {
    let mut text = String::new();
    super::eventually(&format!("content in {path:?}"), || {
        text = fs::read_to_string(path).unwrap_or_default();
        !text.is_empty()
    });
    text
}

/// Polls until `done`, and fails when that takes too long.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < until, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A root filesystem of one static busybox.
pub fn make_rootfs(dir: &Path) {
    const APPLETS: &str = "[ awk base64 basename cat chgrp chmod chown chroot cmp cp cut date dd df dirname dmesg du echo env \
        expr false find free getopt grep groups head hostname id ifconfig ip kill killall ln ls md5sum mkdir mkfifo mknod \
        mktemp more mount mountpoint mv nice nohup nproc od pgrep pidof ping pivot_root printenv printf ps pwd readlink realpath \
        renice rm rmdir sed seq setsid sh sha256sum sleep sort stat stty su sync sysctl tac tail tar tee test time \
        timeout top touch tr true truncate tty umount uname uniq unlink unshare usleep vi wc which whoami xargs yes";
    for (path, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("proc", 0o755),
        ("root", 0o700),
        ("run", 0o755),
        ("sbin", 0o755),
        ("sys", 0o755),
        ("tmp", 0o1777),
        ("var", 0o755),
    ] {
        let path = dir.join(path);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::copy(busybox(), dir.join("bin/busybox")).unwrap();
    for applet in APPLETS.split_whitespace() {
        symlink("busybox", dir.join("bin").join(applet)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    fs::write(dir.join("etc/passwd"), passwd).unwrap();
    fs::write(dir.join("etc/group"), "root:x:0:\nwheel:x:10:root\nuser:x:1000:\nnobody:x:65534:\n").unwrap();
}

pub fn busybox() -> &'static Path {
    let found = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|path| path.exists());
    found.expect("a static busybox (Debian: apt-get install busybox-static)")
}

/// Makes an executable script on the host.
pub fn script(path: &Path, text: &str) -> String {
    let mut file = File::create(path).unwrap();
    file.write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}
