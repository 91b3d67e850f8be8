//! The shim at work: one loop that waits for containerd, for processes and for their terminals.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt};

use super::events::Publisher;
use super::jobs::Jobs;
use super::log::Log;
use super::messages::{ProcessRequest, Request, Response, TaskExit};
use super::poller::{Poller, Token};
use super::streams::{Copy, Feed, Opened, Relay};
use super::task::{Exit, FIRST, Member, Reply, Stage, Task, failed, no_process, no_task, not_yet, waited};
use super::ttrpc::{Answer, Connection, Failure, Received};
use crate::error::{Call, Result};
use crate::library::{self, Container, ExitStatus, Process};
use crate::sys::reap::{self, Change};
use crate::sys::signal::{self, SignalSet};

/// Answers a request, or `None` if the answer comes later.
pub type Method = fn(&mut Shim, Reply, &Request) -> Option<Answer>;

/// What a token stands for, beside connections.
enum Source {
    Listener,
    Jobs,
    Publisher,
    /// SIGCHLD.
    Signals,
    /// A process, with its container's id and its own. An id may be given again, also while the process is there still.
    Process(Process, String, String),
    Oom(String),
    Relay(Relay),
    Feed(Feed),
    Copy(Copy),
}

/// What the shim looks after for a process: see [`Member`].
pub struct Adopted {
    pub kept: super::streams::Kept,
    pub relay: Option<Token>,
    pub feed: Option<Token>,
}

/// How long a shim without a container waits for one.
const IDLE: Duration = Duration::from_secs(60);

/// How long a shim that is to end waits for containerd to take its last events.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long to wait before what could not be watched is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the thread of a job takes to end, after it has told what came of the job.
const SOON: Duration = Duration::from_millis(100);

pub struct Shim {
    pub namespace: String,
    pub log: Log,
    pub tasks: BTreeMap<String, Task>,
    pub jobs: Jobs<Shim>,
    pub publisher: Publisher,
    method: Method,
    poller: Poller,
    listener: OwnedFd,
    signals: OwnedFd,
    sources: BTreeMap<Token, Source>,
    connections: BTreeMap<Token, Connection>,
    publishing: Token,
    /// When to look for children that have ended, without a signal.
    look: Option<Instant>,
    /// Relays and feeds that could not be waited for, and processes that somebody traces; and when to try again.
    unwatched: BTreeSet<Token>,
    again: Option<Instant>,
    /// How many containers are being restored.
    pub restoring: usize,
    /// Since when there has been nothing to do.
    idle: Instant,
    /// When to end at the latest.
    ending: Option<Instant>,
}

impl Shim {
    /// `listener` must not block. From now on this thread, and those that it makes, block SIGCHLD, and nothing else.
    pub fn new(listener: OwnedFd, namespace: &str, publisher: Publisher, log: Log, method: Method) -> Result<Self> {
        let mut poller = Poller::new()?;
        let jobs = Jobs::new()?;
        let child = SignalSet::of(libc::SIGCHLD);
        signal::sigmask(&child);
        let signals = signal::signalfd(&child).call(|| "signalfd(SIGCHLD)")?;
        let mut sources = BTreeMap::new();
        for (fd, source) in
            [(listener.as_fd(), Source::Listener), (jobs.as_fd(), Source::Jobs), (signals.as_fd(), Source::Signals)]
        {
            let token = poller.token();
            poller.add(fd, token, EventFlags::IN)?;
            sources.insert(token, source);
        }
        let publishing = poller.token();
        sources.insert(publishing, Source::Publisher);
        Ok(Self {
            namespace: namespace.to_owned(),
            log,
            tasks: BTreeMap::new(),
            jobs,
            publisher,
            method,
            poller,
            listener,
            signals,
            sources,
            connections: BTreeMap::new(),
            publishing,
            look: None,
            unwatched: BTreeSet::new(),
            again: None,
            restoring: 0,
            idle: Instant::now(),
            ending: None,
        })
    }

    /// Returns when the shim is no longer needed.
    pub fn serve(&mut self) -> Result<()> {
        loop {
            self.reap();
            self.publisher.step();
            if let Some((fd, full)) = self.publisher.connection() {
                let flags = if full { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
                if let Err(e) = self.poller.want(fd, self.publishing, flags) {
                    // Other processes may have used up what root may watch (fs.epoll.max_user_watches).
                    self.log.warning(&e.to_string());
                    self.publisher.lose();
                }
            }
            self.look_again();
            if !self.tasks.is_empty() || !self.connections.is_empty() || !self.jobs.is_idle() {
                self.idle = Instant::now();
            }
            if self.is_done() {
                return Ok(());
            }
            for token in self.poller.wait(self.timeout())? {
                self.happened(token);
            }
        }
    }

    fn is_done(&self) -> bool {
        let now = Instant::now();
        let told = self.publisher.is_done() && !self.connections.values().any(Connection::has_unsent);
        self.idle + IDLE <= now || self.ending.is_some_and(|at| told || at <= now)
    }

    fn timeout(&self) -> Option<Duration> {
        let idle = (self.tasks.is_empty() && self.connections.is_empty()).then(|| self.idle + IDLE);
        let next = [idle, self.ending, self.look, self.again, self.publisher.deadline()].into_iter().flatten().min();
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Answers what is asked still, and ends.
    pub fn end(&mut self) {
        self.ending.get_or_insert_with(|| Instant::now() + FAREWELL);
    }

    fn happened(&mut self, token: Token) {
        if self.connections.contains_key(&token) {
            return self.converse(token);
        }
        match self.sources.get_mut(&token) {
            Some(Source::Listener) => self.accept(),
            Some(Source::Jobs) => self.conclude_jobs(),
            // The signal only wakes the loop, whose next turn reaps.
            Some(Source::Signals) => drop(rustix::io::read(&self.signals, &mut [0; 128])),
            Some(Source::Process(..)) => self.collect(token),
            Some(Source::Oom(id)) => {
                let id = id.clone();
                self.tell_oom(&id);
            }
            Some(Source::Relay(_) | Source::Feed(_)) => self.pump(token),
            Some(Source::Copy(copy)) => {
                if !copy.step() {
                    self.sources.remove(&token);
                }
            }
            // The publisher looks after its connection itself. What has just been removed is told once more at most.
            Some(Source::Publisher) | None => {}
        }
    }

    /// Only root and the shim's own user may talk to it: another could have root's containers do anything.
    fn accept(&mut self) {
        let socket = match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            Err(errno) => {
                if matches!(errno, Errno::MFILE | Errno::NFILE) {
                    // Whoever wants to connect stays there, and would wake the loop again at once.
                    std::thread::sleep(Duration::from_millis(10));
                }
                return;
            }
        };
        let own = rustix::process::geteuid();
        match sockopt::socket_peercred(&socket) {
            Ok(peer) if peer.uid.is_root() || peer.uid == own => {}
            _ => return self.log.warning("a connection of another user was refused"),
        }
        let token = self.poller.token();
        match self.poller.add(&socket, token, EventFlags::IN) {
            Ok(()) => drop(self.connections.insert(token, Connection::new(socket))),
            Err(e) => self.log.warning(&e.to_string()),
        }
    }

    fn converse(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let (received, open) = connection.receive();
        for message in received {
            match message {
                Received::Request(stream, request) => self.dispatch(Reply { connection: token, stream }, &request),
                Received::Bad(stream, failure) => self.answer(Reply { connection: token, stream }, Err(failure)),
                // The shim sends no requests here: ignored.
                Received::Response(_, Response { .. }) => {}
            }
        }
        if open { self.flush(token) } else { self.hang_up(token) }
    }

    fn dispatch(&mut self, reply: Reply, request: &Request) {
        if let Some(answer) = (self.method)(self, reply, request) {
            self.answer(reply, answer);
        }
    }

    pub fn answer(&mut self, reply: Reply, answer: Answer) {
        if let Some(connection) = self.connections.get_mut(&reply.connection) {
            connection.respond(reply.stream, answer);
            self.flush(reply.connection);
        }
    }

    fn flush(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if !connection.send() {
            return self.hang_up(token);
        }
        let flags = if connection.has_unsent() { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        if self.poller.want(&*connection, token, flags).is_err() {
            self.hang_up(token);
        }
    }

    fn hang_up(&mut self, token: Token) {
        self.connections.remove(&token);
        let members = self.tasks.values_mut().flat_map(|task| task.members.values_mut());
        members.for_each(|member| member.waiters.retain(|reply| reply.connection != token));
    }

    /// A container that has been created, as far as containerd knows.
    pub fn task(&mut self, id: &str) -> Result<&mut Task, Failure> {
        let is_made = |task: &&mut Task| task.container.is_some() || task.restoration.is_some();
        self.tasks.get_mut(id).filter(is_made).ok_or_else(|| no_task(id))
    }

    /// Fails for one that is to be restored: it has no process before it is started.
    pub fn container(&mut self, id: &str) -> Result<Container, Failure> {
        self.task(id)?.container.clone().ok_or_else(|| not_yet("the container has not been restored yet"))
    }

    /// Has a job ask the container, and answers with what `answer` makes of that. `what` is for errors; jobs of the
    /// same name come one after the other.
    pub fn ask<T: Send + 'static>(
        &mut self,
        reply: Reply,
        id: String,
        what: &'static str,
        question: impl FnOnce(&Container) -> library::Result<T> + Send + 'static,
        answer: impl FnOnce(&mut Self, &str, T) -> Answer + Send + 'static,
    ) -> Option<Answer> {
        let container = match self.container(&id) {
            Ok(container) => container,
            Err(failure) => return Some(Err(failure)),
        };
        self.jobs.run(&format!("{id} {what}"), move || {
            let told = question(&container).map_err(|e| failed(what, e));
            Box::new(move |shim: &mut Self| {
                let answer = told.and_then(|told| answer(shim, &id, told));
                shim.answer(reply, answer);
            })
        });
        None
    }

    pub fn member(&mut self, id: &str, exec_id: &str) -> Result<&mut Member, Failure> {
        self.task(id)?.members.get_mut(exec_id).ok_or_else(|| no_process(exec_id))
    }

    /// The process that a start was asked for, unless it has been deleted meanwhile: its ids may be another's now.
    pub fn starting(&mut self, request: &ProcessRequest, number: Token) -> Option<&mut Member> {
        self.member(&request.id, &request.exec_id).ok().filter(|member| member.number == number)
    }

    /// A number that no other process has.
    pub fn number(&mut self) -> Token {
        self.poller.token()
    }

    /// From now on the end of the process is noticed, and its streams are looked after. After a failure, nothing is
    /// left that does not end with the process.
    pub fn adopt(&mut self, opened: Opened, process: &Process, id: &str, exec_id: &str) -> Result<Adopted> {
        let Opened { kept, terminal, copies, feed, logger, stdio: _ } = opened;
        let relay = process.take_terminal().map(|master| Relay::new(master, terminal)).transpose()?;
        for copy in copies {
            let token = self.poller.token();
            self.poller.add(&copy, token, EventFlags::IN)?;
            self.sources.insert(token, Source::Copy(copy));
        }
        let token = self.poller.token();
        self.poller.add(process, token, EventFlags::IN)?;
        self.sources.insert(token, Source::Process(process.clone(), id.to_owned(), exec_id.to_owned()));
        if let Some(logger) = logger {
            logger.keep();
        }
        // These end only when containerd closes its side.
        let feed = feed.map(|feed| self.join(Source::Feed(feed)));
        let relay = relay.map(|relay| self.join(Source::Relay(relay)));
        Ok(Adopted { kept, relay, feed })
    }

    fn join(&mut self, source: Source) -> Token {
        let token = self.poller.token();
        self.sources.insert(token, source);
        self.pump(token);
        token
    }

    pub fn relay(&mut self, token: Option<Token>) -> Option<&mut Relay> {
        match self.sources.get_mut(&token?) {
            Some(Source::Relay(relay)) => Some(relay),
            _ => None,
        }
    }

    /// The process has ended: what it has printed is passed on, and then no more. Nobody is to read its input.
    pub fn end_streams(&mut self, relay: Option<Token>, feed: Option<Token>) {
        if let Some(relay) = self.relay(relay) {
            relay.end();
        }
        if let Some(relay) = relay {
            self.pump(relay);
        }
        if let Some(feed) = feed {
            self.sources.remove(&feed);
        }
    }

    /// Moves what can be moved, and waits for the rest.
    pub fn pump(&mut self, token: Token) {
        let (done, wanted) = match self.sources.get_mut(&token) {
            Some(Source::Relay(relay)) => {
                let mut done = relay.step();
                while !done && relay.is_hurried() {
                    done = relay.step();
                }
                (done, relay.wanted())
            }
            Some(Source::Feed(feed)) => (feed.step(), feed.wanted()),
            _ => return,
        };
        let mut failed = None;
        for (fd, flags) in wanted {
            failed = self.poller.want(fd, token, flags).err().or(failed);
        }
        if done {
            self.sources.remove(&token);
        } else if let Some(e) = failed {
            // As above. Nothing is lost, only late.
            self.log.warning(&e.to_string());
            self.try_again(token);
        }
    }

    fn try_again(&mut self, token: Token) {
        self.unwatched.insert(token);
        self.again.get_or_insert_with(|| Instant::now() + AGAIN);
    }

    fn look_again(&mut self) {
        if self.again.is_some_and(|at| at <= Instant::now()) {
            self.again = None;
            for token in std::mem::take(&mut self.unwatched) {
                match self.sources.get(&token) {
                    Some(Source::Process(..)) => self.collect(token),
                    _ => self.pump(token),
                }
            }
        }
    }

    fn conclude_jobs(&mut self) {
        for then in self.jobs.finished() {
            then(self);
            self.look = Some(Instant::now() + SOON);
        }
    }

    /// Reaps children that have ended, also those that nobody knows (`sys/reap.rs`). Each turn of the loop does, and
    /// there is one after each SIGCHLD. The children of a job's thread are the job's. When that thread has ended, a
    /// moment after it has told what came of the job, they are those of this thread, without a signal.
    fn reap(&mut self) {
        /// A container that makes children without end must not hold up the rest.
        const ROUND: usize = 64;
        self.look = self.look.filter(|at| Instant::now() < *at);
        for _ in 0..ROUND {
            let Ok(Some((pid, change))) = reap::wait(None, reap::LOOK | reap::OF_THIS_THREAD) else { return };
            if change == Change::Stopped {
                reap::pass_over_stop(pid);
                continue;
            }
            // If a job made it, the result of the job tells whose it is.
            self.conclude_jobs();
            match self.known(pid) {
                Some(token) => self.collect(token),
                // CRIU, and what it makes, are children of this thread at once, and the job waits for them.
                None if self.restoring > 0 => return,
                // It can only be that somebody else has reaped it.
                None => drop(reap::wait(Some(pid), reap::OF_THIS_THREAD)),
            }
        }
        self.look = Some(Instant::now());
    }

    fn known(&self, pid: i32) -> Option<Token> {
        let is_it =
            |source: &Source| matches!(source, Source::Process(process, ..) if process.pid() == pid.cast_unsigned());
        self.sources.iter().find(|(_, source)| is_it(source)).map(|(token, _)| *token)
    }

    /// Waits for a process that has ended, also if containerd has forgotten it.
    fn collect(&mut self, token: Token) {
        let Some(Source::Process(process, id, exec_id)) = self.sources.get(&token) else { return };
        let (process, id, exec_id) = (process.clone(), id.clone(), exec_id.clone());
        let status = match process.try_wait() {
            // A tracer (a debugger, CRIU) is told first. Then the kernel sends another SIGCHLD, unless it never asks.
            Ok(None) => {
                self.poller.remove(&process);
                return self.try_again(token);
            }
            Ok(Some(status)) => Ok(status),
            Err(e) => Err(e),
        };
        self.poller.remove(&process);
        self.sources.remove(&token);
        self.collected(&process, &id, &exec_id, status);
    }

    fn collected(
        &mut self,
        process: &Process,
        id: &str,
        exec_id: &str,
        status: Result<ExitStatus, crate::library::Error>,
    ) {
        let status = status.unwrap_or_else(|e| {
            self.log.of(id).warning(&e.to_string());
            ExitStatus::default()
        });
        let member = self.tasks.get(id).and_then(|task| task.members.get(exec_id));
        if member.is_some_and(|member| member.process.as_ref().is_some_and(|known| known.is(process))) {
            self.ended(id, exec_id, Exit::new(status));
        }
    }

    /// Reports an exit: after the start, and after an out-of-memory kill that may have caused it.
    pub fn ended(&mut self, id: &str, exec_id: &str, exit: Exit) {
        self.tell_oom(id);
        let Some(task) = self.tasks.get_mut(id) else { return };
        let Some(member) = task.members.get_mut(exec_id) else { return };
        match member.stage {
            Stage::Starting => return member.early_exit = Some(exit),
            Stage::Ended(_) => return,
            Stage::Created | Stage::Running => {}
        }
        member.stage = Stage::Ended(exit);
        let (pid, waiters) = (member.pid(), std::mem::take(&mut member.waiters));
        let (relay, feed) = (member.relay, member.feed.take());
        if exec_id == FIRST {
            if let Some(container) = task.container.clone().filter(|_| task.shares_pids) {
                // Kills the processes that it has left. A failure is ignored.
                self.jobs.run(&format!("{id} kill"), move || {
                    let _ = container.kill(libc::SIGKILL, true);
                    Box::new(|_| ())
                });
            }
            // When the cgroup is removed, its descriptor would be ready for ever.
            if let Some((token, _)) = task.oom.take() {
                self.sources.remove(&token);
            }
        }
        self.end_streams(relay, feed);
        let event = TaskExit {
            container_id: id.to_owned(),
            id: if exec_id == FIRST { id } else { exec_id }.to_owned(),
            pid,
            exit_status: exit.status,
            exited_at: Some(exit.timestamp()),
        };
        self.publisher.publish("/tasks/exit", "TaskExit", &event);
        for reply in waiters {
            self.answer(reply, waited(exit));
        }
    }

    /// From now on, out-of-memory kills are reported.
    pub fn watch_oom(&mut self, id: &str) {
        let token = self.poller.token();
        let Some(task) = self.tasks.get_mut(id) else { return };
        let Some(container) = &task.container else { return };
        match container.watch_oom() {
            Ok(None) => {}
            Ok(Some(watch)) => {
                let flags = if watch.poll_events() == libc::POLLIN { EventFlags::IN } else { EventFlags::PRI };
                if let Err(e) = self.poller.add(watch.as_fd(), token, flags) {
                    return self.log.of(id).warning(&e.to_string());
                }
                task.oom = Some((token, watch));
                self.sources.insert(token, Source::Oom(id.to_owned()));
            }
            Err(e) => self.log.of(id).warning(&e.to_string()),
        }
    }

    fn tell_oom(&mut self, id: &str) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        let Some((token, watch)) = &mut task.oom else { return };
        match watch.happened() {
            Ok(false) => {}
            Ok(true) => {
                task.oom_kills += 1;
                self.publisher.publish_oom(id);
            }
            Err(_) => {
                // The cgroup has gone.
                self.sources.remove(token);
                task.oom = None;
            }
        }
    }

    /// Nothing of the container is looked after any more.
    pub fn forget(&mut self, id: &str) {
        if let Some(task) = self.tasks.remove(id)
            && let Some((token, _)) = task.oom
        {
            self.sources.remove(&token);
        }
    }
}
