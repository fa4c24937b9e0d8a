//! Amounts of memory as people write them.

use std::fmt;
use std::str::FromStr;

/// An amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// What was written is no amount of memory.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is no amount of memory, expected a number with a unit, as in `12GiB` or `800MB`")]
pub struct BytesError {
    text: String,
}

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl FromStr for Bytes {
    type Err = BytesError;

    fn from_str(text: &str) -> Result<Self, BytesError> {
        let lower = text.trim().to_ascii_lowercase();
        let found = UNITS.iter().find_map(|(unit, factor)| {
            let number: f64 = lower.strip_suffix(&unit.to_ascii_lowercase())?.trim_end().parse().ok()?;
            (number >= 0.0 && number.is_finite()).then_some((number, *factor))
        });
        let (number, factor) = found.ok_or_else(|| BytesError { text: text.to_owned() })?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "not negative, a fraction of a byte is none, and more than 2^64 is as good as 2^64"
        )]
        Ok(Self((number * factor as f64) as u64))
    }
}

impl fmt::Display for Bytes {
    /// Three or more digits in MB or GB.
    #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        if bytes < 0.9995e9 { write!(f, "{:.1} MB", bytes / 1e6) } else { write!(f, "{:.2} GB", bytes / 1e9) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_has_a_unit() {
        for (text, bytes) in [
            ("12GiB", Some(12 << 30)),
            ("1.5 gb", Some(1_500_000_000)),
            ("800MB", Some(800_000_000)),
            ("7B", Some(7)),
        ] {
            assert_eq!(text.parse().ok().map(|Bytes(bytes)| bytes), bytes, "{text}");
        }
        for text in ["12", "", "GB", "-1GB", "infGB", "nanGB", "12Gi", "1,5GB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_amount_is_told_in_mb_or_gb() {
        assert_eq!(Bytes(139_000_000).to_string(), "139.0 MB");
        assert_eq!(Bytes(999_990_000).to_string(), "1.00 GB");
        assert_eq!(Bytes(10_640_000_000).to_string(), "10.64 GB");
    }
}
