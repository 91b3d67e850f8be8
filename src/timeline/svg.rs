//! A picture that needs nothing else: a row for each phase, in the order in which they begin.
//!
//! The user's program takes as long as it likes, so its time is drawn as a gap of a fixed width.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Kind, Lane, Phase, Whole};
use crate::error::one_line;

const WIDTH: f64 = 960.0;
/// Where names begin, times end, and the bars begin and end.
const NAMES: f64 = 26.0;
const TIMES: f64 = 396.0;
const BARS: f64 = 412.0;
const END: f64 = WIDTH - 24.0;
const GAP: f64 = 48.0;
const ROW: f64 = 18.0;
const TOP: f64 = 74.0;
/// Before the times. What does not fit is cut off, whatever the font.
const NAMES_WIDTH: f64 = 274.0;
/// As many characters as mostly fit.
const LONGEST: usize = 43;
/// The same for a line of the error, and the distance of its lines.
const LINE: usize = 130;
const LEADING: f64 = 16.0;

/// The colours of a dark page are for viewers that know what their reader prefers.
const STYLE: &str = "text{font:12px sans-serif;fill:#1f2328}.title{font-size:14px;font-weight:bold}.time{text-anchor:end}.name{clip-path:url(#names)}\
.tick{text-anchor:middle}.page{fill:#fff}.grid{stroke:#d1d9e0}.gap{fill:#eaeef2}.error{fill:#cf222e}\
.runtime{fill:#0969da;stroke:#0969da}.init{fill:#bc4c00;stroke:#bc4c00}.wait{fill-opacity:.12;stroke-dasharray:3 2}\
.process{fill:#8c959f;stroke:#8c959f}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.grid{stroke:#3d444d}.gap{fill:#21262d}\
.error{fill:#ff7b72}.runtime{fill:#4493f8;stroke:#4493f8}.init{fill:#f0883e;stroke:#f0883e}}";

/// The phases of one name.
struct Row<'a> {
    first: &'a Phase,
    all: Vec<&'a Phase>,
}

pub fn render(whole: &Whole) -> String {
    let rows = rows(whole);
    let scale = Scale::of(whole);
    let bottom = TOP + rows.len() as f64 * ROW;
    let error = whole.error.as_ref().map_or(Vec::new(), |error| wrap(&format!("failed: {}", one_line(error)), LINE));
    let height = bottom + if error.is_empty() { 14.0 } else { 18.0 + error.len() as f64 * LEADING };
    let title = |name: &str| escape(&format!("{name}: {}", shown(whole.total)));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\"><title>{}</title><style>{STYLE}</style>\n\
         <clipPath id=\"names\"><rect x=\"{NAMES}\" width=\"{NAMES_WIDTH}\" height=\"{height}\"/></clipPath>\n\
         <rect class=\"page\" width=\"100%\" height=\"100%\"/>\n<text class=\"title\" x=\"12\" y=\"24\">{}</text>\n",
        title(&one_line(&whole.title)),
        title(&clip(&whole.title, 80)),
    );
    legend(&mut svg);
    grid(&mut svg, &scale, bottom);
    for (row, y) in rows.iter().zip((0..).map(|i| TOP + f64::from(i) * ROW)) {
        draw(&mut svg, row, y, &scale, whole);
    }
    for (line, y) in error.iter().zip((0..).map(|i| bottom + 20.0 + f64::from(i) * LEADING)) {
        let _ = writeln!(svg, "<text class=\"error\" x=\"12\" y=\"{y}\">{}</text>", escape(line));
    }
    svg.push_str("</svg>\n");
    svg
}

fn rows(whole: &Whole) -> Vec<Row<'_>> {
    let mut rows: Vec<Row> = Vec::new();
    for phase in &whole.phases {
        let same =
            |row: &&mut Row| (row.first.lane, row.first.kind, &row.first.name) == (phase.lane, phase.kind, &phase.name);
        match rows.iter_mut().find(same) {
            Some(row) => row.all.push(phase),
            None => rows.push(Row { first: phase, all: vec![phase] }),
        }
    }
    rows
}

fn legend(svg: &mut String) {
    for (x, class, what) in [
        (12, "runtime", "runtime"),
        (90, "runtime wait", "runtime waits"),
        (208, "init", "init"),
        (264, "init wait", "init waits"),
        (358, "process", "the process"),
    ] {
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"37\" width=\"12\" height=\"10\"/><text x=\"{}\" y=\"46\">{what}</text>",
            x + 18
        );
    }
}

fn grid(svg: &mut String, scale: &Scale, bottom: f64) {
    if let Some((begin, end)) = scale.gap {
        let (x, width) = (scale.x(begin), scale.x(end) - scale.x(begin));
        let _ = writeln!(
            svg,
            "<rect class=\"gap\" x=\"{x:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
            TOP - 4.0,
            bottom - TOP + 4.0
        );
    }
    for time in scale.ticks() {
        let x = scale.x(time);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{}\">{}</text>",
            TOP - 4.0,
            TOP - 10.0,
            tick(time)
        );
    }
}

fn draw(svg: &mut String, row: &Row, y: f64, scale: &Scale, whole: &Whole) {
    let lane = match (row.first.lane, row.first.kind) {
        (_, Kind::Process) => "process",
        (Lane::Runtime, _) => "runtime",
        (Lane::Init, _) => "init",
    };
    let waits = row.first.kind == Kind::Wait;
    let class = if waits { format!("{lane} wait") } else { lane.to_owned() };
    let times = if row.all.len() > 1 { format!("\u{d7}{}, ", row.all.len()) } else { String::new() };
    let full = format!("{}{}", if waits { "waits: " } else { "" }, row.first.name);
    let sum: Duration = row.all.iter().map(|phase| whole.end_of(phase).saturating_sub(phase.begin)).sum();
    let time = format!("{times}{}", shown(sum));
    let text = y + 12.0;
    let _ = writeln!(
        svg,
        "<g><title>{}: {time}</title><rect class=\"{class}\" x=\"12\" y=\"{}\" width=\"7\" height=\"8\"/>\
         <text class=\"name\" x=\"{NAMES}\" y=\"{text}\">{}</text><text class=\"time\" x=\"{TIMES}\" y=\"{text}\">{time}</text>",
        escape(&one_line(&full)),
        y + 4.0,
        escape(&clip(&full, LONGEST)),
    );
    for phase in &row.all {
        let (x, end) = (scale.x(phase.begin), scale.x(whole.end_of(phase)));
        let width = (end - x).max(1.0);
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\"/>",
            y + 3.0,
            ROW - 7.0
        );
    }
    svg.push_str("</g>\n");
}

/// From times to places.
struct Scale {
    /// The time of the user's program, if that is long.
    gap: Option<(Duration, Duration)>,
    total: Duration,
    /// For each nanosecond, outside of the gap.
    factor: f64,
}

impl Scale {
    fn of(whole: &Whole) -> Self {
        let process = whole.phases.iter().find(|phase| phase.kind == Kind::Process);
        let gap = process.map(|phase| (phase.begin, whole.end_of(phase)));
        let gap = gap.filter(|(begin, end)| (*end - *begin) * 4 > whole.total);
        let drawn = whole.total.saturating_sub(gap.map_or(Duration::ZERO, |(begin, end)| end - begin));
        let width = END - BARS - gap.map_or(0.0, |_| GAP);
        Self { gap, total: whole.total, factor: width / nanos(drawn).max(1.0) }
    }

    fn x(&self, time: Duration) -> f64 {
        let plain = |time: Duration| BARS + nanos(time) * self.factor;
        match self.gap {
            Some((begin, end)) if time >= end => plain(begin + (time - end)) + GAP,
            Some((begin, end)) if time > begin => plain(begin) + GAP * nanos(time - begin) / nanos(end - begin),
            _ => plain(time),
        }
    }

    /// Multiples of a round time, up to the gap.
    fn ticks(&self) -> Vec<Duration> {
        const CLOSEST: f64 = 60.0;
        let end = self.gap.map_or(self.total, |(begin, _)| begin);
        let mut steps = (0..19).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.saturating_pow(power)));
        let step = steps.find(|step| *step as f64 * self.factor >= CLOSEST).unwrap_or(u64::MAX);
        (0..).map(|i| Duration::from_nanos(step.saturating_mul(i))).take_while(|time| *time <= end).collect()
    }
}

fn nanos(time: Duration) -> f64 {
    time.as_nanos() as f64
}

fn tick(time: Duration) -> String {
    match nanos(time) {
        0.0 => "0".to_owned(),
        ns if ns < 1e6 => format!("{} \u{b5}s", ns / 1e3),
        ns if ns < 1e9 => format!("{} ms", ns / 1e6),
        ns => format!("{} s", ns / 1e9),
    }
}

fn shown(time: Duration) -> String {
    match nanos(time) {
        ns if ns < 1e6 => format!("{:.0} \u{b5}s", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

/// One line, and no longer than this.
fn clip(text: &str, longest: usize) -> String {
    let text = one_line(text);
    match text.chars().count() > longest {
        true => text.chars().take(longest - 1).chain(['\u{2026}']).collect(),
        false => text,
    }
}

/// Lines of at most so many characters, which end with a space where there is one.
fn wrap(text: &str, longest: usize) -> Vec<String> {
    let text: Vec<char> = text.chars().collect();
    let (mut lines, mut rest) = (Vec::new(), text.as_slice());
    while rest.len() > longest {
        let space = rest[..longest].iter().rposition(|c| *c == ' ');
        let (line, after) = rest.split_at(space.map_or(longest, |at| at + 1));
        lines.push(line.iter().collect());
        rest = after;
    }
    lines.push(rest.iter().collect());
    lines
}

/// For text and for attributes. [`one_line`] has replaced the control characters, which XML cannot contain.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // No characters of XML either.
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::Timeline;

    /// The texts of the elements `text`, if this is well-formed XML as far as it is used here.
    fn texts(svg: &str) -> Vec<String> {
        let (mut open, mut texts, mut rest) = (Vec::new(), Vec::new(), svg);
        while let Some((text, markup)) = rest.split_once('<') {
            let text = unescape(text);
            if open.last() == Some(&"text") {
                texts.push(text);
            } else {
                assert!(open.last().is_some_and(|name| ["title", "style"].contains(name)) || text.trim().is_empty());
            }
            let (tag, after) = markup.split_once('>').expect("the end of a tag");
            rest = after;
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "{svg}");
                continue;
            }
            let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            assert!(name.bytes().all(|b| b.is_ascii_alphabetic()), "{name:?}");
            // NAME="VALUE" NAME="VALUE"
            let pieces: Vec<_> = attributes.split('"').collect();
            for pair in pieces.chunks_exact(2) {
                let name = pair[0].trim_start().strip_suffix('=').expect("the name of an attribute");
                assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{name:?} in {tag:?}");
                unescape(pair[1]);
            }
            assert!(attributes.is_empty() || pieces.len() % 2 == 1 && pieces.last() == Some(&""), "{tag:?}");
            if !closed {
                open.push(name);
            }
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest:?}");
        texts
    }

    fn unescape(text: &str) -> String {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()) && !text.contains('>'), "{text:?}");
        let mut plain = String::new();
        for (i, part) in text.split('&').enumerate() {
            let entity = if i == 0 { None } else { Some(part.split_once(';').expect("the end of an entity")) };
            match entity {
                None => plain.push_str(part),
                Some((name, after)) => {
                    let names = [("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("#39", '\'')];
                    plain.push(names.iter().find(|(known, _)| *known == name).expect("a known entity").1);
                    plain.push_str(after);
                }
            }
        }
        plain
    }

    fn phase(lane: Lane, kind: Kind, name: &str, begin: u64, end: u64) -> Phase {
        let micros = Duration::from_micros;
        Phase { lane, kind, name: name.to_owned(), begin: micros(begin), end: Some(micros(end)) }
    }

    fn whole(total: u64, phases: Vec<Phase>) -> Whole {
        Whole { title: "berth run x".to_owned(), error: None, total: Duration::from_micros(total), phases }
    }

    #[test]
    fn names_are_no_markup() {
        let hostile = "</text><script>alert(1)</script>&lt;<![CDATA[\"']]>";
        let timeline = Timeline::begin();
        timeline.phase(hostile);
        timeline.wait("\0\x1b\u{7f}\u{fffe}\n");
        let svg = timeline.end(hostile.to_owned(), Some(hostile.to_owned())).unwrap().svg();
        let texts = texts(&svg);
        assert!(texts.iter().any(|text| text.starts_with(&format!("{hostile}: "))), "the title: {texts:?}");
        assert!(texts.contains(&format!("failed: {hostile}")), "{texts:?}");
        assert!(texts.contains(&clip(hostile, LONGEST)), "{texts:?}");
        assert!(texts.contains(&"waits: \\x00\\x1b\\x7f\u{fffd}\\n".to_owned()), "{texts:?}");
    }

    #[test]
    fn a_long_error_is_there_as_a_whole() {
        for error in ["x".repeat(1000), "a long word, ".repeat(100), "\u{fc} ".repeat(65), String::new()] {
            let svg = Whole { error: Some(error.clone()), ..whole(1400, Vec::new()) }.svg();
            let texts = texts(&svg);
            let first = texts.iter().position(|text| text.starts_with("failed: ")).unwrap();
            assert_eq!(texts[first..].concat(), format!("failed: {error}"));
            assert!(texts[first..].iter().all(|line| line.chars().count() <= LINE), "{texts:?}");
            // The last line is in the picture.
            let after =
                |name: &str| svg.rsplit_once(name).unwrap().1.split('"').next().unwrap().parse::<f64>().unwrap();
            let height = svg.split("height=\"").nth(1).unwrap().split('"').next().unwrap().parse::<f64>().unwrap();
            assert!(after(" y=\"") + 10.0 < height, "{svg}");
        }
    }

    #[test]
    fn a_row_has_all_phases_of_its_name_and_their_sum() {
        let (runtime, work, wait) = (Lane::Runtime, Kind::Work, Kind::Wait);
        let phases = vec![
            phase(runtime, work, "mount", 0, 100),
            phase(runtime, wait, "init", 100, 150),
            phase(Lane::Init, work, "mount", 100, 1400),
            phase(runtime, work, "mount", 150, 1400),
        ];
        let texts = texts(&whole(1400, phases).svg());
        let at = texts.iter().position(|text| text == "mount").expect("one row for both");
        assert_eq!(texts[at..], ["mount", "\u{d7}2, 1.35 ms", "waits: init", "50 \u{b5}s", "mount", "1.30 ms"]);
        assert!(texts.contains(&"berth run x: 1.40 ms".to_owned()), "{texts:?}");
    }

    #[test]
    fn a_long_process_is_a_gap_of_fixed_width() {
        let of = |end: u64| {
            let phases = vec![
                phase(Lane::Runtime, Kind::Work, "plan", 0, 500),
                phase(Lane::Init, Kind::Process, "the process", 500, end),
                phase(Lane::Runtime, Kind::Wait, "the process", 500, end),
                phase(Lane::Runtime, Kind::Work, "delete", end, end + 500),
            ];
            let whole = whole(end + 500, phases);
            let scale = Scale::of(&whole);
            [0, 250, 500, end, end + 500].map(|time| scale.x(Duration::from_micros(time)).round())
        };
        let middle = (BARS + END) / 2.0;
        let expected = [BARS, (BARS + middle - GAP / 2.0) / 2.0, middle - GAP / 2.0, middle + GAP / 2.0, END];
        assert_eq!(of(10_000), expected.map(f64::round));
        assert_eq!(of(1_000_000_000), expected.map(f64::round));
    }

    #[test]
    fn ticks_are_few_and_round() {
        for total in [0, 1, 7, 1400, 18_340, 999_999, 123_456_789] {
            let whole = whole(total, Vec::new());
            let (scale, svg) = (Scale::of(&whole), whole.svg());
            assert!(scale.ticks().len() <= 10, "{total}: {svg}");
            texts(&svg);
        }
        let texts = texts(&whole(7000, Vec::new()).svg());
        assert!(["0", "1 ms", "7 ms"].iter().all(|tick| texts.contains(&(*tick).to_owned())), "{texts:?}");
    }
}
