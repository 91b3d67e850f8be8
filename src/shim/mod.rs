//! containerd's shim: what stands between containerd and the containers of a pod, with the runtime within itself.
//!
//! containerd calls `containerd-shim-berth-v2 ... start`, which leaves a process behind that serves the task API on a
//! socket until the last container is deleted, and prints its address. `... delete` clears away what a shim that was
//! killed has left. docs/shim.md has the processes and the descriptors.

mod args;
mod bootstrap;
mod events;
#[cfg(fuzzing)]
mod fuzz;
mod jobs;
mod log;
mod messages;
mod methods;
mod metrics;
mod options;
mod poller;
mod queries;
mod rootfs;
mod server;
mod socket;
mod streams;
mod task;
mod ttrpc;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use prost::Message;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use self::args::{Action, Args};
use self::bootstrap::Told;
use self::events::Publisher;
use self::log::Log;
use self::messages::{Any, DeleteResponse, RuntimeInfo, RuntimeVersion};
use self::server::Shim;
use crate::error::{Call, Context, Error, Result, with_hint};
use crate::library::Runtime;
use crate::runtime::CgroupManager;
use crate::sys::clone::{CloneOptions, fork};
use crate::sys::process::share_heap;

/// The file name by which the binary is the shim.
pub const PROGRAM: &str = "containerd-shim-berth-v2";

/// What containerd calls it.
const NAME: &str = "io.containerd.berth.v2";

/// Below it, the state of the containers of each of containerd's namespaces.
const ROOT: &str = "/run/containerd/berth";

#[cfg(fuzzing)]
pub use self::fuzz::fuzz;

/// Runs the command line `args`, without the program's name, and returns the status to exit with.
pub fn main(args: &[OsString]) -> u8 {
    match Args::parse(args).and_then(|args| run(&args)) {
        Ok(()) => 0,
        Err(e) => {
            // containerd shows it to whoever asked for the container.
            let _ = writeln!(std::io::stderr(), "{PROGRAM}: {}", with_hint(&e.to_string(), e.hint()));
            1
        }
    }
}

fn run(args: &Args) -> Result<()> {
    match args.action {
        Action::Help => print(args::USAGE.as_bytes()),
        Action::Version => print(version().as_bytes()),
        Action::Info => print(&info()?),
        Action::Start => start(args),
        Action::Delete => delete(args),
    }
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).call(|| "write(stdout)")
}

fn version() -> String {
    let (version, revision) = (env!("CARGO_PKG_VERSION"), env!("BERTH_COMMIT"));
    format!("{PROGRAM}:\n  Version:  {version}\n  Revision: {revision}\n")
}

fn info() -> Result<Vec<u8>> {
    /// How containerd registers the type of the runtime specification.
    const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
    let value = crate::cli::features_text()?.into_bytes();
    let version =
        RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), revision: env!("BERTH_COMMIT").to_owned() };
    let features = Some(Any { type_url: FEATURES.to_owned(), value });
    let options = bootstrap::read_options()?.map(|options| Any::new(options::RUNC, &options));
    Ok(RuntimeInfo { name: NAME.to_owned(), version: Some(version), options, features }.encode_to_vec())
}

/// The containers of a namespace.
fn runtime(namespace: &str, systemd: bool, log: &Log) -> Runtime {
    let manager = if systemd { CgroupManager::Systemd } else { CgroupManager::Cgroupfs };
    let (warnings, lines) = (log.clone(), log.clone());
    let runtime = Runtime::builder(Path::new(ROOT).join(namespace))
        .cgroup_manager(manager)
        .on_warning(move |text| warnings.warning(text));
    if log.is_debugging() { runtime.on_debug(move |text| lines.debug(text)).build() } else { runtime.build() }
}

/// Makes sure that a shim serves the new container, and prints its address. The working directory is the bundle.
fn start(args: &Args) -> Result<()> {
    if let Some(bundle) = &args.bundle {
        std::env::set_current_dir(bundle).call(|| format!("chdir({bundle:?})"))?;
    }
    let told = Told::read(&args.namespace, &args.id)?;
    let group = group(Path::new("."), &args.id).map_err(|e| match e.errno() {
        Some(Errno::NOENT) => e.with_hint("`start` runs in the bundle: cd there first"),
        _ => e,
    })?;
    if let Some(address) = group.as_deref().and_then(socket::of_group) {
        socket::write_address(Path::new("."), &address)?;
        return print(&told.answer(&address));
    }
    if !told.options.shim_cgroup.is_empty() {
        // The shim inherits it.
        let layout = crate::host::cgroup_layout(false)?;
        crate::cgroup::enter(&layout, &told.options.shim_cgroup).context("shim_cgroup")?;
    }
    let (listener, address) = socket::listen(&args.namespace, &args.id)?;
    let forked = socket::write_address(Path::new("."), &address).and_then(|()| {
        make_killable();
        fork(CloneOptions::default()).call(|| "clone3()")
    });
    // Without a shim, nobody would remove it.
    match forked.inspect_err(|_| socket::remove(&address))? {
        Some(_) => print(&told.answer(&address)),
        None => {
            let ended = serve(args, &told, listener);
            socket::remove(&address);
            crate::sys::clone::exit(i32::from(ended.is_err()));
        }
    }
}

/// The shim itself.
fn serve(args: &Args, told: &Told, listener: OwnedFd) -> Result<()> {
    detach()?;
    share_heap();
    let log = Log::open(args.debug, &args.namespace, &args.id);
    let address = told.ttrpc_address.clone().or_else(|| std::env::var("TTRPC_ADDRESS").ok());
    let publisher = Publisher::new(&address.unwrap_or_default(), &args.namespace);
    let shim = Shim::new(listener, &args.namespace, publisher, log.clone(), methods::call);
    let served = shim.and_then(|mut shim| shim.serve());
    served.inspect_err(|e| log.warning(&format!("the shim ends: {e}")))
}

/// Detaches the shim from its caller: containerd reads the output of `start` to its end, and the terminal is the
/// caller's.
fn detach() -> Result<()> {
    rustix::process::setsid().call(|| "setsid()")?;
    let null =
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).call(|| "open(/dev/null)")?;
    rustix::stdio::dup2_stdin(&null).call(|| "dup2()")?;
    rustix::stdio::dup2_stdout(&null).call(|| "dup2()")?;
    rustix::stdio::dup2_stderr(&null).call(|| "dup2()")
}

/// When memory is short, the kernel shall kill a shim before containerd. If the score cannot be written, it stays.
fn make_killable() {
    const MOST: i32 = 1000;
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let score = std::fs::read_to_string(format!("/proc/{parent}/oom_score_adj"));
    if let Some(score) = score.ok().and_then(|text| text.trim().parse::<i32>().ok()) {
        let _ = std::fs::write("/proc/self/oom_score_adj", (score + 1).min(MOST).to_string());
    }
}

/// The pod that a container belongs to, by the annotations that CRI and others write; the container itself has none.
fn group(bundle: &Path, id: &str) -> Result<Option<String>> {
    const KEYS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
    let annotations = Parts::read(bundle)?.annotations.unwrap_or_default();
    let group = KEYS.iter().find_map(|key| annotations.get(*key)).filter(|group| *group != id);
    match group {
        Some(group) => args::check_id("the pod", group).map(|()| Some(group.clone())),
        None => Ok(None),
    }
}

/// Whether the path of the cgroup has the form that engines give it if systemd shall make the cgroup. runc's options
/// say that by `SystemdCgroup`, but Docker and the CRI of containerd 1 send those options to runc's shim only.
fn names_a_slice(bundle: &Path) -> Result<bool> {
    let path = Parts::read(bundle)?.linux.and_then(|linux| linux.cgroups_path).unwrap_or_default();
    let parts: Vec<_> = path.split(':').collect();
    Ok(parts.len() == 3 && parts[0].ends_with(".slice"))
}

/// The parts of `config.json` that the shim itself reads.
#[derive(serde::Deserialize)]
struct Parts {
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
    #[serde(default)]
    linux: Option<LinuxPart>,
}

#[derive(serde::Deserialize)]
struct LinuxPart {
    #[serde(default, rename = "cgroupsPath")]
    cgroups_path: Option<String>,
}

impl Parts {
    fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let text = std::fs::read(&path).call(|| format!("open({path:?})"))?;
        serde_json::from_slice(&text).map_err(|e| Error::new(format_args!("config.json: {e}")))
    }
}

/// Clears away what is left of a container whose shim has died, and prints how it has ended.
fn delete(args: &Args) -> Result<()> {
    let bundle = args.bundle.clone().unwrap_or_else(|| PathBuf::from("."));
    let runtime = runtime(&args.namespace, false, &Log::default());
    // Its record may be damaged: it is removed all the same.
    let pid = runtime.load(&args.id).ok().and_then(|container| container.process().map(crate::library::Process::pid));
    runtime.remove(&args.id).map_err(|e| Error::new(e).context(format_args!("delete {}", args.id)))?;
    rootfs::unmount(&bundle)?;
    socket::remove_of(&bundle, &args.namespace, &args.id);
    let answer = DeleteResponse {
        pid: pid.unwrap_or(0),
        exit_status: 128 + libc::SIGKILL.cast_unsigned(),
        exited_at: Some(SystemTime::now().into()),
    };
    print(&answer.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_a_pod_have_a_group() {
        let bundle = std::env::temp_dir().join(format!("berth-group-{}", std::process::id()));
        std::fs::create_dir(&bundle).unwrap();
        let of = |text: &str| {
            std::fs::write(bundle.join("config.json"), text).unwrap();
            group(&bundle, "web")
        };
        assert_eq!(of("{}").unwrap(), None);
        assert_eq!(of(r#"{"annotations":null}"#).unwrap(), None);
        assert_eq!(of(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"web"}}"#).unwrap(), None);
        assert_eq!(of(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#).unwrap().as_deref(), Some("pod"));
        // It is the name of a directory beside the bundle.
        for id in ["..", "a/b", ""] {
            assert!(of(&format!(r#"{{"annotations":{{"io.containerd.runc.v2.group":"{id}"}}}}"#)).is_err(), "{id}");
        }
        std::fs::remove_dir_all(&bundle).unwrap();
    }

    #[test]
    fn a_path_that_names_a_slice_is_for_systemd() {
        let bundle = std::env::temp_dir().join(format!("berth-slice-{}", std::process::id()));
        std::fs::create_dir(&bundle).unwrap();
        let of = |text: &str| {
            std::fs::write(bundle.join("config.json"), text).unwrap();
            names_a_slice(&bundle).unwrap()
        };
        assert!(of(r#"{"linux":{"cgroupsPath":"system.slice:docker:web"}}"#));
        for path in ["", "/docker/web", "/a.slice/web", "a.slice", "docker:x:web", "a.slice:b", "a.slice:b:c:d"] {
            assert!(!of(&format!(r#"{{"linux":{{"cgroupsPath":"{path}"}}}}"#)), "{path}");
        }
        assert!(!of("{}") && !of(r#"{"linux":null}"#));
        std::fs::remove_dir_all(&bundle).unwrap();
    }
}
