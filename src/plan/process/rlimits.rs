//! Resource limits (getrlimit(2)).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::plan::hint_names;
use crate::spec;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

/// The numbers of the resources differ between architectures; their names do not.
const NAMES: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

impl Resource {
    /// In the form of prlimit(2).
    pub fn kernel(self) -> rustix::process::Resource {
        use rustix::process::Resource as Kernel;
        match self {
            Self::As => Kernel::As,
            Self::Core => Kernel::Core,
            Self::Cpu => Kernel::Cpu,
            Self::Data => Kernel::Data,
            Self::Fsize => Kernel::Fsize,
            Self::Locks => Kernel::Locks,
            Self::Memlock => Kernel::Memlock,
            Self::Msgqueue => Kernel::Msgqueue,
            Self::Nice => Kernel::Nice,
            Self::Nofile => Kernel::Nofile,
            Self::Nproc => Kernel::Nproc,
            Self::Rss => Kernel::Rss,
            Self::Rtprio => Kernel::Rtprio,
            Self::Rttime => Kernel::Rttime,
            Self::Sigpending => Kernel::Sigpending,
            Self::Stack => Kernel::Stack,
        }
    }

    pub fn name(self) -> &'static str {
        NAMES[self as usize].0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    pub resource: Resource,
    /// `u64::MAX` is RLIM_INFINITY.
    pub soft: u64,
    pub hard: u64,
}

impl Rlimit {
    /// In the form of prlimit(2): `None` means no limit.
    pub fn values(&self) -> rustix::process::Rlimit {
        let value = |limit: u64| (limit != u64::MAX).then_some(limit);
        rustix::process::Rlimit { current: value(self.soft), maximum: value(self.hard) }
    }
}

pub(super) fn plan(rlimits: &[spec::Rlimit], pointer: &str) -> Result<Vec<Rlimit>> {
    let mut planned: Vec<Rlimit> = Vec::with_capacity(rlimits.len());
    for (i, spec::Rlimit { kind, soft, hard }) in rlimits.iter().enumerate() {
        let refuse = |field: &str, message: String| Error::config(format_args!("{pointer}/{i}/{field}"), message);
        let known = NAMES.iter().find(|(name, _)| name == kind);
        let (_, resource) = *known.ok_or_else(|| {
            let error = refuse("type", format!("wrong rlimit value: {kind}"));
            hint_names(error, kind, NAMES.iter().map(|(name, _)| *name))
        })?;
        if planned.iter().any(|earlier| earlier.resource == resource) {
            return Err(refuse("type", format!("{kind} is given twice")));
        }
        if soft > hard {
            return Err(refuse("soft", format!("{kind}: the soft limit {soft} is above the hard limit {hard}")));
        }
        planned.push(Rlimit { resource, soft: *soft, hard: *hard });
    }
    Ok(planned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(kind: &str, soft: u64, hard: u64) -> spec::Rlimit {
        spec::Rlimit { kind: kind.into(), soft, hard }
    }

    #[test]
    fn names_are_in_the_order_of_the_enum() {
        for (name, resource) in NAMES {
            assert_eq!(resource.name(), name);
            assert_eq!(plan(&[limit(name, 1, 2)], "").unwrap()[0].resource, resource);
        }
    }

    #[test]
    fn wrong_limits_are_refused() {
        let table = [
            (vec![limit("NOFILE", 1, 2)], "/p/0/type: wrong rlimit value: NOFILE"),
            (vec![limit("RLIMIT_CPU", 1, 1), limit("RLIMIT_CPU", 1, 1)], "/p/1/type: RLIMIT_CPU is given twice"),
            (vec![limit("RLIMIT_CPU", 2, 1)], "/p/0/soft: RLIMIT_CPU: the soft limit 2 is above the hard limit 1"),
        ];
        for (limits, want) in table {
            assert_eq!(plan(&limits, "/p").unwrap_err().to_string(), want);
        }
        let hint = |kind| plan(&[limit(kind, 1, 2)], "/p").unwrap_err().hint().map(str::to_owned);
        assert_eq!(hint("nofile").as_deref(), Some("is RLIMIT_NOFILE meant?"));
        assert!(hint("FILES").unwrap().starts_with("one of RLIMIT_AS, RLIMIT_CORE, "));
    }
}
