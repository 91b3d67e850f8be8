//! What /proc tells of a process: `/proc/PID/stat` (proc_pid_stat(5)), and files of lines with a name.

use std::io::Read;
use std::ops::Range;

use crate::error::{Call, Error, Result};

/// The value of the line `NAME:`, as in `/proc/PID/status` and `/proc/PID/fdinfo/FD`.
pub fn named<'a>(text: &'a [u8], name: &str) -> Option<&'a str> {
    let mut lines = text.split(|&byte| byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b":"))?;
    std::str::from_utf8(value).ok().map(str::trim)
}

/// `/proc/PID/stat`: a process in one line.
#[derive(Debug)]
pub struct Stat {
    text: Vec<u8>,
    name: Range<usize>,
}

impl Stat {
    /// `None` if there is no such process any more.
    pub fn read(pid: i32) -> Result<Option<Self>> {
        /// More than once in a row is rare.
        const ROUNDS: usize = 10;
        let mut found = Self::read_once(pid)?;
        for _ in 0..ROUNDS {
            match found {
                Some(stat) if stat.is_released() => found = Self::read_once(pid)?,
                found => return Ok(found),
            }
        }
        Ok(found)
    }

    fn read_once(pid: i32) -> Result<Option<Self>> {
        let path = format!("/proc/{pid}/stat");
        // More than a line ever has, so that one read(2) gets it.
        let mut text = Vec::with_capacity(2048);
        match std::fs::File::open(&path).and_then(|file| file.take(4096).read_to_end(&mut text)) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return check_hidden(pid).map(|()| None),
            read => read.call(|| format!("read({path:?})"))?,
        };
        let shown = || Error::new(format_args!("{path:?}: {:?}", String::from_utf8_lossy(&text)));
        Self::parse(&text).map(Some).ok_or_else(shown)
    }

    /// The name in parentheses may contain anything, also parentheses and blanks, so it ends at the last parenthesis.
    fn parse(text: &[u8]) -> Option<Self> {
        let start = text.iter().position(|&byte| byte == b'(')? + 1;
        let end = text.iter().rposition(|&byte| byte == b')').filter(|&end| start <= end)?;
        text.get(end + 2)?;
        Some(Self { text: text.to_owned(), name: start..end })
    }

    pub fn name(&self) -> &[u8] {
        &self.text[self.name.clone()]
    }

    /// One letter: `Z` for a zombie.
    pub fn state(&self) -> u8 {
        self.text[self.name.end + 2]
    }

    /// Whether it is a zombie (`Z`), or a process that is just being reaped (`X`, `x`). The state is that of the main
    /// thread, which may end before the others: then they are counted.
    pub fn has_ended(&self) -> bool {
        match self.state() {
            b'Z' => self.field(20).is_none_or(|threads| threads <= 1),
            state => matches!(state, b'X' | b'x'),
        }
    }

    /// Whether the kernel has released the main thread: when the process was reaped, or when another thread took its
    /// place by execve(2).
    fn is_released(&self) -> bool {
        matches!(self.state(), b'X' | b'x') || self.state() == b'Z' && self.field(20) == Some(0)
    }

    /// `PF_*` of linux/sched.h.
    pub fn flags(&self) -> Option<u64> {
        self.field(9)
    }

    /// In clock ticks since boot.
    pub fn start_time(&self) -> Option<u64> {
        self.field(22)
    }

    /// As wait(2) reports it, of a process that has ended; 0 for who may not inspect the process.
    pub fn exit_code(&self) -> Option<i32> {
        self.field(52)?.try_into().ok()
    }

    /// By its number in the manual page. The state is field 3.
    fn field(&self, number: usize) -> Option<u64> {
        let rest = std::str::from_utf8(&self.text[self.name.end + 1..]).ok()?;
        rest.split_ascii_whitespace().nth(number - 3)?.parse().ok()
    }
}

/// The states of all threads of a process that was killed, which makes no further ones; `None` if that could not be
/// found out.
pub fn threads(pid: i32) -> Option<Vec<u8>> {
    let state = |thread: std::io::Result<std::fs::DirEntry>| {
        let path = format!("/proc/{pid}/task/{}/stat", thread.ok()?.file_name().to_string_lossy());
        Some(Stat::parse(&std::fs::read(path).ok()?)?.state())
    };
    std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.map(state).collect()
}

/// Whoever sees no process must not believe that there is none.
fn check_hidden(pid: i32) -> Result<()> {
    let is_seen = |pid: &str| rustix::fs::access(format!("/proc/{pid}/stat"), rustix::fs::Access::EXISTS).is_ok();
    if !is_seen("self") {
        return Err(Error::new("no procfs is mounted on /proc")
            .with_hint("berth looks for the processes of containers there: mount one"));
    }
    // What may be signalled is there. It may have begun just now, or be ending.
    let is_there =
        || rustix::process::Pid::from_raw(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
    if is_there() && !is_seen(&pid.to_string()) && is_there() {
        return Err(Error::new(format_args!("/proc/{pid}: the procfs hides the process")).with_hint(
            "its option hidepid hides what its owner may not inspect, such as an init that waits: end it by kill(1), or \
             use a procfs without that option",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_fake_the_fields() {
        let text = b"12 (a) Z 1 2) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name(), stat.state(), stat.has_ended()), (&b"a) Z 1 2"[..], b'S', false));
        assert_eq!((stat.flags(), stat.start_time()), (Some(4_194_560), Some(4711)));
        let ended = |state: &str, threads| {
            let text = format!("12 (a) {state} 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 4711 9 9");
            Stat::parse(text.as_bytes()).unwrap().has_ended()
        };
        assert_eq!(
            [("Z", 1), ("Z", 0), ("X", 0), ("Z", 2), ("S", 1)].map(|(s, n)| ended(s, n)),
            [true, true, true, false, false]
        );
        let released = |state: &str, threads| {
            let text = format!("12 (a) {state} 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 4711 9 9");
            Stat::parse(text.as_bytes()).unwrap().is_released()
        };
        assert_eq!(
            [("X", 0), ("Z", 0), ("Z", 1), ("Z", 2), ("S", 1)].map(|(s, n)| released(s, n)),
            [true, true, false, false, false]
        );
        for text in [&b""[..], b"12 (a", b"12 )a(", b"12 (a)", b"12 (a) "] {
            assert!(Stat::parse(text).is_none(), "{text:?}");
        }
        assert_eq!(Stat::parse(b"12 (\xff) Z 1").map(|stat| (stat.has_ended(), stat.start_time())), Some((true, None)));
    }

    #[test]
    fn lines_with_a_name() {
        let text = b"Name:\ta\xff\nPid:\t12\nPidNs:\t13\nUid:\t1\t2\nlast:";
        assert_eq!(
            ["Pid", "PidNs", "Uid", "last"].map(|name| named(text, name)),
            [Some("12"), Some("13"), Some("1\t2"), Some("")]
        );
        assert_eq!(["Name", "P", "12"].map(|name| named(text, name)), [None; 3]);
    }

    #[test]
    fn this_process() {
        let stat = Stat::read(std::process::id().cast_signed()).unwrap().unwrap();
        assert!(stat.state() != 0 && !stat.has_ended() && stat.start_time().is_some());
        assert!(Stat::read(i32::MAX).unwrap().is_none());
    }
}
