//! Sends events to containerd, in order, and again until it has them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant, SystemTime};

use prost::Message;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::messages::{Any, Envelope, ForwardRequest, Request, TaskEvent};
use super::ttrpc::{Connection, Received};

/// As many as are kept while containerd is away; then the oldest go.
const MOST: usize = 4096;

/// How long to wait before containerd is looked for again.
const AGAIN: Duration = Duration::from_millis(500);

/// How long containerd may take for one event.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Publisher {
    address: Option<SocketAddrUnix>,
    namespace: String,
    /// Encoded; the first is on its way if `sent`.
    queue: VecDeque<Event>,
    connection: Option<Connection>,
    /// Since when an answer is waited for.
    sent: Option<Instant>,
    stream: u32,
    retry: Option<Instant>,
}

/// One that containerd does not have yet.
struct Event {
    /// Out-of-memory kills of this container.
    oom_of: Option<String>,
    /// A `ForwardRequest`.
    payload: Vec<u8>,
}

impl Publisher {
    /// `address`: of containerd's ttrpc socket. Without one, nobody is told.
    pub fn new(address: &str, namespace: &str) -> Self {
        Self {
            address: SocketAddrUnix::new(address).ok().filter(|_| !address.is_empty()),
            namespace: namespace.to_owned(),
            queue: VecDeque::new(),
            connection: None,
            sent: None,
            stream: 1,
            retry: None,
        }
    }

    /// `name`: as in `containerd.events.TaskExit`.
    pub fn publish(&mut self, topic: &str, name: &str, event: &impl Message) {
        self.push(None, topic, name, event);
    }

    /// A container decides how often this happens. So it is told once while containerd is away, and the container
    /// cannot push out the events of others.
    pub fn publish_oom(&mut self, id: &str) {
        let waiting = self.queue.iter().skip(usize::from(self.sent.is_some()));
        if waiting.into_iter().any(|event| event.oom_of.as_deref() == Some(id)) {
            return;
        }
        self.push(Some(id), "/tasks/oom", "TaskOOM", &TaskEvent { container_id: id.to_owned() });
    }

    fn push(&mut self, oom_of: Option<&str>, topic: &str, name: &str, event: &impl Message) {
        if self.address.is_none() {
            return;
        }
        let envelope = Envelope {
            timestamp: Some(SystemTime::now().into()),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(Any::new(&format!("containerd.events.{name}"), event)),
        };
        if self.queue.len() == MOST {
            // Never the one that is on its way.
            self.queue.remove(usize::from(self.sent.is_some()));
        }
        let payload = ForwardRequest { envelope: Some(envelope) }.encode_to_vec();
        self.queue.push_back(Event { oom_of: oom_of.map(str::to_owned), payload });
    }

    pub fn is_done(&self) -> bool {
        self.queue.is_empty()
    }

    /// The connection, to be waited for; and whether it takes nothing more at the moment.
    pub fn connection(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.connection.as_ref().map(|connection| (connection.as_fd(), connection.has_unsent()))
    }

    /// When to look again, whatever happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry.or_else(|| self.sent.map(|sent| sent + PATIENCE))
    }

    /// Does what can be done without waiting.
    pub fn step(&mut self) {
        if self.connection.is_some() {
            self.receive();
        }
        if self.sent.is_some_and(|sent| sent.elapsed() > PATIENCE) {
            self.lose();
        }
        if self.queue.is_empty() || self.sent.is_some() || self.retry.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.retry = None;
        if self.connection.is_none() {
            self.connection = self.connect();
        }
        let (Some(connection), Some(event)) = (&mut self.connection, self.queue.front()) else {
            return self.lose();
        };
        let request = Request {
            service: "containerd.services.events.ttrpc.v1.Events".to_owned(),
            method: "Forward".to_owned(),
            payload: event.payload.clone(),
            timeout_nano: 0,
        };
        connection.request(self.stream, &request);
        self.sent = Some(Instant::now());
        if !connection.send() {
            self.lose();
        }
    }

    fn receive(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        let (received, open) = connection.receive();
        let alive = open && connection.send();
        for message in received {
            if let Received::Response(stream, _) = message
                && stream == self.stream
                && self.sent.take().is_some()
            {
                // An event that containerd refuses is not sent again: the answer would be the same.
                self.queue.pop_front();
                // Clients have odd numbers.
                self.stream = self.stream.wrapping_add(2);
            }
        }
        if !alive {
            self.lose();
        }
    }

    /// What was on its way is sent again. containerd may then have it twice, which is better than never.
    pub fn lose(&mut self) {
        self.connection = None;
        self.sent = None;
        self.stream = 1;
        self.retry = (!self.queue.is_empty()).then(|| Instant::now() + AGAIN);
    }

    fn connect(&self) -> Option<Connection> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
        match rustix::net::connect(&socket, self.address.as_ref()?) {
            Ok(()) | Err(Errno::INPROGRESS) => Some(Connection::new(socket)),
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::shim::messages::TaskStart;

    fn publish(publisher: &mut Publisher, id: &str) {
        publisher.publish("/tasks/start", "TaskStart", &TaskStart { container_id: id.to_owned(), pid: 1 });
    }

    /// Accepts one connection and answers as many events; returns the ids.
    fn serve(listener: &UnixListener, publisher: &mut Publisher, count: usize) -> Vec<String> {
        let mut server = None;
        let mut ids = Vec::new();
        while ids.len() < count {
            publisher.step();
            let server = server.get_or_insert_with(|| {
                let (socket, _) = listener.accept().unwrap();
                socket.set_nonblocking(true).unwrap();
                Connection::new(socket.into())
            });
            for message in server.receive().0 {
                let Received::Request(stream, request) = message else { panic!("{message:?}") };
                let envelope = ForwardRequest::decode(&*request.payload).unwrap().envelope.unwrap();
                let event = TaskStart::decode(&*envelope.event.unwrap().value).unwrap();
                ids.push(event.container_id);
                server.respond(stream, Ok(Vec::new()));
                assert!(server.send());
            }
        }
        publisher.step();
        ids
    }

    #[test]
    fn events_arrive_in_order_also_after_containerd_was_away() {
        let path = std::env::temp_dir().join(format!("berth-events-{}", std::process::id()));
        let mut publisher = Publisher::new(path.to_str().unwrap(), "n");
        publish(&mut publisher, "a");
        publisher.step();
        assert!(publisher.deadline().is_some() && !publisher.is_done(), "nobody is there");
        let listener = UnixListener::bind(&path).unwrap();
        publish(&mut publisher, "b");
        publisher.retry = None;
        assert_eq!(serve(&listener, &mut publisher, 2), ["a", "b"]);
        // The connection has ended with the server.
        publish(&mut publisher, "c");
        publisher.step();
        publisher.retry = None;
        assert_eq!(serve(&listener, &mut publisher, 1), ["c"]);
        assert!(publisher.is_done());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_container_does_not_push_out_the_events_of_others() {
        let mut publisher = Publisher::new("/nonexistent/socket", "n");
        publish(&mut publisher, "x");
        (0..MOST + 10).for_each(|n| publisher.publish_oom(["a", "b"][n % 2]));
        assert_eq!(publisher.queue.len(), 3);
    }

    #[test]
    fn no_more_is_kept_than_fits() {
        let mut publisher = Publisher::new("/nonexistent/socket", "n");
        (0..MOST + 10).for_each(|_| publish(&mut publisher, "x"));
        assert_eq!(publisher.queue.len(), MOST);
    }
}
