//! Who may watch: everybody, or whoever knows the word of `--serve-password`.
//!
//! The word comes as the password of HTTP's basic authentication, whatever the user's name is, or as `?key=…` in the address,
//! for players that know nothing else; playlists then carry it on.
//!
//! Guesses are slowed down by household: one that has said too many wrong words is not heard for a while, not even with the
//! right one, which would tell it from the others. Nobody else is kept waiting by that. A request without a word is no guess.
//! Behind a proxy on this machine all come from one address, which is not held against them: there the proxy has to slow
//! down guesses.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use minuet_guard::rate::Rates;

/// Wrong words of one household that are answered at once, …
const GUESSES: u32 = 20;
/// … and how long another one takes.
const GUESS_EVERY: Duration = Duration::from_secs(5);
/// Networks whose guesses are remembered.
const MOST_NETWORKS: usize = 4096;

/// The word that is asked for, if there is one.
#[derive(Debug, Clone)]
pub struct Access(Option<Arc<Lock>>);

#[derive(Debug)]
struct Lock {
    word: String,
    guesses: Mutex<Rates>,
    since: Instant,
}

/// What somebody who asks is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    /// The word is right.
    Opens,
    /// There was none, or a wrong one.
    Asks,
    /// There were too many wrong ones.
    Waits,
}

impl Access {
    /// With this word, or for everybody.
    pub fn new(word: Option<String>) -> Self {
        Self(word.map(|word| Arc::new(Lock::new(word))))
    }

    /// What stands behind the addresses of a playlist that was asked for with the word in its address.
    pub fn query(&self, key: Option<&str>) -> String {
        match (&self.0, key) {
            (Some(_), Some(key)) => {
                let escaped: String = url::form_urlencoded::byte_serialize(key.as_bytes()).collect();
                format!("?key={escaped}")
            }
            _ => String::new(),
        }
    }
}

impl Lock {
    fn new(word: String) -> Self {
        let guesses = Mutex::new(Rates::new(GUESSES, GUESS_EVERY, MOST_NETWORKS));
        Self { word, guesses, since: Instant::now() }
    }

    fn judge(&self, peer: IpAddr, headers: &HeaderMap, query: Option<&str>) -> Judged {
        let words = words(headers, query);
        if words.iter().all(Option::is_none) {
            return Judged::Asks;
        }
        let peer = peer.to_canonical();
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.since.elapsed();
        let may = peer.is_loopback() || guesses.may(peer, now);
        let right = words.iter().flatten().any(|word| same(word, &self.word));
        match (may, right) {
            (false, _) => Judged::Waits,
            (true, true) => Judged::Opens,
            (true, false) => {
                guesses.take(peer, now);
                Judged::Asks
            }
        }
    }
}

/// The words that a request brings.
fn words(headers: &HeaderMap, query: Option<&str>) -> [Option<String>; 2] {
    let basic = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let basic =
        basic.and_then(|value| value.strip_prefix("Basic ")).and_then(|text| STANDARD.decode(text).ok());
    let basic = basic.and_then(|text| String::from_utf8(text).ok());
    let basic = basic.and_then(|text| text.split_once(':').map(|(_, password)| password.to_owned()));
    let mut pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let key = pairs.find(|(name, _)| name == "key").map(|(_, value)| value.into_owned());
    [basic, key]
}

/// Compares in a time that does not tell where the first difference is.
fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// Lets a request through that knows the word.
pub async fn ask(
    State(access): State<Access>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let Some(lock) = &access.0 else { return next.run(request).await };
    let judged = lock.judge(peer.ip(), request.headers(), request.uri().query());
    if judged == Judged::Opens {
        let mut answer = next.run(request).await;
        // Caches on the way would give it to those who do not know the word.
        let told =
            answer.headers().get(CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if let Ok(kept) = HeaderValue::from_str(&told.replace("public", "private")) {
            answer.headers_mut().insert(CACHE_CONTROL, kept);
        }
        return answer;
    }
    if judged == Judged::Waits {
        let wait = [(RETRY_AFTER, GUESS_EVERY.as_secs().to_string())];
        return (StatusCode::TOO_MANY_REQUESTS, wait, "Too many wrong words: wait a little.\n")
            .into_response();
    }
    let challenge = [(WWW_AUTHENTICATE, "Basic realm=\"Minuet\", charset=\"UTF-8\"")];
    (StatusCode::UNAUTHORIZED, challenge, "This gateway asks for a word: --serve-password has it.\n")
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn the_word_comes_as_a_password_or_in_the_address() {
        let lock = Lock::new("two words".into());
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            let value = format!("Basic {}", STANDARD.encode(text));
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            headers
        };
        let opens = |headers: &HeaderMap, query| lock.judge(HOME, headers, query) == Judged::Opens;
        assert!(opens(&with("anybody:two words"), None));
        assert!(!opens(&with("anybody:two word"), None) && !opens(&with("two words"), None));
        assert!(opens(&HeaderMap::new(), Some("a=b&key=two+words")));
        assert!(!opens(&HeaderMap::new(), Some("key=")) && !opens(&HeaderMap::new(), None));
        let access = Access::new(Some("a&b".into()));
        assert_eq!(access.query(Some("a&b")), "?key=a%26b");
        assert_eq!(access.query(None), "");
    }

    #[test]
    fn who_guesses_is_not_heard_for_a_while_and_keeps_nobody_else_waiting() {
        let lock = Lock::new("right".into());
        let judge = |peer: IpAddr, query: &str| lock.judge(peer, &HeaderMap::new(), Some(query));
        let guesses = (0..1000).filter(|n| judge(HOME, &format!("key={n}")) == Judged::Asks).count();
        assert!(guesses <= GUESSES as usize + 1, "{guesses} wrong words were answered");
        assert_eq!(judge(HOME, "key=right"), Judged::Waits, "the right word is not told from a wrong one");
        assert_eq!(judge([198, 51, 100, 1].into(), "key=right"), Judged::Opens);
        // Who only asks what is to be done spends nothing, and is told.
        let newcomer = [203, 0, 113, 1].into();
        assert!((0..1000).all(|_| judge(newcomer, "") == Judged::Asks));
        assert_eq!(judge(newcomer, "key=right"), Judged::Opens);
        // A player with the right word spends nothing either.
        assert!((0..1000).all(|_| judge(newcomer, "key=right") == Judged::Opens));
        // All who come by way of a proxy here.
        let proxy = [127, 0, 0, 1].into();
        assert!((0..1000).all(|_| judge(proxy, "key=wrong") == Judged::Asks));
        assert_eq!(judge(proxy, "key=right"), Judged::Opens);
    }
}
