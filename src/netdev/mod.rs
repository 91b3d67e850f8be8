//! Moving interfaces of the host into the container (`linux.netDevices`).

mod netlink;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use self::netlink::{
    Message, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, RTM_GETADDR, RTM_GETLINK, RTM_NEWADDR, RTM_NEWLINK, Socket,
    ifinfomsg, push_attribute, u32_at,
};
use crate::error::{Call, Context, Error, Result};
use crate::plan::network::Device;
use crate::sys::network;

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NEW_IFINDEX: u16 = 49;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_RT_PRIORITY: u16 = 9;

const IFF_UP: u32 = 1;

/// `struct ifinfomsg` and `struct ifaddrmsg`.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;

/// Brings up `lo` in a network namespace that no init sets up.
pub fn loopback_up(netns: BorrowedFd<'_>) -> Result<()> {
    let bring_up = || {
        move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).call(|| "setns(CLONE_NEWNET)")?;
        network::loopback_up()
    };
    // The calling thread stays in its namespace.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, bring_up).call(|| "clone(CLONE_THREAD)")?;
        thread.join().unwrap_or_else(|_| Err(Error::new("the thread in the network namespace panicked")))
    })
}

/// Moves `devices` from the calling thread's network namespace into `netns` and brings them up there, with their
/// permanent global addresses. The kernel itself keeps the MTU and the hardware address.
///
/// What was moved before a failure stays there. It cannot be taken back: in a namespace that others control, what has
/// its name and its index by then may be an interface of theirs.
pub fn attach(devices: &[Device], netns: BorrowedFd<'_>) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let mut host = Socket::open()?;
    let mut container = socket_in(netns).context("network namespace of the container")?;
    let pointer = |device: &Device| format!("/linux/netDevices/{}", device.name);
    // So a failure is found, as far as possible, before anything is moved.
    for device in devices {
        let index = index_of(&mut host, &device.name).with_context(|| pointer(device))?;
        free_index(&mut container, index, &device.target).with_context(|| pointer(device))?;
    }
    let mut moved = Vec::new();
    for device in devices {
        transfer(&mut host, &mut container, device, netns).with_context(|| pointer(device)).map_err(|e| {
            if moved.is_empty() {
                return e;
            }
            let before = e.hint().map(|hint| format!("{hint}; ")).unwrap_or_default();
            let moved = moved.join(", ");
            e.with_hint(format_args!("{before}{moved}: in the container's network namespace, or gone with a new one"))
        })?;
        moved.push(&*device.name);
    }
    Ok(())
}

/// Only this thread enters the namespace. Other threads of the process do not notice.
fn socket_in(netns: BorrowedFd<'_>) -> Result<Socket> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own: OwnedFd =
        open("/proc/thread-self/ns/net", flags, Mode::empty()).call(|| "open(\"/proc/thread-self/ns/net\")")?;
    let enter = |fd: BorrowedFd<'_>| {
        move_into_link_name_space(fd, Some(LinkNameSpaceType::Network)).call(|| "setns(CLONE_NEWNET)")
    };
    enter(netns)?;
    let socket = Socket::open();
    enter(own.as_fd()).context("back to our own network namespace")?;
    socket
}

fn transfer(host: &mut Socket, container: &mut Socket, device: &Device, netns: BorrowedFd<'_>) -> Result<()> {
    let index = index_of(host, &device.name)?;
    // The kernel drops the addresses when it moves the interface, and those of IPv6 already when it takes the interface
    // down.
    let addresses = addresses(host, index)?;
    let new_index = free_index(container, index, &device.target)?;
    let mut body = ifinfomsg(index, 0, 0).to_vec();
    push_attribute(&mut body, IFLA_IFNAME, &nul_terminated(&device.target));
    push_attribute(&mut body, IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
    push_attribute(&mut body, IFLA_NEW_IFINDEX, &new_index.to_ne_bytes());
    host.request(&format!("RTM_NEWLINK({}, IFLA_NET_NS_FD)", device.name), RTM_NEWLINK, 0, &body).map_err(
        |e| match e.errno() {
            Some(Errno::INVAL) => e.with_hint("the kernel does not let this kind of interface leave its namespace"),
            _ => e,
        },
    )?;
    for address in addresses {
        let body = address.on(new_index);
        container.request("RTM_NEWADDR", RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &body)?;
    }
    container.request("RTM_NEWLINK(IFF_UP)", RTM_NEWLINK, 0, &ifinfomsg(new_index, IFF_UP, IFF_UP))?;
    Ok(())
}

fn nul_terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

fn index_of(host: &mut Socket, name: &str) -> Result<u32> {
    let mut body = ifinfomsg(0, 0, 0).to_vec();
    push_attribute(&mut body, IFLA_IFNAME, &nul_terminated(name));
    let what = format!("RTM_GETLINK({name})");
    let links = host.request(&what, RTM_GETLINK, 0, &body)?;
    links.first().and_then(link_index).ok_or_else(|| Error::new(format_args!("{what}: no answer")))
}

fn link_index(link: &Message) -> Option<u32> {
    (link.kind == RTM_NEWLINK).then(|| u32_at(link.header(LINK_HEADER)?, 4)).flatten()
}

/// The interface's index in the container: its present index, unless that is taken there. Choosing it here saves asking
/// for the name that the kernel makes of `%d`.
fn free_index(container: &mut Socket, wanted: u32, target: &str) -> Result<u32> {
    let links = container.request("RTM_GETLINK", RTM_GETLINK, NLM_F_DUMP, &ifinfomsg(0, 0, 0))?;
    // The kernel moves the interface before it finds out that the new name is taken.
    let name = nul_terminated(target);
    if links.iter().any(|link| link.attribute(LINK_HEADER, IFLA_IFNAME) == Some(&name[..])) {
        return Err(Error::new(format_args!("the container already has an interface {target}")));
    }
    let taken: Vec<u32> = links.iter().filter_map(link_index).collect();
    Ok(if taken.contains(&wanted) { taken.iter().max().map_or(1, |last| last + 1) } else { wanted })
}

struct Address {
    /// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
    header: [u8; ADDRESS_HEADER],
    attributes: Vec<u8>,
}

impl Address {
    /// Only addresses that somebody configured, and that are valid beyond the link (RFC 3549, 2.3.3.2).
    fn to_keep(message: &Message, index: u32) -> Option<Self> {
        let mut header: [u8; ADDRESS_HEADER] = message.header(ADDRESS_HEADER)?.try_into().ok()?;
        let flags = message
            .attribute(ADDRESS_HEADER, IFA_FLAGS)
            .and_then(|flags| u32_at(flags, 0))
            .unwrap_or_else(|| header[2].into());
        let scope = header[3];
        if message.kind != RTM_NEWADDR
            || u32_at(&header, 4) != Some(index)
            || flags & libc::IFA_F_PERMANENT == 0
            || scope != libc::RT_SCOPE_UNIVERSE
        {
            return None;
        }
        // The other flags are states, such as IFA_F_TENTATIVE.
        let kept = flags
            & (libc::IFA_F_NODAD | libc::IFA_F_HOMEADDRESS | libc::IFA_F_MANAGETEMPADDR | libc::IFA_F_NOPREFIXROUTE);
        header[2] = 0;
        let mut attributes = Vec::new();
        for kind in [IFA_LOCAL, IFA_ADDRESS, IFA_BROADCAST, IFA_RT_PRIORITY] {
            if let Some(value) = message.attribute(ADDRESS_HEADER, kind) {
                push_attribute(&mut attributes, kind, value);
            }
        }
        push_attribute(&mut attributes, IFA_FLAGS, &kept.to_ne_bytes());
        Some(Self { header, attributes })
    }

    fn on(&self, index: u32) -> Vec<u8> {
        let mut body = self.header.to_vec();
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        body.extend_from_slice(&self.attributes);
        body
    }
}

fn addresses(host: &mut Socket, index: u32) -> Result<Vec<Address>> {
    let all = host.request("RTM_GETADDR", RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS_HEADER])?;
    Ok(all.iter().filter_map(|message| Address::to_keep(message, index)).collect())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::netlink::ifinfomsg;
    use super::*;
    use crate::plan::network;
    use crate::spec::NetDevice;

    const IFLA_MTU: u16 = 4;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;

    /// A network namespace, held by a process.
    struct Namespace {
        holder: Child,
        fd: OwnedFd,
    }

    impl Namespace {
        fn new() -> Self {
            let mut holder = Command::new("unshare")
                .args(["-n", "sh", "-c", "echo; exec sleep 60"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
            let path = format!("/proc/{}/ns/net", holder.id());
            let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
            Self { holder, fd }
        }
    }

    impl Drop for Namespace {
        fn drop(&mut self) {
            let _ = self.holder.kill();
            let _ = self.holder.wait();
        }
    }

    fn add_link(socket: &mut Socket, name: &str) -> u32 {
        let mut body = ifinfomsg(0, 0, 0).to_vec();
        push_attribute(&mut body, IFLA_IFNAME, &nul_terminated(name));
        push_attribute(&mut body, IFLA_MTU, &1400u32.to_ne_bytes());
        let mut info = Vec::new();
        push_attribute(&mut info, IFLA_INFO_KIND, b"veth");
        push_attribute(&mut body, IFLA_LINKINFO, &info);
        socket.request("RTM_NEWLINK", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &body).unwrap();
        index_of(socket, name).unwrap()
    }

    fn add_address(socket: &mut Socket, index: u32, family: i32, prefix: u8, scope: u8, address: &[u8]) {
        let mut body = vec![family as u8, prefix, 0, scope];
        body.extend_from_slice(&index.to_ne_bytes());
        push_attribute(&mut body, IFA_LOCAL, address);
        push_attribute(&mut body, IFA_ADDRESS, address);
        push_attribute(&mut body, IFA_FLAGS, &libc::IFA_F_NODAD.to_ne_bytes());
        socket.request("RTM_NEWADDR", RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &body).unwrap();
    }

    fn link(socket: &mut Socket, name: &str) -> Message {
        let mut body = ifinfomsg(0, 0, 0).to_vec();
        push_attribute(&mut body, IFLA_IFNAME, &nul_terminated(name));
        socket.request("RTM_GETLINK", RTM_GETLINK, 0, &body).unwrap().remove(0)
    }

    fn plan(name: &str, target: &str) -> Vec<Device> {
        network::plan(&[(name.to_owned(), NetDevice { name: target.to_owned() })].into(), true).unwrap()
    }

    #[test]
    fn an_interface_moves_with_its_global_addresses() {
        let (ours, theirs) = (Namespace::new(), Namespace::new());
        // Only this test's thread enters it.
        move_into_link_name_space(ours.fd.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let mut host = Socket::open().unwrap();
        let mut container = socket_in(theirs.fd.as_fd()).unwrap();
        let index = add_link(&mut host, "net7");
        host.request("up", RTM_NEWLINK, 0, &ifinfomsg(index, IFF_UP, IFF_UP)).unwrap();
        add_address(&mut host, index, libc::AF_INET, 24, 0, &[10, 1, 2, 3]);
        add_address(&mut host, index, libc::AF_INET, 24, libc::RT_SCOPE_LINK, &[169, 254, 1, 1]);
        let v6 = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        add_address(&mut host, index, libc::AF_INET6, 64, 0, &v6);
        let hardware = link(&mut host, "net7").attribute(LINK_HEADER, 1).unwrap().to_vec();
        // Fresh namespaces count alike, so the index is taken in the container.
        assert_eq!(add_link(&mut container, "other"), index);

        attach(&plan("net7", "eth%d"), theirs.fd.as_fd()).unwrap();
        assert!(index_of(&mut host, "net7").is_err());
        let moved = link(&mut container, "eth0");
        let new_index = link_index(&moved).unwrap();
        assert_ne!(new_index, index);
        assert_eq!(u32_at(moved.header(LINK_HEADER).unwrap(), 8).unwrap() & IFF_UP, IFF_UP);
        assert_eq!(u32_at(moved.attribute(LINK_HEADER, IFLA_MTU).unwrap(), 0), Some(1400));
        assert_eq!(moved.attribute(LINK_HEADER, 1), Some(&hardware[..]));
        let kept = addresses(&mut container, new_index).unwrap();
        let mut found: Vec<_> = kept.iter().map(|address| (address.header[0], address.header[1])).collect();
        found.sort_unstable();
        assert_eq!(found, [(libc::AF_INET as u8, 24), (libc::AF_INET6 as u8, 64)]);
        let all = container.request("RTM_GETADDR", RTM_GETADDR, NLM_F_DUMP, &[0; 8]).unwrap();
        let link_local = |m: &&Message| m.attribute(ADDRESS_HEADER, IFA_LOCAL) == Some(&[169, 254, 1, 1]);
        assert_eq!(all.iter().filter(link_local).count(), 0);
    }

    #[test]
    fn a_name_that_is_taken_leaves_the_interface_where_it_is() {
        let (ours, theirs) = (Namespace::new(), Namespace::new());
        move_into_link_name_space(ours.fd.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let mut host = Socket::open().unwrap();
        add_link(&mut host, "net7");
        let e = attach(&plan("net7", "lo"), theirs.fd.as_fd()).unwrap_err().to_string();
        assert_eq!(e, "/linux/netDevices/net7: the container already has an interface lo");
        index_of(&mut host, "net7").unwrap();
        let e = attach(&plan("none", "x"), theirs.fd.as_fd()).unwrap_err().to_string();
        assert_eq!(e, "/linux/netDevices/none: RTM_GETLINK(none): no such device");

        // The names of all are looked at first. The kernel refuses to move `lo` only when it is asked to.
        let devices =
            |pairs: [(&str, &str); 2]| pairs.iter().flat_map(|(name, target)| plan(name, target)).collect::<Vec<_>>();
        let e = attach(&devices([("net7", "a"), ("none", "x")]), theirs.fd.as_fd()).unwrap_err();
        assert_eq!(e.to_string(), "/linux/netDevices/none: RTM_GETLINK(none): no such device");
        index_of(&mut host, "net7").unwrap();
        let e = attach(&devices([("net7", "a"), ("lo", "x")]), theirs.fd.as_fd()).unwrap_err();
        assert_eq!(e.to_string(), "/linux/netDevices/lo: RTM_NEWLINK(lo, IFLA_NET_NS_FD): invalid argument");
        assert!(e.hint().unwrap().contains("; net7: in the container's network namespace"), "{:?}", e.hint());
    }
}
