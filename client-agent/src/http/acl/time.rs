//! Times as Go writes them: RFC 3339 in UTC, nanoseconds without the zeros at their end.

/// Days since 1970-01-01 of a date, by the calendar's rule for all years.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of a number of days since 1970-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days - era * 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// Nanoseconds of Unix time as text; 0: Go's zero time.
pub(crate) fn format(ns: u64) -> String {
    if ns == 0 {
        return "0001-01-01T00:00:00Z".to_owned();
    }
    let (seconds, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (year, month, day) = date(i64::try_from(seconds / 86_400).unwrap_or(0));
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let fraction = match nanos {
        0 => String::new(),
        nanos => format!(".{}", format!("{nanos:09}").trim_end_matches('0')),
    };
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}{fraction}Z")
}

/// Nanoseconds of Unix time of a text; `None`: it is no such time, or before 1970.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>, most: i64| -> Option<i64> {
        let digits = text.get(range)?;
        let number: i64 = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
        (number <= most).then_some(number)
    };
    let at = |at: usize, wanted: &[u8]| text.as_bytes().get(at).is_some_and(|b| wanted.contains(b));
    if !(at(4, b"-") && at(7, b"-") && at(10, b"Tt") && at(13, b":") && at(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0..4, 9999)?, number(5..7, 12)?, number(8..10, 31)?);
    if month == 0 || day == 0 {
        return None;
    }
    let (h, m, s) = (number(11..13, 23)?, number(14..16, 59)?, number(17..19, 59)?);
    let mut rest = text.get(19..)?;
    let mut nanos = 0_i64;
    if let Some(fraction) = rest.strip_prefix('.') {
        let len = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let digits = fraction.get(..len.min(9)).filter(|digits| !digits.is_empty())?;
        nanos = format!("{digits:0<9}").parse().ok()?;
        rest = fraction.get(len..)?;
    }
    let offset = match (rest, rest.get(..1)?) {
        ("Z" | "z", _) => 0,
        (_, sign @ ("+" | "-")) if rest.len() == 6 && rest.get(3..4) == Some(":") => {
            let (h, m): (i64, i64) = (rest.get(1..3)?.parse().ok()?, rest.get(4..6)?.parse().ok()?);
            (h * 3600 + m * 60) * if sign == "+" { 1 } else { -1 }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * 86_400 + h * 3600 + m * 60 + s - offset;
    u64::try_from(seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (ns, text) in [
            (1, "1970-01-01T00:00:00.000000001Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00Z"),
            (1_795_314_455_961_155_707, "2026-11-22T02:27:35.961155707Z"),
            (1_893_456_000_500_000_000, "2030-01-01T00:00:00.5Z"),
            (4_107_542_399_000_000_000, "2100-02-28T23:59:59Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(format(ns), text);
            assert_eq!(parse(text), Some(ns));
        }
        assert_eq!(format(0), "0001-01-01T00:00:00Z");
        assert_eq!(parse("2030-01-01T02:00:00+02:00"), parse("2030-01-01T00:00:00Z"));
        for bad in [
            "",
            "x",
            "2030-01-01",
            "2030-13-01T00:00:00Z",
            "2030-01-01T00:00:00",
            "2030-01-01T00:00:00.Z",
            "1969-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
