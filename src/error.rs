//! The one error type: what was attempted, on what, why it failed, and what to do about it.
//!
//! Operators read an error, and engines read parts of it. It prints on one line as `context: context: message: meaning
//! of the errno`. The hint is kept apart, so that a log record can have it on a line of its own. The same type travels
//! from init to the runtime ([`crate::wire`]).

use std::fmt::{self, Display, Write as _};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kinds of errors that callers treat differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    #[default]
    Other,
    /// Init found it, on the container's side.
    Init,
    /// The container does not exist.
    NoContainer,
    /// The record of the container is missing, or cannot be parsed.
    DamagedRecord,
    /// runc made the container.
    MadeByRunc,
    /// The executable of the process does not exist: shells and engines answer 127.
    CommandNotFound,
    /// The executable of the process exists but cannot be executed: shells and engines answer 126.
    CommandNotExecutable,
    /// A container has the id already.
    Exists,
    /// A value of the configuration cannot be honoured.
    Configuration,
    /// The container is not in a state in which this can be done.
    State,
    /// Another command is at work on the container.
    Busy,
    /// Init has ended, and has not said why.
    Died,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Outermost first.
    context: Vec<String>,
    message: String,
    errno: Option<i32>,
    hint: Option<String>,
    kind: Kind,
}

impl Error {
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), ..Self::default() }
    }

    /// A failed syscall: `call` is its name with its arguments, as in `open_tree("/srv/data")`.
    pub fn sys(call: impl Display, errno: Errno) -> Self {
        Self { message: call.to_string(), errno: Some(errno.raw_os_error()), ..Self::default() }
    }

    /// A value of the configuration that cannot be used; `pointer` is its JSON pointer (RFC 6901).
    pub fn config(pointer: impl Display, message: impl Display) -> Self {
        Self::new(format_args!("{pointer}: {message}")).with_kind(Kind::Configuration)
    }

    /// Adds the action that failed. The function that knows the action adds it, once.
    #[must_use]
    pub fn context(mut self, context: impl Display) -> Self {
        self.context.insert(0, context.to_string());
        self
    }

    /// As [`Error::context`], where `context` ends in a JSON pointer. If the error begins with the rest of that
    /// pointer, as `/options/1`, both are written as one.
    #[must_use]
    pub fn below(mut self, context: impl Display) -> Self {
        match self.context.first_mut().filter(|first| first.starts_with("/options/")) {
            Some(rest) => rest.insert_str(0, &context.to_string()),
            None => return self.context(context),
        }
        self
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(one_line(&hint.to_string()));
        self
    }

    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Marks an error that init sent.
    #[must_use]
    pub fn from_init(self) -> Self {
        if matches!(self.kind, Kind::Other | Kind::Configuration) { self.with_kind(Kind::Init) } else { self }
    }

    /// Shortens each part at its end, for a message of limited size. Only an image can make a text that long.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        const ENOUGH: usize = 2048;
        for text in self.context.iter_mut().chain([&mut self.message]).chain(&mut self.hint) {
            if text.len() > ENOUGH {
                text.truncate(text.floor_char_boundary(ENOUGH));
                text.push_str("...");
            }
        }
        self
    }

    /// Replaces JSON pointers by the options that the values came from; `options` lists both.
    #[must_use]
    pub fn in_terms_of(mut self, options: &[(&str, &str)]) -> Self {
        for text in self.context.iter_mut().chain([&mut self.message]) {
            let pointer = text.split(": ").next().unwrap_or_default();
            if let Some((_, option)) = options.iter().find(|(of, _)| is_at_or_below(pointer, of)) {
                text.replace_range(..pointer.len(), option);
            }
        }
        self
    }

    pub fn errno(&self) -> Option<Errno> {
        // It may come from a process that cannot be trusted.
        self.errno.filter(|errno| (1..4096).contains(errno)).map(Errno::from_raw_os_error)
    }

    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref().or_else(|| cure(&self.message, self.errno()?))
    }

    /// The JSON pointer of the value that cannot be honoured; "" is the whole document.
    pub fn pointer(&self) -> Option<&str> {
        match self.kind {
            Kind::Configuration => self.message.split(": ").next(),
            _ => None,
        }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }
}

/// The words of glibc and Go, for which engines and people search, where musl has other ones.
const WORDS: [(Errno, &str); 27] = [
    (Errno::IO, "input/output error"),
    (Errno::CHILD, "no child processes"),
    (Errno::NOMEM, "cannot allocate memory"),
    (Errno::BUSY, "device or resource busy"),
    (Errno::XDEV, "invalid cross-device link"),
    (Errno::MFILE, "too many open files"),
    (Errno::NOTTY, "inappropriate ioctl for device"),
    (Errno::SPIPE, "illegal seek"),
    (Errno::PIPE, "broken pipe"),
    (Errno::DEADLK, "resource deadlock avoided"),
    (Errno::NAMETOOLONG, "file name too long"),
    (Errno::LOOP, "too many levels of symbolic links"),
    (Errno::OVERFLOW, "value too large for defined data type"),
    (Errno::ILSEQ, "invalid or incomplete multibyte or wide character"),
    (Errno::USERS, "too many users"),
    (Errno::NOTSOCK, "socket operation on non-socket"),
    (Errno::MSGSIZE, "message too long"),
    (Errno::OPNOTSUPP, "operation not supported"),
    (Errno::ADDRINUSE, "address already in use"),
    (Errno::ADDRNOTAVAIL, "cannot assign requested address"),
    (Errno::NETUNREACH, "network is unreachable"),
    (Errno::CONNABORTED, "software caused connection abort"),
    (Errno::NOTCONN, "transport endpoint is not connected"),
    (Errno::TIMEDOUT, "connection timed out"),
    (Errno::HOSTUNREACH, "no route to host"),
    (Errno::UCLEAN, "structure needs cleaning"),
    (Errno::DQUOT, "disk quota exceeded"),
];

/// The kernel's meaning of an errno in the field's usual spelling: `no such file or directory`.
pub fn describe(errno: Errno) -> String {
    if let Some((_, words)) = WORDS.iter().find(|(own, _)| *own == errno) {
        return (*words).to_owned();
    }
    words_of_libc(errno)
}

fn words_of_libc(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// What helps wherever the kernel says so.
fn cure(call: &str, errno: Errno) -> Option<&'static str> {
    /// For these, limits of namespaces and of mounts have the same errno, and so has a PID namespace whose init is
    /// dead.
    const OF_NAMESPACES: [&str; 5] = ["clone3(", "unshare(", "setns(", "move_mount", "open_tree"];
    Some(match errno {
        Errno::NOSPC | Errno::NOMEM if OF_NAMESPACES.iter().any(|name| call.starts_with(name)) => return None,
        Errno::MFILE => "the caller may have no more open files: see RLIMIT_NOFILE (ulimit -n)",
        Errno::FBIG => "the caller may write no larger files: see RLIMIT_FSIZE (ulimit -f)",
        Errno::NFILE => "the host has no more open files: see sysctl fs.file-max",
        Errno::NOSPC => "a file system is full, or has no inodes left: see df and df -i",
        Errno::DQUOT => "the user's quota is used up",
        Errno::NOMEM => "the host has no memory left, or the cgroup of the caller",
        _ => return None,
    })
}

/// The message for an engine, which shows its users one text. From some words it concludes another cause than this one,
/// so a hint that has them is left out.
pub fn with_hint(message: &str, hint: Option<&str>) -> String {
    const MEANINGFUL: [&str; 7] = [
        "not found",
        "no such file",
        "permission denied",
        "operation not permitted",
        "not a directory",
        "is a directory",
        "executable file",
    ];
    match hint {
        Some(hint) if !MEANINGFUL.iter().any(|words| hint.to_lowercase().contains(words)) => {
            format!("{message} ({hint})")
        }
        _ => message.to_owned(),
    }
}

/// False for characters that move a terminal's cursor or change its state, end a line, or change the reading order.
pub fn is_plain(c: char) -> bool {
    let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c == '\t' || !c.is_control() && !reorders
}

/// Makes one line of plain text. Parts of a message come from images, configurations and containers. They must not
/// control a terminal, not even one that an engine writes to, or forge a line of a log.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            c if is_plain(c) => line.push(c),
            c if c.is_ascii() => drop(write!(line, "\\x{:02x}", c as u32)),
            c => drop(write!(line, "\\u{{{:x}}}", c as u32)),
        }
    }
    line
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in &self.context {
            write!(f, "{}: ", one_line(context))?;
        }
        f.write_str(&one_line(&self.message))?;
        if let Some(errno) = self.errno() {
            write!(f, ": {}", describe(errno))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Adds context to a result. The closure is called only on failure.
pub trait Context<T> {
    fn context(self, context: impl Display) -> Result<T>;
    fn with_context<D: Display>(self, context: impl FnOnce() -> D) -> Result<T>;
    fn hint(self, hint: impl Display) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, context: impl Display) -> Result<T> {
        self.map_err(|e| e.context(context))
    }

    fn with_context<D: Display>(self, context: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| e.context(context()))
    }

    fn hint(self, hint: impl Display) -> Result<T> {
        self.map_err(|e| e.with_hint(hint))
    }
}

/// Names the syscall behind a bare errno: `open(path).call(|| format!("open({path:?})"))`.
pub trait Call<T> {
    fn call<D: Display>(self, call: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Call<T> for std::result::Result<T, Errno> {
    fn call<D: Display>(self, call: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|errno| Error::sys(call(), errno))
    }
}

impl<T> Call<T> for std::io::Result<T> {
    fn call<D: Display>(self, call: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| match e.raw_os_error() {
            Some(errno) => Error::sys(call(), Errno::from_raw_os_error(errno)),
            None => Error::new(format_args!("{}: {e}", call())),
        })
    }
}

/// Whether a JSON pointer leads to the value at `of`, or to one within it.
pub fn is_at_or_below(pointer: &str, of: &str) -> bool {
    pointer.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Appends `segment` to a JSON pointer, escaped as RFC 6901 asks.
pub fn push_pointer(pointer: &mut String, segment: impl Display) {
    let _ = write!(pointer, "/{}", segment.to_string().replace('~', "~0").replace('/', "~1"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_env = "gnu")]
    fn the_words_of_an_errno_are_those_of_glibc() {
        for (errno, words) in WORDS {
            assert_eq!(words, words_of_libc(errno));
        }
    }

    #[test]
    fn prints_context_call_and_meaning() {
        let e = Error::sys("open_tree(\"/srv/data\")", Errno::NOENT)
            .context("mounts[3] /data")
            .context("create web")
            .with_hint("the source of a bind mount must exist on the host");
        assert_eq!(e.to_string(), "create web: mounts[3] /data: open_tree(\"/srv/data\"): no such file or directory");
        assert_eq!(e.hint(), Some("the source of a bind mount must exist on the host"));
    }

    #[test]
    fn a_pointer_is_written_as_one() {
        let below = |e: Error| e.below("error mounting x: /mounts/3").to_string();
        assert_eq!(below(Error::new("y").context("/options/1")), "error mounting x: /mounts/3/options/1: y");
        assert_eq!(below(Error::new("y").context("/srv")), "error mounting x: /mounts/3: /srv: y");
        assert_eq!(below(Error::new("y")), "error mounting x: /mounts/3: y");
    }

    #[test]
    fn the_pointer_of_a_wrong_value_is_told() {
        let e = Error::config("/process/cwd", "must be absolute").context("config.json");
        assert_eq!((e.pointer(), e.kind()), (Some("/process/cwd"), Kind::Configuration));
        assert_eq!(Error::new("/process/cwd: x").pointer(), None);
    }

    #[test]
    fn what_is_too_long_is_shortened() {
        let e = Error::new("ä".repeat(5000)).context("short").with_hint("x".repeat(5000)).shortened();
        assert!(e.to_string().starts_with("short: ä") && e.to_string().len() < 2100);
        assert_eq!(e.hint().map(str::len), Some(2051));
    }

    #[test]
    fn an_errno_that_is_none_is_not_believed() {
        for errno in [i32::MIN, -1, 0, 4096, i32::MAX] {
            let e = Error { message: "x".to_owned(), errno: Some(errno), ..Error::default() };
            assert_eq!((e.errno(), e.to_string()), (None, "x".to_owned()), "{errno}");
        }
    }

    #[test]
    fn an_option_is_named_in_place_of_the_pointer() {
        let options = [("/process/env", "--env"), ("/process/cwd", "--cwd")];
        let told = |e: Error| e.in_terms_of(&options).to_string();
        assert_eq!(told(Error::config("/process/env/7", "is wrong")), "--env: is wrong");
        assert_eq!(told(Error::new("x").context("/process/cwd").context("exec a")), "exec a: --cwd: x");
        assert_eq!(told(Error::config("/process/environ", "/process/cwd")), "/process/environ: /process/cwd");
    }

    #[test]
    fn an_error_is_one_line_of_plain_text() {
        let e = Error::new("a\u{1b}]0;x\u{7}\tb\r\u{9b}2J\nc").context("txt.\u{202e}exe ä").with_hint("a\nb");
        assert_eq!(e.to_string(), "txt.\\u{202e}exe ä: a\\x1b]0;x\\x07\tb\\x0d\\u{9b}2J\\nc");
        assert_eq!(e.hint(), Some("a\\nb"));
    }

    #[test]
    fn an_errno_has_a_cure_of_its_own_where_nothing_else_helps() {
        let e = Error::sys("open(\"/\")", Errno::MFILE);
        assert!(e.hint().unwrap().contains("ulimit -n"));
        assert_eq!(e.with_hint("look here").hint(), Some("look here"));
        assert_eq!(Error::sys("open(\"/\")", Errno::NOENT).hint(), None);
        assert!(Error::sys("write(\"/\")", Errno::NOSPC).hint().unwrap().contains("df"));
        // A limit of namespaces, and a PID namespace whose init is dead.
        assert_eq!(Error::sys("unshare(cgroup, time)", Errno::NOSPC).hint(), None);
        assert_eq!(Error::sys("clone3(CLONE_PARENT)", Errno::NOMEM).hint(), None);
    }

    #[test]
    fn engines_are_told_the_hint_unless_they_would_read_another_cause_from_it() {
        assert_eq!(with_hint("a", Some("b")), "a (b)");
        assert_eq!(with_hint("a", Some("look whether it was Not Found")), "a");
        assert_eq!(with_hint("a", Some("the source is a directory")), "a");
        assert_eq!(with_hint("a", Some("PATH is \"/operation not permitted\"")), "a");
        assert_eq!(with_hint("a", None), "a");
    }

    #[test]
    fn pointer_segments_are_escaped() {
        let mut pointer = String::from("/linux/sysctl");
        push_pointer(&mut pointer, "a/b~c");
        assert_eq!(pointer, "/linux/sysctl/a~1b~0c");
    }
}
