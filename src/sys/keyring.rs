//! Session keyrings (session-keyring(7), keyctl(2)).

use std::ffi::CStr;

use rustix::io::{Errno, Result};

use super::check;

/// All rights for the possessor. Other processes of the user who made it may only search for it: they see neither its
/// name nor its content (keyrings(7), "Key access rights").
const RIGHTS: u32 = 0x3f08_0000;

/// Makes a name for the container's session keyring. A process that knows the name can join the keyring from any
/// container without a user namespace, if the same user made it, or make it in advance. So the name cannot be guessed.
pub fn name(id: &str) -> Result<String> {
    let mut secret = [0_u8; 16];
    // SAFETY: the kernel writes at most so many bytes. So few come at once, when it is ready.
    match check(unsafe { libc::syscall(libc::SYS_getrandom, secret.as_mut_ptr(), secret.len(), 0) })? as usize {
        16 => Ok(format!("_ses.{id}.{:032x}", u128::from_ne_bytes(secret))),
        _ => Err(Errno::IO),
    }
}

/// Leaves the caller's session keyring and joins the one of this name. Makes it if it is missing.
///
/// `EEXIST`: another user made it.
pub fn join_session(name: &CStr) -> Result<()> {
    join(name)?;
    let (owner, rights) = owner_and_rights(SESSION)?;
    // The real user is the owner.
    if owner != rustix::process::getuid().as_raw() {
        return Err(Errno::EXIST);
    }
    if rights == RIGHTS { Ok(()) } else { set_rights(SESSION, RIGHTS) }
}

/// Whichever it is.
const SESSION: i32 = libc::KEY_SPEC_SESSION_KEYRING;

fn join(name: &CStr) -> Result<()> {
    // SAFETY: `name` is a C string.
    check(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}

fn set_rights(keyring: i32, rights: u32) -> Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, keyring, rights) }).map(drop)
}

/// KEYCTL_DESCRIBE tells `type;uid;gid;rights;name`.
fn owner_and_rights(keyring: i32) -> Result<(u32, u32)> {
    let mut buffer = [0_u8; 8192];
    let (address, length) = (buffer.as_mut_ptr(), buffer.len());
    // SAFETY: the kernel writes at most `length` bytes to `buffer`, and nothing if that is too little.
    let needed = check(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_DESCRIBE, keyring, address, length) })?;
    let text = buffer.get(..needed as usize).and_then(|text| std::str::from_utf8(text).ok()).ok_or(Errno::IO)?;
    let mut fields = text.split(';').skip(1);
    let owner = fields.next().and_then(|owner| owner.parse().ok());
    let rights = fields.nth(1).and_then(|rights| u32::from_str_radix(rights, 16).ok());
    owner.zip(rights).ok_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use rustix::fs::Uid;

    use super::*;
    use crate::sys::process::testing::in_child;

    #[test]
    fn a_joined_keyring_is_found_by_its_name_only() {
        const GET_KEYRING_ID: libc::c_int = 0;
        let name = std::ffi::CString::new(name("berth-test").unwrap()).unwrap();
        let (output, _) = in_child(|| {
            // SAFETY: no memory is passed.
            let serial = || unsafe { libc::syscall(libc::SYS_keyctl, GET_KEYRING_ID, SESSION, 0) } as i32;
            join_session(&name).unwrap();
            let first = serial();
            join(c"other").unwrap();
            // By the same user, who does not possess it any more.
            let described = owner_and_rights(first).unwrap_err();
            join_session(&name).unwrap();
            join_session(&name).unwrap();
            format!("{described:?} {} {}", first == serial(), owner_and_rights(SESSION).unwrap().1 == RIGHTS)
        });
        assert_eq!(output, format!("{:?} true true", Errno::ACCESS));
    }

    #[test]
    fn names_are_not_guessed() {
        let names = [name("x").unwrap(), name("x").unwrap()];
        assert!(names[0] != names[1] && names.iter().all(|name| name.starts_with("_ses.x.") && name.len() == 7 + 32));
    }

    #[test]
    fn a_keyring_of_somebody_else_is_not_taken() {
        let name = std::ffi::CString::new(name("berth-test").unwrap()).unwrap();
        let (output, _) = in_child(|| {
            // For everybody to find, as a malicious user would make it.
            let become_user = |uid| {
                rustix::thread::set_thread_res_uid(Uid::from_raw(uid), Uid::from_raw(uid), Uid::ROOT).unwrap();
            };
            become_user(1);
            join(&name).and_then(|()| set_rights(SESSION, 0x3f3f_3f3f)).unwrap();
            become_user(0);
            format!("{:?}", join_session(&name).unwrap_err())
        });
        assert_eq!(output, format!("{:?}", Errno::EXIST));
    }
}
