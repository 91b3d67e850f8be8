//! Work that takes its time, in threads of its own: what is made for one container does not hold up another, or those
//! who only ask.
//!
//! Jobs of the same name run one after the other, in the order in which they came.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::error::{Call, Result};

/// What is done with the result, where everything else is done.
pub type Then<T> = Box<dyn FnOnce(&mut T) + Send>;

type Job<T> = Box<dyn FnOnce() -> Then<T> + Send>;

/// What came of a job, by its name.
type Done<T> = Arc<Mutex<VecDeque<(String, Then<T>)>>>;

pub struct Jobs<T> {
    /// Those that wait for one that runs, by their names.
    waiting: BTreeMap<String, VecDeque<Job<T>>>,
    done: Done<T>,
    event: Arc<OwnedFd>,
}

impl<T: 'static> Jobs<T> {
    pub fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).call(|| "eventfd2()")?;
        Ok(Self { waiting: BTreeMap::new(), done: Done::default(), event: Arc::new(event) })
    }

    pub fn run(&mut self, name: &str, job: impl FnOnce() -> Then<T> + Send + 'static) {
        match self.waiting.get_mut(name) {
            Some(queue) => queue.push_back(Box::new(job)),
            None => {
                self.waiting.insert(name.to_owned(), VecDeque::new());
                self.spawn(name.to_owned(), Box::new(job));
            }
        }
    }

    fn spawn(&self, name: String, job: Job<T>) {
        /// Enough for a configuration that is nested as deep as the parser goes. What is not used is no memory.
        const STACK: usize = 2 << 20;
        let (done, event) = (self.done.clone(), self.event.clone());
        let finish = move |name: String, then: Then<T>| {
            done.lock().unwrap_or_else(PoisonError::into_inner).push_back((name, then));
            // It only fails if as many are waiting as there are numbers.
            let _ = rustix::io::write(&*event, &1_u64.to_ne_bytes());
        };
        // Without a thread, it is done here: late is better than never.
        let shared = Arc::new(Mutex::new(Some((name, job))));
        let work = {
            let shared = shared.clone();
            move || {
                let taken = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some((name, job)) = taken {
                    finish(name, job());
                }
            }
        };
        let work = Arc::new(work);
        let in_thread = work.clone();
        if std::thread::Builder::new().stack_size(STACK).spawn(move || in_thread()).is_err() {
            work();
        }
    }

    /// What has been done, to be taken up; and the next job of the same name is begun.
    pub fn finished(&mut self) -> Vec<Then<T>> {
        let mut count = [0; 8];
        // There may be nothing to read.
        let _ = rustix::io::read(&*self.event, &mut count);
        let done = std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        let mut all = Vec::new();
        for (name, then) in done {
            all.push(then);
            match self.waiting.get_mut(&name).and_then(VecDeque::pop_front) {
                Some(next) => self.spawn(name, next),
                None => drop(self.waiting.remove(&name)),
            }
        }
        all
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Can be read when something has been done.
impl<T> AsFd for Jobs<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    #[test]
    fn those_of_one_name_come_one_after_the_other() {
        let mut jobs = Jobs::<Vec<u32>>::new().unwrap();
        let mut seen = Vec::new();
        for number in 0..20 {
            // Were they side by side, the first would be the last.
            let pause = Duration::from_millis(if number == 0 { 50 } else { 0 });
            jobs.run("a", move || {
                std::thread::sleep(pause);
                Box::new(move |seen: &mut Vec<u32>| seen.push(number))
            });
        }
        while !jobs.is_idle() {
            poll(&mut [PollFd::new(&jobs, PollFlags::IN)], None).unwrap();
            jobs.finished().into_iter().for_each(|then| then(&mut seen));
        }
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn those_of_other_names_do_not_wait() {
        let mut jobs = Jobs::<Vec<u32>>::new().unwrap();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        jobs.run("a", move || {
            let _ = held.recv();
            Box::new(|seen: &mut Vec<u32>| seen.push(1))
        });
        jobs.run("b", || Box::new(|seen: &mut Vec<u32>| seen.push(2)));
        let mut seen = Vec::new();
        while seen.is_empty() {
            poll(&mut [PollFd::new(&jobs, PollFlags::IN)], None).unwrap();
            jobs.finished().into_iter().for_each(|then| then(&mut seen));
        }
        assert_eq!(seen, [2]);
        drop(hold);
    }
}
