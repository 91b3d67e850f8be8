//! The part of rtnetlink(7) that is needed: requests for links and addresses, and their answers.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

use crate::error::{Call, Error, Result};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_GETADDR: u16 = 22;

pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
const NLM_F_DUMP_INTR: u16 = 0x10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const HEADER: usize = 16;

/// A socket belongs to the network namespace in which it was made.
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// An answer: the fixed header of its type and the attributes behind it.
pub(super) struct Message {
    pub kind: u16,
    body: Vec<u8>,
}

/// `struct ifinfomsg`
pub(super) fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Appends an attribute with its padding.
pub(super) fn push_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // An attribute is a name, an address or a number here.
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

impl Socket {
    pub(super) fn open() -> Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .call(|| "socket(AF_NETLINK)")?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends a request, and returns the answers up to its end. `what` is for the error.
    pub(super) fn request(&mut self, what: &str, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<Message>> {
        // A dump during which something changed may lack entries that were there all the time.
        for _ in 0..8 {
            if let Some(answers) = self.try_request(kind, flags, body).call(|| what)? {
                return Ok(answers);
            }
        }
        Err(Error::new(format_args!("{what}: the interfaces change too fast to be listed")))
    }

    fn try_request(&mut self, kind: u16, flags: u16, body: &[u8]) -> std::result::Result<Option<Vec<Message>>, Errno> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(body);
        sendto(&self.fd, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        self.answers()
    }

    /// `None` for a dump that was interrupted.
    fn answers(&self) -> std::result::Result<Option<Vec<Message>>, Errno> {
        let mut answers = Vec::new();
        let mut interrupted = false;
        // The kernel sends at most 32 KiB at a time.
        let mut buffer = vec![0; 1 << 16];
        loop {
            let (length, _) = match recv(&self.fd, &mut buffer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                received => received?,
            };
            let mut rest = &buffer[..length];
            while let Some((head, after)) = split_message(rest) {
                rest = after;
                if u32_at(head, 8) != Some(self.sequence) {
                    continue;
                }
                interrupted |= u16_at(head, 6).unwrap_or_default() & NLM_F_DUMP_INTR != 0;
                let kind = u16_at(head, 4).unwrap_or_default();
                let body = &head[HEADER..];
                match kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        // A negated errno, 0 for success; a dump's end may lack it.
                        return match u32_at(body, 0).map_or(0, |code| (code as i32).wrapping_neg()) {
                            0 => Ok((!interrupted).then_some(answers)),
                            code => Err(Errno::from_raw_os_error(code)),
                        };
                    }
                    _ => answers.push(Message { kind, body: body.to_vec() }),
                }
            }
        }
    }
}

fn split_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    if length < HEADER || length > bytes.len() {
        return None;
    }
    Some((&bytes[..length], &bytes[length.next_multiple_of(4).min(bytes.len())..]))
}

impl Message {
    /// The first `length` bytes: the header of its type.
    pub(super) fn header(&self, length: usize) -> Option<&[u8]> {
        self.body.get(..length)
    }

    /// The value of the attribute `kind` behind a header of `header` bytes.
    pub(super) fn attribute(&self, header: usize, kind: u16) -> Option<&[u8]> {
        // The two highest bits are flags.
        const TYPE: u16 = 0x3fff;
        let mut rest = self.body.get(header..)?;
        loop {
            let length = u16_at(rest, 0)? as usize;
            let value = rest.get(4..length)?;
            if u16_at(rest, 2)? & TYPE == kind {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_the_header() {
        let mut body = vec![0; 16];
        push_attribute(&mut body, 3, b"lo\0");
        push_attribute(&mut body, 0x8000 | 4, &7u32.to_ne_bytes());
        assert_eq!(body.len(), 16 + 8 + 8);
        let message = Message { kind: RTM_NEWLINK, body };
        assert_eq!(message.attribute(16, 3), Some(&b"lo\0"[..]));
        assert_eq!(message.attribute(16, 4).and_then(|value| u32_at(value, 0)), Some(7));
        assert_eq!(message.attribute(16, 5), None);
    }

    #[test]
    fn lengths_that_lie_end_the_parsing() {
        let mut body = vec![0; 16];
        body.extend_from_slice(&[200, 0, 3, 0, 1]);
        assert_eq!(Message { kind: 0, body }.attribute(16, 3), None);
        let body = vec![0; 20];
        assert_eq!(Message { kind: 0, body }.attribute(16, 3), None);
        assert!(split_message(&[40, 0, 0, 0, 0]).is_none());
        assert!(split_message(&[]).is_none());
    }
}
