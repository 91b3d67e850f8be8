//! ttrpc, containerd's protocol for shims: messages with a header of ten bytes on a stream socket.
//!
//! The header is the length of the message (4 bytes, the most significant first), the number of the stream (4), the
//! type (1) and flags (1). Each request has a stream of its own, and its response has the same number. The reference is
//! `PROTOCOL.md` of github.com/containerd/ttrpc.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use prost::Message;
use rustix::io::Errno;

use super::messages::{Request, Response, RpcStatus};

const HEADER: usize = 10;

/// As in the implementation in Go: whoever sends more gets an error.
const MAX_MESSAGE: usize = 4 << 20;

/// More than this is not kept for a peer that does not read: no answer of ours is that long, nor are many.
const MAX_UNSENT: usize = 16 << 20;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// Codes of gRPC that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Unavailable = 14,
}

/// Why a request fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// An encoded message, or why there is none.
pub type Answer = Result<Vec<u8>, Failure>;

pub fn encoded(message: &impl Message) -> Answer {
    Ok(message.encode_to_vec())
}

/// What a peer has sent.
#[derive(Debug, PartialEq)]
pub enum Received {
    Request(u32, Request),
    Response(u32, Response),
    /// Cannot be understood, and is to be answered.
    Bad(u32, Failure),
}

/// A socket on which nothing blocks, with what is only half received or not yet sent.
pub struct Connection {
    socket: OwnedFd,
    input: Vec<u8>,
    /// Still to come of a message that is too long.
    skip: usize,
    output: Vec<u8>,
}

impl Connection {
    /// The socket must not block.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, input: Vec::new(), skip: 0, output: Vec::new() }
    }

    /// What has arrived, and whether the peer is still there.
    pub fn receive(&mut self) -> (Vec<Received>, bool) {
        let mut chunk = [0; 16 << 10];
        let open = match rustix::io::retry_on_intr(|| rustix::io::read(&self.socket, &mut chunk)) {
            Ok(0) => false,
            Ok(count) => {
                self.feed(&chunk[..count]);
                true
            }
            Err(errno) => errno == Errno::AGAIN,
        };
        let mut received = Vec::new();
        while let Some(message) = self.next() {
            received.extend(message);
        }
        (received, open)
    }

    fn feed(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.input.extend_from_slice(&bytes[skipped..]);
    }

    /// The next whole message; `Some(None)` for one that is ignored.
    fn next(&mut self) -> Option<Option<Received>> {
        let header = self.input.first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = *header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        if length > MAX_MESSAGE {
            let here = length.min(self.input.len() - HEADER);
            self.skip = length - here;
            self.input.drain(..HEADER + here);
            let message = format!("message length {length} exceed maximum message size of {MAX_MESSAGE}");
            return Some(Some(Received::Bad(stream, Failure::new(Code::ResourceExhausted, message))));
        }
        let body = self.input.get(HEADER..HEADER + length)?;
        let bad = |e: prost::DecodeError| Received::Bad(stream, Failure::new(Code::InvalidArgument, e.to_string()));
        let received = match kind {
            REQUEST => Some(Request::decode(body).map_or_else(bad, |request| Received::Request(stream, request))),
            RESPONSE => Response::decode(body).ok().map(|response| Received::Response(stream, response)),
            // Data of streams, which no method here has.
            _ => None,
        };
        self.input.drain(..HEADER + length);
        if self.input.is_empty() {
            // A large message was an exception.
            self.input.shrink_to(HEADER);
        }
        Some(received)
    }

    pub fn request(&mut self, stream: u32, request: &Request) {
        self.queue(stream, REQUEST, &request.encode_to_vec());
    }

    /// `payload` is an encoded message.
    pub fn respond(&mut self, stream: u32, answer: Answer) {
        let response = match answer {
            // No status stands for success.
            Ok(payload) => Response { status: None, payload },
            Err(Failure { code, message }) => {
                Response { status: Some(RpcStatus { code: code as i32, message }), payload: Vec::new() }
            }
        };
        self.queue(stream, RESPONSE, &response.encode_to_vec());
    }

    fn queue(&mut self, stream: u32, kind: u8, body: &[u8]) {
        self.output.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.output.extend_from_slice(&stream.to_be_bytes());
        self.output.extend_from_slice(&[kind, 0]);
        self.output.extend_from_slice(body);
    }

    /// Sends what can be sent without waiting. False if the peer has gone, or reads nothing.
    pub fn send(&mut self) -> bool {
        while !self.output.is_empty() {
            let flags = rustix::net::SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, &self.output, flags) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return self.output.len() <= MAX_UNSENT,
                Err(_) => return false,
            }
        }
        self.output.shrink_to(0);
        true
    }

    pub fn has_unsent(&self) -> bool {
        !self.output.is_empty()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// For tests/fuzz: the requests in these bytes, which come in two parts.
#[cfg(fuzzing)]
pub fn requests(bytes: &[u8]) -> Vec<Request> {
    let Ok(null) = std::fs::File::open("/dev/null") else { return Vec::new() };
    let mut connection = Connection::new(null.into());
    let mut requests = Vec::new();
    let (one, other) = bytes.split_at(bytes.len() / 2);
    for part in [one, other] {
        connection.feed(part);
        while let Some(message) = connection.next() {
            requests.extend(message.and_then(|message| match message {
                Received::Request(_, request) => Some(request),
                _ => None,
            }));
        }
        assert!(connection.input.len() <= HEADER + MAX_MESSAGE);
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Connection, std::os::unix::net::UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Connection::new(ours.into()), theirs)
    }

    fn frame(stream: u32, kind: u8, body: &[u8]) -> Vec<u8> {
        let (mut connection, _theirs) = pair();
        connection.queue(stream, kind, body);
        connection.output
    }

    fn request() -> Request {
        Request { service: "s".into(), method: "m".into(), payload: vec![1, 2, 3], timeout_nano: 5 }
    }

    #[test]
    fn a_message_that_comes_in_parts_is_received_once() {
        let (mut connection, _theirs) = pair();
        let bytes = frame(7, REQUEST, &request().encode_to_vec());
        for byte in &bytes[..bytes.len() - 1] {
            connection.feed(&[*byte]);
            assert_eq!(connection.next(), None);
        }
        connection.feed(&bytes[bytes.len() - 1..]);
        assert_eq!(connection.next(), Some(Some(Received::Request(7, request()))));
        assert_eq!(connection.next(), None);
    }

    #[test]
    fn what_is_too_long_is_refused_and_passed_over() {
        let (mut connection, _theirs) = pair();
        let mut bytes = (MAX_MESSAGE as u32 + 1).to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 9, REQUEST, 0]);
        connection.feed(&bytes);
        assert!(matches!(
            connection.next(),
            Some(Some(Received::Bad(9, Failure { code: Code::ResourceExhausted, .. })))
        ));
        for _ in 0..=MAX_MESSAGE / 4096 {
            connection.feed(&[0; 4096][..4096.min(connection.skip)]);
            assert!(connection.input.is_empty());
        }
        connection.feed(&frame(11, REQUEST, &request().encode_to_vec()));
        assert_eq!(connection.next(), Some(Some(Received::Request(11, request()))));
    }

    #[test]
    fn what_is_not_understood_is_answered_or_ignored() {
        let (mut connection, _theirs) = pair();
        connection.feed(&frame(1, REQUEST, b"\xff\xff"));
        assert!(matches!(connection.next(), Some(Some(Received::Bad(1, _)))));
        connection.feed(&frame(1, RESPONSE, b"\xff\xff"));
        connection.feed(&frame(1, 3, b"data"));
        assert_eq!((connection.next(), connection.next(), connection.next()), (Some(None), Some(None), None));
    }

    #[test]
    fn who_never_reads_is_given_up() {
        let (mut connection, _theirs) = pair();
        let answer = vec![0; 1 << 20];
        let sent = (0..64).take_while(|_| {
            connection.respond(1, Ok(answer.clone()));
            connection.send()
        });
        assert!(sent.count() < 20);
        assert!(connection.has_unsent());
    }
}
