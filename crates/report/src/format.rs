//! Numbers for people.

use std::time::Duration;

/// `12,345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).expect("digits are ASCII"))
        .collect();
    groups.join(",")
}

/// `361 M`, for numbers of which only the size matters.
pub(crate) fn compact(number: u64) -> String {
    let value = number as f64;
    match number {
        0..10_000 => count(number),
        10_000..1_000_000 => format!("{} k", significant(value / 1e3)),
        1_000_000..1_000_000_000 => format!("{} M", significant(value / 1e6)),
        _ => format!("{} B", significant(value / 1e9)),
    }
}

/// `1.42 GiB`.
pub(crate) fn bytes(number: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number;
    let mut unit_idx = 0;
    while value >= 1000.0 && unit_idx + 1 < UNITS.len() {
        value /= 1024.0;
        unit_idx += 1;
    }
    format!("{} {}", significant(value), UNITS[unit_idx])
}

/// `4 min 12 s`, in the two largest units.
pub(crate) fn duration(seconds: f64) -> String {
    let Ok(duration) = Duration::try_from_secs_f64(seconds) else { return "unknown".to_owned() };
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Three significant digits, never fewer than the integer part has: `0.0912`, `23.4`, `12,345`, `1.25e-5`.
pub(crate) fn significant(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".to_owned();
    }
    if size < 1e-3 {
        let text = format!("{value:.2e}");
        let Some((mantissa, exponent)) = text.split_once('e') else { return text };
        return format!("{}e{exponent}", trim_zeros(mantissa));
    }
    if size < 999.5 {
        let decimals = if size < 0.1 {
            4
        } else if size < 9.995 {
            if size < 0.9995 { 3 } else { 2 }
        } else if size < 99.95 {
            1
        } else {
            0
        };
        return trim_zeros(&format!("{value:.decimals$}")).to_owned();
    }
    let sign = if value < 0.0 { "-" } else { "" };
    // Rounded by formatting, because a float has no lossless way to an integer.
    match format!("{size:.0}").parse() {
        Ok(rounded) => format!("{sign}{}", count(rounded)),
        Err(_) => format!("{value:.2e}"),
    }
}

fn trim_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        let cases = [
            (0.0, "0"),
            (0.091_234, "0.0912"),
            (0.5, "0.5"),
            (0.123_45, "0.123"),
            (0.999_9, "1"),
            (-0.004_321, "-0.0043"),
            (1e-5, "1e-5"),
            (1.25e-5, "1.25e-5"),
            (9.999, "10"),
            (23.44, "23.4"),
            (99.97, "100"),
            (999.6, "1,000"),
            (-12_345.6, "-12,346"),
            (1e300, "1.00e300"),
        ];
        for (value, expected) in cases {
            assert_eq!(significant(value), expected);
        }
    }

    #[test]
    fn counts_sizes_and_times_have_units() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([9999, 361_279_120].map(compact), ["9,999", "361 M"]);
        assert_eq!([512.0, 1_520_435_200.0].map(bytes), ["512 B", "1.42 GiB"]);
        let times = [9.7, 252.0, 3_725.0, 200_000.0, f64::NAN, -1.0].map(duration);
        assert_eq!(times, ["9 s", "4 min 12 s", "1 h 2 min", "2 d 7 h", "unknown", "unknown"]);
    }
}
