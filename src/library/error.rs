//! The library's error: what a program may want to tell apart, and what a person reads.

use std::fmt;

use rustix::io::Errno;

use crate::error::{self, Kind};

/// What the methods of the library return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a program may want to do something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no container of that id, or it is not the one that was created or loaded any more.
    NotFound,
    /// There is a container of that id already.
    AlreadyExists,
    /// The configuration asks for something that cannot be done: [`Error::pointer`] tells where.
    InvalidConfiguration,
    /// The container has ended, runs already, is paused ...
    WrongState,
    /// Another thread or program has been at work on the container for too long.
    Busy,
    /// The kernel refuses it to this user (`EACCES`, `EPERM`).
    PermissionDenied,
    /// The kernel does not know it (`ENOSYS`, `EOPNOTSUPP`).
    Unsupported,
    /// The program of the process does not exist. Shells and engines answer 127.
    CommandNotFound,
    /// The program of the process cannot be executed. Shells and engines answer 126.
    NotExecutable,
    /// It took longer than it may (`ETIMEDOUT`).
    TimedOut,
    /// Any other call of the system that failed; [`Error::errno`] has its number.
    System,
    /// Anything else: see the message.
    Other,
}

/// Prints as one line of plain text: what was attempted, on what, and why it failed. `source` is the call that failed.
pub struct Error {
    error: error::Error,
    source: Option<std::io::Error>,
}

impl Error {
    /// The kind, for a program; the text is for a person.
    pub fn kind(&self) -> ErrorKind {
        match (self.error.kind(), self.error.errno()) {
            (Kind::NoContainer, _) => ErrorKind::NotFound,
            (Kind::Exists, _) => ErrorKind::AlreadyExists,
            (Kind::Configuration, _) => ErrorKind::InvalidConfiguration,
            (Kind::State, _) => ErrorKind::WrongState,
            (Kind::Busy, _) => ErrorKind::Busy,
            (Kind::CommandNotFound, _) => ErrorKind::CommandNotFound,
            (Kind::CommandNotExecutable, _) => ErrorKind::NotExecutable,
            (_, Some(Errno::ACCESS | Errno::PERM)) => ErrorKind::PermissionDenied,
            (_, Some(Errno::NOSYS | Errno::OPNOTSUPP)) => ErrorKind::Unsupported,
            (_, Some(Errno::TIMEDOUT)) => ErrorKind::TimedOut,
            (_, Some(_)) => ErrorKind::System,
            (Kind::Other | Kind::Init | Kind::Died | Kind::DamagedRecord | Kind::MadeByRunc, None) => ErrorKind::Other,
        }
    }

    /// The JSON pointer (RFC 6901) of the value of the configuration that cannot be honoured.
    pub fn pointer(&self) -> Option<&str> {
        self.error.pointer()
    }

    /// What to do about it, as one line of plain text.
    pub fn hint(&self) -> Option<&str> {
        self.error.hint()
    }

    /// The number of the error (`errno(3)`) of the system call that failed.
    pub fn errno(&self) -> Option<i32> {
        self.error.errno().map(Errno::raw_os_error)
    }
}

impl From<error::Error> for Error {
    fn from(error: error::Error) -> Self {
        let source = error.errno().map(std::io::Error::from);
        Self { error, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// As text, with the hint: a `main` that returns an error prints it so.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.hint().map_or(Ok(()), |hint| write!(f, "\n  hint: {hint}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn kinds_come_from_what_is_known() {
        let kind = |error: error::Error| Error::from(error).kind();
        assert_eq!(kind(error::Error::new("x").with_kind(Kind::NoContainer)), ErrorKind::NotFound);
        assert_eq!(kind(error::Error::config("/a", "x")), ErrorKind::InvalidConfiguration);
        assert_eq!(kind(error::Error::sys("x", Errno::PERM)), ErrorKind::PermissionDenied);
        assert_eq!(kind(error::Error::sys("x", Errno::IO)), ErrorKind::System);
        assert_eq!(kind(error::Error::new("x")), ErrorKind::Other);
    }

    #[test]
    fn a_main_that_returns_an_error_prints_it_as_text() {
        let e = Error::from(error::Error::new("x").context("create web").with_hint("do y"));
        assert_eq!(format!("{e:?}"), "create web: x\n  hint: do y");
        assert_eq!(format!("{:?}", Error::from(error::Error::new("x"))), "x");
    }

    #[test]
    fn the_call_that_failed_is_the_source() {
        let e = Error::from(error::Error::sys("open(\"/x\")", Errno::NOENT));
        let source = e.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        assert_eq!((source.and_then(std::io::Error::raw_os_error), e.errno()), (Some(2), Some(2)));
        assert!(Error::from(error::Error::new("x")).source().is_none());
    }
}
