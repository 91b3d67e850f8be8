//! Moments as RFC 3339 in UTC, and durations as Go writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// As Go's `RFC3339Nano` prints it: no trailing zeros in the fraction.
pub fn nanoseconds(time: SystemTime) -> String {
    let (text, nanos) = calendar(time);
    if nanos == 0 {
        return text + "Z";
    }
    let fraction = format!("{nanos:09}");
    format!("{text}.{}Z", fraction.trim_end_matches('0'))
}

pub(super) fn seconds(time: SystemTime) -> String {
    calendar(time).0 + "Z"
}

/// `1h15m30.5s`, `300ms`: the form of Go's `time.ParseDuration`, up to 292 years. A negative duration counts as zero.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("\u{b5}s", 1e-6),
        ("\u{3bc}s", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    loop {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let duration = Duration::try_from_secs_f64(if negative { 0.0 } else { seconds }).ok()?;
    i64::try_from(duration.as_nanos()).is_ok().then_some(duration)
}

fn calendar(time: SystemTime) -> (String, u32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let text = format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
    (text, since.subsec_nanos())
}

/// Counts years from March, so that the leap day is the last day and all months before it have fixed lengths.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    // 1970-01-01 is 719468 days after 0000-03-01; 400 years have 146097 days.
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go() {
        for (text, milliseconds) in [
            ("100ms", Some(100)),
            ("5s", Some(5000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            (".5s", Some(500)),
            ("1h2m3s4ms", Some(3_723_004)),
            ("2000us", Some(2)),
            ("2000\u{b5}s", Some(2)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("-1s", Some(0)),
            ("+1s", Some(1000)),
            ("", None),
            ("-", None),
            ("100", None),
            ("s", None),
            ("1d", None),
            ("1s ", None),
            ("1.2.3s", None),
            ("2562047h", Some(9_223_369_200_000)),
            ("2562048h", None),
            ("5000000000000000h", None),
        ] {
            assert_eq!(go_duration(text), milliseconds.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn known_moments() {
        for (secs, nanos, wanted) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_709_251_199, 500_000_000, "2024-02-29T23:59:59.5Z"),
            (1_735_689_599, 123_456_789, "2024-12-31T23:59:59.123456789Z"),
            (4_107_542_400, 1_000, "2100-03-01T00:00:00.000001Z"),
        ] {
            assert_eq!(nanoseconds(UNIX_EPOCH + Duration::new(secs, nanos)), wanted);
        }
        assert_eq!(seconds(UNIX_EPOCH + Duration::new(1, 5)), "1970-01-01T00:00:01Z");
    }
}
