//! Sizes in bytes as Docker's command line writes them.

/// `50M`, `1.5 GiB`, `100kb`, `7`: binary multiples, up to peta, whatever the spelling.
pub(super) fn parse(text: &str) -> Option<i64> {
    let digits = text.rfind(|c: char| c.is_ascii_digit() || c == '.')? + 1;
    let (number, suffix) = text.split_at(digits);
    let suffix = suffix.strip_prefix(' ').unwrap_or(suffix).to_ascii_lowercase();
    let exponent = match suffix.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    };
    // Not infinity or what has an exponent.
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = number.parse().ok().filter(|_| plain)?;
    let size = number * 1024f64.powi(exponent);
    (size < i64::MAX as f64).then_some(size as i64)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_have_suffixes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("67108864", Some(67_108_864)),
            ("50M", Some(52_428_800)),
            ("50m", Some(52_428_800)),
            ("50MB", Some(52_428_800)),
            ("50 MiB", Some(52_428_800)),
            ("1.5k", Some(1536)),
            (".5k", Some(512)),
            ("7b", Some(7)),
            ("2g", Some(2_147_483_648)),
            ("1T", Some(1 << 40)),
            ("1p", Some(1 << 50)),
            ("1e", None),
            ("1e3", None),
            ("1bb", None),
            ("1kbb", None),
            ("-1", None),
            ("-5M", None),
            ("M", None),
            ("foo", None),
            ("", None),
            ("1  M", None),
            ("1.2.3", None),
            ("9000p", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
