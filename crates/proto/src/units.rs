//! Durations and rates as people write them on a command line: `60s`, `10m`, `8Mbit`, `500kbit`.

use std::{fmt, str::FromStr, time::Duration};

/// Why a text is no duration or rate; says what is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(&'static str);

/// Parses a duration: a number and `ms`, `s`, `m`, `h` or `d`, as in `60s`, `1.5m`, `2h`.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    const HELP: UnitError = UnitError("write a duration as in 500ms, 60s, 10m, 2h or 7d");
    let (number, unit) = split(text).ok_or(HELP)?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(HELP),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| HELP)
}

/// Formats a duration so that [`duration`] reads it, rounded to whole seconds above one second.
pub fn show(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{}ms", duration.as_millis()),
        s if s >= 3600 && s % 3600 == 0 => format!("{}h", s / 3600),
        s if s >= 60 && s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

/// So many of something, as a sentence has it: `1 packet`, `2 packets`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Parses an amount of data: a number and `kB`, `MB`, `GB` or `TB` (powers of ten), as in `20GB`.
pub fn bytes(text: &str) -> Result<u64, UnitError> {
    const HELP: UnitError = UnitError("write an amount of data as in 500MB, 20GB or 1TB");
    let (number, unit) = split(text).ok_or(HELP)?;
    let bytes = match unit {
        "kB" => number * 1e3,
        "MB" => number * 1e6,
        "GB" => number * 1e9,
        "TB" => number * 1e12,
        _ => return Err(HELP),
    };
    // Below this the cast is exact enough.
    if (0.0..=1e18).contains(&bytes) { Ok(bytes as u64) } else { Err(HELP) }
}

/// A data rate. Written in bits a second, as lines and streams are sold: `8Mbit`, `500kbit`, `1.5Gbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    bytes_per_s: u64,
}

impl Rate {
    /// A rate of so many bytes a second.
    pub const fn from_bytes_per_s(bytes_per_s: u64) -> Self {
        Self { bytes_per_s }
    }

    /// Bytes a second.
    pub const fn bytes_per_s(self) -> u64 {
        self.bytes_per_s
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        const HELP: UnitError = UnitError("write a rate in bits a second, as in 500kbit, 8Mbit or 1Gbit");
        let (number, unit) = split(text).ok_or(HELP)?;
        let bits = match unit {
            "bit" => 1.0,
            "kbit" => 1e3,
            "Mbit" | "mbit" => 1e6,
            "Gbit" | "gbit" => 1e9,
            _ => return Err(HELP),
        };
        let bytes_per_s = number * bits / 8.0;
        // Beyond this no line goes, and below it the cast is exact enough.
        if !(1.0..=1e12).contains(&bytes_per_s) {
            return Err(HELP);
        }
        Ok(Self { bytes_per_s: bytes_per_s as u64 })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bytes_per_s as f64 * 8.0;
        let (number, unit) = match bits {
            _ if bits >= 1e9 => (bits / 1e9, "Gbit"),
            _ if bits >= 1e6 => (bits / 1e6, "Mbit"),
            _ if bits >= 1e3 => (bits / 1e3, "kbit"),
            _ => (bits, "bit"),
        };
        let text = format!("{number:.2}");
        write!(f, "{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A non-negative decimal number and what follows it.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..end].parse().ok()?;
    Some((number, &text[end..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "60", "s", "-5s", "5 s", "1e9s", "99999999999999999999999d", ".s", "5min"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for text in ["500ms", "90s", "10m", "2h"] {
            assert_eq!(show(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn amounts() {
        assert_eq!(bytes("20GB"), Ok(20_000_000_000));
        assert_eq!(bytes("1.5kB"), Ok(1500));
        for bad in ["", "20", "GB", "-1GB", "1GiB", "9999999999TB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!("8Mbit".parse::<Rate>().unwrap().bytes_per_s(), 1_000_000);
        assert_eq!("500kbit".parse::<Rate>().unwrap().bytes_per_s(), 62_500);
        for bad in ["", "8", "8MB", "0kbit", "-8Mbit", "8Mbit/s", "99999999999Gbit"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        assert_eq!("1.5Mbit".parse::<Rate>().unwrap().to_string(), "1.5Mbit");
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,20}") {
            let _ = (duration(&text), bytes(&text));
            let _ = text.parse::<Rate>();
        }
    }
}
