//! POSIX extended regular expressions, of which the C library has an engine.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;

/// A compiled expression. It does not move: some C libraries keep pointers into it.
pub struct Regex(Box<libc::regex_t>);

impl Regex {
    /// The error is the C library's message.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let pattern = CString::new(pattern).map_err(|_| "it contains a null byte".to_owned())?;
        let mut regex = Box::new(MaybeUninit::<libc::regex_t>::zeroed());
        // SAFETY: the pattern ends with a NUL, and the call fills the structure that it is given.
        let code = unsafe { libc::regcomp(regex.as_mut_ptr(), pattern.as_ptr(), libc::REG_EXTENDED | libc::REG_NOSUB) };
        if code == 0 {
            // SAFETY: success means that it was filled.
            return Ok(Self(unsafe { regex.assume_init() }));
        }
        let mut message = [0; 128];
        // SAFETY: writes at most so many bytes, with a NUL among them; of the structure only the error is read.
        unsafe { libc::regerror(code, regex.as_ptr(), message.as_mut_ptr().cast(), message.len()) };
        Err(CStr::from_bytes_until_nul(&message).unwrap_or_default().to_string_lossy().into_owned())
    }

    /// Whether it matches any part of `text`.
    pub fn is_match(&self, text: &str) -> bool {
        let Ok(text) = CString::new(text) else { return false };
        // SAFETY: the expression is compiled, the text ends with a NUL, and no matches are asked for.
        unsafe { libc::regexec(&raw const *self.0, text.as_ptr(), 0, std::ptr::null_mut(), 0) == 0 }
    }
}

impl Drop for Regex {
    fn drop(&mut self) {
        // SAFETY: it was compiled, and is not used again.
        unsafe { libc::regfree(&raw mut *self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_any_part() {
        let regex = Regex::new("^web-[0-9]+$|db").unwrap();
        for (text, wanted) in [("web-12", true), ("web-", false), ("my-db-1", true), ("", false), ("x\0db", false)] {
            assert_eq!(regex.is_match(text), wanted, "{text:?}");
        }
        assert!(Regex::new("").unwrap().is_match("anything"));
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for pattern in ["(", "[", "a\0b"] {
            assert!(Regex::new(pattern).is_err_and(|message| !message.is_empty()), "{pattern:?}");
        }
    }
}
