//! The names of signals.

use crate::error::{Error, Result};

const SIGNALS: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGIOT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGPOLL),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// All names but those of real-time signals, without `SIG`.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SIGNALS.iter().map(|(name, _)| *name)
}

/// The kernel's `_NSIG`: signal 0 only asks whether the process is there.
const LAST: i32 = 64;

/// The first real-time signal that C libraries leave to programs, as `kill -l` shows.
const RTMIN: i32 = 34;

/// A number, or a name with or without `SIG`, in any case.
pub(super) fn parse(text: &str) -> Result<i32> {
    let unknown = || {
        Error::new(format_args!("unknown signal {text:?}"))
            .with_hint("give a number from 0 to 64 or a name such as TERM, SIGKILL or RTMIN+3")
    };
    if let Some(number) = digits(text) {
        return Some(number).filter(|n| *n <= LAST).ok_or_else(unknown);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let named = SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    named.or_else(|| real_time(name)).ok_or_else(unknown)
}

fn real_time(name: &str) -> Option<i32> {
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => RTMIN,
        (_, Some("")) => LAST,
        (Some(offset), _) => RTMIN.checked_add(digits(offset.strip_prefix('+')?)?)?,
        (_, Some(offset)) => LAST - digits(offset.strip_prefix('-')?)?,
        _ => return None,
    };
    (RTMIN..=LAST).contains(&number).then_some(number)
}

fn digits(text: &str) -> Option<i32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (given, wanted) in [
            ("9", Some(9)),
            ("0", Some(0)),
            ("64", Some(64)),
            ("65", None),
            ("-9", None),
            ("+9", None),
            ("99999999999", None),
            ("KILL", Some(9)),
            ("SIGKILL", Some(9)),
            ("sigterm", Some(15)),
            ("Term", Some(15)),
            ("SIGSIGTERM", None),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN+31", None),
            ("RTMAX-1", Some(63)),
            ("RTMAX-99", None),
            ("RTMIN-1", None),
            ("", None),
            ("SIG", None),
            ("9x", None),
        ] {
            assert_eq!(parse(given).ok(), wanted, "{given:?}");
        }
    }
}
