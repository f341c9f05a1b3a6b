//! Sizes and durations as people write them.

use std::time::Duration;

/// Bytes from a number with or without one of the suffixes Ki, Mi, Gi and Ti, as Kubernetes
/// writes quantities.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = match text.split_at_checked(text.len().saturating_sub(2)) {
        Some((number, "Ki")) => (number, 1 << 10),
        Some((number, "Mi")) => (number, 1 << 20),
        Some((number, "Gi")) => (number, 1 << 30),
        Some((number, "Ti")) => (number, 1 << 40),
        _ => (text, 1),
    };
    digits(number)?.checked_mul(unit)
}

/// A time from a number with one of the suffixes ms, s, m and h.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = if let Some(number) = text.strip_suffix("ms") {
        (number, 1)
    } else if let Some(number) = text.strip_suffix('s') {
        (number, 1000)
    } else if let Some(number) = text.strip_suffix('m') {
        (number, 60_000)
    } else {
        (text.strip_suffix('h')?, 3_600_000)
    };
    Some(Duration::from_millis(digits(number)?.checked_mul(unit)?))
}

/// The standard library takes a sign too.
fn digits(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", Some(0))]
    #[case("512", Some(512))]
    #[case("1Ki", Some(1024))]
    #[case("500Mi", Some(500 << 20))]
    #[case("2Gi", Some(2 << 30))]
    #[case("1Ti", Some(1 << 40))]
    #[case("", None)]
    #[case("Gi", None)]
    #[case("+1", None)]
    #[case("1.5Gi", None)]
    #[case("2GB", None)]
    #[case("1\u{e9}", None)]
    #[case("99999999999Ti", None)]
    fn reads_bytes(#[case] text: &str, #[case] expected: Option<u64>) {
        assert_eq!(bytes(text), expected);
    }

    #[rstest]
    #[case("250ms", Some(250))]
    #[case("30s", Some(30_000))]
    #[case("5m", Some(300_000))]
    #[case("1h", Some(3_600_000))]
    #[case("30", None)]
    #[case("s", None)]
    #[case("", None)]
    #[case("-1s", None)]
    #[case("1m30s", None)]
    #[case("18446744073709551615h", None)]
    fn reads_durations(#[case] text: &str, #[case] milliseconds: Option<u64>) {
        assert_eq!(duration(text), milliseconds.map(Duration::from_millis));
    }
}
