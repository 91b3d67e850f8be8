//! The heap: blocks of powers of two from 16 bytes, with a list of free blocks for each size. They are cut from chunks,
//! which are mapped when they are needed: a waiting init must use few pages.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;

use rustix::io::Errno;

use crate::process;
use crate::syscall::syscall;

const SMALLEST: usize = 16;
/// Larger blocks are mapped one by one.
const LARGEST: usize = 16 << 10;
const CLASSES: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;
/// Pages of it that are never touched use no memory.
const CHUNK: usize = 32 << 10;

struct Heap(UnsafeCell<State>);

struct State {
    /// The unused end of the last chunk.
    next: usize,
    end: usize,
    /// The first free block of each class; each block begins with the address of the next.
    free: [*mut u8; CLASSES],
}

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(State { next: 0, end: 0, free: [null_mut(); CLASSES] }));

// SAFETY: there is one thread. The child that shares our memory (`sys::unmount`) allocates nothing.
unsafe impl Sync for Heap {}

/// The index of the class, unless the block is mapped by itself.
fn class(layout: Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(SMALLEST).next_power_of_two();
    (size <= LARGEST).then(|| (size / SMALLEST).ilog2() as usize)
}

// SAFETY: a block is aligned to its size, which is no less than the layout's alignment, or to a page; blocks do not
// overlap, as each is cut once from a chunk and is in a list or with the caller.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class(layout) else { return map(layout.size()) };
        // SAFETY: nobody else has a reference, as there is one thread; a free block holds the address of the next.
        unsafe {
            let state = &mut *self.0.get();
            let first = state.free[class];
            if !first.is_null() {
                state.free[class] = first.cast::<*mut u8>().read();
                return first;
            }
            let size = SMALLEST << class;
            let mut block = state.next.next_multiple_of(size);
            if block + size > state.end {
                block = map(CHUNK) as usize;
                state.end = block + CHUNK;
                block = block.next_multiple_of(size);
            }
            state.next = block + size;
            block as *mut u8
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from this allocator, with this layout, and nobody uses it any more.
        unsafe {
            match class(layout) {
                Some(class) => {
                    let state = &mut *self.0.get();
                    block.cast::<*mut u8>().write(state.free[class]);
                    state.free[class] = block;
                }
                None => {
                    syscall(libc::SYS_munmap as usize, [block as usize, layout.size(), 0, 0, 0, 0]);
                }
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller sees to it that the size, rounded up, does not overflow; as above.
        unsafe {
            let new = Layout::from_size_align_unchecked(size, layout.align());
            if class(layout).is_some() && class(layout) == class(new) {
                return block;
            }
            let moved = self.alloc(new);
            moved.copy_from_nonoverlapping(block, layout.size().min(size));
            self.dealloc(block, layout);
            moved
        }
    }
}

/// Zeroed pages. Without memory a program can only end.
fn map(length: usize) -> *mut u8 {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping touches no memory that is there.
    let address =
        unsafe { syscall(libc::SYS_mmap as usize, [0, length, protection as usize, flags as usize, usize::MAX, 0]) };
    if (-4095..0).contains(&address) {
        process::exit(Errno::NOMEM.raw_os_error());
    }
    address as *mut u8
}
