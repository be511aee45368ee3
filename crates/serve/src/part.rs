//! Answers with something whose length is known, or the range of it that was asked for.

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, Method, StatusCode,
        header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG},
    },
    response::{IntoResponse, Response},
};

use crate::range::{self, Wanted};

/// What is answered of something of a known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The first byte.
    pub first: u64,
    /// How many bytes.
    pub count: u64,
    length: u64,
    etag: String,
    is_range: bool,
    is_head: bool,
}

impl Part {
    /// What a request asks for of `length` bytes whose strong entity tag is `etag`, with its quotation marks.
    ///
    /// # Errors
    /// The answer, where no bytes belong into it: there are none of that kind, or the asker has them.
    pub fn of(
        method: &Method,
        headers: &HeaderMap,
        etag: String,
        length: u64,
    ) -> Result<Self, Box<Response>> {
        let (first, count, is_range) = match range::wanted(method, headers, &etag, length) {
            Wanted::Whole => (0, length, false),
            Wanted::Part { first, last } => (first, last.saturating_sub(first).saturating_add(1), true),
            Wanted::Unsatisfiable => {
                let range = [(CONTENT_RANGE, format!("bytes */{length}"))];
                return Err(Box::new((StatusCode::RANGE_NOT_SATISFIABLE, range).into_response()));
            }
            Wanted::NotModified => {
                return Err(Box::new((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response()));
            }
            Wanted::Failed => return Err(Box::new(StatusCode::PRECONDITION_FAILED.into_response())),
        };
        Ok(Self { first, count, length, etag, is_range, is_head: method == Method::HEAD })
    }

    /// Whether only the head of the answer is wanted, so that no body needs to be made.
    pub fn is_head(&self) -> bool {
        self.is_head
    }

    /// The answer, with these bytes and headers.
    pub fn answer<const N: usize>(self, head: [(HeaderName, String); N], body: Body) -> Response {
        let own = [
            (CONTENT_LENGTH, self.count.to_string()),
            (ACCEPT_RANGES, "bytes".to_owned()),
            (ETAG, self.etag),
        ];
        if self.is_range {
            let last = self.first.saturating_add(self.count).saturating_sub(1);
            let range = [(CONTENT_RANGE, format!("bytes {}-{last}/{}", self.first, self.length))];
            return (StatusCode::PARTIAL_CONTENT, head, own, range, body).into_response();
        }
        (head, own, body).into_response()
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header::RANGE};

    use super::*;

    #[test]
    fn ranges_are_named() {
        let with = |range: &'static str| HeaderMap::from_iter([(RANGE, HeaderValue::from_static(range))]);
        let of = |range| Part::of(&Method::GET, &with(range), "\"a\"".into(), 10);
        let part = of("bytes=2-5").unwrap();
        assert_eq!((part.first, part.count, part.is_head()), (2, 4, false));
        let answer = part.answer([], Body::empty());
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(answer.headers()[CONTENT_RANGE], "bytes 2-5/10");
        assert_eq!(
            (&answer.headers()[CONTENT_LENGTH], &answer.headers()[ETAG]),
            (&"4".parse().unwrap(), &"\"a\"".parse().unwrap())
        );
        let none = of("bytes=10-").unwrap_err();
        assert_eq!(
            (none.status(), &none.headers()[CONTENT_RANGE]),
            (StatusCode::RANGE_NOT_SATISFIABLE, &"bytes */10".parse().unwrap())
        );
        let whole = Part::of(&Method::HEAD, &with("bytes=2-5"), "\"a\"".into(), 10).unwrap();
        assert!(whole.is_head());
        let answer = whole.answer([], Body::empty());
        assert_eq!(
            (answer.status(), &answer.headers()[CONTENT_LENGTH]),
            (StatusCode::OK, &"10".parse().unwrap())
        );
    }
}
