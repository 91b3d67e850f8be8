//! `checkpoint`, and what it has in common with `restore`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use crate::criu::{self, CgroupsMode, Criu, NetworkLock, Notification, Options, RequestType, Streams, Surroundings};
use crate::error::{Call, Context, Error, Kind, Result};
use crate::files;
use crate::host;
use crate::plan::namespaces::{NamespaceKind, Namespaces};
use crate::plan::rootfs::{self as plan_rootfs, RootfsPlan, Switch};
use crate::rootfs;
use crate::spec::{Spec, Status};
use crate::sys;
use crate::sys::mountinfo;
use crate::sys::stat::named;
use crate::sys::wait::ends_within;

use super::container::Container;
use super::locked::Locked;
use super::process::ProcessId;

/// The names of the standard streams, stored with the images: `restore` connects its own descriptors in their place.
pub(super) const DESCRIPTORS: &str = "descriptors.json";

/// How CRIU names a file that is not in the images begins like this: then follow its mount and its inode.
pub(super) const FILE: &str = "file[";

const LOG: &str = "dump.log";

/// External namespaces, with the oldest CRIU that knows them and the name by which they are found again.
pub(super) const EXTERNAL_NAMESPACES: [(NamespaceKind, i64, &str); 2] =
    [(NamespaceKind::Network, 31100, "extRootNetNS"), (NamespaceKind::Pid, 31500, "extRootPidNS")];

/// What `checkpoint` and `restore` have in common.
#[derive(Debug, Default)]
pub struct CriuOptions {
    pub image_path: PathBuf,
    /// Where CRIU keeps its log and statistics. Default: with the images that it dumps, or in the state directory of
    /// the container that it restores.
    pub work_path: Option<PathBuf>,
    pub tcp_established: bool,
    pub ext_unix_sk: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub auto_dedup: bool,
    pub lazy_pages: bool,
    pub cgroups: CgroupsMode,
    pub network_lock: Option<NetworkLock>,
}

#[derive(Debug, Default)]
pub struct CheckpointOptions {
    pub criu: CriuOptions,
    /// An earlier pre-dump, relative to the images: only later changes are dumped.
    pub parent_path: Option<PathBuf>,
    pub pre_dump: bool,
    pub leave_running: bool,
    pub tcp_skip_in_flight: bool,
    pub link_remap: bool,
    /// A descriptor of the caller. With lazy pages, a NUL is written to it once they can be served.
    pub status_fd: Option<i32>,
    /// Address and port.
    pub page_server: Option<(String, u16)>,
}

/// The directories that CRIU works in.
#[derive(Debug)]
pub(super) struct Work {
    images: OwnedFd,
    work: Option<OwnedFd>,
    log_file: &'static str,
    /// `None`: in the state directory, and removed with it.
    log_path: Option<PathBuf>,
}

impl Work {
    /// Opened in the mount namespace of the calling thread, which CRIU shares: CRIU mounts below them. `make`: makes
    /// the directory of the images. `default`: the directory of the log, if it is not that of the images.
    pub(super) fn open(
        options: &CriuOptions,
        log_file: &'static str,
        make: bool,
        default: Option<&Path>,
    ) -> Result<Self> {
        let open_images = if make { files::make_images_directory } else { files::open_images_directory };
        let images = open_images(&options.image_path).context("--image-path")?;
        let path = options.work_path.as_deref().or(default);
        let work = path.map(files::make_work_directory).transpose().context("--work-path")?;
        // A log of an earlier run would be taken for that of this run.
        match unlinkat(work.as_ref().unwrap_or(&images), log_file, AtFlags::empty()) {
            Err(Errno::NOENT) => {}
            removed => removed.call(|| format!("unlink({log_file:?})"))?,
        }
        let kept = options.work_path.as_deref().or(default.is_none().then_some(&options.image_path));
        Ok(Self { images, work, log_file, log_path: kept.map(|dir| dir.join(log_file)) })
    }

    /// Adds what CRIU's log says.
    pub(super) fn explain(&self, e: Error) -> Error {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let log = openat(self.work.as_ref().unwrap_or(&self.images), self.log_file, flags, Mode::empty());
        criu::explain(e, log.ok().map(File::from), self.log_path.as_deref())
    }

    /// Options that dumping and restoring share.
    pub(super) fn options(
        &self,
        options: &CriuOptions,
        annotations: &BTreeMap<String, String>,
        rootfs: &Path,
    ) -> Result<Options> {
        Ok(Options {
            images_dir_fd: self.images.as_raw_fd(),
            work_dir_fd: self.work.as_ref().map(AsRawFd::as_raw_fd),
            log_file: self.log_file,
            config_file: config_file(annotations, rootfs)?,
            ext_unix_sk: options.ext_unix_sk,
            tcp_established: options.tcp_established,
            shell_job: options.shell_job,
            file_locks: options.file_locks,
            auto_dedup: options.auto_dedup,
            lazy_pages: options.lazy_pages,
            cgroups: options.cgroups,
            network_lock: options.network_lock,
            // The engine configured the container's network, and does so again.
            empty_namespaces: NamespaceKind::Network.clone_flag() as u32,
            ..Options::default()
        })
    }
}

/// A configuration file for CRIU. It overrides the runtime's options, and names programs for CRIU to execute. An empty
/// annotation means none.
fn config_file(annotations: &BTreeMap<String, String>, rootfs: &Path) -> Result<Option<Vec<u8>>> {
    const OURS: &str = "/etc/criu/berth.conf";
    const RUNC: &str = "/etc/criu/runc.conf";
    const KEY: &str = "org.criu.config";
    let path = match annotations.get(KEY) {
        Some(path) if path.is_empty() => return Ok(None),
        Some(path) => path,
        None => return Ok(Some(if Path::new(OURS).exists() { OURS } else { RUNC }.into())),
    };
    // A user who may write annotations, but not files of the host, could name a file that the container has made.
    let rootfs = rootfs.canonicalize().call(|| format!("realpath({rootfs:?})"))?;
    match files::own_path(Path::new(path)) {
        Some(found) if !found.starts_with(&rootfs) => Ok(Some(found.into_os_string().into_encoded_bytes())),
        _ => Err(Error::config(format_args!("/annotations/{KEY}"), format_args!("{path:?} is not taken"))
            .with_hint("it must exist outside of the container, where no other user can write")),
    }
}

pub(super) fn check_common(criu: &Criu, options: &CriuOptions) -> Result<()> {
    match options.network_lock {
        Some(_) => criu.require(31700, "--network-lock"),
        None => Ok(()),
    }
}

impl Locked<'_> {
    /// Has CRIU write the container's state to files, and removes the container, unless it is to go on.
    pub fn checkpoint(self, options: &CheckpointOptions) -> Result<()> {
        let status = self.status()?;
        let Some(init) = self.record.init.filter(|_| matches!(status, Status::Running | Status::Paused)) else {
            return Err(
                Error::new(format_args!("Container cannot be checkpointed in {status} state")).with_kind(Kind::State)
            );
        };
        let spec = self.spec()?;
        let (namespaces, rootfs) = self.plan_for_dump(&spec)?;
        let mut status_fd = options.status_fd.map(writable).transpose().context("invalid --status-fd argument")?;
        let work = Work::open(&options.criu, LOG, true, None)?;
        // The path leads through the directory of the images, which may have been made just now.
        check_parent(options, &work)?;

        let mut criu = Criu::spawn(Surroundings { streams: Streams::None, keep: &[], cgroups: Vec::new() })?;
        criu.check_version()?;
        self.check_dump(&mut criu, options)?;
        let mut request = work.options(&options.criu, &spec.annotations, &self.record.rootfs)?;
        request.pid = Some(init.pid);
        request.root = rootfs.path.clone().into_bytes();
        request.leave_running = options.leave_running;
        request.tcp_skip_in_flight = options.tcp_skip_in_flight;
        request.link_remap = options.link_remap;
        request.page_server.clone_from(&options.page_server);
        request.parent_images = options.parent_path.as_ref().map(|path| path.as_os_str().as_bytes().to_owned());
        request.track_memory = options.parent_path.is_some() || options.pre_dump;
        request.external = external_namespaces(&criu, &namespaces, init.pid)?;
        let streams = self.streams_in_images(init.pid)?;
        request.external.extend(streams.iter().filter(|name| name.starts_with(FILE)).cloned());
        if let Some(path) = self.record.cgroup.freezer_path() {
            request.freeze_cgroup = Some(path.into_os_string().into_encoded_bytes());
        }
        if !options.pre_dump {
            request.external_mounts = external_mounts(&rootfs, init.pid)?;
            write_descriptors(&work, &streams)?;
        }
        let kind = if options.pre_dump { RequestType::PreDump } else { RequestType::Dump };
        let mut notified = |notification: &Notification, _| self.dumping(notification, &mut status_fd);
        self.runtime.criu_is_at("stops the processes");
        criu.perform(kind, &request, &mut notified).map_err(|e| self.what_became(work.explain(e), init, status))?;
        if options.leave_running || options.pre_dump { Ok(()) } else { self.destroy_dumped() }
    }

    /// Adds what CRIU has done to the container before it failed; `before` is its status then.
    fn what_became(&self, e: Error, init: ProcessId, before: Status) -> Error {
        /// CRIU does not wait for the end of what it kills.
        const SOON: Duration = Duration::from_millis(200);
        if let Ok(Some(init)) = init.open() {
            let _ = ends_within(init.as_fd(), SOON);
        }
        match self.status() {
            Ok(now) if now != before => {
                let said = e.hint().map(|said| format!("; {said}")).unwrap_or_default();
                e.with_hint(format_args!("the container is {now} now{said}"))
            }
            _ => e,
        }
    }

    /// The container's processes live on in the images.
    fn destroy_dumped(&self) -> Result<()> {
        self.runtime.debug(|| "dumped".to_owned());
        self.destroy(&self.poststop_or_warn())
    }
}

impl Container<'_> {
    fn plan_for_dump(&self, spec: &Spec) -> Result<(Namespaces, RootfsPlan)> {
        let namespaces = Namespaces::of_container(&spec.linux, self.record.namespaces)?;
        let layout = host::cgroup_layout(false)?;
        let facts = plan_rootfs::Facts {
            layout: &layout,
            namespaces: &namespaces,
            cgroup: &|_| None,
            no_pivot: false,
            rootless: host::is_rootless(),
        };
        let rootfs = plan_rootfs::plan(spec, &self.record.bundle, &facts, &mut Vec::new())?;
        if matches!(rootfs.switch, Switch::Chroot { .. }) {
            let message = "CRIU dumps no container without a mount namespace of its own";
            return Err(Error::config("/linux/namespaces", message));
        }
        if let Some(mount) = rootfs.mounts.iter().find(|mount| mount.idmap.is_some()) {
            let pointer = format!("/mounts/{}", mount.index);
            return Err(Error::config(pointer, "CRIU would restore an id-mapped mount without its mapping"));
        }
        Ok((namespaces, rootfs))
    }

    fn check_dump(&self, criu: &mut Criu, options: &CheckpointOptions) -> Result<()> {
        check_common(criu, &options.criu)?;
        if options.status_fd.is_some() {
            criu.require(31500, "--status-fd")?;
        }
        if !options.pre_dump && !options.criu.lazy_pages {
            return Ok(());
        }
        let features = criu.features()?;
        for (asked, there, option) in [
            (options.pre_dump, features.memory_tracking, "--pre-dump: memory tracking"),
            (options.criu.lazy_pages, features.lazy_pages, "--lazy-pages: userfaultfd"),
        ] {
            if asked && !there {
                return Err(Error::new(format_args!("{option} is missing in CRIU or in the kernel"))
                    .with_hint("`criu check --feature mem_dirty_track` and `criu check --feature uffd-noncoop` tell"));
            }
        }
        Ok(())
    }

    /// The names that the images have for the standard streams: pipes, and files that the container cannot reach.
    fn streams_in_images(&self, pid: i32) -> Result<[String; 3]> {
        let path = format!("/proc/{pid}/mountinfo");
        let mountinfo = std::fs::read(&path).call(|| format!("open({path:?})"))?;
        let mut streams = self.record.streams.clone();
        for (name, number) in streams.iter_mut().zip(0..).filter(|(name, _)| name.is_empty()) {
            *name = outside_file(pid, number, &mountinfo).unwrap_or_default();
        }
        Ok(streams)
    }

    fn dumping(&self, notification: &Notification, status_fd: &mut Option<OwnedFd>) -> Result<()> {
        self.runtime.debug(|| format!("criu: {}", notification.script));
        match notification.script.as_str() {
            "network-lock" => self.runtime.criu_is_at("writes processes and memory"),
            "post-dump" => self.runtime.criu_is_at("has written everything"),
            _ => {}
        }
        match status_fd.take_if(|_| notification.script == "status-ready") {
            Some(fd) => rustix::io::write(fd, &[0]).call(|| "write(--status-fd)").map(drop),
            None => Ok(()),
        }
    }
}

/// The name that CRIU has for a stream of the process that is a fifo or a file of the host: no mount of the container's
/// has it, so CRIU would not know where it is. `None` if the stream is something else.
fn outside_file(pid: i32, number: i32, mountinfo: &[u8]) -> Option<String> {
    let stat = rustix::fs::stat(format!("/proc/{pid}/fd/{number}")).ok()?;
    let is_file = matches!(FileType::from_raw_mode(stat.st_mode), FileType::Fifo | FileType::RegularFile);
    let info = std::fs::read(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
    let mount: u64 = named(&info, "mnt_id")?.parse().ok()?;
    let is_outside = !mountinfo::entries(mountinfo).any(|entry| entry.id == mount);
    (is_file && is_outside).then(|| format!("{FILE}{mount:x}:{:x}]", stat.st_ino))
}

fn write_descriptors(work: &Work, streams: &[String; 3]) -> Result<()> {
    let text = serde_json::to_vec(streams).map_err(Error::new)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&work.images, DESCRIPTORS, flags, Mode::from_raw_mode(0o600))
        .call(|| format!("open({DESCRIPTORS:?})"))?;
    File::from(fd).write_all(&text).call(|| format!("write({DESCRIPTORS:?})"))
}

fn external_mounts(plan: &RootfsPlan, pid: i32) -> Result<Vec<(String, String)>> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty()).call(|| format!("open({path:?})"))?;
    rootfs::external_mounts(plan, root.as_fd())
}

fn external_namespaces(criu: &Criu, namespaces: &Namespaces, pid: i32) -> Result<Vec<String>> {
    let mut external = Vec::new();
    for (kind, since, key) in EXTERNAL_NAMESPACES.into_iter().filter(|(kind, ..)| namespaces.joins(*kind)) {
        let name = kind.proc_name();
        criu.require(since, &format!("an external {name} namespace"))?;
        let path = format!("/proc/{pid}/ns/{name}");
        let inode = rustix::fs::stat(&path).call(|| format!("stat({path:?})"))?.st_ino;
        external.push(format!("{name}[{inode}]:{key}"));
    }
    Ok(external)
}

fn check_parent(options: &CheckpointOptions, work: &Work) -> Result<()> {
    let Some(parent) = &options.parent_path else { return Ok(()) };
    if parent.is_absolute() {
        return Err(Error::new("--parent-path must be relative").with_hint("to --image-path"));
    }
    let checked = files::check_earlier_images(work.images.as_fd(), &options.criu.image_path, parent);
    checked.context("invalid --parent-path")
}

fn writable(number: i32) -> Result<OwnedFd> {
    let fd = sys::fd::inherit(number).call(|| format!("fcntl({number}, F_SETFD)"))?;
    let mode = rustix::fs::fcntl_getfl(&fd).call(|| format!("fcntl({number}, F_GETFL)"))? & OFlags::RWMODE;
    match mode {
        OFlags::RDONLY => Err(Error::new(format_args!("{number}: not writable"))),
        _ => Ok(fd),
    }
}
