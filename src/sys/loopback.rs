//! Loop devices (loop(4)): a file as a block device.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::check;

// linux/loop.h
const LOOP_CTL_GET_FREE: u32 = 0x4c82;
const LOOP_CONFIGURE: u32 = 0x4c0a;
pub const LO_FLAGS_READ_ONLY: u32 = 1;
/// The device lets go of the file once nobody has it open or mounted.
pub const LO_FLAGS_AUTOCLEAR: u32 = 4;
pub const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_config`, with a `struct loop_info64` in its middle.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    /// Device, inode, other device, offset, size.
    ids: [u64; 5],
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    file_name: [u8; 64],
    unused: [u8; 96],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// `ioctl(LOOP_CTL_GET_FREE)` on `/dev/loop-control`: the number of a device that was free a moment ago.
pub fn loop_ctl_get_free(control: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: the call takes no pointer.
    let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) }.into())?;
    u32::try_from(number).map_err(|_| Errno::NODEV)
}

/// `ioctl(LOOP_CONFIGURE)`: `EBUSY` if somebody else was faster. `name` is only for those who list the devices.
pub fn loop_configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>, name: &[u8], flags: u32) -> Result<(), Errno> {
    let mut config = LoopConfig {
        fd: file.as_raw_fd().cast_unsigned(),
        block_size: 0,
        ids: [0; 5],
        number: 0,
        encryption: [0; 2],
        flags,
        file_name: [0; 64],
        unused: [0; 96],
        init: [0; 2],
        reserved: [0; 8],
    };
    // It ends with a NUL.
    for (to, from) in config.file_name[..63].iter_mut().zip(name) {
        *to = *from;
    }
    // SAFETY: the kernel reads a `struct loop_config`, which lives through the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) }.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_is_the_kernels() {
        assert_eq!(size_of::<LoopConfig>(), 304);
        assert_eq!(std::mem::offset_of!(LoopConfig, flags), 60);
        assert_eq!(std::mem::offset_of!(LoopConfig, reserved), 240);
    }
}
