//! The clocks of this process, and spans of time as the milliseconds that messages and logs carry.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time since 1970. A clock before 1970 counts as 1970.
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns the time of now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    millis(unix_time())
}

/// Returns a time in milliseconds since 1970.
pub fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, millis)
}

/// Returns a span of time in whole milliseconds, at most the largest number there is.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_cut_to_whole_milliseconds_and_never_overflow() {
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::from_micros(1_999)), 1);
        assert_eq!(millis(Duration::MAX), u64::MAX);
    }

    #[test]
    fn times_before_1970_count_as_1970() {
        let later = UNIX_EPOCH + Duration::from_millis(7);
        assert_eq!((unix_ms(later), unix_ms(UNIX_EPOCH)), (7, 0));
        assert_eq!(unix_ms(UNIX_EPOCH - Duration::from_secs(1)), 0);
        assert!(now_ms() > 1_700_000_000_000);
    }
}
