//! Times as texts: RFC 3339, in UTC.

use std::time::{Duration, SystemTime};

/// A time in UTC with milliseconds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let mut text = rfc3339_micros(time);
    // Six digits and the Z: the last three digits go.
    text.truncate(text.len() - 4);
    text.push('Z');
    text
}

/// A time in UTC with microseconds.
pub(crate) fn rfc3339_micros(time: SystemTime) -> String {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since_epoch.as_secs() / 86_400, since_epoch.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z",
        since_epoch.subsec_micros()
    )
}

/// The date of a day counted from 1970-01-01, by eras of 400 years that begin in March, so that the leap day is last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (400 * era + year_of_era + u64::from(month <= 2), month, day)
}

/// The time that a text means: RFC 3339, such as `2026-11-22T14:56:19Z` or `2026-11-22T14:56:19.788+01:00`; `None`: it is none, or
/// before 1970.
pub(crate) fn from_rfc3339(text: &str) -> Option<SystemTime> {
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let (date, time) = (text.get(..10)?, text.get(11..)?);
    if !matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' ')) {
        return None;
    }
    let [year, month, day] = parts(date, '-')?.map(number);
    let (year, month, day) = (year?, month?, day?);
    let zone = time.rfind(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = parts(clock, ':')?.map(number);
    let (hour, minute, second) = (hour?, minute?, second?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + u64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1970..=9999).contains(&year) || !(1..=last).contains(&day) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    let nanos = number(format!("{fraction:0<9}").get(..9)?)?;
    let offset = match zone {
        "Z" | "z" => 0,
        zone => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let (hours, minutes) = (number(hours)?, number(minutes)?);
            let seconds = i64::try_from(hours * 3600 + minutes * 60)
                .ok()
                .filter(|_| hours < 24 && minutes < 60)?;
            if zone.starts_with('-') { -seconds } else { seconds }
        }
    };
    let local = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let seconds = local.checked_add_signed(-offset)?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanos))
}

fn parts(text: &str, separator: char) -> Option<[&str; 3]> {
    let mut parts = text.split(separator);
    let found = [parts.next()?, parts.next()?, parts.next()?];
    parts.next().is_none().then_some(found)
}

/// The number of a date's day, counted from 1970-01-01: the inverse of [`civil`].
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Microseconds since 1970.
pub(crate) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The time so many microseconds after 1970 began.
pub(crate) fn from_micros(micros: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_827_696, "2000-02-29T12:34:56.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(
                rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                text
            );
        }
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for second in (0..4_200_000_000).step_by(86_400 * 13 + 12_347) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second) + Duration::from_micros(123_456);
            assert_eq!(from_rfc3339(&rfc3339_micros(time)), Some(time), "{second}");
        }
        let noon = from_rfc3339("2026-11-22T12:00:00Z");
        assert!(noon.is_some());
        for same in [
            "2026-11-22T13:30:00+01:30",
            "2026-11-22t07:00:00.000-05:00",
            "2026-11-22 12:00:00z",
        ] {
            assert_eq!(from_rfc3339(same), noon, "{same}");
        }
        for wrong in [
            "",
            "2026-11-22",
            "2026-11-22T12:00:00",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T12:00Z",
            "2026-11-22T12:00:00+1",
            "1969-12-31T23:00:00Z",
            "2026-11-2\u{e9}T12:00:00Z",
        ] {
            assert_eq!(from_rfc3339(wrong), None, "{wrong}");
        }
    }
}
