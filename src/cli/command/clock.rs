//! How moments, durations and amounts are printed by the commands that watch a lattice.

use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

const TODAY: &[BorrowedFormatItem<'_>] =
    format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
const EARLIER: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]");

/// The time of a moment in UTC, as hosts log it; with the day if that is another.
pub(super) fn time_of(moment: OffsetDateTime) -> String {
    let format = if moment.date() == OffsetDateTime::now_utc().date() { TODAY } else { EARLIER };
    moment.format(format).unwrap_or_default()
}

/// A duration with three digits at most, in the unit that fits.
pub(super) fn duration(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    format!("{} {unit}", number(value))
}

/// A number as exact as it is small.
pub(super) fn number(value: f64) -> String {
    match value {
        value if value == 0.0 || value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// A number of bytes in the unit that fits.
pub(super) fn bytes(count: u64) -> String {
    match count {
        count if count < 1 << 10 => format!("{count} B"),
        count if count < 1 << 20 => format!("{} KiB", number(count as f64 / 1024.0)),
        count => format!("{} MiB", number(count as f64 / 1_048_576.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (ns, text) in [
            (0.0, "0 µs"),
            (1_300.0, "1.30 µs"),
            (15_400_000.0, "15.4 ms"),
            (2.5e9, "2.50 s"),
            (2.5e11, "250 s"),
        ] {
            assert_eq!(duration(ns), text);
        }
        assert_eq!(
            (bytes(312), bytes(1536), bytes(3 << 20)),
            ("312 B".into(), "1.50 KiB".into(), "3.00 MiB".into())
        );
    }

    #[test]
    fn another_day_is_told() {
        assert_eq!(time_of(OffsetDateTime::UNIX_EPOCH), "1970-01-01 00:00:00.000");
        assert_eq!(time_of(OffsetDateTime::now_utc()).len(), 12);
    }
}
