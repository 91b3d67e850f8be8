use allocated::string::String;
use allocated::vec::Vec;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::ffi::{OsString, OsStringExt};
use crate::io::{Read, Result, Write};
use crate::path::Path;

#[derive(Debug)]
pub struct File(OwnedFd);

impl File {
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        OpenOptions::new().read(true).open(path)
    }

    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        OpenOptions::new().write(true).create(true).truncate(true).open(path)
    }

    pub fn options() -> OpenOptions {
        OpenOptions::new()
    }

    pub fn metadata(&self) -> Result<Metadata> {
        Ok(Metadata { length: rustix::fs::fstat(&self.0)?.st_size as u64 })
    }

    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self(rustix::io::fcntl_dupfd_cloexec(&self.0, 3)?))
    }
}

pub struct Metadata {
    length: u64,
}

impl Metadata {
    #[allow(clippy::len_without_is_empty, reason = "as the standard library's")]
    pub fn len(&self) -> u64 {
        self.length
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        Ok(rustix::io::read(&self.0, buffer)?)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        Ok(rustix::io::write(&self.0, bytes)?)
    }
}

pub trait FileExt {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;

    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
        while !buffer.is_empty() {
            let read = self.read_at(buffer, offset)?;
            if read == 0 {
                return Err(Errno::NODATA.into());
            }
            buffer = &mut buffer[read..];
            offset += read as u64;
        }
        Ok(())
    }
}

impl FileExt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::pread(&self.0, &mut *buffer, offset))?)
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl IntoRawFd for File {
    fn into_raw_fd(self) -> RawFd {
        self.0.into_raw_fd()
    }
}

impl From<OwnedFd> for File {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<File> for OwnedFd {
    fn from(file: File) -> Self {
        file.0
    }
}

#[derive(Clone, Debug)]
pub struct OpenOptions {
    read: bool,
    write: bool,
    flags: OFlags,
    mode: u32,
}

impl OpenOptions {
    #[allow(clippy::new_without_default, reason = "as the standard library's")]
    pub fn new() -> Self {
        Self { read: false, write: false, flags: OFlags::CLOEXEC, mode: 0o666 }
    }

    pub fn read(&mut self, read: bool) -> &mut Self {
        self.read = read;
        self
    }

    pub fn write(&mut self, write: bool) -> &mut Self {
        self.write = write;
        self
    }

    pub fn append(&mut self, append: bool) -> &mut Self {
        self.write |= append;
        self.flags.set(OFlags::APPEND, append);
        self
    }

    pub fn create(&mut self, create: bool) -> &mut Self {
        self.flags.set(OFlags::CREATE, create);
        self
    }

    pub fn truncate(&mut self, truncate: bool) -> &mut Self {
        self.flags.set(OFlags::TRUNC, truncate);
        self
    }

    pub fn open(&self, path: impl AsRef<Path>) -> Result<File> {
        let access = match (self.read, self.write) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        let flags = self.flags | access;
        let path = path.as_ref();
        let fd = rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::from_raw_mode(self.mode)))?;
        Ok(File(fd))
    }
}

pub trait OpenOptionsExt {
    fn mode(&mut self, mode: u32) -> &mut Self;
    fn custom_flags(&mut self, flags: i32) -> &mut Self;
}

impl OpenOptionsExt for OpenOptions {
    fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    fn custom_flags(&mut self, flags: i32) -> &mut Self {
        self.flags |= OFlags::from_bits_retain(flags as u32).difference(OFlags::RWMODE);
        self
    }
}

pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.read_to_end(&mut content)?;
    Ok(content)
}

pub fn read_to_string(path: impl AsRef<Path>) -> Result<String> {
    let mut text = String::new();
    File::open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

pub fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<()> {
    File::create(path)?.write_all(content.as_ref())
}

pub struct DirEntry(OsString);

impl DirEntry {
    pub fn file_name(&self) -> OsString {
        self.0.clone()
    }
}

pub fn read_dir(path: impl AsRef<Path>) -> Result<impl Iterator<Item = Result<DirEntry>>> {
    let directory = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(path)?;
    let entries = rustix::fs::Dir::read_from(directory)?;
    Ok(entries.filter_map(|entry| match entry {
        Ok(entry) => match entry.file_name().to_bytes() {
            b"." | b".." => None,
            name => Some(Ok(DirEntry(OsString::from_vec(name.to_vec())))),
        },
        Err(errno) => Some(Err(errno.into())),
    }))
}
