//! Headers that the user's words give ffmpeg, for our own requests: what a portal wants of those who have logged in. Pure.

use reqwest::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, REFERER, USER_AGENT};
use url::Url;

/// Ours to set, not the user's.
const OURS: &[&str] =
    &["accept-encoding", "connection", "content-length", "host", "range", "te", "transfer-encoding"];

/// What `-headers`, `-cookies`, `-user_agent` and `-referer` among `words` say of a request to `url`, as ffmpeg reads them.
pub fn of(words: &[String], url: &str) -> HeaderMap {
    let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_ascii_lowercase));
    let mut headers = HeaderMap::new();
    let mut add = |name: HeaderName, value: &str| {
        if let Ok(mut value) = HeaderValue::from_str(value.trim())
            && !OURS.contains(&name.as_str())
        {
            value.set_sensitive(true);
            headers.append(name, value);
        }
    };
    for pair in words.windows(2) {
        let value = pair[1].as_str();
        match pair[0].as_str() {
            "-headers" => {
                let lines = value.lines().filter_map(|line| line.split_once(':'));
                for (name, value) in lines {
                    if let Ok(name) = name.trim().parse() {
                        add(name, value);
                    }
                }
            }
            "-cookies" => {
                let cookies: Vec<&str> = value
                    .lines()
                    .filter_map(|cookie| cookie_for(cookie, host.as_deref().unwrap_or_default()))
                    .collect();
                if !cookies.is_empty() {
                    add(COOKIE, &cookies.join("; "));
                }
            }
            "-user_agent" => add(USER_AGENT, value),
            "-referer" => add(REFERER, value),
            _ => {}
        }
    }
    headers
}

/// An address, and what whoever asks there has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub url: String,
    /// Words for ffmpeg: `-user_agent`, `-referer`, `-headers`.
    pub words: Vec<String>,
}

impl Place {
    /// Reads an address with what Kodi and its lists put behind it: `URL|User-Agent=TV&Referer=http%3A%2F%2Fx`.
    pub fn read(text: &str) -> Self {
        let (url, more) = text.split_once('|').unwrap_or((text, ""));
        let mut place = Self { url: url.trim().to_owned(), words: Vec::new() };
        for (name, value) in url::form_urlencoded::parse(more.trim().as_bytes()) {
            place.say(&name, &value);
        }
        place
    }

    /// Adds a header.
    pub fn say(&mut self, name: &str, value: &str) {
        let named = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let value = value.trim();
        if !named || value.is_empty() || value.chars().any(char::is_control) {
            return;
        }
        let (option, value) = match name.to_ascii_lowercase().as_str() {
            "user-agent" => ("-user_agent", value.to_owned()),
            "referer" => ("-referer", value.to_owned()),
            _ => ("-headers", format!("{name}: {value}\r\n")),
        };
        match self.words.iter().position(|word| word == option) {
            Some(at) if option == "-headers" => self.words[at + 1] += &value,
            Some(at) => self.words[at + 1] = value,
            None => self.words.extend([option.to_owned(), value]),
        }
    }
}

/// Name and value of `session=42; path=/; domain=portal.example;`, if it is for this host.
fn cookie_for<'a>(cookie: &'a str, host: &str) -> Option<&'a str> {
    let mut parts = cookie.split(';').map(str::trim);
    let pair = parts.next().filter(|pair| pair.contains('='))?;
    let mut named = parts.filter_map(|part| part.split_once('='));
    let domain = named.find(|(name, _)| name.eq_ignore_ascii_case("domain")).map(|(_, domain)| domain);
    let domain = domain.map(|domain| domain.trim_start_matches('.').to_ascii_lowercase());
    let is_for = domain.is_none_or(|domain| {
        host == domain || host.strip_suffix(&*domain).is_some_and(|rest| rest.ends_with('.'))
    });
    is_for.then_some(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn headers_are_read_as_ffmpeg_reads_them() {
        let own =
            words(&["-headers", "Cookie: a=1\r\nX-Token: x:y\r\nHost: other\r\n", "-user_agent", "TV 1.0"]);
        let headers = of(&own, "https://portal.example/live");
        let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(
            (value("cookie"), value("x-token"), value("user-agent")),
            (Some("a=1"), Some("x:y"), Some("TV 1.0"))
        );
        assert_eq!(value("host"), None);
        assert!(headers["cookie"].is_sensitive());
        assert!(of(&words(&["-headers"]), "http://x/").is_empty());
        assert!(of(&words(&["-headers", "no header\r\nBad Name: x\r\nX: \u{1}"]), "http://x/").is_empty());
    }

    #[test]
    fn what_stands_behind_an_address_is_said_there() {
        let place = Place::read(
            "http://tv.example/1.ts?a=b|User-Agent=TV%201&Referer=http://x/&X-A=1&X-B=2&User-Agent=TV",
        );
        assert_eq!(place.url, "http://tv.example/1.ts?a=b");
        let own = ["-user_agent", "TV", "-referer", "http://x/", "-headers", "X-A: 1\r\nX-B: 2\r\n"];
        assert_eq!(place.words, own);
        let none = Place { url: "http://tv.example/".to_owned(), words: Vec::new() };
        assert_eq!(Place::read("http://tv.example/"), none);
        assert_eq!(Place::read("http://tv.example/|X=a%0d%0aHost:+y&Bad+Name=1&="), none);
    }

    #[test]
    fn cookies_are_for_their_domain() {
        let own = words(&[
            "-cookies",
            "a=1; path=/; domain=portal.example;\nb=2; path=/; domain=.other.example\nc=3",
        ]);
        let cookie = |url| of(&own, url).get(COOKIE).and_then(|value| value.to_str().ok().map(str::to_owned));
        assert_eq!(cookie("https://tv.portal.example/x").as_deref(), Some("a=1; c=3"));
        assert_eq!(cookie("https://portal.example:8443/x").as_deref(), Some("a=1; c=3"));
        assert_eq!(cookie("https://evilportal.example/x").as_deref(), Some("c=3"));
        assert_eq!(cookie("http://a.other.example/x").as_deref(), Some("b=2; c=3"));
    }
}
