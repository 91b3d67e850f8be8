//! Chrome's trace event format, which Perfetto and chrome://tracing open: complete events (`"ph": "X"`) of two threads.
//! The first event of the runtime is the whole command, and contains its phases.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Kind, Lane, Whole};
use crate::error::one_line;

const PID: u32 = 1;

pub fn render(whole: &Whole) -> String {
    let mut events = vec![
        metadata("process_name", Lane::Runtime, &one_line(&whole.title)),
        metadata("thread_name", Lane::Runtime, "runtime"),
        metadata("thread_name", Lane::Init, "init"),
    ];
    let mut all = event(&whole.title, "command", Lane::Runtime, Duration::ZERO, whole.total);
    // Viewers add floating-point numbers, and take an event that reaches into the next one for one that contains it.
    let gap = Duration::from_nanos(1);
    if let Some(error) = &whole.error {
        all["args"] = json!({ "error": one_line(error) });
    }
    events.push(all);
    events.extend(whole.phases.iter().map(|phase| {
        let kind = match phase.kind {
            Kind::Work => "work",
            Kind::Wait => "wait",
            Kind::Process => "process",
        };
        let name = match phase.kind {
            Kind::Wait => format!("waits: {}", phase.name),
            Kind::Work | Kind::Process => phase.name.clone(),
        };
        event(&name, kind, phase.lane, phase.begin, whole.end_of(phase).saturating_sub(gap))
    }));
    // One event a line, for those who have no viewer at hand.
    let lines: Vec<_> = events.iter().map(Value::to_string).collect();
    format!("{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{}\n]}}\n", lines.join(",\n"))
}

fn metadata(what: &str, lane: Lane, name: &str) -> Value {
    json!({ "ph": "M", "name": what, "pid": PID, "tid": thread(lane), "args": { "name": name } })
}

fn event(name: &str, kind: &str, lane: Lane, begin: Duration, end: Duration) -> Value {
    json!({
        "ph": "X", "name": one_line(name), "cat": kind, "pid": PID, "tid": thread(lane),
        "ts": micros(begin), "dur": micros(end.saturating_sub(begin)),
    })
}

fn thread(lane: Lane) -> u32 {
    match lane {
        Lane::Runtime => 1,
        Lane::Init => 2,
    }
}

/// The format's unit.
fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}
