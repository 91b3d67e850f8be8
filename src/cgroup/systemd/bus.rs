//! A connection to systemd, through a bus or, faster, through systemd's own socket.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::message::{Kind, Message};
use crate::error::{Call, Error, Result};
use crate::files;
use crate::plan::systemd::value::Value;

/// An address at which systemd can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    path: Vec<u8>,
    /// In the abstract namespace, not in the file system.
    is_abstract: bool,
    /// systemd itself, not a bus.
    direct: bool,
}

impl Address {
    fn direct(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into().as_os_str().as_bytes().to_vec(), is_abstract: false, direct: true }
    }

    fn bus(path: impl Into<PathBuf>) -> Self {
        Self { direct: false, ..Self::direct(path) }
    }

    /// Parses the environment's variable ("Server Addresses" of the D-Bus specification). Only Unix sockets count.
    fn parse(list: &[u8]) -> Vec<Self> {
        let parse = |address: &[u8]| {
            let mut keys = address.strip_prefix(b"unix:")?.split(|byte| *byte == b',');
            keys.find_map(|pair| {
                let (path, is_abstract) = match (pair.strip_prefix(b"path="), pair.strip_prefix(b"abstract=")) {
                    (Some(path), _) => (path, false),
                    (_, Some(path)) => (path, true),
                    _ => return None,
                };
                Some(Self { path: unescape(path)?, is_abstract, direct: false })
            })
        };
        list.split(|byte| *byte == b';').filter_map(parse).collect()
    }

    fn connect(&self, deadline: Instant) -> Result<OwnedFd> {
        let connect = || -> Result<OwnedFd, Errno> {
            let address = match self.is_abstract {
                true => SocketAddrUnix::new_abstract_name(&self.path)?,
                false => SocketAddrUnix::new(Path::new(OsStr::from_bytes(&self.path)))?,
            };
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // Also limits connect(2), which waits while too many others do.
            retry_on_intr(|| {
                if Instant::now() >= deadline {
                    return Err(Errno::TIMEDOUT);
                }
                set_socket_timeout(&socket, Timeout::Send, Some(left(deadline)))?;
                rustix::net::connect(&socket, &address)
            })?;
            Ok(socket)
        };
        let socket = connect().call(|| format!("connect({self})"))?;
        self.check_peer(&socket)?;
        Ok(socket)
    }

    /// Only root or the caller may listen at the address. It may come from an environment that was taken over from
    /// another user, and whoever listens there is believed about the limits and the cgroup of the container. The kernel
    /// reports the user who called listen(2) (unix(7)), and a bus does that before it becomes another user.
    fn check_peer(&self, socket: &OwnedFd) -> Result<()> {
        let peer = socket_peercred(socket).call(|| format!("getsockopt({self}, SO_PEERCRED)"))?.uid.as_raw();
        if files::trusts(peer) {
            return Ok(());
        }
        Err(Error::new(format_args!("connect({self}): user {peer} listens there, who is neither root nor the caller")))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = if self.is_abstract { "@" } else { "" };
        write!(f, "{at}{}", String::from_utf8_lossy(&self.path))
    }
}

/// `%20`
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = text.iter();
    let mut plain = Vec::new();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'%' => {
                let digits = [*bytes.next()?, *bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    Some(plain)
}

/// Zero would mean waiting for ever.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(1))
}

/// The addresses of the system's or the user's service manager, the most reliable first.
pub fn addresses(user: bool, variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Vec<Address> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let named = variable(if user { "DBUS_SESSION_BUS_ADDRESS" } else { "DBUS_SYSTEM_BUS_ADDRESS" });
    let mut addresses = named.map_or_else(Vec::new, |list| Address::parse(list.as_bytes()));
    match (user, variable("XDG_RUNTIME_DIR")) {
        (false, _) => {
            addresses.push(Address::direct("/run/systemd/private"));
            addresses.push(Address::bus("/run/dbus/system_bus_socket"));
        }
        (true, Some(dir)) => {
            addresses.push(Address::direct(Path::new(&dir).join("systemd/private")));
            addresses.push(Address::bus(Path::new(&dir).join("bus")));
        }
        (true, None) => {}
    }
    addresses
}

#[derive(Debug)]
pub struct Bus {
    socket: OwnedFd,
    address: Address,
    serial: u32,
    /// Sent together with the first call, which saves a write(2) for each line.
    greeting: Vec<u8>,
    authenticated: bool,
    received: Vec<u8>,
    /// Counts all bytes that were ever received. [`ENOUGH`] is the limit.
    total: usize,
    /// Signals that came before the answer to a call. The one that is waited for next may be among them.
    signals: Vec<Message>,
    /// The sender of the last answer.
    sender: String,
}

/// An error with which the other side answers a call.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub name: String,
    pub message: String,
}

/// systemd reads this many bytes at once while it authenticates. If a whole message arrives together with the end of
/// the greeting, systemd does not look at it until more comes. If a part of it is still to be read, it does.
const AT_ONCE: usize = 256;

/// Far more than systemd sends within any of the deadlines here. A peer that sends more wants to keep the runtime busy.
const ENOUGH: usize = 64 << 20;

/// The one signal of interest: `JobRemoved(id, job, unit, result)`.
pub const JOB_REMOVED: &str = "JobRemoved";

/// The values take no more room than in the message, so [`ENOUGH`] limits what is kept.
fn is_job_removed(signal: &Message) -> bool {
    let has_its_types =
        matches!(signal.body[..], [Value::U32(_), Value::ObjectPath(_), Value::String(_), Value::String(_)]);
    signal.member == JOB_REMOVED && has_its_types
}

pub const SYSTEMD: &str = "org.freedesktop.systemd1";
const DBUS: &str = "org.freedesktop.DBus";

impl Bus {
    /// Connects to the first address at which a trusted user listens. The error gives the reason for each address.
    pub fn connect(addresses: &[Address], deadline: Instant) -> Result<Self, Vec<Error>> {
        let mut failures = Vec::new();
        for address in addresses {
            match address.connect(deadline) {
                Ok(socket) => return Ok(Self::over(socket, address.clone())),
                Err(e) => failures.push(e),
            }
        }
        Err(failures)
    }

    fn over(socket: OwnedFd, address: Address) -> Self {
        // The other side finds out the identity by itself, since a user namespace shows another one than is seen from
        // outside. The protocol does not require waiting for the answer to each of these lines.
        let greeting = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n".to_vec();
        let (received, signals, sender) = (Vec::new(), Vec::new(), String::new());
        let (serial, authenticated, total) = (0, false, 0);
        let mut bus = Self { socket, address, serial, greeting, authenticated, received, total, signals, sender };
        if !bus.address.direct {
            bus.greet("Hello", Vec::new());
            // systemd reports the end of a job to the client that started it. A bus passes on only signals that were
            // asked for.
            let rule = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
            bus.greet("AddMatch", vec![Value::string(rule)]);
        }
        bus
    }

    fn greet(&mut self, member: &str, body: Vec<Value>) {
        let message = self.message(DBUS, "/org/freedesktop/DBus", DBUS, member, body);
        self.greeting.extend(message.encode());
    }

    fn message(&mut self, destination: &str, path: &str, interface: &str, member: &str, body: Vec<Value>) -> Message {
        self.serial += 1;
        Message {
            serial: self.serial,
            path: path.to_owned(),
            interface: interface.to_owned(),
            member: member.to_owned(),
            destination: if self.address.direct { String::new() } else { destination.to_owned() },
            body,
            ..Message::new(Kind::Call)
        }
    }

    /// Calls a method of systemd, and waits for the answer.
    pub fn call(
        &mut self,
        interface: &str,
        member: &str,
        body: Vec<Value>,
        deadline: Instant,
    ) -> Result<Result<Vec<Value>, Refusal>> {
        // Jobs that have ended by now were not started by this call.
        self.signals.clear();
        let call = self.message(SYSTEMD, "/org/freedesktop/systemd1", interface, member, body);
        let mut bytes = std::mem::take(&mut self.greeting);
        let encoded = call.encode();
        if self.address.direct && !self.authenticated && bytes.len() + encoded.len() <= AT_ONCE {
            self.send(&bytes, deadline, member)?;
            self.authenticate(deadline, member)?;
            bytes.clear();
        }
        bytes.extend(encoded);
        self.send(&bytes, deadline, member)?;
        loop {
            let message = self.next(deadline, member)?;
            match message.kind {
                Kind::Return if message.reply_serial == call.serial => {
                    self.sender = message.sender;
                    return Ok(Ok(message.body));
                }
                // An error of the greeting counts as well, since no answer to the call follows then.
                Kind::Error => {
                    let text = match message.body.into_iter().next() {
                        Some(Value::String(text)) => text,
                        _ => message.error_name.clone(),
                    };
                    return Ok(Err(Refusal { name: message.error_name, message: text }));
                }
                // No other signal is waited for.
                Kind::Signal if is_job_removed(&message) => self.signals.push(message),
                Kind::Signal => {}
                Kind::Return | Kind::Call => {}
            }
        }
    }

    /// Waits for a signal for which `wanted` returns a value: one that was received before, or a new one. It must come
    /// from the sender of the last answer, since anyone on a bus may send signals to anyone.
    pub fn signal<T>(
        &mut self,
        what: &str,
        deadline: Instant,
        mut wanted: impl FnMut(&Message) -> Option<T>,
    ) -> Result<T> {
        let (sender, direct) = (self.sender.clone(), self.address.direct);
        let mut found = |m: &Message| {
            let vouched = m.kind == Kind::Signal && (direct || m.sender == sender);
            if vouched { wanted(m) } else { None }
        };
        for signal in std::mem::take(&mut self.signals) {
            if let Some(found) = found(&signal) {
                return Ok(found);
            }
        }
        loop {
            if let Some(found) = found(&self.next(deadline, what)?) {
                return Ok(found);
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8], deadline: Instant, what: &str) -> Result<()> {
        while !bytes.is_empty() {
            let sent = set_socket_timeout(&self.socket, Timeout::Send, Some(left(deadline)))
                .and_then(|()| rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL));
            match sent {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(self.silent(what)),
                // The last message says why it hung up.
                Err(Errno::PIPE | Errno::CONNRESET) => return self.fill(deadline, what),
                Err(errno) => return Err(Error::sys(format_args!("send({})", self.address), errno)),
            }
        }
        Ok(())
    }

    fn authenticate(&mut self, deadline: Instant, what: &str) -> Result<()> {
        while !self.authenticated {
            match self.take_line() {
                Some(line) if line.starts_with(b"OK ") => self.authenticated = true,
                Some(line) if line.starts_with(b"DATA") => {}
                Some(line) => return Err(self.refused(&String::from_utf8_lossy(&line))),
                None => self.fill(deadline, what)?,
            }
        }
        Ok(())
    }

    fn next(&mut self, deadline: Instant, what: &str) -> Result<Message> {
        self.authenticate(deadline, what)?;
        loop {
            if let Some(length) = Message::length(&self.received)?
                && self.received.len() >= length
            {
                let rest = self.received.split_off(length);
                let message = std::mem::replace(&mut self.received, rest);
                return Message::decode(&message);
            }
            self.fill(deadline, what)?;
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        const LONGEST: usize = 4096;
        match self.received.windows(2).position(|pair| pair == b"\r\n") {
            Some(end) => {
                let rest = self.received.split_off(end + 2);
                let mut line = std::mem::replace(&mut self.received, rest);
                line.truncate(end);
                Some(line)
            }
            None if self.received.len() > LONGEST => Some(std::mem::take(&mut self.received)),
            None => None,
        }
    }

    fn fill(&mut self, deadline: Instant, what: &str) -> Result<()> {
        if Instant::now() >= deadline {
            return Err(self.silent(what));
        }
        let mut buffer = [0_u8; 16 << 10];
        let received = set_socket_timeout(self.socket.as_fd(), Timeout::Recv, Some(left(deadline)))
            .and_then(|()| rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()));
        match received {
            Ok((0, _)) | Err(Errno::CONNRESET) => Err(self.refused("the connection was closed")),
            Ok((length, _)) if self.total + length > ENOUGH => Err(self.refused("it sends without end")),
            Ok((length, _)) => {
                self.total += length;
                self.received.extend_from_slice(&buffer[..length]);
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            Err(Errno::AGAIN) => Err(self.silent(what)),
            Err(errno) => Err(errno).call(|| format!("recv({})", self.address)),
        }
    }

    fn silent(&self, what: &str) -> Error {
        Error::new(format_args!("systemd did not answer in time ({what}, by way of {})", self.address))
            .with_hint("it may be overloaded: see `systemctl list-jobs`, and what runs as pid 1")
    }

    fn refused(&self, why: &str) -> Error {
        Error::new(format_args!("{} refused the connection to systemd: {why}", self.address))
            .with_hint("the socket must be of root's, or of the same user's, service manager")
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn of(list: &str) -> Vec<String> {
        Address::parse(list.as_bytes()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_of_the_environment() {
        assert_eq!(of("unix:path=/run/user/1/bus"), ["/run/user/1/bus"]);
        assert_eq!(of("unix:path=/a%20b,guid=12;unix:guid=1,abstract=/tmp/x"), ["/a b", "@/tmp/x"]);
        assert_eq!(of("tcp:host=localhost;unix:path=/a"), ["/a"]);
        for none in ["", ";", "unix:", "unix:dir=/tmp", "unix:path=/%g0", "unix:path=/a%2", "autolaunch:"] {
            assert_eq!(of(none), [""; 0], "{none}");
        }
    }

    #[test]
    fn where_systemd_is_looked_for() {
        let all = |user, set: &[(&str, &str)]| -> Vec<String> {
            let find = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
            let letter = |a: &Address| format!("{}{a}", if a.direct { "!" } else { "" });
            addresses(user, find).iter().map(letter).collect()
        };
        assert_eq!(all(false, &[]), ["!/run/systemd/private", "/run/dbus/system_bus_socket"]);
        assert_eq!(all(false, &[("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/x")])[0], "/x");
        let session = ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/s");
        assert_eq!(all(true, &[session, ("XDG_RUNTIME_DIR", "/r")]), ["/s", "!/r/systemd/private", "/r/bus"]);
        assert_eq!(all(true, &[("DBUS_SESSION_BUS_ADDRESS", "")]), [""; 0]);
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    /// A bus over a socket pair, whose peer answers with these bytes.
    fn peer(direct: bool, answer: Vec<u8>) -> (Bus, std::thread::JoinHandle<Vec<u8>>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let address = if direct { Address::direct("/systemd") } else { Address::bus("/bus") };
        let thread = std::thread::spawn(move || {
            let mut sent = vec![0; 64 * 1024];
            let length = theirs.read(&mut sent).unwrap();
            sent.truncate(length);
            let _ = theirs.write_all(&answer);
            let _ = theirs.shutdown(std::net::Shutdown::Write);
            let _ = theirs.read_to_end(&mut sent);
            sent
        });
        (Bus::over(ours.into(), address), thread)
    }

    fn answer(messages: &[Message]) -> Vec<u8> {
        let mut bytes = b"DATA\r\nOK 0123\r\n".to_vec();
        messages.iter().for_each(|message| bytes.extend(message.encode()));
        bytes
    }

    fn reply(reply_serial: u32, body: Vec<Value>) -> Message {
        Message { serial: 1, reply_serial, body, ..Message::new(Kind::Return) }
    }

    fn job_removed(path: &str) -> Message {
        let body =
            vec![Value::U32(1), Value::ObjectPath("/job/1".into()), Value::string("x.scope"), Value::string("done")];
        Message { member: JOB_REMOVED.into(), path: path.into(), body, ..Message::new(Kind::Signal) }
    }

    #[test]
    fn a_call_and_its_signal() {
        for direct in [true, false] {
            let call = if direct { 1 } else { 3 };
            let signal = job_removed("/p");
            let other = Message { member: "JobNew".into(), ..signal.clone() };
            let messages = [reply(99, vec![]), signal, other, reply(call, vec![Value::U32(7)])];
            let (mut bus, peer) = peer(direct, answer(&messages));
            let long = Value::String("x".repeat(AT_ONCE));
            assert_eq!(bus.call("a.b", "Do", vec![long], soon()).unwrap(), Ok(vec![Value::U32(7)]));
            let found = bus.signal("a signal", soon(), |s| (s.member == "JobRemoved").then(|| s.path.clone()));
            assert_eq!(found.unwrap(), "/p");
            drop(bus);
            let sent = peer.join().unwrap();
            assert!(sent.starts_with(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\nl\x01"), "all in one write");
            assert_eq!(sent.windows(5).any(|w| w == b"Hello"), !direct);
        }
    }

    #[test]
    fn a_signal_of_somebody_else_is_none() {
        let from = |sender: &str, path: &str| Message { sender: sender.into(), ..job_removed(path) };
        let reply = Message { sender: ":1.0".into(), ..reply(3, vec![]) };
        let messages = [from(":1.666", "/early"), reply, from(":1.666", "/late"), from(":1.0", "/systemd")];
        let (mut bus, _peer) = peer(false, answer(&messages));
        bus.call("a.b", "Do", vec![], soon()).unwrap().unwrap();
        assert_eq!(bus.signal("a signal", soon(), |s| Some(s.path.clone())).unwrap(), "/systemd");
    }

    #[test]
    fn a_call_that_is_refused() {
        let error = Message {
            serial: 1,
            reply_serial: 1,
            error_name: "x.Exists".into(),
            body: vec![Value::string("it exists")],
            ..Message::new(Kind::Error)
        };
        let (mut bus, _peer) = peer(true, answer(&[error]));
        let refusal = bus.call("a.b", "Do", vec![], soon()).unwrap().unwrap_err();
        assert_eq!(refusal, Refusal { name: "x.Exists".into(), message: "it exists".into() });
    }

    #[test]
    fn a_peer_that_is_not_what_it_should_be() {
        for (answer, message) in [
            (&b"REJECTED EXTERNAL\r\n"[..], "refused the connection to systemd: REJECTED EXTERNAL"),
            (b"", "the connection was closed"),
            (b"OK 1\r\n", "the connection was closed"),
            (b"HTTP/1.1 400 Bad Request\r\n", "refused the connection"),
            (b"OK 1\r\nxxxxxxxxxxxxxxxx", "a D-Bus message is malformed"),
            (b"OK 1\r\nl\x01\x00\x01\xff\xff\xff\xff\x01\x00\x00\x00\xff\xff\xff\xff", "malformed"),
        ] {
            let (mut bus, _peer) = peer(true, answer.to_vec());
            let error = bus.call("a.b", "Do", vec![], soon()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        let (mut bus, _peer) = peer(true, vec![b'x'; 8192]);
        assert!(bus.call("a.b", "Do", vec![], soon()).is_err(), "a line without end");
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut bus = Bus::over(ours.into(), Address::direct("/systemd"));
        let deadline = Instant::now() + Duration::from_millis(20);
        let error = bus.call("a.b", "StartTransientUnit", vec![], deadline).unwrap_err();
        assert_eq!(error.to_string(), "systemd did not answer in time (StartTransientUnit, by way of /systemd)");
        // The same if it never stops talking.
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let talker = std::thread::spawn(move || {
            let signal = Message { member: "JobNew".into(), ..Message::new(Kind::Signal) }.encode();
            let _ = theirs.write_all(b"OK 1\r\n");
            while theirs.write_all(&signal).is_ok() {}
        });
        let mut bus = Bus::over(ours.into(), Address::direct("/systemd"));
        let deadline = Instant::now() + Duration::from_millis(20);
        let error = bus.signal("JobRemoved", deadline, |_| None::<()>).unwrap_err();
        assert!(error.to_string().starts_with("systemd did not answer in time"), "{error}");
        drop(bus);
        talker.join().unwrap();
    }

    /// A peer that gives the right answer in the end, after `count` copies of this signal.
    fn talker(signal: Message, count: usize) -> (Bus, std::thread::JoinHandle<UnixStream>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            let signal = signal.encode();
            let _ = theirs.write_all(b"OK 1\r\n");
            for _ in 0..count {
                if theirs.write_all(&signal).is_err() {
                    return theirs;
                }
            }
            let _ = theirs.write_all(&reply(1, vec![]).encode());
            theirs
        });
        (Bus::over(ours.into(), Address::direct("/systemd")), thread)
    }

    #[test]
    fn what_is_not_waited_for_is_not_kept() {
        let other = Message { member: "JobNew".into(), ..job_removed("/p") };
        let wide = Message { body: vec![Value::Array("y".into(), vec![Value::Byte(1); 1000])], ..job_removed("/p") };
        for (signal, kept) in [(job_removed("/p"), 100), (other, 0), (wide, 0)] {
            let (mut bus, talker) = talker(signal, 100);
            bus.call("a.b", "Do", vec![], soon()).unwrap().unwrap();
            assert_eq!(bus.signals.len(), kept);
            talker.join().unwrap();
        }
    }

    #[test]
    fn a_flood_has_an_end() {
        let mut signal = job_removed("/p");
        signal.body[2] = Value::String("x".repeat(1 << 19));
        let (mut bus, talker) = talker(signal, usize::MAX);
        let error = bus.call("a.b", "Do", vec![], Instant::now() + Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().ends_with("it sends without end"), "{error}");
        assert!(bus.total <= ENOUGH);
        drop(bus);
        talker.join().unwrap();
    }

    #[test]
    fn only_root_or_the_caller_is_believed() {
        let path = std::env::temp_dir().join(format!("berth-bus-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(Bus::connect(&[Address::bus(&path)], soon()).is_ok());
        drop(listener);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn nobody_listens() {
        let missing = [Address::direct("/nonexistent/a"), Address::bus("/nonexistent/b")];
        let failures = Bus::connect(&missing, soon()).unwrap_err();
        assert!(failures.iter().all(|e| e.errno() == Some(Errno::NOENT)) && failures.len() == 2, "{failures:?}");
    }
}
