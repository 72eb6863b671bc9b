//! Moments as Go's `encoding/json` writes them: `2016-02-04T10:11:12.5Z`.

use std::time::Duration;

use super::wall::Moment;

const DAY: u64 = 86_400;

/// To the second, in UTC.
#[must_use]
pub fn format(moment: Moment) -> String {
    let seconds = moment.unix().as_secs();
    let (days, rest) = (seconds / DAY, seconds % DAY);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `None`: no moment, or one before 1970, as Go's zero time is.
#[must_use]
pub fn parse(text: &str) -> Option<Moment> {
    let (date, time) = text.split_once(['T', 't'])?;
    let mut date = date.splitn(3, '-').map(digits);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let valid = (1970..=9999).contains(&year) && (1..=12).contains(&month) && day >= 1;
    if !valid || day > month_length(year, month) {
        return None;
    }
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at(zone);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    digits(fraction)?;
    let mut time = time.splitn(3, ':').map(digits);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let local = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
    let unix = match zone.split_at(1) {
        ("Z" | "z", "") => local,
        ("+", ahead) => local.checked_sub(offset(ahead)?)?,
        ("-", behind) => local + offset(behind)?,
        _ => return None,
    };
    Some(Moment::at(Duration::from_secs(unix)))
}

fn offset(text: &str) -> Option<u64> {
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    (hours <= 23 && minutes <= 59).then_some(hours * 3600 + minutes * 60)
}

fn digits(text: &str) -> Option<u64> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok())?
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn month_length(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Leap days of the years before `year`, counted from the year 1.
fn leaps(year: u64) -> u64 {
    let years = year - 1;
    years / 4 - years / 100 + years / 400
}

/// From 1970-01-01 to this day.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let years = (year - 1970) * 365 + leaps(year) - leaps(1970);
    let months: u64 = (1..month).map(|month| month_length(year, month)).sum();
    years + months + day - 1
}

/// Year, month and day that are so many days after 1970-01-01.
fn date(mut left: u64) -> (u64, u64, u64) {
    // Four hundred years always have as many days, however far off a clock is.
    let eras = left / 146_097;
    left %= 146_097;
    let (mut year, mut month) = (1970, 1);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    while left >= month_length(year, month) {
        left -= month_length(year, month);
        month += 1;
    }
    (year + eras * 400, month, left + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "1970-01-01T00:00:00Z")]
    #[case(951_782_400, "2000-02-29T00:00:00Z")]
    #[case(1_454_580_672, "2016-02-04T10:11:12Z")]
    #[case(4_107_542_399, "2100-02-28T23:59:59Z")]
    fn known_moments(#[case] unix: u64, #[case] text: &str) {
        let moment = Moment::at(Duration::from_secs(unix));
        assert_eq!(format(moment), text);
        assert_eq!(parse(text), Some(moment));
    }

    #[rstest]
    #[case("2016-02-04T10:11:12.123456789Z")]
    #[case("2016-02-04T12:11:12+02:00")]
    #[case("2016-02-04T06:41:12.5-03:30")]
    fn fractions_and_zones_of_go(#[case] text: &str) {
        assert_eq!(
            parse(text).map(|it| it.unix().as_secs()),
            Some(1_454_580_672)
        );
    }

    #[rstest]
    #[case::gos_zero_time("0001-01-01T00:00:00Z")]
    #[case("")]
    #[case("2016-02-30T10:11:12Z")]
    #[case("2016-13-01T10:11:12Z")]
    #[case("2016-02-04T24:11:12Z")]
    #[case("2016-02-04T10:11:12")]
    #[case("2016-02-04 10:11:12Z")]
    #[case("2016-02-04T10:11:12+0200")]
    fn what_is_no_moment(#[case] text: &str) {
        assert_eq!(parse(text), None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(unix in 0u64..253_402_300_800) {
            let moment = Moment::at(Duration::from_secs(unix));
            prop_assert_eq!(parse(&format(moment)), Some(moment));
        }

        #[test]
        fn fz_text_never_panics(text in "[0-9TZ:+.-]{0,40}") {
            let _ = parse(&text);
        }
    }
}
