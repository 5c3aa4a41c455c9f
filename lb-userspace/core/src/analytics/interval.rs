//! Stretches of time on the calendar, in minutes since 1970, UTC.

use crate::calendar::{date, days};

const HOUR: u64 = 60;
const DAY: u64 = 24 * HOUR;

/// `time_delta`: how long each interval is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeDelta {
    Year,
    Quarter,
    Month,
    /// From Monday on.
    Week,
    Day,
    Hour,
    /// Ten minutes.
    Dekaminute,
    Minute,
}

/// Minutes from `start` to before `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interval {
    pub start: u64,
    pub end: u64,
}

impl TimeDelta {
    pub const ALL: [(&'static str, Self); 8] = [
        ("year", Self::Year),
        ("quarter", Self::Quarter),
        ("month", Self::Month),
        ("week", Self::Week),
        ("day", Self::Day),
        ("hour", Self::Hour),
        ("dekaminute", Self::Dekaminute),
        ("minute", Self::Minute),
    ];

    /// The interval that a minute lies in.
    #[must_use]
    pub fn around(self, minute: u64) -> Interval {
        let of = |length: u64| Interval {
            start: minute / length * length,
            end: minute / length * length + length,
        };
        let months = |count: u64| {
            let (year, month, _) = date(minute / DAY);
            let first = (month - 1) / count * count + 1;
            let (next_year, next) = match first + count {
                next if next > 12 => (year + 1, 1),
                next => (year, next),
            };
            Interval {
                start: days(year, first, 1) * DAY,
                end: days(next_year, next, 1) * DAY,
            }
        };
        match self {
            Self::Year => months(12),
            Self::Quarter => months(3),
            Self::Month => months(1),
            Self::Week => {
                // 1970-01-01 was a Thursday: the Monday before it was three days earlier.
                let week = (minute + 3 * DAY) / (7 * DAY) * 7 * DAY;
                Interval {
                    start: week.saturating_sub(3 * DAY),
                    end: week + 4 * DAY,
                }
            }
            Self::Day => of(DAY),
            Self::Hour => of(HOUR),
            Self::Dekaminute => of(10),
            Self::Minute => of(1),
        }
    }

    /// The intervals that minutes from `since` to before `until` lie in; `None`: more than `most`.
    #[must_use]
    pub fn intervals(self, since: u64, until: u64, most: usize) -> Option<Vec<Interval>> {
        let mut intervals = Vec::new();
        let mut minute = since;
        while minute < until {
            if intervals.len() == most {
                return None;
            }
            let interval = self.around(minute);
            minute = interval.end;
            intervals.push(interval);
        }
        Some(intervals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_follow_the_calendar() {
        // 2024-02-29T12:34Z, a Thursday.
        let minute = days(2024, 2, 29) * DAY + 12 * HOUR + 34;
        let at = |year, month, day, of_day| days(year, month, day) * DAY + of_day;
        for (delta, start, end) in [
            (TimeDelta::Minute, minute, minute + 1),
            (TimeDelta::Dekaminute, at(2024, 2, 29, 750), at(2024, 2, 29, 760)),
            (TimeDelta::Hour, at(2024, 2, 29, 720), at(2024, 2, 29, 780)),
            (TimeDelta::Day, at(2024, 2, 29, 0), at(2024, 3, 1, 0)),
            (TimeDelta::Week, at(2024, 2, 26, 0), at(2024, 3, 4, 0)),
            (TimeDelta::Month, at(2024, 2, 1, 0), at(2024, 3, 1, 0)),
            (TimeDelta::Quarter, at(2024, 1, 1, 0), at(2024, 4, 1, 0)),
            (TimeDelta::Year, at(2024, 1, 1, 0), at(2025, 1, 1, 0)),
        ] {
            assert_eq!(delta.around(minute), Interval { start, end }, "{delta:?}");
        }
        let december = TimeDelta::Quarter.around(at(2024, 12, 31, 1439));
        assert_eq!(
            (december.start, december.end),
            (at(2024, 10, 1, 0), at(2025, 1, 1, 0))
        );
        let hours = TimeDelta::Hour.intervals(minute, minute + 60, 10).unwrap();
        assert_eq!(hours.len(), 2);
        assert_eq!(hours[0].end, hours[1].start);
        assert_eq!(TimeDelta::Minute.intervals(0, 11, 10), None);
        assert_eq!(TimeDelta::Minute.intervals(5, 5, 10), Some(Vec::new()));
    }
}
