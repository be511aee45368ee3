//! What a request asks for of something whose length is known: RFC 9110, 13 (conditions) and 14 (ranges).
//!
//! Several ranges in one request are answered with the whole, as the RFC allows; nobody needs them for media.

use axum::http::{
    HeaderMap, HeaderName, Method,
    header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE},
};

/// What to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Everything (200).
    Whole,
    /// The bytes from `first` to `last`, both included (206).
    Part {
        /// The first byte.
        first: u64,
        /// The last byte.
        last: u64,
    },
    /// Nothing: there are no such bytes (416).
    Unsatisfiable,
    /// Nothing: the asker has it (304).
    NotModified,
    /// Nothing: it is not what the asker thinks it is (412).
    Failed,
}

/// One range as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// From a byte on, to another (included) or to the end.
    From(u64, Option<u64>),
    /// So many bytes at the end.
    Suffix(u64),
}

/// What a GET or HEAD asks for of `length` bytes whose strong entity tag is `etag`, with its quotation marks.
pub fn wanted(method: &Method, headers: &HeaderMap, etag: &str, length: u64) -> Wanted {
    let named = |name: HeaderName, weak: bool| {
        let mut values = headers.get_all(name).iter().peekable();
        let names = |text: &str| matches(text, etag, weak);
        values.peek().is_some().then(|| values.any(|value| value.to_str().is_ok_and(names)))
    };
    if named(IF_MATCH, false) == Some(false) {
        return Wanted::Failed;
    }
    if named(IF_NONE_MATCH, true) == Some(true) {
        return Wanted::NotModified;
    }
    // Ranges are defined for GET alone, and hold only for what the asker has begun with.
    let same = headers.get(IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag.as_bytes());
    match asked(headers) {
        Some(range) if *method == Method::GET && same => range.of(length),
        _ => Wanted::Whole,
    }
}

/// The one range that a request asks for. None if it asks for none, for several, or for what is no range: then it gets
/// the whole.
pub fn asked(headers: &HeaderMap) -> Option<Range> {
    let mut values = headers.get_all(RANGE).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (unit, ranges) = value.to_str().ok()?.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    // Empty elements of a list are passed over (RFC 9110, 5.6.1).
    let mut ranges = ranges.split(',').map(str::trim).filter(|range| !range.is_empty());
    let (range, None) = (ranges.next()?, ranges.next()) else { return None };
    let (first, last) = range.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", suffix) => Some(Range::Suffix(number(suffix)?)),
        (first, "") => Some(Range::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Range::From(first, Some(last)))
        }
    }
}

impl Range {
    /// What it means of `length` bytes.
    pub fn of(self, length: u64) -> Wanted {
        let (first, last) = match self {
            Self::From(first, last) => (first, last.unwrap_or(u64::MAX)),
            Self::Suffix(0) => return Wanted::Unsatisfiable,
            Self::Suffix(suffix) => (length.saturating_sub(suffix), u64::MAX),
        };
        match length.checked_sub(1) {
            Some(end) if first <= end => Wanted::Part { first, last: last.min(end) },
            _ => Wanted::Unsatisfiable,
        }
    }
}

/// A number of any size; what does not fit is beyond all that there is.
fn number(digits: &str) -> Option<u64> {
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Whether one of a list of entity tags, or `*`, is this one; weak ones count or not (RFC 9110, 8.8.3.2).
fn matches(list: &str, etag: &str, weak: bool) -> bool {
    let strong = |tag| if weak { str::strip_prefix(tag, "W/").unwrap_or(tag) } else { tag };
    list.split(',').map(str::trim).any(|tag| tag == "*" || strong(tag) == etag)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const ETAG: &str = "\"e\"";

    fn ask(length: u64, fields: &[(HeaderName, &str)]) -> Wanted {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        wanted(&Method::GET, &headers, ETAG, length)
    }

    fn range(text: &str) -> Wanted {
        ask(1000, &[(RANGE, text)])
    }

    #[test]
    fn ranges_as_rfc_9110_has_them() {
        let part = |first, last| Wanted::Part { first, last };
        for (text, is) in [
            ("bytes=0-499", part(0, 499)),
            ("bytes=500-999", part(500, 999)),
            ("bytes=-500", part(500, 999)),
            ("bytes=-5000", part(0, 999)),
            ("bytes=9500-", Wanted::Unsatisfiable),
            ("bytes=500-", part(500, 999)),
            ("bytes=0-0", part(0, 0)),
            ("bytes=-1", part(999, 999)),
            ("bytes=999-99999999999999999999999", part(999, 999)),
            ("bytes=99999999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=1000-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("Bytes = 0-1, ", part(0, 1)),
            // Several, other units and what is no range: the whole.
            ("bytes=0-0,-1", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("bytes=2-1", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("0-1", Wanted::Whole),
        ] {
            assert_eq!(range(text), is, "{text}");
        }
        assert_eq!(ask(0, &[(RANGE, "bytes=0-")]), Wanted::Unsatisfiable);
        assert_eq!(ask(0, &[]), Wanted::Whole);
        assert_eq!(ask(9, &[(RANGE, "bytes=0-1"), (RANGE, "bytes=2-3")]), Wanted::Whole);
    }

    #[test]
    fn conditions_come_first() {
        let part = Wanted::Part { first: 0, last: 0 };
        let one = (RANGE, "bytes=0-0");
        assert_eq!(ask(9, &[one.clone(), (IF_RANGE, ETAG)]), part);
        assert_eq!(ask(9, &[one.clone(), (IF_RANGE, "W/\"e\"")]), Wanted::Whole, "weak ones do not do");
        assert_eq!(ask(9, &[one.clone(), (IF_RANGE, "Sat, 29 Oct 1994 19:43:31 GMT")]), Wanted::Whole);
        assert_eq!(ask(9, &[one.clone(), (IF_NONE_MATCH, "\"x\", W/\"e\"")]), Wanted::NotModified);
        assert_eq!(ask(9, &[one.clone(), (IF_NONE_MATCH, "\"x\"")]), part);
        assert_eq!(ask(9, &[(IF_MATCH, "\"x\", W/\"e\"")]), Wanted::Failed);
        assert_eq!(ask(9, &[(IF_MATCH, "*"), one]), part);
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        assert_eq!(wanted(&Method::HEAD, &headers, ETAG, 9), Wanted::Whole);
    }

    proptest! {
        #[test]
        fn a_part_is_always_within(text in "bytes=[0-9]{0,22}-[0-9]{0,22}", length in 0u64..5000) {
            if let Wanted::Part { first, last } = ask(length, &[(RANGE, &text)]) {
                prop_assert!(first <= last && last < length);
            }
        }
    }
}
