//! Errors: errnos, and the kinds that the standard library has in addition.

use core::fmt;

use allocated::string::String;
use allocated::vec::Vec;
use rustix::io::Errno;
pub use rustix::io::{IoSlice, IoSliceMut};

use crate::libc_functions;
use crate::syscall::syscall;

pub type Result<T> = core::result::Result<T, Error>;

#[derive(Debug)]
pub struct Error(Errno);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    AlreadyExists,
    Interrupted,
    InvalidInput,
    NotFound,
    Other,
    PermissionDenied,
    UnexpectedEof,
    WouldBlock,
}

impl Error {
    pub fn last_os_error() -> Self {
        Self::from_raw_os_error(libc_functions::errno())
    }

    pub fn from_raw_os_error(errno: i32) -> Self {
        Self(Errno::from_raw_os_error(errno))
    }

    pub fn raw_os_error(&self) -> Option<i32> {
        Some(self.0.raw_os_error())
    }

    pub fn kind(&self) -> ErrorKind {
        match self.0 {
            Errno::EXIST => ErrorKind::AlreadyExists,
            Errno::INTR => ErrorKind::Interrupted,
            Errno::INVAL => ErrorKind::InvalidInput,
            Errno::NOENT => ErrorKind::NotFound,
            Errno::ACCESS | Errno::PERM => ErrorKind::PermissionDenied,
            Errno::NODATA => ErrorKind::UnexpectedEof,
            Errno::AGAIN => ErrorKind::WouldBlock,
            _ => ErrorKind::Other,
        }
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self(errno)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}", self.0.raw_os_error())
    }
}

impl core::error::Error for Error {}

pub trait Read {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize>;

    fn read_to_end(&mut self, content: &mut Vec<u8>) -> Result<usize> {
        let before = content.len();
        let mut buffer = [0; 1024];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(content.len() - before),
                Ok(read) => content.extend_from_slice(&buffer[..read]),
                Err(Error(Errno::INTR)) => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn read_to_string(&mut self, text: &mut String) -> Result<usize> {
        let mut content = Vec::new();
        self.read_to_end(&mut content)?;
        text.push_str(core::str::from_utf8(&content).map_err(|_| Error(Errno::ILSEQ))?);
        Ok(content.len())
    }

    fn take(self, limit: u64) -> Take<Self>
    where
        Self: Sized,
    {
        Take { inner: self, limit }
    }
}

pub struct Take<T> {
    inner: T,
    limit: u64,
}

impl<T: Read> Read for Take<T> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let most = usize::try_from(self.limit).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buffer[..most])?;
        self.limit -= read as u64;
        Ok(read)
    }
}

pub trait Write {
    fn write(&mut self, bytes: &[u8]) -> Result<usize>;

    fn write_all(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(0) => return Err(Error(Errno::IO)),
                Ok(written) => bytes = &bytes[written..],
                Err(Error(Errno::INTR)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Writes a line to standard error. A failure is ignored.
pub fn complain(line: fmt::Arguments<'_>) {
    struct Stderr;
    impl fmt::Write for Stderr {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let mut text = text.as_bytes();
            while !text.is_empty() {
                let args = [2, text.as_ptr() as usize, text.len(), 0, 0, 0];
                // SAFETY: reads the text.
                let written = unsafe { syscall(libc::SYS_write as usize, args) };
                let Ok(written @ 1..) = usize::try_from(written) else { return Err(fmt::Error) };
                text = &text[written..];
            }
            Ok(())
        }
    }
    let _ = fmt::write(&mut Stderr, format_args!("{line}\n"));
}
