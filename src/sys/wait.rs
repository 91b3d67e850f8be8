//! Waits that a signal, or a stop, of the caller neither ends early nor draws out.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::retry_on_intr;

/// poll(2). Without a limit it waits for ever, and so it does with one that is beyond what the kernel can count.
pub fn poll_within(fds: &mut [PollFd], patience: Option<Duration>) -> rustix::io::Result<usize> {
    let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
    retry_on_intr(|| {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        rustix::event::poll(fds, left.and_then(|left| Timespec::try_from(left).ok()).as_ref())
    })
}

/// Whether the process ends within this time.
pub fn ends_within(pidfd: BorrowedFd, patience: Duration) -> rustix::io::Result<bool> {
    poll_within(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(patience)).map(|ended| ended != 0)
}
