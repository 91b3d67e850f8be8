//! Why an existing program cannot be executed: details that execve's errno lacks.
//!
//! Used only after a failure. The files are the container's, so all reads are bounded, and only regular files are
//! opened.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::error::Error;

/// As much of a script's first line as the kernel reads (BINPRM_BUF_SIZE).
const SCRIPT_HEAD: usize = 256;
/// PATH_MAX, the most that the kernel takes for PT_INTERP.
const LONGEST_INTERPRETER: u64 = 4096;

/// Adds the hint, if there is one, to the failure of the absolute `path` in init's own root.
pub fn hinted(error: Error, path: &CStr) -> Error {
    let root = fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok();
    match root.zip(error.errno()).and_then(|(root, errno)| explain(root.as_fd(), c"/", path, errno)) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// A hint for the failure of `path`, which is looked up in `root` as a process there in `cwd` would.
pub fn explain(root: BorrowedFd, cwd: &CStr, path: &CStr, errno: Errno) -> Option<String> {
    let path =
        Path::new(std::ffi::OsStr::from_bytes(cwd.to_bytes())).join(std::ffi::OsStr::from_bytes(path.to_bytes()));
    match errno {
        Errno::NOENT => match File::open(root, &path) {
            Some(file) => missing_interpreter(root, &file),
            None => Some("the file does not exist any more".to_owned()),
        },
        Errno::ACCESS | Errno::PERM => not_permitted(root, &path),
        Errno::NOEXEC => wrong_format(&File::open(root, &path)?),
        Errno::TXTBSY => Some("a process has the file open for writing".to_owned()),
        Errno::TOOBIG => Some("the arguments and the environment together are too large".to_owned()),
        Errno::LOOP => Some("too many links, or scripts that have scripts as interpreters".to_owned()),
        Errno::ISDIR => Some("a directory cannot be executed".to_owned()),
        _ => None,
    }
}

struct File {
    fd: OwnedFd,
    head: Vec<u8>,
}

impl File {
    /// A regular file, and its first bytes.
    fn open(root: BorrowedFd, path: &Path) -> Option<Self> {
        let located = locate(root, path)?;
        if FileType::from_raw_mode(fs::fstat(&located).ok()?.st_mode) != FileType::RegularFile {
            return None;
        }
        let fd = resolve(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let mut file = Self { fd, head: Vec::new() };
        file.head = file.read(0, SCRIPT_HEAD)?;
        Some(file)
    }

    fn read(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = rustix::io::pread(&self.fd, &mut bytes[..], offset).ok()?;
        bytes.truncate(read);
        Some(bytes)
    }
}

fn locate(root: BorrowedFd, path: &Path) -> Option<OwnedFd> {
    resolve(root, path, OFlags::PATH)
}

fn resolve(root: BorrowedFd, path: &Path, flags: OFlags) -> Option<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve).ok()
}

/// The file exists, so its interpreter is missing.
fn missing_interpreter(root: BorrowedFd, file: &File) -> Option<String> {
    match Format::of(&file.head) {
        Format::Script { interpreter } if interpreter.ends_with('\r') => {
            let name = interpreter.trim_end();
            Some(format!("its #! line ends with a carriage return after {name:?}: it has line ends of Windows"))
        }
        Format::Script { interpreter } => locate(root, Path::new(&interpreter))
            .is_none()
            .then(|| format!("the interpreter {interpreter:?} of its #! line does not exist in the container")),
        Format::Elf(elf) => {
            let interpreter = elf.interpreter(file)?;
            locate(root, Path::new(&interpreter)).is_none().then(|| {
                format!(
                    "its dynamic loader {interpreter:?} does not exist in the container: was it built for another libc?"
                )
            })
        }
        Format::Empty | Format::Unknown => None,
    }
}

fn not_permitted(root: BorrowedFd, path: &Path) -> Option<String> {
    let located = locate(root, path)?;
    if let Some(why) = refusal(located.as_fd()) {
        return Some(why.to_owned());
    }
    let file = File::open(root, path)?;
    let interpreter = match Format::of(&file.head) {
        Format::Script { interpreter } => interpreter,
        Format::Elf(elf) => elf.interpreter(&file)?,
        Format::Empty | Format::Unknown => return None,
    };
    let why = refusal(locate(root, Path::new(&interpreter))?.as_fd())?;
    Some(format!("its interpreter {interpreter:?}: {why}"))
}

fn refusal(file: BorrowedFd) -> Option<&'static str> {
    let mode = fs::fstat(file).ok()?.st_mode;
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Some("a directory cannot be executed"),
        _ => return Some("it is not a regular file"),
    }
    if fs::fstatvfs(file).ok()?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Some("it is on a filesystem that is mounted noexec");
    }
    if mode & 0o111 == 0 {
        return Some("it has no execute permission (chmod +x)");
    }
    (mode & 0o111 != 0o111).then_some("the process's user has no execute permission on it")
}

fn wrong_format(file: &File) -> Option<String> {
    match Format::of(&file.head) {
        Format::Empty => Some("the file is empty".to_owned()),
        Format::Script { .. } => Some("its #! line names no interpreter".to_owned()),
        Format::Unknown => Some("it is neither an ELF binary nor has it a #! line".to_owned()),
        Format::Elf(elf) if elf.foreign() => {
            Some(format!("it is built for {}, and this machine is {}", elf.machine_name(), std::env::consts::ARCH))
        }
        Format::Elf(_) => Some("the ELF binary is damaged".to_owned()),
    }
}

#[derive(Debug, PartialEq)]
enum Format {
    Empty,
    Script { interpreter: String },
    Elf(Elf),
    Unknown,
}

/// The fields of an ELF header that matter here (elf(5)).
#[derive(Debug, PartialEq)]
struct Elf {
    wide: bool,
    little: bool,
    machine: u16,
    /// Of the program headers.
    offset: u64,
    size: u16,
    count: u16,
}

impl Format {
    fn of(head: &[u8]) -> Self {
        if head.is_empty() {
            return Self::Empty;
        }
        if let Some(line) = head.strip_prefix(b"#!") {
            let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let line = line.trim_ascii_start();
            let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t' | 0)).unwrap_or(line.len());
            return Self::Script { interpreter: String::from_utf8_lossy(&line[..end]).into_owned() };
        }
        Elf::of(head).map_or(Self::Unknown, Self::Elf)
    }
}

impl Elf {
    fn of(head: &[u8]) -> Option<Self> {
        const CLASS: usize = 4;
        const DATA: usize = 5;
        if !head.starts_with(b"\x7fELF") {
            return None;
        }
        let mut elf = Self {
            wide: *head.get(CLASS)? == 2,
            little: *head.get(DATA)? == 1,
            machine: 0,
            offset: 0,
            size: 0,
            count: 0,
        };
        elf.machine = elf.number(head, 18, 2)? as u16;
        let (offset, size) = if elf.wide { (32, 54) } else { (28, 42) };
        elf.offset = elf.number(head, offset, elf.word())?;
        elf.size = elf.number(head, size, 2)? as u16;
        elf.count = elf.number(head, size + 2, 2)? as u16;
        Some(elf)
    }

    fn word(&self) -> usize {
        if self.wide { 8 } else { 4 }
    }

    fn number(&self, bytes: &[u8], offset: usize, length: usize) -> Option<u64> {
        let bytes = bytes.get(offset..offset + length)?;
        let fold = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if self.little { bytes.iter().rev().fold(0, fold) } else { bytes.iter().fold(0, fold) })
    }

    /// PT_INTERP: the dynamic loader.
    fn interpreter(&self, file: &File) -> Option<String> {
        const PT_INTERP: u64 = 3;
        let headers = file.read(self.offset, usize::from(self.size) * usize::from(self.count.min(128)))?;
        let header = headers
            .chunks_exact(usize::from(self.size).max(1))
            .find(|header| self.number(header, 0, 4) == Some(PT_INTERP))?;
        let (offset, length) = if self.wide { (8, 32) } else { (4, 16) };
        let (offset, length) = (self.number(header, offset, self.word())?, self.number(header, length, self.word())?);
        let name = file.read(offset, length.min(LONGEST_INTERPRETER) as usize)?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    }

    fn foreign(&self) -> bool {
        self.machine_name() != std::env::consts::ARCH
    }

    /// As Rust and uname(1) call it (EM_* of `<elf.h>`).
    fn machine_name(&self) -> String {
        let name = match (self.machine, self.wide) {
            (3, _) => "x86",
            (62, _) => "x86_64",
            (40, _) => "arm",
            (183, _) => "aarch64",
            (243, true) => "riscv64",
            (243, false) => "riscv32",
            (21, _) => "powerpc64",
            (22, _) => "s390x",
            (8, true) => "mips64",
            (8, false) => "mips",
            (258, _) => "loongarch64",
            (machine, _) => return format!("an unknown machine (number {machine})"),
        };
        name.to_owned()
    }
}
