use std::time::Duration;

/// What can go wrong with a tracker. Each text is half a sentence that stands after the tracker's name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection, a broken one, or no HTTP.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
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
    /// It sends requests on to another address, which nobody follows by itself.
    #[error("has moved to {to} (it answers {status}): use that address in its place")]
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

impl Error {
    /// Whether asking again, later, may help: not if the tracker understood the request and refused it.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
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
        // reqwest's own text repeats the URL; the innermost cause says what happened.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let cause = cause.to_string();
        // What the TLS library says of an answer in plain HTTP, and of none.
        let no_tls = ["InvalidContentType", "tls handshake eof"].iter().any(|words| cause.contains(words));
        Self::Unreachable(match no_tls {
            true => "it does not speak HTTPS on this port (try http:// in place of https://)".to_owned(),
            false => cause,
        })
    }
}
