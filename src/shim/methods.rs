//! The methods of containerd's task API.

use std::path::{Path, PathBuf};

use prost::Message;
use rustix::io::Errno;

use super::messages::{
    self, CheckpointRequest, CloseRequest, ContainerRequest, CreateRequest, DeleteResponse, Empty, ExecRequest,
    KillRequest, Options, PidResponse, ProcessRequest, Request, ResizeRequest, TaskCheckpointed, TaskCreate,
    TaskDelete, TaskEvent, TaskExecAdded, TaskExecStarted, TaskIo, TaskStart, UpdateRequest,
};
use super::poller::Token;
use super::server::{Adopted, Shim};
use super::streams::{self, Names, Owner};
use super::task::{Exit, FIRST, Member, Reply, Restoration, Stage, Task, failed, no_process, no_task, not_yet, waited};
use super::ttrpc::{Answer, Code, Failure, encoded};
use super::{names_a_slice, options, queries, rootfs, runtime};
use crate::error::{Error, Result};
use crate::library::{
    self, CheckpointOptions, Container, CreateOptions, ErrorKind, ExecOptions, Process, Resources, RestoreOptions,
};

const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// `None`: the answer comes later.
pub fn call(shim: &mut Shim, reply: Reply, request: &Request) -> Option<Answer> {
    if !SERVICES.contains(&&*request.service) {
        return Some(Err(Failure::new(Code::Unimplemented, format!("service {}", request.service))));
    }
    let payload = &*request.payload;
    let method = &*request.method;
    let called = match method {
        "State" => decode(payload).map(|request| Some(queries::state(shim, &request))),
        "Create" => decode(payload).map(|request| create(shim, reply, request)),
        "Start" => decode(payload).map(|request| start(shim, reply, request)),
        "Delete" => decode(payload).map(|request| delete(shim, reply, request)),
        "Pids" => decode(payload).map(|request| queries::pids(shim, reply, request)),
        "Pause" => decode(payload).map(|request| pause(shim, reply, request, true)),
        "Resume" => decode(payload).map(|request| pause(shim, reply, request, false)),
        "Kill" => decode(payload).map(|request| kill(shim, reply, request)),
        "Exec" => decode(payload).map(|request| Some(exec(shim, request))),
        "ResizePty" => decode(payload).map(|request| Some(resize(shim, &request))),
        "CloseIO" => decode(payload).map(|request| Some(close_io(shim, &request))),
        "Checkpoint" => decode(payload).map(|request| checkpoint(shim, reply, request)),
        "Update" => decode(payload).map(|request| update(shim, reply, request)),
        "Wait" => decode(payload).map(|request| queries::wait(shim, reply, &request)),
        "Stats" => decode(payload).map(|request| queries::stats(shim, reply, request)),
        "Connect" => decode(payload).map(|request| Some(queries::connect(shim, &request))),
        "Shutdown" => Ok(Some(shutdown(shim))),
        _ => Err(Failure::new(Code::Unimplemented, format!("method {method}"))),
    };
    called.unwrap_or_else(|failure| Some(Err(failure)))
}

fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Failure> {
    M::decode(payload).map_err(|e| Failure::new(Code::InvalidArgument, e.to_string()))
}

/// Jobs of one process come one after the other.
fn job_name(id: &str, exec_id: &str) -> String {
    format!("{id}/{exec_id}")
}

fn create(shim: &mut Shim, reply: Reply, request: CreateRequest) -> Option<Answer> {
    if shim.tasks.contains_key(&request.id) {
        return Some(Err(Failure::new(Code::AlreadyExists, format!("container {:?} already exists", request.id))));
    }
    let options = match request.options.as_ref().map(options::read).transpose() {
        Ok(options) => options.unwrap_or_default(),
        Err(e) => return Some(Err(Failure::new(Code::InvalidArgument, e.to_string()))),
    };
    if !options.binary_name.is_empty() {
        shim.log.of(&request.id).debug("the option BinaryName has no effect: the shim is the runtime");
    }
    if !options.root.is_empty() {
        let message = format!("the option Root has no effect: the state is in {}", super::ROOT);
        shim.log.of(&request.id).warning(&message);
    }
    let names = Names {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    };
    let task = Task {
        bundle: PathBuf::from(&request.bundle),
        container: None,
        restoration: None,
        shares_pids: false,
        stream_owner: (options.io_uid, options.io_gid),
        oom: None,
        oom_kills: 0,
        members: [(FIRST.to_owned(), Member::new(shim.number(), names.clone(), Vec::new()))].into(),
    };
    shim.tasks.insert(request.id.clone(), task);
    // containerd 1.6 knows the second one for runc only.
    let images = Some(&request.checkpoint).filter(|path| !path.is_empty()).unwrap_or(&options.criu_image_path);
    if !images.is_empty() {
        let restoration = Restoration { images: images.into(), options };
        return create_restored(shim, reply, request, restoration);
    }
    let (namespace, log) = (shim.namespace.clone(), shim.log.of(&request.id));
    shim.jobs.run(&job_name(&request.id, FIRST), move || {
        let made = make(&request, &names, &options, &namespace, log);
        Box::new(move |shim| {
            let answer = made.and_then(|made| created(shim, &request, made));
            if answer.is_err() {
                shim.forget(&request.id);
            }
            shim.answer(reply, answer);
        })
    });
    None
}

/// A container that is to be restored has its root file system already, into which containerd may unpack more, and
/// everything else once it is started.
fn create_restored(shim: &mut Shim, reply: Reply, request: CreateRequest, restoration: Restoration) -> Option<Answer> {
    shim.jobs.run(&job_name(&request.id, FIRST), move || {
        let prepared = uses_systemd(&request, &restoration.options).and_then(|systemd| {
            mount(&request)?;
            let options = Options { systemd_cgroup: systemd, ..restoration.options };
            Ok(Restoration { options, ..restoration })
        });
        Box::new(move |shim| {
            let answer = prepared.and_then(|restoration| {
                let task = shim.tasks.get_mut(&request.id).ok_or_else(|| no_task(&request.id))?;
                task.restoration = Some(restoration);
                tell_created(shim, &request, 0)
            });
            if answer.is_err() {
                shim.forget(&request.id);
            }
            shim.answer(reply, answer);
        })
    });
    None
}

const CREATE: &str = "OCI runtime create failed";

/// Whether systemd makes the cgroup: by the options or, where these are not runc's, by the form of the cgroup's path.
fn uses_systemd(request: &CreateRequest, options: &Options) -> Result<bool, Failure> {
    if options.systemd_cgroup || request.options.as_ref().is_some_and(options::are_runcs) {
        return Ok(options.systemd_cgroup);
    }
    names_a_slice(Path::new(&request.bundle)).map_err(|e| failed(CREATE, e))
}

fn mount(request: &CreateRequest) -> Result<(), Failure> {
    match request.rootfs.is_empty() {
        true => Ok(()),
        false => rootfs::mount_all(&PathBuf::from(&request.bundle), &request.rootfs).map_err(|e| failed(CREATE, e)),
    }
}

type Made = (Container, streams::Opened);

/// In a thread of its own.
fn make(
    request: &CreateRequest,
    names: &Names,
    options: &Options,
    namespace: &str,
    log: super::log::Log,
) -> Result<Made, Failure> {
    const WHAT: &str = CREATE;
    let bundle = PathBuf::from(&request.bundle);
    let systemd = uses_systemd(request, options)?;
    mount(request)?;
    let owner = Owner { namespace, id: &request.id, ids: (options.io_uid, options.io_gid) };
    let made = streams::open_all(names, false, &owner).map_err(|e| failed(WHAT, e)).and_then(|mut opened| {
        let create = CreateOptions::new()
            .stdio(std::mem::take(&mut opened.stdio))
            .no_pivot(options.no_pivot_root)
            .no_new_keyring(options.no_new_keyring);
        let runtime = runtime(namespace, systemd, &log);
        let container = runtime.create(&request.id, &bundle, create).map_err(|e| failed(WHAT, e))?;
        Ok((container, opened))
    });
    made.inspect_err(|_| {
        // The failure is what is told, not this.
        let _ = rootfs::unmount(&bundle);
    })
}

fn created(shim: &mut Shim, request: &CreateRequest, made: Made) -> Answer {
    let pid = take_up(shim, &request.id, made).map_err(|e| {
        // The failure is what is told, not what may be left.
        let _ = rootfs::unmount(&PathBuf::from(&request.bundle));
        failed(CREATE, e)
    })?;
    tell_created(shim, request, pid)
}

/// From now on the container's first process and its streams are looked after. Returns the pid.
fn take_up(shim: &mut Shim, id: &str, (container, opened): Made) -> Result<u32> {
    let process = container.process().cloned().ok_or_else(|| Error::new("the container has no process"))?;
    let adopted = shim.adopt(opened, &process, id, FIRST);
    // It cannot be looked after. The failure is what is told, not what may be left.
    let Adopted { kept, relay, feed } = adopted.inspect_err(|_| drop(container.delete(true)))?;
    let shares_pids = container.shares_pids().unwrap_or_default();
    let pid = process.pid();
    let task = shim.tasks.get_mut(id).ok_or_else(|| Error::new("the container has been forgotten"))?;
    (task.container, task.restoration, task.shares_pids) = (Some(container), None, shares_pids);
    if let Some(member) = task.members.get_mut(FIRST) {
        (member.process, member.kept, member.relay) = (Some(process), kept, relay);
        member.feed = feed;
        if member.input_closed {
            member.kept.close_input();
        }
    }
    shim.watch_oom(id);
    Ok(pid)
}

fn tell_created(shim: &mut Shim, request: &CreateRequest, pid: u32) -> Answer {
    let io = TaskIo {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    };
    let event = TaskCreate {
        container_id: request.id.clone(),
        bundle: request.bundle.clone(),
        rootfs: request.rootfs.clone(),
        io: Some(io),
        checkpoint: request.checkpoint.clone(),
        pid,
    };
    shim.publisher.publish("/tasks/create", "TaskCreate", &event);
    encoded(&PidResponse { pid })
}

fn start(shim: &mut Shim, reply: Reply, request: ProcessRequest) -> Option<Answer> {
    let (namespace, log) = (shim.namespace.clone(), shim.log.of(&request.id));
    let task = match shim.task(&request.id) {
        Ok(task) => task,
        Err(failure) => return Some(Err(failure)),
    };
    let (container, restoration, bundle) = (task.container.clone(), task.restoration.clone(), task.bundle.clone());
    let ids = task.stream_owner;
    let member = match shim.member(&request.id, &request.exec_id) {
        Ok(member) => member,
        Err(failure) => return Some(Err(failure)),
    };
    match member.stage {
        Stage::Created => member.stage = Stage::Starting,
        Stage::Starting | Stage::Running => return Some(Err(not_yet("the process has been started already"))),
        Stage::Ended(_) => return Some(Err(not_yet("cannot start a process that has ended"))),
    }
    let (names, closed, document) = (member.names.clone(), member.input_closed, std::mem::take(&mut member.document));
    let number = member.number;
    let name = job_name(&request.id, &request.exec_id);
    if container.is_none() {
        shim.restoring += 1;
    }
    shim.jobs.run(&name, move || {
        let owner = Owner { namespace: &namespace, id: &request.id, ids };
        match (container, restoration) {
            (Some(container), _) if request.exec_id == FIRST => {
                let started = container.start().map_err(|e| failed("OCI runtime start failed", e));
                Box::new(move |shim| {
                    let answer = started.and_then(|()| first_started(shim, &request.id));
                    conclude(shim, reply, &request, number, answer);
                })
            }
            (Some(container), _) => {
                let made = join(&container, &names, closed, &document, &owner);
                Box::new(move |shim| {
                    let answer = made.and_then(|made| joined(shim, &request, number, made));
                    conclude(shim, reply, &request, number, answer);
                })
            }
            (None, restoration) => {
                let made = restore(restoration, &bundle, &names, closed, &owner, &log);
                Box::new(move |shim| {
                    shim.restoring -= 1;
                    let taken = made.and_then(|made| take_up(shim, &request.id, made).map_err(|e| failed(RESTORE, e)));
                    let answer = taken.and_then(|_| first_started(shim, &request.id));
                    conclude(shim, reply, &request, number, answer);
                })
            }
        }
    });
    None
}

const RESTORE: &str = "OCI runtime restore failed";

/// In a thread of its own.
fn restore(
    restoration: Option<Restoration>,
    bundle: &Path,
    names: &Names,
    input_closed: bool,
    owner: &Owner,
    log: &super::log::Log,
) -> Result<Made, Failure> {
    let Restoration { images, options } = restoration.ok_or_else(|| no_task(owner.id))?;
    let mut opened = streams::open_all(names, input_closed, owner).map_err(|e| failed(RESTORE, e))?;
    let mut restore =
        RestoreOptions::new(images).stdio(std::mem::take(&mut opened.stdio)).no_pivot(options.no_pivot_root);
    if !options.criu_work_path.is_empty() {
        restore = restore.work_path(options.criu_work_path);
    }
    let runtime = runtime(owner.namespace, options.systemd_cgroup, log);
    let container = runtime.restore(owner.id, bundle, restore).map_err(|e| failed(RESTORE, e))?;
    Ok((container, opened))
}

fn first_started(shim: &mut Shim, id: &str) -> Answer {
    let pid = shim.member(id, FIRST)?.pid();
    shim.publisher.publish("/tasks/start", "TaskStart", &TaskStart { container_id: id.to_owned(), pid });
    encoded(&PidResponse { pid })
}

/// In a thread of its own.
fn join(
    container: &Container,
    names: &Names,
    input_closed: bool,
    document: &[u8],
    owner: &Owner,
) -> Result<(crate::library::Process, streams::Opened), Failure> {
    const WHAT: &str = "OCI runtime exec failed";
    let mut opened = streams::open_all(names, input_closed, owner).map_err(|e| failed(WHAT, e))?;
    let options = ExecOptions::from_json(document).map_err(|e| failed(WHAT, e))?;
    let options = options.stdio(std::mem::take(&mut opened.stdio));
    let process = container.exec(options).and_then(|exec| exec.start()).map_err(|e| failed(WHAT, e))?;
    Ok((process, opened))
}

fn joined(
    shim: &mut Shim,
    request: &ProcessRequest,
    number: Token,
    (process, opened): (crate::library::Process, streams::Opened),
) -> Answer {
    let ProcessRequest { id, exec_id } = request;
    let Adopted { kept, relay, feed } = shim.adopt(opened, &process, id, exec_id).map_err(|e| {
        // It cannot be looked after.
        let _ = process.kill(libc::SIGKILL);
        failed("OCI runtime exec failed", e)
    })?;
    let pid = process.pid();
    let Some(member) = shim.starting(request, number) else {
        // The container was deleted meanwhile, and may have been made again.
        let _ = process.kill(libc::SIGKILL);
        shim.end_streams(relay, feed);
        return Err(no_process(exec_id));
    };
    (member.process, member.kept, member.relay) = (Some(process), kept, relay);
    member.feed = feed;
    if member.input_closed {
        member.kept.close_input();
    }
    let event = TaskExecStarted { container_id: id.clone(), exec_id: exec_id.clone(), pid };
    shim.publisher.publish("/tasks/exec-started", "TaskExecStarted", &event);
    encoded(&PidResponse { pid })
}

/// The end of a start, whether it has succeeded or not.
fn conclude(shim: &mut Shim, reply: Reply, request: &ProcessRequest, number: Token, answer: Answer) {
    /// The status of a process that was never started, as a shell has it for an unknown command.
    const NEVER: u32 = 127;
    let ProcessRequest { id, exec_id } = request;
    // The container was deleted meanwhile, and may have been made again.
    let Some(member) = shim.starting(request, number) else { return shim.answer(reply, answer) };
    let early = member.early_exit.take();
    let mut waiters = Vec::new();
    match (&answer, exec_id.as_str()) {
        (Ok(_), _) => member.stage = Stage::Running,
        // Its end is told as that of any process.
        (Err(_), FIRST) => member.stage = Stage::Created,
        (Err(_), _) => {
            let exit = Exit { status: NEVER, at: std::time::SystemTime::now() };
            member.stage = Stage::Ended(exit);
            waiters = std::mem::take(&mut member.waiters).into_iter().map(|reply| (reply, exit)).collect();
        }
    }
    shim.answer(reply, answer);
    for (reply, exit) in waiters {
        shim.answer(reply, waited(exit));
    }
    if let Some(exit) = early {
        shim.ended(id, exec_id, exit);
    }
}

fn delete(shim: &mut Shim, reply: Reply, request: ProcessRequest) -> Option<Answer> {
    let member = match shim.member(&request.id, &request.exec_id) {
        Ok(member) => member,
        Err(failure) => return Some(Err(failure)),
    };
    let exit = match (member.stage, request.exec_id.as_str()) {
        (Stage::Ended(exit), _) => Some(exit),
        (Stage::Created, _) => None,
        (Stage::Starting | Stage::Running, _) => {
            return Some(Err(not_yet("cannot delete a process that has not ended")));
        }
    };
    let pid = member.pid();
    if request.exec_id != FIRST {
        if let Some(task) = shim.tasks.get_mut(&request.id) {
            task.members.remove(&request.exec_id);
        }
        return Some(deleted(pid, exit));
    }
    let task = match shim.task(&request.id) {
        Ok(task) => task,
        Err(failure) => return Some(Err(failure)),
    };
    let (container, bundle) = (task.container.clone(), task.bundle.clone());
    shim.jobs.run(&job_name(&request.id, FIRST), move || {
        let removed = match container.map_or(Ok(()), |container| container.delete(false)) {
            // A container that could not be started, or was saved to files, has been removed then.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        let removed = removed.map_err(|e| failed("OCI runtime delete failed", e));
        let removed = removed.and_then(|()| rootfs::unmount(&bundle).map_err(|e| failed("unmount", e)));
        Box::new(move |shim| {
            let answer = removed.and_then(|()| removed_task(shim, &request.id));
            shim.answer(reply, answer);
        })
    });
    None
}

fn removed_task(shim: &mut Shim, id: &str) -> Answer {
    let member = shim.member(id, FIRST)?;
    let pid = member.pid();
    if member.exit().is_none() {
        // It was never started. It has been killed, and collected, but that has not been noticed yet.
        let status = member.process.as_ref().and_then(|process| process.try_wait().ok().flatten());
        shim.ended(id, FIRST, Exit::new(status.unwrap_or_default()));
    }
    let exit = shim.member(id, FIRST)?.exit();
    let event = TaskDelete {
        container_id: id.to_owned(),
        pid,
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: exit.map(|exit| exit.timestamp()),
        id: String::new(),
    };
    shim.forget(id);
    shim.publisher.publish("/tasks/delete", "TaskDelete", &event);
    deleted(pid, exit)
}

fn deleted(pid: u32, exit: Option<Exit>) -> Answer {
    encoded(&DeleteResponse {
        pid,
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: exit.map(|exit| exit.timestamp()),
    })
}

fn exec(shim: &mut Shim, request: ExecRequest) -> Answer {
    shim.container(&request.id)?;
    let number = shim.number();
    let task = shim.task(&request.id)?;
    if request.exec_id == FIRST {
        return Err(Failure::new(Code::InvalidArgument, "a further process needs an id"));
    }
    if task.members.contains_key(&request.exec_id) {
        return Err(Failure::new(Code::AlreadyExists, format!("id {}", request.exec_id)));
    }
    let document = request.spec.map(|spec| spec.value).unwrap_or_default();
    // An empty document is refused now; other mistakes are reported at start, as by runc's shim.
    if document.is_empty() {
        return Err(Failure::new(Code::InvalidArgument, "a further process needs a document"));
    }
    let names =
        Names { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
    let member = Member::new(number, names, document);
    task.members.insert(request.exec_id.clone(), member);
    let event = TaskExecAdded { container_id: request.id, exec_id: request.exec_id };
    shim.publisher.publish("/tasks/exec-added", "TaskExecAdded", &event);
    encoded(&Empty {})
}

/// What runs is saved to files, for as long as that takes.
fn checkpoint(shim: &mut Shim, reply: Reply, request: CheckpointRequest) -> Option<Answer> {
    const WHAT: &str = "checkpoint";
    let container = match shim.container(&request.id) {
        Ok(container) => container,
        Err(failure) => return Some(Err(failure)),
    };
    let options = request.options.as_ref().map_or(Ok(messages::CheckpointOptions::default()), |any| decode(&any.value));
    let options: messages::CheckpointOptions = match options {
        Ok(options) => options,
        Err(failure) => return Some(Err(failure)),
    };
    if let Some(name) = options.empty_namespaces.iter().find(|name| *name != "network") {
        let message = format!("{WHAT}: namespace {name:?} cannot be restored as an empty one");
        return Some(Err(Failure::new(Code::InvalidArgument, message)));
    }
    // CRIU's log does not belong to the images, which containerd packs.
    let bundle = shim.tasks.get(&request.id).map(|task| task.bundle.clone()).unwrap_or_default();
    let work = if options.work_path.is_empty() { bundle.join("criu-work") } else { options.work_path.into() };
    let mut dump = CheckpointOptions::new(&request.path)
        .work_path(work)
        .leave_running(!options.exit)
        .tcp_established(options.open_tcp)
        .external_unix_sockets(options.external_unix_sockets)
        .shell_job(options.terminal)
        .file_locks(options.file_locks);
    if !options.parent_path.is_empty() {
        dump = dump.parent_path(options.parent_path);
    }
    shim.jobs.run(&format!("{} checkpoint", request.id), move || {
        let done = container.checkpoint(&dump).map_err(|e| failed(WHAT, e));
        Box::new(move |shim| {
            let answer = done.and_then(|()| {
                let event = TaskCheckpointed { container_id: request.id, checkpoint: request.path };
                shim.publisher.publish("/tasks/checkpointed", "TaskCheckpointed", &event);
                encoded(&Empty {})
            });
            shim.answer(reply, answer);
        })
    });
    None
}

/// Or resume. To stop all processes may take a while.
fn pause(shim: &mut Shim, reply: Reply, request: ContainerRequest, paused: bool) -> Option<Answer> {
    let container = match shim.container(&request.id) {
        Ok(container) => container,
        Err(failure) => return Some(Err(failure)),
    };
    shim.jobs.run(&format!("{} pause", request.id), move || {
        let done = if paused { container.pause() } else { container.resume() };
        let done = done.map_err(|e| failed(if paused { "pause" } else { "resume" }, e));
        Box::new(move |shim| {
            let answer = done.and_then(|()| {
                let (topic, name) =
                    if paused { ("/tasks/paused", "TaskPaused") } else { ("/tasks/resumed", "TaskResumed") };
                shim.publisher.publish(topic, name, &TaskEvent { container_id: request.id });
                encoded(&Empty {})
            });
            shim.answer(reply, answer);
        })
    });
    None
}

/// A container can make many cgroups, and have processes that do not freeze: its first process is killed by a job.
fn kill(shim: &mut Shim, reply: Reply, request: KillRequest) -> Option<Answer> {
    let signal = request.signal.cast_signed();
    match killable(shim, &request) {
        Err(failure) => Some(Err(failure)),
        Ok(Target::Process(process)) => Some(killed(process.kill(signal))),
        Ok(Target::Container(container)) => {
            shim.jobs.run(&format!("{} kill", request.id), move || {
                let answer = killed(container.kill(signal, request.all));
                Box::new(move |shim| shim.answer(reply, answer))
            });
            None
        }
    }
}

/// What a signal goes to.
enum Target {
    Container(Container),
    Process(Process),
}

fn killable(shim: &mut Shim, request: &KillRequest) -> Result<Target, Failure> {
    let container = shim.container(&request.id)?;
    let member = shim.member(&request.id, &request.exec_id)?;
    if member.exit().is_some() {
        return Err(finished());
    }
    if request.exec_id == FIRST {
        return Ok(Target::Container(container));
    }
    member.process.clone().map(Target::Process).ok_or_else(|| not_yet("process not created"))
}

fn finished() -> Failure {
    Failure::new(Code::NotFound, "process already finished")
}

fn killed(killed: library::Result<()>) -> Answer {
    match killed {
        // Its end has not been noticed yet.
        Err(e) if e.kind() == ErrorKind::WrongState => Err(finished()),
        Err(e) if e.errno() == Some(Errno::INVAL.raw_os_error()) => {
            Err(Failure::new(Code::InvalidArgument, e.to_string()))
        }
        killed => killed.map_err(|e| failed("kill", e)).and_then(|()| encoded(&Empty {})),
    }
}

fn resize(shim: &mut Shim, request: &ResizeRequest) -> Answer {
    let relay = shim.member(&request.id, &request.exec_id)?.relay;
    let cut = |size| u16::try_from(size).unwrap_or(u16::MAX);
    // A process that has no terminal, or none any more, has no size either.
    if let Some(relay) = shim.relay(relay) {
        relay.resize(cut(request.height), cut(request.width)).map_err(|e| failed("resize", e))?;
    }
    encoded(&Empty {})
}

fn close_io(shim: &mut Shim, request: &CloseRequest) -> Answer {
    if request.stdin {
        let member = shim.member(&request.id, &request.exec_id)?;
        member.input_closed = true;
        member.kept.close_input();
    }
    encoded(&Empty {})
}

fn update(shim: &mut Shim, reply: Reply, request: UpdateRequest) -> Option<Answer> {
    let container = match shim.container(&request.id) {
        Ok(container) => container,
        Err(failure) => return Some(Err(failure)),
    };
    let text = request.resources.map(|resources| resources.value).unwrap_or_default();
    let resources = match Resources::from_json(text) {
        Ok(resources) => resources,
        Err(e) => return Some(Err(failed("update", e))),
    };
    shim.jobs.run(&format!("{} update", request.id), move || {
        let updated = container.update(resources).map_err(|e| failed("update", e));
        Box::new(move |shim| shim.answer(reply, updated.and_then(|()| encoded(&Empty {}))))
    });
    None
}

/// A shim that still has containers goes on: containerd asks for this after each one of a pod.
fn shutdown(shim: &mut Shim) -> Answer {
    if shim.tasks.is_empty() {
        shim.end();
    }
    encoded(&Empty {})
}
