//! What becomes of a container when one system call fails, or a process is killed, at any point of any command.
//!
//! `sample` tries a few points that chance chooses; `sweep`, by hand, all of them (docs/testing.md).
#![cfg(target_arch = "x86_64")]

#[macro_use]
#[allow(dead_code, unused_macros, unused_imports, reason = "the end-to-end tests use the rest")]
#[path = "../e2e/harness/mod.rs"]
mod harness;

mod calls;
mod report;
mod subject;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use crate::harness::inject::{Action, Point};
use crate::subject::{Command, Subject, Variant, Verdict};

/// How long `sample` may take: each worker ends what it has begun.
const SAMPLE_TIME: Duration = Duration::from_secs(35);

/// One fault.
type Task = (Point, Action);

/// Everything that can be done to one command.
fn tasks(points: &[Point]) -> Vec<Task> {
    let mut tasks = Vec::new();
    for &point in points {
        let failures = calls::failures(point.number).iter().map(|&errno| Action::Fail(errno));
        tasks.extend(failures.chain([Action::Signal(libc::SIGKILL)]).map(|action| (point, action)));
    }
    tasks
}

fn describe((point, action): Task) -> String {
    let action = match action {
        Action::Fail(errno) => rustix::io::Errno::from_raw_os_error(errno).to_string(),
        other => format!("{other:?}"),
    };
    let action = action.split(" (os error").next().unwrap_or_default().to_owned();
    format!("process {} {} #{}: {action}", point.process, calls::name(point.number), point.occurrence)
}

struct Found {
    variant: Variant,
    command: Command,
    task: Task,
    verdict: Verdict,
}

impl Found {
    fn line(&self) -> String {
        format!("{} {}: {}: {:?}", self.variant.name(), self.command.name(), describe(self.task), self.verdict)
    }

    fn is_wrong(&self) -> bool {
        match &self.verdict {
            Verdict::Silent(lost) => !self.is_meant(lost),
            verdict => matches!(verdict, Verdict::Hang(_) | Verdict::Leak(_)),
        }
    }

    /// A user namespace that may not mount a sysfs of its own is shown the host's, read-only.
    fn is_meant(&self, lost: &str) -> bool {
        self.variant == Variant::Rich && self.task.1 == Action::Fail(libc::EPERM) && lost.starts_with("-mount /sys of ")
    }
}

/// Takes some of a command's faults.
type Choose = Arc<dyn Fn(Vec<Task>) -> Vec<Task> + Send + Sync>;

/// Tries what `choose` takes, by several workers.
fn try_all(workers: usize, choose: Choose, until: Option<Instant>, tell: fn(&Found)) -> Vec<Found> {
    let found = Arc::new(Mutex::new(Vec::new()));
    for variant in Variant::ALL {
        for command in Command::ALL {
            if !asked_for(&format!("{} {}", variant.name(), command.name())) {
                continue;
            }
            let (tasks, made) = (Arc::new(OnceLock::new()), Arc::new(AtomicUsize::new(0)));
            let work = |_| {
                let (tasks, made, found, choose) = (tasks.clone(), made.clone(), found.clone(), choose.clone());
                std::thread::spawn(move || {
                    harness::run(variant.mode(), move |t| {
                        let (mut subject, points) = Subject::new(t, variant, command);
                        let tell = |task, verdict| {
                            let new = Found { variant, command, task, verdict };
                            tell(&new);
                            found.lock().unwrap().push(new);
                        };
                        let tasks = tasks.get_or_init(|| choose(self::tasks(&points)));
                        while until.is_none_or(|until| Instant::now() < until)
                            && let Some(&task) = tasks.get(made.fetch_add(1, Ordering::Relaxed))
                        {
                            let verdict = subject.try_point(task.0, task.1);
                            tell(task, verdict);
                        }
                        for task in subject.keyrings_left() {
                            tell(task, Verdict::Leak("a keyring".to_owned()));
                        }
                        subject.clean();
                    });
                })
            };
            let workers: Vec<_> = (0..workers).map(work).collect();
            workers.into_iter().for_each(|worker| worker.join().expect("a worker does not panic"));
        }
    }
    std::mem::take(&mut *found.lock().unwrap())
}

/// `FAULT_ONLY=plain exec` names one of the variants, commands, or both.
fn asked_for(name: &str) -> bool {
    std::env::var("FAULT_ONLY").is_ok_and(|only| name.contains(&only)) || std::env::var_os("FAULT_ONLY").is_none()
}

/// xorshift64*: what it chooses can be chosen again by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

#[test]
fn sample() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("FAULT_SEED", now) | 1;
    println!("FAULT_SEED={seed}");
    let random = Mutex::new(Random(seed));
    let count = number("FAULT_COUNT", 20) as usize;
    let choose = move |tasks: Vec<Task>| {
        let mut random = random.lock().unwrap();
        (0..count).map(|_| tasks[random.below(tasks.len())]).collect()
    };
    let found = try_all(2, Arc::new(choose), Some(Instant::now() + SAMPLE_TIME), |_| {});
    println!("{} faults", found.len());
    let wrong: Vec<_> = found.iter().filter(|found| found.is_wrong()).map(Found::line).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Writes each result to `FAULT_OUT`, and prints the table.
#[test]
#[ignore = "takes an hour"]
fn sweep() {
    static OUT: Mutex<Option<File>> = Mutex::new(None);
    let path = std::env::var("FAULT_OUT").unwrap_or_else(|_| "target/faults".to_owned());
    *OUT.lock().unwrap() = Some(File::create(&path).unwrap());
    let every = number("FAULT_EVERY", 1) as usize;
    let found = try_all(
        number("FAULT_JOBS", 2) as usize,
        Arc::new(move |tasks| tasks.into_iter().step_by(every).collect()),
        None,
        |found| {
            writeln!(OUT.lock().unwrap().as_ref().unwrap(), "{}", found.line()).unwrap();
            if found.is_wrong() {
                println!("{}", found.line());
            }
        },
    );
    println!("{}", table(&found));
    assert!(!found.iter().any(Found::is_wrong), "see {path}");
}

fn table(found: &[Found]) -> String {
    let mut rows: BTreeMap<(Variant, Command), BTreeMap<usize, usize>> = BTreeMap::new();
    for found in found {
        let column = match found.verdict {
            Verdict::Missed => 0,
            Verdict::Same => 1,
            Verdict::Failed => 2,
            Verdict::Killed => 3,
            Verdict::Mute(_) => 4,
            Verdict::Crashed(_) => 5,
            Verdict::Warned(_) => 6,
            Verdict::Silent(_) => 7,
            Verdict::Hang(_) => 8,
            Verdict::Leak(_) => 9,
        };
        *rows.entry((found.variant, found.command)).or_default().entry(column).or_default() += 1;
    }
    let mut text =
        "| | faults | no effect | error | killed | error without a word | crash | warning | silent loss | hang | leak |\n\
        |---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    let mut total = [0; 10];
    for ((variant, command), row) in &rows {
        let counts: [usize; 10] = std::array::from_fn(|i| row.get(&i).copied().unwrap_or(0));
        total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        text += &line(&format!("{}, {}", command.name(), variant.name()), counts);
    }
    text + &line("all", total)
}

/// What was missed was no fault.
fn line(name: &str, counts: [usize; 10]) -> String {
    let counts = std::iter::once(counts[1..].iter().sum()).chain(counts[1..].iter().copied());
    format!("| {name} | {} |\n", counts.map(|count| count.to_string()).collect::<Vec<_>>().join(" | "))
}
