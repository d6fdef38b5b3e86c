//! How moments, durations and amounts are printed by the commands that watch a lattice.

use time::{
    Duration, OffsetDateTime, PrimitiveDateTime, Time,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
    macros::format_description,
};

const DAY_SECOND: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
const DAY_MINUTE: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]");
const SECOND: &[BorrowedFormatItem<'_>] = format_description!("[hour]:[minute]:[second]");
const MINUTE: &[BorrowedFormatItem<'_>] = format_description!("[hour]:[minute]");

const TODAY: &[BorrowedFormatItem<'_>] =
    format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
const EARLIER: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]");

/// The time of a moment in UTC, as hosts log it; with the day if that is another.
pub(super) fn time_of(moment: OffsetDateTime) -> String {
    let format = if moment.date() == OffsetDateTime::now_utc().date() { TODAY } else { EARLIER };
    moment.format(format).unwrap_or_default()
}

/// The time of a moment to the second.
pub(super) fn second_of(moment: OffsetDateTime) -> String {
    time_of(moment).split('.').next().unwrap_or_default().to_owned()
}

/// The moment so many milliseconds after the beginning of 1970.
pub(super) fn of_ms(at_ms: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Reads a moment: so long ago (`15m`, `1h`, `2d`), or a time in UTC, with its day or of today.
/// Returns milliseconds since 1970.
pub(super) fn moment(text: &str, now: OffsetDateTime) -> Result<u64, String> {
    let text = text.trim();
    let at = span(text).map(|span| now.checked_sub(span)).unwrap_or_else(|| written(text, now));
    let ms = at.and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok());
    ms.ok_or_else(|| {
        format!(
            "{text:?} is no moment: write 15m, 1h or 2d for so long ago, or a time in UTC like 2026-11-30T10:00:00Z, \
             2026-11-30 10:00 or 10:00"
        )
    })
}

/// Reads a span of time: a number with a unit, like 15m.
pub(crate) fn span(text: &str) -> Option<Duration> {
    let number = text.get(..text.len().checked_sub(1)?)?.parse::<u32>().ok().map(i64::from)?;
    Some(match text.chars().last()? {
        's' => Duration::seconds(number),
        'm' => Duration::minutes(number),
        'h' => Duration::hours(number),
        'd' => Duration::days(number),
        _ => return None,
    })
}

/// Reads a time as it is written.
fn written(text: &str, now: OffsetDateTime) -> Option<OffsetDateTime> {
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Some(at);
    }
    let [day_and_minute, day_and_second] = [DAY_MINUTE, DAY_SECOND];
    let of_day = [day_and_second, day_and_minute].into_iter();
    let mut of_day = of_day.filter_map(|format| PrimitiveDateTime::parse(text, format).ok());
    if let Some(at) = of_day.next() {
        return Some(at.assume_utc());
    }
    let today = [SECOND, MINUTE].into_iter().find_map(|format| Time::parse(text, format).ok())?;
    Some(now.replace_time(today))
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
    fn a_moment_is_so_long_ago_or_a_time() {
        let now = OffsetDateTime::from_unix_timestamp(1_795_892_336).unwrap();
        let ms = |text: &str| moment(text, now);
        for (text, before_s) in [("30s", 30), ("15m", 900), ("1h", 3600), ("2d", 172_800)] {
            assert_eq!(ms(text), Ok((1_795_892_336 - before_s) * 1000), "{text}");
        }
        let ten = Ok(1_795_860_000_000);
        assert_eq!(ms("2026-11-28T10:00:00Z"), ten);
        assert_eq!(ms("2026-11-28 10:00"), ten);
        assert_eq!(ms("2026-11-28 10:00:00"), ten);
        assert_eq!(ms("10:00"), ten);
        for wrong in ["", "yesterday", "m", "15", "-3h", "25:00", "1\u{e9}"] {
            assert!(ms(wrong).unwrap_err().contains("15m"), "{wrong}");
        }
    }

    #[test]
    fn another_day_is_told() {
        assert_eq!(time_of(OffsetDateTime::UNIX_EPOCH), "1970-01-01 00:00:00.000");
        assert_eq!(time_of(OffsetDateTime::now_utc()).len(), 12);
    }
}
