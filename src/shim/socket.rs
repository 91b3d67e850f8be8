//! The socket on which containerd reaches the shim.
//!
//! Nobody else may: an abstract socket is open to every process of its network namespace, and so to each container that
//! shares the host's (CVE-2020-15257). This one is a file of mode 0600 in a directory of mode 0700.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Call, Result};
use crate::files;

const DIR: &str = "/run/berth-shim";

/// In the bundle: where containerd looks for the address after a restart.
const FILE: &str = "address";

const SCHEME: &str = "unix://";

/// As many as wait until the shim has begun to serve.
const BACKLOG: i32 = 128;

/// A socket that does not block, and its address.
pub fn listen(namespace: &str, id: &str) -> Result<(OwnedFd, String)> {
    let made = match std::fs::DirBuilder::new().mode(0o700).create(DIR) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.call(|| format!("mkdir({DIR:?})")),
    };
    made.and_then(|()| files::open_private_directory(Path::new(DIR))).map_err(|e| match e.errno() {
        Some(Errno::ACCESS) => e.with_hint("the shim runs as root"),
        _ => e,
    })?;
    // Another shim of the same container may have died, and its socket be there still.
    let path = format!("{DIR}/{}-{}", name(namespace, id), std::process::id());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).call(|| "socket(AF_UNIX)")?;
    // Before it has a name: the file gets this mode.
    fchmod(&socket, Mode::RUSR | Mode::WUSR).call(|| "fchmod(socket, 0600)")?;
    let _ = std::fs::remove_file(&path);
    SocketAddrUnix::new(path.as_str())
        .and_then(|address| rustix::net::bind(&socket, &address))
        .call(|| format!("bind({path:?})"))?;
    rustix::net::listen(&socket, BACKLOG).call(|| format!("listen({path:?})"))?;
    Ok((socket, format!("{SCHEME}{path}")))
}

/// Short enough for a socket, and the same each time: FNV-1a.
fn name(namespace: &str, id: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let bytes = namespace.bytes().chain([b'/']).chain(id.bytes());
    format!("{:016x}", bytes.fold(0xcbf2_9ce4_8422_2325, step))
}

pub fn write_address(bundle: &Path, address: &str) -> Result<()> {
    let path = bundle.join(FILE);
    let _ = std::fs::remove_file(&path);
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(address.as_bytes())).call(|| format!("write({path:?})"))
}

fn read_address(bundle: &Path) -> Option<String> {
    let address = std::fs::read_to_string(bundle.join(FILE)).ok()?;
    let name = address.strip_prefix(SCHEME)?.strip_prefix(DIR)?.strip_prefix('/')?;
    let is_own = !name.is_empty() && name.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_own.then_some(address)
}

/// The address of the shim that serves this group's first container, whose bundle lies beside ours, if it is there.
pub fn of_group(group: &str) -> Option<String> {
    let address = read_address(&Path::new("..").join(group))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    let path = SocketAddrUnix::new(address.strip_prefix(SCHEME)?).ok()?;
    match rustix::net::connect(&socket, &path) {
        // So many wait to be accepted that no more can: somebody listens.
        Ok(()) | Err(Errno::AGAIN) => Some(address),
        Err(_) => None,
    }
}

/// Nobody needs it any more. It is no error if it has gone.
pub fn remove(address: &str) {
    if let Some(path) = address.strip_prefix(SCHEME) {
        let _ = std::fs::remove_file(path);
    }
}

/// That of a shim that has died, unless it has served another container first, and so others still.
pub fn remove_of(bundle: &Path, namespace: &str, id: &str) {
    let own = format!("{SCHEME}{DIR}/{}-", name(namespace, id));
    if let Some(address) = read_address(bundle).filter(|address| address.starts_with(&own)) {
        remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_the_shims_directory() {
        let bundle = std::env::temp_dir().join(format!("berth-address-{}", std::process::id()));
        std::fs::create_dir(&bundle).unwrap();
        let read = |address: &str| {
            write_address(&bundle, address).unwrap();
            read_address(&bundle)
        };
        let own = format!("{SCHEME}{DIR}/{}-7", name("n", "i"));
        assert_eq!(read(&own), Some(own));
        for other in ["", "/x", "-evil/a", "/../a", "/a/../b", "/"] {
            assert_eq!(read(&format!("{SCHEME}{DIR}{other}")), None, "{other}");
        }
        std::fs::remove_dir_all(&bundle).unwrap();
    }

    #[test]
    fn each_container_has_a_name_of_its_own() {
        assert_eq!(name("", ""), "af63a24c860189fe");
        assert_ne!(name("a", "b"), name("b", "a"));
        assert!(format!("{DIR}/{}-4194304", name("n", "i")).len() < 108);
    }
}
