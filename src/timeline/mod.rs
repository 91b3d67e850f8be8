//! Where the time of a command goes: the phases of the runtime and of init, with their waits.
//!
//! What init begins is known by its messages, and the time of each by the kernel. Init itself sends no times: its clock
//! may be that of another time namespace. A process that has taken init over can make the picture of its own start
//! wrong, and nothing else.

mod svg;
mod trace;

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Notes the phases of one command. By default it is off: then it reads no clock, and no name is made.
#[derive(Clone, Debug, Default)]
pub struct Timeline(Option<Arc<Notes>>);

#[derive(Debug)]
struct Notes {
    begin: Instant,
    phases: Mutex<Vec<Phase>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Runtime,
    Init,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Work,
    Wait,
    /// The user's program, which takes as long as it likes.
    Process,
}

#[derive(Clone, Debug, PartialEq)]
struct Phase {
    lane: Lane,
    kind: Kind,
    name: String,
    begin: Duration,
    /// `None`: it goes on until the end of the command.
    end: Option<Duration>,
}

impl Timeline {
    /// One that is on, from now.
    pub fn begin() -> Self {
        Self(Some(Arc::new(Notes { begin: Instant::now(), phases: Mutex::default() })))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The runtime begins a phase, which ends the one before.
    pub fn phase(&self, name: impl Display) {
        self.note(Lane::Runtime, Kind::Work, None, name);
    }

    /// The runtime begins to wait.
    pub fn wait(&self, name: impl Display) {
        self.note(Lane::Runtime, Kind::Wait, None, name);
    }

    /// Init begins a phase. `since`: when it sent the message that tells so; `None`: now.
    pub fn init(&self, since: Option<SystemTime>, name: impl Display) {
        self.note(Lane::Init, Kind::Work, since, name);
    }

    /// Init begins to wait.
    pub fn init_waits(&self, since: Option<SystemTime>, name: impl Display) {
        self.note(Lane::Init, Kind::Wait, since, name);
    }

    /// If init waits, it goes on with what it did before.
    pub fn init_goes_on(&self) {
        let Some(notes) = &self.0 else { return };
        let works = |phase: &&Phase| (phase.lane, phase.kind) == (Lane::Init, Kind::Work);
        let before = notes.phases().iter().rev().find(works).map(|phase| phase.name.clone());
        if let Some(name) = before {
            self.init(None, name);
        }
    }

    /// Init has become the user's program.
    pub fn process(&self) {
        self.note(Lane::Init, Kind::Process, None, "the process");
    }

    /// Init, or the process, has ended.
    pub fn init_ends(&self) {
        if let Some(notes) = &self.0 {
            end(&mut notes.phases(), Lane::Init, notes.begin.elapsed());
        }
    }

    fn note(&self, lane: Lane, kind: Kind, since: Option<SystemTime>, name: impl Display) {
        let Some(notes) = &self.0 else { return };
        let (name, mut phases) = (name.to_string(), notes.phases());
        let last = phases.iter().rev().find(|phase| phase.lane == lane);
        if last.is_some_and(|last| last.end.is_none() && (last.kind, &last.name) == (kind, &name)) {
            return;
        }
        // The clocks of the kernel's times are not exact, and can be set meanwhile.
        let earliest = last.map_or(Duration::ZERO, |last| last.end.unwrap_or(last.begin + SHORTEST));
        let age = since.and_then(|since| since.elapsed().ok()).unwrap_or_default();
        let begin = notes.begin.elapsed().saturating_sub(age).max(earliest);
        end(&mut phases, lane, begin);
        // What comes before the first phase belongs to it.
        let begin = if phases.is_empty() { Duration::ZERO } else { begin };
        phases.push(Phase { lane, kind, name, begin, end: None });
    }

    /// The whole command, which ends now. `title` is the command with its container; `error` is why it failed.
    pub fn end(&self, title: String, error: Option<String>) -> Option<Whole> {
        let notes = self.0.as_ref()?;
        let total = notes.begin.elapsed();
        let mut phases = notes.phases().clone();
        end(&mut phases, Lane::Runtime, total);
        end(&mut phases, Lane::Init, total);
        Some(Whole { title, error, total, phases })
    }
}

impl Notes {
    fn phases(&self) -> MutexGuard<'_, Vec<Phase>> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A trace leaves a nanosecond between two phases, and none is empty.
const SHORTEST: Duration = Duration::from_nanos(2);

/// Ends the last phase of a lane, if it has not ended.
fn end(phases: &mut [Phase], lane: Lane, now: Duration) {
    if let Some(last) = phases.iter_mut().rev().find(|phase| phase.lane == lane) {
        last.end.get_or_insert(now);
    }
}

/// A command from its begin to its end.
#[derive(Debug)]
pub struct Whole {
    title: String,
    error: Option<String>,
    total: Duration,
    phases: Vec<Phase>,
}

impl Whole {
    /// A trace for Perfetto and for chrome://tracing.
    pub fn trace(&self) -> String {
        trace::render(self)
    }

    /// A picture.
    pub fn svg(&self) -> String {
        svg::render(self)
    }

    fn end_of(&self, phase: &Phase) -> Duration {
        phase.end.unwrap_or(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(timeline: &Timeline) -> Vec<(Lane, Kind, String)> {
        let whole = timeline.end("run x".into(), None).unwrap();
        whole.phases.into_iter().map(|phase| (phase.lane, phase.kind, phase.name)).collect()
    }

    #[test]
    fn the_phases_of_a_lane_follow_each_other() {
        let timeline = Timeline::begin();
        timeline.phase("plan");
        timeline.phase(format_args!("clone {}", 3));
        timeline.init(None, "mounts");
        timeline.wait("init");
        timeline.init_ends();
        timeline.phase("delete");
        let whole = timeline.end("run x".into(), None).unwrap();
        for lane in [Lane::Runtime, Lane::Init] {
            let phases: Vec<_> = whole.phases.iter().filter(|phase| phase.lane == lane).collect();
            assert!(phases.windows(2).all(|two| two[0].end == Some(two[1].begin)), "{phases:?}");
        }
        assert_eq!(whole.phases[0].begin, Duration::ZERO);
        assert_eq!(whole.phases[1].name, "clone 3");
        assert_eq!(whole.phases.last().unwrap().end, Some(whole.total));
        assert!(whole.phases[2].end.unwrap() < whole.total, "init has ended before");
    }

    #[test]
    fn no_phase_is_empty_whatever_the_clock_says() {
        let timeline = Timeline::begin();
        for name in ["mounts", "devices", "pivot_root"] {
            timeline.init(Some(SystemTime::UNIX_EPOCH), name);
        }
        let whole = timeline.end("run x".into(), None).unwrap();
        assert!(whole.phases.iter().all(|phase| phase.begin + SHORTEST <= whole.end_of(phase)), "{:?}", whole.phases);
    }

    #[test]
    fn after_a_wait_init_goes_on_with_its_work() {
        let timeline = Timeline::begin();
        timeline.init_goes_on();
        timeline.init(None, "mounts");
        timeline.init_waits(None, "a source");
        timeline.init_goes_on();
        timeline.init_goes_on();
        let init = |kind, name: &str| (Lane::Init, kind, name.to_owned());
        assert_eq!(
            names(&timeline),
            [init(Kind::Work, "mounts"), init(Kind::Wait, "a source"), init(Kind::Work, "mounts")]
        );
    }

    #[test]
    fn what_is_off_makes_no_name() {
        struct Never;
        impl Display for Never {
            fn fmt(&self, _: &mut std::fmt::Formatter) -> std::fmt::Result {
                panic!("the name was made")
            }
        }
        let off = Timeline::default();
        off.phase(Never);
        off.init_waits(None, Never);
        off.init_goes_on();
        off.init_ends();
        assert!(!off.is_on() && off.end(String::new(), None).is_none());
    }
}
