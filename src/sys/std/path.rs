//! Paths as they are on Linux: names between slashes.

use core::fmt;

use allocated::borrow::{Cow, ToOwned};
use allocated::string::String;
use allocated::vec::Vec;
use rustix::ffi::{CStr, CString};
use rustix::io::Errno;
use rustix::path::Arg;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::ffi::{OsStr, OsStrExt, OsString, OsStringExt};

#[repr(transparent)]
pub struct Path(OsStr);

#[derive(Clone, Default)]
pub struct PathBuf(OsString);

/// A part of a path. Linux has no `Prefix`, which exists only to be matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component<'a> {
    Prefix(core::convert::Infallible),
    RootDir,
    CurDir,
    ParentDir,
    Normal(&'a OsStr),
}

impl<'a> Component<'a> {
    pub fn as_os_str(self) -> &'a OsStr {
        match self {
            Self::Prefix(never) => match never {},
            Self::RootDir => OsStr::new("/"),
            Self::CurDir => OsStr::new("."),
            Self::ParentDir => OsStr::new(".."),
            Self::Normal(name) => name,
        }
    }
}

impl AsRef<Path> for Component<'_> {
    fn as_ref(&self) -> &Path {
        Path::new(self.as_os_str())
    }
}

/// The rest of a path. A name `.` is a component only at the beginning.
#[derive(Clone, Debug)]
pub struct Components<'a> {
    rest: &'a [u8],
    begins: bool,
}

impl<'a> Components<'a> {
    /// Without slashes and dots that are no components: those at the end, and those at the beginning once that has been
    /// read.
    fn trimmed(&self) -> &'a [u8] {
        let mut rest = self.rest;
        if !self.begins {
            loop {
                rest = match rest {
                    [b'/', after @ ..] | [b'.', b'/', after @ ..] => after,
                    [b'.'] => &[],
                    _ => break,
                };
            }
        }
        loop {
            rest = match rest {
                [b'/'] | [b'.'] if self.begins => break,
                [before @ .., b'/'] | [before @ .., b'/', b'.'] if self.begins && before.is_empty() => &rest[..1],
                [before @ .., b'/', b'.'] | [before @ .., b'/'] => before,
                _ => break,
            };
        }
        rest
    }

    pub fn as_path(&self) -> &'a Path {
        Path::from_bytes(self.trimmed())
    }
}

impl<'a> Iterator for Components<'a> {
    type Item = Component<'a>;

    fn next(&mut self) -> Option<Component<'a>> {
        if self.begins {
            self.begins = false;
            match self.rest {
                [b'/', rest @ ..] => {
                    self.rest = rest;
                    return Some(Component::RootDir);
                }
                [b'.'] | [b'.', b'/', ..] => {
                    self.rest = &self.rest[1..];
                    return Some(Component::CurDir);
                }
                _ => {}
            }
        }
        let rest = self.trimmed();
        let end = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        self.rest = rest;
        match name {
            [] => None,
            b".." => Some(Component::ParentDir),
            name => Some(Component::Normal(OsStr::from_bytes(name))),
        }
    }
}

impl<'a> DoubleEndedIterator for Components<'a> {
    fn next_back(&mut self) -> Option<Component<'a>> {
        let rest = self.trimmed();
        let begin = rest.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let (before, name) = rest.split_at(begin);
        match (before, name, self.begins) {
            ([], [], _) => None,
            // The root is left, or the dot for the current directory.
            (_, [], _) | ([], b".", true) => Components { rest, begins: self.begins }.next().inspect(|_| {
                self.rest = &[];
                self.begins = false;
            }),
            (before, name, _) => {
                self.rest = before;
                Some(if name == b".." { Component::ParentDir } else { Component::Normal(OsStr::from_bytes(name)) })
            }
        }
    }
}

impl Path {
    pub fn new<S: AsRef<OsStr> + ?Sized>(path: &S) -> &Self {
        // SAFETY: the type is nothing but the `OsStr`.
        unsafe { &*(core::ptr::from_ref(path.as_ref()) as *const Self) }
    }

    fn from_bytes(bytes: &[u8]) -> &Self {
        Self::new(OsStr::from_bytes(bytes))
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }

    pub fn to_str(&self) -> Option<&str> {
        self.0.to_str()
    }

    pub fn to_string_lossy(&self) -> Cow<'_, str> {
        self.0.to_string_lossy()
    }

    pub fn to_path_buf(&self) -> PathBuf {
        PathBuf(self.0.to_os_string())
    }

    pub fn display(&self) -> Display<'_> {
        Display(self)
    }

    pub fn is_absolute(&self) -> bool {
        self.as_bytes().starts_with(b"/")
    }

    pub fn is_relative(&self) -> bool {
        !self.is_absolute()
    }

    pub fn components(&self) -> Components<'_> {
        Components { rest: self.as_bytes(), begins: true }
    }

    pub fn join(&self, path: impl AsRef<Self>) -> PathBuf {
        let mut joined = self.to_path_buf();
        joined.push(path);
        joined
    }

    pub fn parent(&self) -> Option<&Self> {
        let mut components = self.components();
        match components.next_back() {
            None | Some(Component::RootDir) => None,
            Some(_) => Some(components.as_path()),
        }
    }

    pub fn file_name(&self) -> Option<&OsStr> {
        match self.components().next_back() {
            Some(Component::Normal(name)) => Some(name),
            _ => None,
        }
    }

    pub fn strip_prefix(&self, base: impl AsRef<Self>) -> Result<&Self, StripPrefixError> {
        let mut components = self.components();
        for expected in base.as_ref().components() {
            if components.next() != Some(expected) {
                return Err(StripPrefixError(()));
            }
        }
        Ok(components.as_path())
    }

    pub fn starts_with(&self, base: impl AsRef<Self>) -> bool {
        self.strip_prefix(base).is_ok()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripPrefixError(());

impl fmt::Display for StripPrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("prefix not found")
    }
}

impl PathBuf {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        let mut bytes = core::mem::take(&mut self.0).into_vec();
        if path.is_absolute() {
            bytes.clear();
        } else if !bytes.is_empty() && !bytes.ends_with(b"/") {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(path.as_bytes());
        self.0 = OsString::from_vec(bytes);
    }

    pub fn pop(&mut self) -> bool {
        let Some(length) = self.parent().map(|parent| parent.as_bytes().len()) else { return false };
        let mut bytes = core::mem::take(&mut self.0).into_vec();
        bytes.truncate(length);
        self.0 = OsString::from_vec(bytes);
        true
    }

    pub fn as_path(&self) -> &Path {
        self
    }

    pub fn into_os_string(self) -> OsString {
        self.0
    }
}

impl core::ops::Deref for PathBuf {
    type Target = Path;

    fn deref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl core::borrow::Borrow<Path> for PathBuf {
    fn borrow(&self) -> &Path {
        self
    }
}

impl ToOwned for Path {
    type Owned = PathBuf;

    fn to_owned(&self) -> PathBuf {
        self.to_path_buf()
    }
}

macro_rules! as_path {
    ($($type:ty),*) => {
        $(impl AsRef<Path> for $type {
            fn as_ref(&self) -> &Path {
                Path::new(self)
            }
        })*
    };
}

as_path!(str, String, OsStr, OsString);

impl AsRef<Path> for Path {
    fn as_ref(&self) -> &Path {
        self
    }
}

impl AsRef<Path> for PathBuf {
    fn as_ref(&self) -> &Path {
        self
    }
}

impl AsRef<OsStr> for Path {
    fn as_ref(&self) -> &OsStr {
        &self.0
    }
}

impl AsRef<OsStr> for PathBuf {
    fn as_ref(&self) -> &OsStr {
        &self.0
    }
}

impl<T: Into<OsString>> From<T> for PathBuf {
    fn from(path: T) -> Self {
        Self(path.into())
    }
}

impl From<&Path> for PathBuf {
    fn from(path: &Path) -> Self {
        path.to_path_buf()
    }
}

impl<T: AsRef<Path>> FromIterator<T> for PathBuf {
    fn from_iter<I: IntoIterator<Item = T>>(parts: I) -> Self {
        let mut path = Self::new();
        path.extend(parts);
        path
    }
}

impl<T: AsRef<Path>> Extend<T> for PathBuf {
    fn extend<I: IntoIterator<Item = T>>(&mut self, parts: I) {
        parts.into_iter().for_each(|part| self.push(part));
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        self.components().eq(other.components())
    }
}

impl Eq for Path {}

impl PartialOrd for Path {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Path {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.components().cmp(other.components())
    }
}

impl PartialEq for PathBuf {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for PathBuf {}

impl PartialEq<&Path> for PathBuf {
    fn eq(&self, other: &&Path) -> bool {
        **self == **other
    }
}

impl PartialOrd for PathBuf {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PathBuf {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Debug for PathBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

pub struct Display<'a>(&'a Path);

impl fmt::Display for Display<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string_lossy())
    }
}

impl fmt::Debug for Display<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl Serialize for Path {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_str().ok_or_else(|| ser::Error::custom("path contains invalid UTF-8 characters"))?.serialize(serializer)
    }
}

impl Serialize for PathBuf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PathBuf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from).map_err(|e: D::Error| de::Error::custom(e))
    }
}

impl Arg for &Path {
    fn as_str(&self) -> Result<&str, Errno> {
        Path::to_str(self).ok_or(Errno::INVAL)
    }

    fn to_string_lossy(&self) -> Cow<'_, str> {
        Path::to_string_lossy(self)
    }

    fn as_cow_c_str(&self) -> Result<Cow<'_, CStr>, Errno> {
        self.into_c_str()
    }

    fn into_c_str<'b>(self) -> Result<Cow<'b, CStr>, Errno>
    where
        Self: 'b,
    {
        CString::new(self.as_bytes()).map(Cow::Owned).map_err(|_| Errno::INVAL)
    }

    fn into_with_c_str<T, F: FnOnce(&CStr) -> Result<T, Errno>>(self, f: F) -> Result<T, Errno> {
        self.as_bytes().into_with_c_str(f)
    }
}

impl Arg for &PathBuf {
    fn as_str(&self) -> Result<&str, Errno> {
        Path::to_str(self).ok_or(Errno::INVAL)
    }

    fn to_string_lossy(&self) -> Cow<'_, str> {
        Path::to_string_lossy(self)
    }

    fn as_cow_c_str(&self) -> Result<Cow<'_, CStr>, Errno> {
        self.as_path().into_c_str()
    }

    fn into_c_str<'b>(self) -> Result<Cow<'b, CStr>, Errno>
    where
        Self: 'b,
    {
        self.as_path().into_c_str()
    }

    fn into_with_c_str<T, F: FnOnce(&CStr) -> Result<T, Errno>>(self, f: F) -> Result<T, Errno> {
        self.as_path().into_with_c_str(f)
    }
}

/// For callers that have bytes.
impl From<Vec<u8>> for OsString {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from_vec(bytes)
    }
}
