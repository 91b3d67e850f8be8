//! Containers and their processes, as the shim knows them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use super::messages::{Options, Status, Timestamp, WaitResponse};
use super::poller::Token;
use super::streams::{Kept, Names};
use super::ttrpc::{Answer, Code, Failure, encoded};
use crate::error::with_hint;
use crate::library::{Container, ErrorKind, ExitStatus, OomWatch, Process};

/// Whom to answer, and under which number.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    pub connection: Token,
    pub stream: u32,
}

/// The id of a container's first process among its processes.
pub const FIRST: &str = "";

/// How a process has ended, and when.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    pub status: u32,
    pub at: SystemTime,
}

impl Exit {
    pub fn new(status: ExitStatus) -> Self {
        /// For a process of which nobody knows: as if it had been killed.
        const UNKNOWN: i32 = 128 + libc::SIGKILL;
        Self { status: status.shell_code().unwrap_or(UNKNOWN).cast_unsigned(), at: SystemTime::now() }
    }

    pub fn timestamp(&self) -> Timestamp {
        self.at.into()
    }
}

/// How far a process has come.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    /// Its program is still to be executed.
    Created,
    /// A job is at it.
    Starting,
    Running,
    Ended(Exit),
}

/// One process, from when containerd names it until it is deleted.
pub struct Member {
    /// Its ids may be given again, while a start of it is still at work. This is its own.
    pub number: Token,
    pub names: Names,
    pub stage: Stage,
    pub process: Option<Process>,
    /// Of a further process: its document.
    pub document: Vec<u8>,
    pub kept: Kept,
    pub relay: Option<Token>,
    pub feed: Option<Token>,
    pub input_closed: bool,
    /// It has ended while it was being started: that is told afterwards.
    pub early_exit: Option<Exit>,
    pub waiters: Vec<Reply>,
}

impl Member {
    pub fn new(number: Token, names: Names, document: Vec<u8>) -> Self {
        Self {
            number,
            names,
            stage: Stage::Created,
            process: None,
            document,
            kept: Kept::default(),
            relay: None,
            feed: None,
            input_closed: false,
            early_exit: None,
            waiters: Vec::new(),
        }
    }

    /// 0 as long as there is no process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::pid)
    }

    pub fn exit(&self) -> Option<Exit> {
        match self.stage {
            Stage::Ended(exit) => Some(exit),
            _ => None,
        }
    }

    pub fn status(&self, paused: bool) -> Status {
        match self.stage {
            Stage::Created | Stage::Starting => Status::Created,
            Stage::Running if paused => Status::Paused,
            Stage::Running => Status::Running,
            Stage::Ended(_) => Status::Stopped,
        }
    }
}

/// A container that is made of a checkpoint once it is started.
#[derive(Clone)]
pub struct Restoration {
    pub images: PathBuf,
    pub options: Options,
}

/// A container.
pub struct Task {
    pub bundle: PathBuf,
    /// `None` while it is being created, and until it is restored.
    pub container: Option<Container>,
    pub restoration: Option<Restoration>,
    /// User and group of the streams of its processes.
    pub stream_owner: (u32, u32),
    /// Its processes do not end with the first one.
    pub shares_pids: bool,
    pub oom: Option<(Token, OomWatch)>,
    pub oom_kills: u64,
    pub members: BTreeMap<String, Member>,
}

pub fn waited(exit: Exit) -> Answer {
    encoded(&WaitResponse { exit_status: exit.status, exited_at: Some(exit.timestamp()) })
}

pub fn no_task(id: &str) -> Failure {
    Failure::new(Code::NotFound, format!("container {id:?} not found"))
}

pub fn no_process(id: &str) -> Failure {
    Failure::new(Code::NotFound, format!("process {id:?} not found"))
}

pub fn not_yet(what: &str) -> Failure {
    Failure::new(Code::FailedPrecondition, what)
}

/// `what`: in words of runc's shim, which engines look for.
pub fn failed(what: &str, e: impl Into<crate::library::Error>) -> Failure {
    let e = e.into();
    let code = match e.kind() {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::InvalidConfiguration => Code::InvalidArgument,
        ErrorKind::WrongState => Code::FailedPrecondition,
        ErrorKind::Busy => Code::Unavailable,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        _ => Code::Unknown,
    };
    Failure::new(code, format!("{what}: {}", with_hint(&e.to_string(), e.hint())))
}
