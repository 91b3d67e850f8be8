//! What every test stands on: a private mount namespace in one cgroup mode, bundles, commands with a deadline, and
//! the demand that nothing is left behind.

mod command;
mod config;
mod console;
mod container;
#[allow(dead_code, reason = "not every test target injects")]
pub mod inject;
pub mod left;
#[allow(dead_code, reason = "not every test target has a shim")]
pub mod shim;
mod skip;
pub mod sys;

use std::cell::{Cell, RefCell};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, statfs};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, move_mount,
    open_tree, unmount,
};

pub use command::{Cmd, Output, Running};
pub use config::Config;
pub use console::{DescriptorSocket, Operator, Terminal};
pub use container::{Container, busybox, eventually, make_rootfs, script, wait_file};
pub use skip::skip;

/// Says that something is not tested on this machine, and why.
macro_rules! skip {
    ($($reason:tt)+) => { crate::harness::skip(&format!($($reason)+)) };
}

/// Makes `NAME::v1` and `NAME::v2` of each function `fn NAME(t: &Test)`; after `any:`, only `NAME::any`, in the
/// machine's own mode, for what no cgroup can influence.
macro_rules! e2e {
    (any: $($name:ident),+ $(,)?) => {$(
        mod $name {
            #[test]
            fn any() { crate::harness::run(crate::harness::Mode::own(), super::$name); }
        }
    )+};
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[test]
            fn v1() { crate::harness::run(crate::harness::Mode::V1, super::$name); }
            #[test]
            fn v2() { crate::harness::run(crate::harness::Mode::V2, super::$name); }
        }
    )+};
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    V1,
    V2,
}

impl Mode {
    /// The mode that the machine booted with.
    pub fn own() -> Self {
        match statfs("/sys/fs/cgroup") {
            Ok(fs) if fs.f_type == libc::CGROUP2_SUPER_MAGIC => Mode::V2,
            _ => Mode::V1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Berth,
    Runc,
    Crun,
}

/// One test's surroundings.
pub struct Test {
    pub mode: Mode,
    pub dir: PathBuf,
    /// The runtime's state directory.
    pub root: PathBuf,
    /// The parent of every container's cgroup.
    pub cgroup: String,
    runtime: PathBuf,
    peer: Peer,
    mounts: RefCell<Vec<(String, PathBuf)>>,
    count: Cell<u32>,
    /// Holds the user namespace that an unprivileged user's runtime runs in.
    rootless: RefCell<Option<Running>>,
    /// The ordinary user whom the runtime runs as, and the v2 cgroup that it begins in, if not in this process's.
    user: RefCell<Option<(u32, Option<PathBuf>)>>,
    /// A program that executes the runtime, which is its first argument.
    wrapper: RefCell<Option<PathBuf>>,
    terminals: RefCell<Vec<Terminal>>,
}

/// Runs `body` in a thread of its own, which alone enters the new mount namespace.
pub fn run(mode: Mode, body: impl FnOnce(&Test) + Send + 'static) {
    if mode == Mode::V1 && Mode::own() == Mode::V2 {
        skip!("no cgroup v1 hierarchies on this machine");
        return;
    }
    // Under the test's own name, by which it is known.
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let test = Test::new(mode);
        body(&test);
        test.finish();
    });
    let thread = thread.unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Test {
    fn new(mode: Mode) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        // A killed test of the same pid may have left a directory or a cgroup.
        let random = RandomState::new().hash_one(0) as u16;
        let name = format!("berth-test-{}-{random:x}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Not below target/: the directories above it may be closed to the users that a user namespace maps.
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.join("output")).unwrap();
        let runtime =
            std::env::var_os("BERTH_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_berth")), PathBuf::from);
        let peer = match runtime.file_name().and_then(|name| name.to_str()) {
            Some(name) if name.contains("runc") => Peer::Runc,
            Some(name) if name.contains("crun") => Peer::Crun,
            _ => Peer::Berth,
        };
        enter(mode, peer);
        let root = dir.join("root");
        let test = Self {
            mode,
            dir,
            root,
            cgroup: format!("/{name}"),
            runtime,
            peer,
            mounts: RefCell::default(),
            count: Cell::new(0),
            rootless: RefCell::default(),
            user: RefCell::default(),
            wrapper: RefCell::default(),
            terminals: RefCell::default(),
        };
        test.mounts.replace(left::mounts());
        test
    }

    fn next(&self) -> u32 {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }

    /// A command on the host.
    pub fn command(&self, program: impl AsRef<Path>) -> Cmd {
        Cmd::new(program.as_ref(), self.dir.join(format!("output/{}", self.next())))
    }

    /// The runtime with its `--root`.
    pub fn cli<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Cmd {
        self.as_caller().arg("--root").arg(&self.root).args(args)
    }

    /// The runtime without any argument, as whoever calls it ([`Test::become_user`]).
    pub fn as_caller(&self) -> Cmd {
        const AS_USER: &str = r#"id=$1 cgroup=$2; shift 2
            test -z "$cgroup" || echo $$ > "$cgroup/cgroup.procs"
            exec /usr/bin/setpriv --reuid "$id" --regid "$id" --groups "$id,$((id + 1))" "$@""#;
        match (&*self.rootless.borrow(), &*self.user.borrow()) {
            (Some(holder), _) => {
                let target = holder.pid().to_string();
                self.command("/usr/bin/nsenter").args(["--user", "--mount", "--target", &target]).arg(&self.runtime)
            }
            (None, Some((id, cgroup))) => {
                let shell = self.command("/bin/sh").args(["-c", AS_USER, "as-user", &id.to_string()]);
                shell.arg(cgroup.clone().unwrap_or_default()).arg(self.users_runtime())
            }
            (None, None) => match &*self.wrapper.borrow() {
                Some(wrapper) => self.command(wrapper).arg(&self.runtime),
                None => self.command(&self.runtime),
            },
        }
    }

    /// From now on `wrapper` executes the runtime, which is its first argument.
    pub fn call_by(&self, wrapper: PathBuf) {
        *self.wrapper.borrow_mut() = Some(wrapper);
    }

    /// From now on the runtime runs as the root of a user namespace whose ids begin at `base`, as under Podman for a
    /// user who is not root.
    pub fn enter_rootless(&self, base: u32) {
        let holder = self.command("/usr/bin/unshare").args(["--user", "--mount", "/bin/sleep", "1000"]).spawn();
        let user = || namespace_of(Some(holder.pid()), "user");
        eventually("a user namespace", || user() != namespace_of(None, "user") && !user().is_empty());
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", holder.pid()), format!("0 {base} 70000")).unwrap();
        }
        fs::create_dir(&self.root).unwrap();
        std::os::unix::fs::chown(&self.root, Some(base), Some(base)).unwrap();
        *self.rootless.borrow_mut() = Some(holder);
    }

    /// From now on the runtime runs as an ordinary user, who is in one more group, in the v2 cgroup `cgroup` if there
    /// is one.
    pub fn become_user(&self, id: u32, cgroup: Option<PathBuf>) {
        if !self.root.exists() {
            fs::create_dir(&self.root).unwrap();
            std::os::unix::fs::chown(&self.root, Some(id), Some(id)).unwrap();
            // By another process: what a test beside this one forks meanwhile would hold a copy of ours open for
            // writing, and nobody could execute it.
            self.command("/bin/cp").arg(&self.runtime).arg(self.users_runtime()).ok();
        }
        *self.user.borrow_mut() = Some((id, cgroup));
    }

    /// A copy: the directories above the runtime may be closed to others.
    fn users_runtime(&self) -> PathBuf {
        self.dir.join(self.runtime.file_name().unwrap())
    }

    /// Keeps a terminal open until the test ends: its hangup would end the container.
    pub fn keep(&self, terminal: Terminal) {
        self.terminals.borrow_mut().push(terminal);
    }

    /// The runtime without any argument.
    pub fn runtime(&self) -> Cmd {
        self.command(&self.runtime)
    }

    pub fn runtime_path(&self) -> &Path {
        &self.runtime
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.dir.join(name), text).unwrap();
        self.path(name)
    }

    pub fn script(&self, name: &str, text: &str) -> String {
        script(&self.dir.join(name), text)
    }

    /// Makes a bundle: a busybox rootfs and this configuration.
    pub fn container(&self, config: Config) -> Container<'_> {
        let id = format!("c{}", self.next());
        self.container_named(&id, config)
    }

    pub fn container_named(&self, id: &str, mut config: Config) -> Container<'_> {
        let bundle = self.dir.join(format!("bundle-{id}"));
        fs::create_dir(&bundle).unwrap();
        make_rootfs(&bundle.join("rootfs"));
        let cgroup = config.own_cgroup.then(|| format!("{}/{id}", self.cgroup));
        if let Some(path) = &cgroup {
            config = config.set("/linux/cgroupsPath", path.as_str());
        }
        let container = Container { t: self, id: id.to_owned(), bundle, cgroup };
        container.write(&config);
        container
    }

    /// True, with a note, when another runtime is under test that is known to do worse here.
    pub fn peer_lacks(&self, what: &str) -> bool {
        if self.peer != Peer::Berth {
            skip!("{:?}: {what}", self.peer);
        }
        self.peer != Peer::Berth
    }

    pub fn is_berth(&self) -> bool {
        self.peer == Peer::Berth
    }

    pub fn is_runc(&self) -> bool {
        self.peer == Peer::Runc
    }

    pub fn is_crun(&self) -> bool {
        self.peer == Peer::Crun
    }

    /// Whether the resource controller can be used by this test.
    pub fn has_controller(&self, name: &str) -> bool {
        match self.mode {
            // A directory alone may be what somebody left in the tmpfs.
            Mode::V1 => Path::new("/sys/fs/cgroup").join(name).join("cgroup.procs").exists(),
            Mode::V2 => fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
                .is_ok_and(|list| list.split_whitespace().any(|controller| controller == name)),
        }
    }

    /// Says that mounts which the test made itself are there to stay until its end.
    pub fn accept_mounts(&self) {
        self.mounts.replace(left::mounts());
    }

    #[track_caller]
    pub fn assert_no_cgroup_below(&self, path: &str) {
        let left: Vec<_> = left::cgroups(path).into_iter().filter(|dir| !dir.ends_with(&self.cgroup[1..])).collect();
        assert!(left.is_empty(), "cgroups are left: {left:?}");
    }

    #[track_caller]
    pub fn assert_no_process(&self) {
        left::assert_no_process(&self.cgroup);
    }

    /// Deletes the containers that the test left standing, then demands that nothing is left.
    fn finish(self) {
        for id in left::containers(&self.root) {
            self.cli(["delete", "--force", &id]).ok();
        }
        drop(self.rootless.borrow_mut().take());
        let containers = left::containers(&self.root);
        assert!(containers.is_empty(), "containers are left: {containers:?}");
        self.assert_no_cgroup_below(&self.cgroup);
        left::assert_no_process(&self.cgroup);
        assert_eq!(left::mounts(), left::standing(self.mounts.take()), "other mounts than before");
    }
}

/// After a failure too, nothing of the test may stay on the machine.
impl Drop for Test {
    fn drop(&mut self) {
        for id in left::containers(&self.root) {
            self.cli(["delete", "--force", &id]).spawn().wait_quietly();
        }
        drop(self.rootless.borrow_mut().take());
        for pid in left::processes(&self.cgroup) {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        left::remove_cgroups(&self.cgroup);
        for mount in left::mounts_below(&self.dir) {
            let _ = unmount(&mount, UnmountFlags::DETACH);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The identity of a namespace of a process, or of this thread.
pub fn namespace_of(pid: Option<i32>, kind: &str) -> String {
    let process = pid.map_or("thread-self".to_owned(), |pid| pid.to_string());
    let link = fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap_or_default();
    link.to_string_lossy().into_owned()
}

/// Enters a new mount namespace with the wanted cgroup hierarchies on /sys/fs/cgroup.
fn enter(mode: Mode, peer: Peer) {
    sys::unshare_mounts().unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    if mode == Mode::V2 && Mode::own() == Mode::V1 {
        // A new mount, without options, would take those of the hierarchy away from the host.
        let unified = Path::new("/sys/fs/cgroup/unified");
        let is_v2 = statfs(unified).is_ok_and(|fs| fs.f_type == libc::CGROUP2_SUPER_MAGIC);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let unified = is_v2.then(|| open_tree(CWD, unified, flags).unwrap());
        for mount in left::mounts_below(Path::new("/sys/fs/cgroup")) {
            unmount(&mount, UnmountFlags::DETACH).unwrap();
        }
        match unified {
            Some(tree) => {
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                move_mount(tree, "", CWD, "/sys/fs/cgroup", flags).unwrap();
            }
            None => mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MountFlags::empty(), None).unwrap(),
        }
    } else if peer == Peer::Crun {
        // It refuses to work while the hybrid's v2 hierarchy has a controller.
        let _ = mount("tmpfs", "/sys/fs/cgroup/unified", "tmpfs", MountFlags::empty(), None);
    }
}
