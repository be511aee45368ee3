//! What can go wrong with a tracker, and with HTTP in general, in words for a user.

use std::time::Duration;

use crate::contact::Forbidden;

/// What can go wrong with a tracker. Each text is half a sentence that stands after the tracker's name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection, a broken one, or no HTTP.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// This program's own rule for contacts forbids it.
    #[error("is not contacted: {0}")]
    Denied(#[from] Forbidden),
    /// It took the request and went silent.
    #[error("did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// It answers with an error status; the text is what it said, shortened.
    #[error("refuses with {status}: {said}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The first line of its answer.
        said: String,
    },
    /// Whatever answers there is no tracker: a web server, or a proxy before one.
    #[error("answers {status} with {found}, as no Minuet tracker does{}", fix(*.status))]
    Foreign {
        /// HTTP status.
        status: u16,
        /// What came, as in `a web page ("404 Not Found")`.
        found: String,
    },
    /// It sends requests on to another address, which nobody follows by itself.
    #[error(
        "sends requests on to {to} (it answers {status}): if that is the tracker, use its address in place of this one; if not, this network may ask for a login"
    )]
    Moved {
        /// HTTP status.
        status: u16,
        /// Where to.
        to: String,
    },
    /// The answer is longer than any honest one.
    #[error("sends more than {0} bytes, which no sane answer has")]
    Endless(usize),
    /// The answer is not what it should be.
    #[error("answers nonsense: {0}")]
    Garbage(String),
    /// A statement in the answer does not hold.
    #[error("passes on a bad statement: {0}")]
    Statement(#[from] minuet_proto::Error),
}

/// What is to be done about a proxy before a tracker, where its status says it.
fn fix(status: u16) -> &'static str {
    match status {
        401 | 407 => {
            ": a proxy before it wants a login, which viewers have not; let it pass requests as they are"
        }
        403 => ": a proxy before it forbids this; let it pass requests as they are",
        413 => {
            ": a proxy before it takes no request of this size; allow it bodies of 8 MB (nginx: client_max_body_size 8m)"
        }
        502..=504 => ": a proxy before it does not reach it; see whether the tracker runs",
        _ => "",
    }
}

impl Error {
    /// Whether asking again, later, may help: not if the tracker understood the request and refused it.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            // A proxy's page on a tracker that is being started again.
            Self::Foreign { status, .. } => *status < 400 || *status == 429 || *status >= 500,
            Self::Moved { .. } => false,
            _ => true,
        }
    }
}

impl From<reqwest::Error> for Error {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Silent(crate::tracker::ANSWER_TIMEOUT);
        }
        let mut inner: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(found) = inner {
            if let Some(forbidden) = found.downcast_ref::<Forbidden>() {
                return Self::Denied(*forbidden);
            }
            inner = found.source();
        }
        let cause = cause(&error);
        // What the TLS library says of an answer in plain HTTP, and of none.
        let no_tls = ["InvalidContentType", "tls handshake eof"].iter().any(|words| cause.contains(words));
        Self::Unreachable(match no_tls {
            true => "it does not speak HTTPS on this port (try http:// in place of https://)".to_owned(),
            false => cause,
        })
    }
}

/// What happened to a request, in words that say it without the library's own: the innermost cause, since the outer ones
/// repeat the URL.
pub fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let cause = cause.to_string();
    match BREAKS.iter().find(|(words, _)| cause.contains(words)) {
        Some((_, plain)) => (*plain).to_owned(),
        None => cause,
    }
}

/// What the HTTP library says when a connection ends in the middle of something, and what that means.
const BREAKS: &[(&str, &str)] = &[
    ("unexpected EOF during chunk size line", "the connection ended in the middle of the answer"),
    ("unexpected end of file", "the connection ended in the middle of the answer"),
    ("end of file before message length reached", "the connection ended in the middle of the answer"),
    ("connection closed before message completed", "the connection was closed before an answer came"),
    ("Invalid chunk", "the answer is damaged: it does not say how long its parts are"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_breaks_is_told_in_plain_words() {
        let error = |words: &str| cause(&std::io::Error::other(words.to_owned()));
        for words in ["unexpected EOF during chunk size line", "Invalid chunk size line"] {
            let plain = error(words);
            assert!(!plain.contains("chunk") && !plain.contains("EOF"), "{plain}");
        }
        assert_eq!(error("Connection refused (os error 111)"), "Connection refused (os error 111)");
    }

    #[test]
    fn what_a_proxy_says_of_a_tracker_that_is_down_may_pass() {
        let foreign = |status| Error::Foreign { status, found: "a web page".into() };
        assert!(foreign(502).is_passing() && !foreign(404).is_passing());
        assert_eq!(foreign(404).to_string(), "answers 404 with a web page, as no Minuet tracker does");
        assert!(foreign(413).to_string().contains("client_max_body_size"));
        assert!(foreign(502).to_string().ends_with("see whether the tracker runs"));
    }
}
