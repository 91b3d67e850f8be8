//! The options of a mount, one by one, with their meaning by mount(8) and the runtime-spec.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Attrs, Links, PropagationChange, attr};
use crate::plan::idmap;

/// A parameter of a filesystem: `size=64k`, or a bare word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    pub key: String,
    pub value: Option<String>,
    /// The index in `options` of the configuration, for messages, if it comes from there.
    pub option: Option<u32>,
}

impl Parameter {
    pub fn new(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), value: Some(value.to_owned()), option: None }
    }

    pub fn word(key: &str) -> Self {
        Self { key: key.to_owned(), value: None, option: None }
    }

    pub fn parse(text: &str) -> Self {
        text.split_once('=').map_or_else(|| Self::word(text), |(key, value)| Self::new(key, unquote(value)))
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

/// The meaning of one mount's options.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Options {
    pub(super) bind: Option<bool>,
    pub(super) remount: bool,
    /// Attributes set, in the encoding of [`attr`], except access times.
    pub(super) set: u64,
    pub(super) cleared: u64,
    pub(super) atime: Atime,
    /// An option that counts as a mount flag was given. Then a bind mount drops the flags that are not named.
    pub(super) any_flag: bool,
    pub(super) superblock: Vec<&'static str>,
    pub(super) recursive: Attrs,
    pub(super) propagation: Vec<PropagationChange>,
    pub(super) copy_up: bool,
    pub(super) idmap: Option<idmap::Request>,
    pub(super) links: Links,
    pub(super) data: Vec<Parameter>,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Atime {
    pub(super) noatime: bool,
    pub(super) relatime: bool,
    pub(super) strictatime: bool,
    pub(super) nodiratime: bool,
    /// Words that clear one of these were given.
    pub(super) cleared: u64,
}

impl Atime {
    pub(super) fn named(&self) -> bool {
        self.noatime || self.relatime || self.strictatime || self.nodiratime
    }

    /// mount(2): `strictatime` wins over the others, `noatime` over `relatime`, and `relatime` is the default.
    pub(super) fn mode(&self) -> u64 {
        let mode = match (self.strictatime, self.noatime) {
            (true, _) => attr::STRICTATIME,
            (false, true) => attr::NOATIME,
            (false, false) => 0,
        };
        mode | if self.nodiratime { attr::NODIRATIME } else { 0 }
    }
}

/// Every option that is not a parameter of the filesystem: for `features`.
#[rustfmt::skip]
pub const KNOWN_OPTIONS: &[&str] = &[
    "async", "atime", "bind", "copy-symlink", "defaults", "dest-nofollow", "dev", "diratime", "dirsync", "exec", "idmap", "iversion", "lazytime",
    "loud", "mand", "noatime", "nodev", "nodiratime", "noexec", "noiversion", "nolazytime", "nomand", "norelatime",
    "nostrictatime", "nosuid", "nosymfollow", "private", "ratime", "rbind", "rdev", "rdiratime", "relatime",
    "remount", "rexec", "ridmap", "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime",
    "rnosuid", "rnosymfollow", "ro", "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime",
    "rsuid", "rsymfollow", "runbindable", "rw", "shared", "silent", "slave", "src-nofollow", "strictatime", "suid", "symfollow",
    "sync", "tmpcopyup", "unbindable",
];

impl Options {
    pub(super) fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for (index, option) in (0..).zip(options) {
            let known = parsed.flag(option) || parsed.recursive(option) || parsed.special(option);
            if !known {
                parsed.data(index, option);
            }
        }
        parsed
    }

    fn flag(&mut self, word: &str) -> bool {
        let (bits, set) = match word {
            "ro" => (attr::RDONLY, true),
            "rw" => (attr::RDONLY, false),
            "nosuid" => (attr::NOSUID, true),
            "suid" => (attr::NOSUID, false),
            "nodev" => (attr::NODEV, true),
            "dev" => (attr::NODEV, false),
            "noexec" => (attr::NOEXEC, true),
            "exec" => (attr::NOEXEC, false),
            "nosymfollow" => (attr::NOSYMFOLLOW, true),
            "symfollow" => (attr::NOSYMFOLLOW, false),
            _ => return self.atime(word) || self.superblock(word),
        };
        self.any_flag = true;
        if set {
            self.set |= bits;
            self.cleared &= !bits;
        } else {
            self.set &= !bits;
            self.cleared |= bits;
        }
        true
    }

    fn atime(&mut self, word: &str) -> bool {
        let (field, bit, set) = match word {
            "noatime" => (&mut self.atime.noatime, attr::NOATIME, true),
            "atime" => (&mut self.atime.noatime, attr::NOATIME, false),
            "strictatime" => (&mut self.atime.strictatime, attr::STRICTATIME, true),
            "nostrictatime" => (&mut self.atime.strictatime, attr::STRICTATIME, false),
            "nodiratime" => (&mut self.atime.nodiratime, attr::NODIRATIME, true),
            "diratime" => (&mut self.atime.nodiratime, attr::NODIRATIME, false),
            "relatime" => (&mut self.atime.relatime, 0, true),
            "norelatime" => (&mut self.atime.relatime, 0, false),
            _ => return false,
        };
        *field = set;
        self.atime.cleared = if set { self.atime.cleared & !bit } else { self.atime.cleared | bit };
        self.any_flag = true;
        true
    }

    /// Flags of the superblock. They have no effect on a bind mount, which has no superblock of its own.
    fn superblock(&mut self, word: &str) -> bool {
        let (name, set) = match word {
            "sync" => ("sync", true),
            "async" => ("sync", false),
            "dirsync" => ("dirsync", true),
            "mand" => ("mand", true),
            "nomand" => ("mand", false),
            "lazytime" => ("lazytime", true),
            "nolazytime" => ("lazytime", false),
            "iversion" => ("iversion", true),
            "noiversion" => ("iversion", false),
            "silent" => ("silent", true),
            "loud" => ("silent", false),
            _ => return false,
        };
        self.superblock.retain(|&other| other != name);
        if set {
            self.superblock.push(name);
        }
        self.any_flag = true;
        true
    }

    fn recursive(&mut self, word: &str) -> bool {
        let (bits, set) = match word {
            "rro" => (attr::RDONLY, true),
            "rrw" => (attr::RDONLY, false),
            "rnosuid" => (attr::NOSUID, true),
            "rsuid" => (attr::NOSUID, false),
            "rnodev" => (attr::NODEV, true),
            "rdev" => (attr::NODEV, false),
            "rnoexec" => (attr::NOEXEC, true),
            "rexec" => (attr::NOEXEC, false),
            "rnodiratime" => (attr::NODIRATIME, true),
            "rdiratime" => (attr::NODIRATIME, false),
            "rnosymfollow" => (attr::NOSYMFOLLOW, true),
            "rsymfollow" => (attr::NOSYMFOLLOW, false),
            "rrelatime" | "rnorelatime" => (0, word == "rrelatime"),
            "rnoatime" => (attr::NOATIME, true),
            "ratime" => (attr::NOATIME, false),
            "rstrictatime" => (attr::STRICTATIME, true),
            "rnostrictatime" => (attr::STRICTATIME, false),
            _ => return false,
        };
        if set {
            self.recursive.set |= bits;
            self.recursive.clear &= !bits;
        } else {
            self.recursive.set &= !bits;
            self.recursive.clear |= bits;
        }
        // mount_setattr(2): the access-time field is an enumeration. To change it, the whole field must be cleared.
        if bits & !attr::ATIME == 0 {
            self.recursive.clear |= attr::ATIME;
        }
        true
    }

    fn special(&mut self, word: &str) -> bool {
        match word {
            // A later `bind` does not undo an earlier `rbind`, since both set a flag.
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "copy-symlink" => self.links.copy = true,
            "src-nofollow" => self.links.source = true,
            "dest-nofollow" => self.links.destination = true,
            "defaults" => {}
            _ => {
                let idmap = idmap::Request::parse(word);
                match (PropagationChange::parse(word), idmap) {
                    (Some(change), _) => self.propagation.push(change),
                    (None, Some(request)) => self.idmap = Some(request),
                    (None, None) => return false,
                }
            }
        }
        true
    }

    /// Parameters for the filesystem. One string may hold several. A comma within double quotes (SELinux categories) or
    /// after a backslash (overlayfs paths) does not separate them.
    fn data(&mut self, index: u32, option: &str) {
        for part in split_data(option) {
            self.data.push(Parameter { option: Some(index), ..Parameter::parse(part) });
        }
    }
}

fn split_data(option: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    option
        .split(move |c| {
            let boundary = c == ',' && !quoted && !escaped;
            quoted ^= c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            boundary
        })
        .filter(|part| !part.is_empty())
}

fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_option_is_none_of_the_filesystem() {
        for option in KNOWN_OPTIONS {
            assert_eq!(Options::parse(&[(*option).to_owned()]).data, [], "{option}");
        }
        let acl = Parameter { option: Some(0), ..Parameter::word("acl") };
        assert_eq!(Options::parse(&["acl".to_owned()]).data, [acl]);
    }

    #[test]
    fn what_is_an_option_is_listed() {
        let is_option = |word: &str| Options::parse(&[word.to_owned()]).data.is_empty();
        for known in KNOWN_OPTIONS {
            let shorter = ["r", "no", "rno"].iter().filter_map(|prefix| known.strip_prefix(prefix)).map(str::to_owned);
            let longer = ["r", "no", "rno"].iter().map(|prefix| format!("{prefix}{known}"));
            let inner = known.strip_prefix("no").map(|word| format!("rno{word}"));
            for word in shorter.chain(longer).chain(inner).filter(|word| is_option(word)) {
                assert!(word.is_empty() || KNOWN_OPTIONS.contains(&&*word), "{word}");
            }
        }
    }

    #[test]
    fn the_last_word_about_a_superblock_counts() {
        for (words, flags) in [
            (
                "sync dirsync mand lazytime iversion silent",
                &["sync", "dirsync", "mand", "lazytime", "iversion", "silent"][..],
            ),
            ("sync async mand nomand lazytime nolazytime iversion noiversion silent loud", &[]),
            (
                "async sync nomand mand nolazytime lazytime noiversion iversion loud silent",
                &["sync", "mand", "lazytime", "iversion", "silent"],
            ),
            ("defaults", &[]),
        ] {
            let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
            assert_eq!(Options::parse(&words).superblock, flags, "{words:?}");
        }
    }

    #[test]
    fn a_parameter_knows_its_option() {
        let words = ["size=1m", "ro", "huge=never,mode=700"].map(str::to_owned);
        let parsed: Vec<_> =
            Options::parse(&words).data.iter().map(|parameter| (parameter.to_string(), parameter.option)).collect();
        let expected = [("size=1m", 0), ("huge=never", 2), ("mode=700", 2)];
        assert_eq!(parsed, expected.map(|(text, option)| (text.to_owned(), Some(option))));
    }

    #[test]
    fn parameters_are_parted_at_commas_outside_of_quotes() {
        let parts = |option| split_data(option).collect::<Vec<_>>();
        assert_eq!(parts("a=1,b,c=2"), ["a=1", "b", "c=2"]);
        assert_eq!(parts("context=\"u:r:t:s0:c1,c2\",b"), ["context=\"u:r:t:s0:c1,c2\"", "b"]);
        assert_eq!(parts("lowerdir=/a\\,b:/c,x"), ["lowerdir=/a\\,b:/c", "x"]);
        assert_eq!(unquote("\"u:c1,c2\""), "u:c1,c2");
    }
}
