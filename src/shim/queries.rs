//! The methods of containerd's task API that change nothing.

use super::messages::{
    Any, ConnectResponse, ContainerRequest, PidsResponse, ProcessDetails, ProcessInfo, ProcessRequest, StateResponse,
    StatsResponse,
};
use super::metrics;
use super::server::Shim;
use super::task::{FIRST, Reply, Stage, waited};
use super::ttrpc::{Answer, encoded};

pub fn state(shim: &mut Shim, request: &ProcessRequest) -> Answer {
    let task = shim.task(&request.id)?;
    let bundle = task.bundle.to_string_lossy().into_owned();
    let is_running = task.members.get(FIRST).is_some_and(|member| matches!(member.stage, Stage::Running));
    // Other programs may freeze it too.
    let paused =
        is_running && task.container.as_ref().is_some_and(|container| container.is_paused().unwrap_or_default());
    let member = shim.member(&request.id, &request.exec_id)?;
    let exit = member.exit();
    encoded(&StateResponse {
        id: request.id.clone(),
        bundle,
        pid: member.pid(),
        status: member.status(paused).into(),
        stdin: member.names.stdin.clone(),
        stdout: member.names.stdout.clone(),
        stderr: member.names.stderr.clone(),
        terminal: member.names.terminal,
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: exit.map(|exit| exit.timestamp()),
        exec_id: request.exec_id.clone(),
    })
}

/// A container may have many cgroups below its own, which takes a while.
pub fn pids(shim: &mut Shim, reply: Reply, request: ContainerRequest) -> Option<Answer> {
    shim.ask(reply, request.id, "pids", |container| container.pids(), named)
}

fn named(shim: &mut Shim, id: &str, pids: Vec<u32>) -> Answer {
    let task = shim.task(id)?;
    let info = |pid| {
        let (exec_id, _) = task.members.iter().find(|(exec_id, member)| *exec_id != FIRST && member.pid() == pid)?;
        Some(Any::new("containerd.runc.v1.ProcessDetails", &ProcessDetails { exec_id: exec_id.clone() }))
    };
    let processes = pids.into_iter().map(|pid| ProcessInfo { pid, info: info(pid) }).collect();
    encoded(&PidsResponse { processes })
}

/// As [`pids`].
pub fn stats(shim: &mut Shim, reply: Reply, request: ContainerRequest) -> Option<Answer> {
    shim.ask(
        reply,
        request.id,
        "stats",
        |container| container.stats(),
        |shim, id, stats| {
            let oom_kills = shim.task(id)?.oom_kills;
            encoded(&StatsResponse { stats: Some(metrics::encode(&stats, crate::host::is_unified(), oom_kills)) })
        },
    )
}

/// Answered once the process has ended.
pub fn wait(shim: &mut Shim, reply: Reply, request: &ProcessRequest) -> Option<Answer> {
    match shim.member(&request.id, &request.exec_id) {
        Err(failure) => Some(Err(failure)),
        Ok(member) => match member.exit() {
            Some(exit) => Some(waited(exit)),
            None => {
                member.waiters.push(reply);
                None
            }
        },
    }
}

pub fn connect(shim: &mut Shim, request: &ContainerRequest) -> Answer {
    encoded(&ConnectResponse {
        shim_pid: std::process::id(),
        // The shim answers for itself, whether there is a container or not.
        task_pid: shim.member(&request.id, FIRST).map_or(0, |member| member.pid()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}
