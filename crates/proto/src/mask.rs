//! Secrets in what people read: passwords, stream keys and tokens in URLs, masked before a log line, an error or a page
//! shows them.
//!
//! Rules:
//! - A password in a URL is masked, and a user that stands alone, which is a token more often than a name.
//! - A query's value is masked unless its name is known to be harmless ([`HARMLESS`]): providers invent names for their
//!   tokens every day.
//! - The stream's name in an RTMP path is its key. An account in the path of an IPTV link (`/live/USER/PASSWORD/7.ts`)
//!   is one, and so is a path's part that looks random.
//! - Outside URLs, what follows a telling name (`passphrase=`, `Authorization:`) is masked.
//!
//! A program that quotes a part of a URL, as ffmpeg does, gives away what no rule recognises: [`Secrets`] knows the
//! secrets of an input by heart.

/// What stands in a secret's place.
pub const MASK: &str = "***";

/// Names in a query whose values are no secrets: of ffmpeg's UDP, RTP and SRT addresses, of SAT>IP, and of what cameras
/// and servers are commonly asked for. In lower case.
const HARMLESS: &[&str] = &[
    "allowed_media_types",
    "analyzeduration",
    "audio",
    "bitrate",
    "block",
    "broadcast",
    "buffer",
    "buffer_size",
    "burst_bits",
    "channel",
    "channelid",
    "chunked_post",
    "codec",
    "congestion",
    "connect",
    "connect_timeout",
    "conntimeo",
    "container",
    "drifttracer",
    "dscp",
    "enforced_encryption",
    "fc",
    "fe",
    "fec",
    "fflags",
    "ffs",
    "fifo_size",
    "format",
    "fps",
    "frame_rate",
    "framerate",
    "freq",
    "groupconnect",
    "height",
    "icy",
    "inputbw",
    "interface",
    "iptos",
    "ipttl",
    "ipv6only",
    "keepalive",
    "kmpreannounce",
    "kmrefreshrate",
    "lang",
    "latency",
    "linger",
    "listen",
    "listen_timeout",
    "live_start_index",
    "localaddr",
    "localport",
    "localrtcpport",
    "localrtpport",
    "lossmaxttl",
    "max_delay",
    "max_port",
    "maxbw",
    "messageapi",
    "min_port",
    "minversion",
    "mode",
    "mss",
    "msys",
    "mtype",
    "multicast",
    "multiple_requests",
    "nakreport",
    "number",
    "oheadbw",
    "open_timeout",
    "overrun_nonfatal",
    "payload_size",
    "payload_type",
    "pbkeylen",
    "peeridletimeo",
    "peerlatency",
    "pids",
    "pilot",
    "pkt_size",
    "plts",
    "pol",
    "probesize",
    "profile",
    "profile_id",
    "program",
    "proto",
    "protocol",
    "quality",
    "rcvbuf",
    "rcvlatency",
    "rcvsyn",
    "reconnect",
    "reconnect_at_eof",
    "reconnect_delay_max",
    "reconnect_max_retries",
    "reconnect_on_http_error",
    "reconnect_on_network_error",
    "reconnect_streamed",
    "recv_buffer_size",
    "recv_timeout",
    "reorder_queue_size",
    "resolution",
    "retransmitalgo",
    "reuse",
    "ro",
    "rtcpport",
    "rtsp_flags",
    "rtsp_transport",
    "rw_timeout",
    "seekable",
    "send_buffer_size",
    "send_timeout",
    "service",
    "short_seek_size",
    "smoother",
    "sndbuf",
    "snddropdelay",
    "sndkmpreannounce",
    "sndsyn",
    "sources",
    "sr",
    "src",
    "start_number",
    "stimeout",
    "substream",
    "subtype",
    "tcp",
    "tcp_mss",
    "tcp_nodelay",
    "timeout",
    "timeout_us",
    "tlpktdrop",
    "tls_verify",
    "tos",
    "transport",
    "transtype",
    "ts_packet_size",
    "tsbpdmode",
    "ttl",
    "udp",
    "udplite_coverage",
    "unicast",
    "verify_mode",
    "video",
    "video_size",
    "width",
    "write_to_source",
];
/// What names of secrets contain, in lower case.
const TELLING: &[&str] = &[
    "passphrase",
    "passwd",
    "password",
    "secret",
    "token",
    "streamid",
    "streamkey",
    "stream_key",
    "stream-key",
    "api_key",
    "apikey",
    "api-key",
    "signature",
    "playpath",
    "cookie",
    "cryptokey",
    "decryption_key",
    "credential",
];
/// Headers whose values are secrets, in lower case.
const TELLING_HEADERS: &[&str] = &["authorization", "cookie", "x-api", "x-auth", "-token", "-key"];
/// Schemes in whose paths the stream's key stands after the application's name.
const KEY_IN_PATH: &[&str] = &["rtmp", "rtmps", "rtmpe", "rtmpt", "rtmpte", "rtmpts"];
/// Where IPTV links have an account in the path.
const ACCOUNT_AFTER: &[&str] = &["live", "movie", "series", "timeshift"];
/// A path's part of at least so many letters and digits is taken for a token.
const TOKEN_LEN: usize = 20;
/// Shorter secrets are not looked for outside their place: they would be found everywhere.
const LEAST_SECRET: usize = 5;

/// A text with all secrets in it masked. For a whole log line as well as for one URL.
pub fn mask(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    walk(text, &mut |part| match part {
        Part::Shown(shown) => out.push_str(shown),
        Part::Secret(_) => out.push_str(MASK),
    });
    out
}

/// The secrets of some inputs, known by heart: masked wherever they turn up.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// The secrets in one or more URLs.
    pub fn of(text: &str) -> Self {
        let mut found = Vec::new();
        walk(text, &mut |part| {
            if let Part::Secret(secret) = part {
                let plain = percent_decoded(secret);
                for piece in secret.split('/').chain([secret, &plain]) {
                    if piece.len() >= LEAST_SECRET && !found.iter().any(|known| known == piece) {
                        found.push(piece.to_owned());
                    }
                }
            }
        });
        // The longest first, so that no part of one is left when another is masked.
        found.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(found)
    }

    /// A text with these secrets masked, and all others that [`mask`] recognises.
    pub fn mask(&self, text: &str) -> String {
        self.0.iter().fold(mask(text), |text, secret| without(&text, secret))
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

/// A text without a secret, where that stands by itself: `12345` is no part of `12345678`.
fn without(text: &str, secret: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(secret) {
        let (before, after) = (&rest[..at], &rest[at + secret.len()..]);
        let joined = |c: Option<char>, own: Option<char>| {
            c.is_some_and(char::is_alphanumeric) && own.is_some_and(char::is_alphanumeric)
        };
        let left = before.chars().next_back().or_else(|| out.chars().next_back());
        let inside =
            joined(left, secret.chars().next()) || joined(after.chars().next(), secret.chars().next_back());
        out.push_str(before);
        out.push_str(if inside { secret } else { MASK });
        rest = after;
    }
    out.push_str(rest);
    out
}

enum Part<'a> {
    Shown(&'a str),
    Secret(&'a str),
}

type Out<'a, 'b> = &'b mut dyn FnMut(Part<'a>);

/// Takes a text apart.
fn walk<'a>(text: &'a str, out: Out<'a, '_>) {
    let mut rest = text;
    while let Some(mark) = rest.find("://") {
        let scheme = rest[..mark]
            .rfind(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c))
            .map_or(0, |before| before + rest[before..].chars().next().map_or(1, char::len_utf8));
        let (before, from) = rest.split_at(scheme);
        // In quotes a URL ends with the quote; else a quote may be part of a password.
        let quote = before.chars().next_back().filter(|c| "'`([{".contains(*c));
        let close = quote.map(|open| match open {
            '(' => ')',
            '[' => ']',
            '{' => '}',
            same => same,
        });
        let ends = |c: char| c.is_whitespace() || c.is_control() || "\"<>".contains(c) || Some(c) == close;
        let end = from.find(ends).unwrap_or(from.len());
        // Of a sentence, not of the URL.
        let end = from[..end].trim_end_matches([':', ',', ';', '.']).len().max(mark - scheme + 3);
        let (url, after) = from.split_at(end);
        plain(before, out);
        address(url, mark - scheme, out);
        rest = after;
    }
    plain(rest, out);
}

/// A URL whose scheme is `scheme` bytes long.
fn address<'a>(url: &'a str, scheme: usize, out: Out<'a, '_>) {
    let (name, rest) = (&url[..scheme], &url[scheme + 3..]);
    out(Part::Shown(&url[..scheme + 3]));
    let name = name.to_ascii_lowercase();
    let mut authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // What stands where a port should and is none is a password with such a character in it.
    let no_port = rest[..authority].rsplit_once(':').is_some_and(|(host, port)| {
        !host.starts_with('[') && !port.is_empty() && !port.bytes().all(|byte| byte.is_ascii_digit())
    });
    if !rest[..authority].contains('@')
        && no_port
        && let Some(at) = rest.rfind('@')
    {
        authority = at + rest[at..].find(['/', '?', '#']).unwrap_or(rest.len() - at);
    }
    let (authority, rest) = rest.split_at(authority);
    match authority.rfind('@') {
        Some(at) => {
            user(&authority[..at], out);
            out(Part::Shown(&authority[at..]));
        }
        None => out(Part::Shown(authority)),
    }
    let query = rest.find(['?', '#']).unwrap_or(rest.len());
    let (path, query) = rest.split_at(query);
    self::path(&name, path, out);
    if !query.is_empty() {
        out(Part::Shown(&query[..1]));
        self::query(&query[1..], out);
    }
}

/// What stands before the `@`.
fn user<'a>(text: &'a str, out: Out<'a, '_>) {
    match text.split_once(':') {
        Some((name, password)) => {
            out(Part::Shown(&text[..name.len() + 1]));
            secret(password, out);
        }
        // The senders of a multicast group are written in this place.
        None if text.split(',').all(|sender| sender.parse::<std::net::IpAddr>().is_ok()) => {
            out(Part::Shown(text));
        }
        None => secret(text, out),
    }
}

fn path<'a>(scheme: &str, path: &'a str, out: Out<'a, '_>) {
    if scheme == "file" {
        return out(Part::Shown(path));
    }
    let parts: Vec<&str> = path.split('/').collect();
    if KEY_IN_PATH.contains(&scheme) {
        // "", the application, and then its stream.
        let shown = parts.iter().take(2).map(|part| part.len() + 1).sum::<usize>().min(path.len());
        out(Part::Shown(&path[..shown]));
        return secret(&path[shown..], out);
    }
    let account = account(&parts);
    let mut before = None;
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out(Part::Shown("/"));
        }
        let channel = before == Some("c") && part.len() == 64;
        if account.contains(&index) || (is_token(part) && !channel) {
            secret(part, out);
        } else {
            out(Part::Shown(part));
        }
        before = Some(part);
    }
}

/// Which parts of a path are a user and a password, as IPTV servers have them.
fn account(parts: &[&str]) -> std::ops::Range<usize> {
    let is_stream = |part: &&str| {
        let stem = part.split('.').next().unwrap_or_default();
        !stem.is_empty() && stem.bytes().all(|byte| byte.is_ascii_digit())
    };
    match parts {
        ["", kind, _, _, .., _] if ACCOUNT_AFTER.contains(kind) && parts.last().is_some_and(is_stream) => {
            2..4
        }
        ["", _, _, last] if is_stream(last) => 1..3,
        _ => 0..0,
    }
}

/// Whether a path's part looks as if nobody had thought it up.
fn is_token(part: &str) -> bool {
    let token = |c: char| c.is_ascii_alphanumeric() || "_=~".contains(c);
    let run = part.split(|c| !token(c)).max_by_key(|run| run.len()).unwrap_or_default();
    run.len() >= TOKEN_LEN
        && run.bytes().any(|byte| byte.is_ascii_digit())
        && run.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn query<'a>(query: &'a str, out: Out<'a, '_>) {
    for (index, pair) in query.split('&').enumerate() {
        if index > 0 {
            out(Part::Shown("&"));
        }
        match pair.split_once('=') {
            Some((name, _)) => {
                let value = &pair[name.len() + 1..];
                out(Part::Shown(&pair[..name.len() + 1]));
                if HARMLESS.contains(&name.to_ascii_lowercase().as_str()) {
                    out(Part::Shown(value));
                } else {
                    secret(value, out);
                }
            }
            None if HARMLESS.contains(&pair.to_ascii_lowercase().as_str()) => out(Part::Shown(pair)),
            None => secret(pair, out),
        }
    }
}

/// What is no URL.
fn plain<'a>(text: &'a str, out: Out<'a, '_>) {
    let mut shown = 0;
    let mut from = 0;
    while let Some(mark) = text[from..].find(['=', ':']).map(|at| from + at) {
        from = mark + 1;
        let name = text[..mark]
            .rfind(|c: char| !c.is_ascii_alphanumeric() && !"_-.".contains(c))
            .map_or(&text[..mark], |before| {
                &text[before + text[before..].chars().next().map_or(1, char::len_utf8)..mark]
            })
            .to_ascii_lowercase();
        // A header's value goes on to the end of its line.
        let header = text[mark..].starts_with(':');
        let telling = match header {
            true => TELLING_HEADERS.iter().any(|telling| name.contains(telling)),
            false => TELLING.iter().any(|telling| name.contains(telling)),
        };
        if mark < shown || !telling {
            continue;
        }
        let rest = &text[from..];
        let start = from + (rest.len() - rest.trim_start_matches([' ', '\'', '"']).len());
        let ends = |c: char| {
            c.is_control() || "'\"".contains(c) || (!header && (c.is_whitespace() || "&,;".contains(c)))
        };
        let end = text[start..].find(ends).map_or(text.len(), |end| start + end);
        out(Part::Shown(&text[shown..start]));
        secret(&text[start..end], out);
        (shown, from) = (end, end);
    }
    out(Part::Shown(&text[shown..]));
}

fn secret<'a>(text: &'a str, out: Out<'a, '_>) {
    if !text.is_empty() {
        out(Part::Secret(text));
    }
}

/// What a program shows that has decoded the URL.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        for (text, masked) in [
            ("http://alice:hunter2@host:80/base.ts is gone", "http://alice:***@host:80/base.ts is gone"),
            ("http://alice:p@ss@host/", "http://alice:***@host/"),
            ("rtsp://admin:pa#ss/w?rd@cam/1", "rtsp://admin:***@cam/1"),
            ("https://ghp_token@host/x", "https://***@host/x"),
            ("udp://10.0.0.1,10.0.0.2@239.1.1.1:5000", "udp://10.0.0.1,10.0.0.2@239.1.1.1:5000"),
            ("udp://@239.1.1.1:5000?pkt_size=1316&reuse=1", "udp://@239.1.1.1:5000?pkt_size=1316&reuse=1"),
            (
                "srt://h:9000?mode=caller&passphrase=very secret123",
                "srt://h:9000?mode=caller&passphrase=*** secret123",
            ),
            ("srt://h:9000?streamid=#!::r=a,u=b&latency=200", "srt://h:9000?streamid=***&latency=200"),
            ("rtmp://0.0.0.0:1935/live/my-key: in use", "rtmp://0.0.0.0:1935/live/***: in use"),
            ("rtmp://[::]:1935/live waits", "rtmp://[::]:1935/live waits"),
            ("RTMPS://h/app/inst/key?x", "RTMPS://h/app/***?***"),
            ("'https://h/a.m3u8?hdnea=exp~hmac' for reading", "'https://h/a.m3u8?hdnea=***' for reading"),
            ("http://h:8080/live/joe/s3cret/123.ts", "http://h:8080/live/***/***/123.ts"),
            ("http://h:8080/joe/s3cret/123", "http://h:8080/***/***/123"),
            ("https://h/hls/eyJhbGciOiJIUzI1NiJ9abc/index.m3u8", "https://h/hls/***/index.m3u8"),
            ("https://h/2026/evening-show-part-2.ts", "https://h/2026/evening-show-part-2.ts"),
            ("http://h/x?freq=11493&pol=h&msys=dvbs2", "http://h/x?freq=11493&pol=h&msys=dvbs2"),
            ("http://h/x?0123456789abcdef", "http://h/x?***"),
            (
                "-passphrase=abc -headers 'Authorization: Basic QWxh'",
                "-passphrase=*** -headers 'Authorization: ***'",
            ),
            ("async:http://u:p@h/ and (https://u:p@h)", "async:http://u:***@h/ and (https://u:***@h)"),
            ("file:///srv/eyJhbGciOiJIUzI1NiJ9abc.ts", "file:///srv/eyJhbGciOiJIUzI1NiJ9abc.ts"),
            ("segment 7 sealed: 6.0 s, 1234 bytes", "segment 7 sealed: 6.0 s, 1234 bytes"),
            (
                "no password: give one; bad signature: refused",
                "no password: give one; bad signature: refused",
            ),
            ("X-Api-Key: abc def", "X-Api-Key: ***"),
            ("://", "://"),
            ("ü://ü:ü@ü/ü?ü=ü", "ü://ü:***@ü/ü?ü=***"),
        ] {
            assert_eq!(mask(text), masked);
        }
        let public = format!("http://t:7070/c/{}", "0a".repeat(32));
        assert_eq!(mask(&public), public);
    }

    #[test]
    fn what_a_program_quotes_of_an_input_is_known_by_heart() {
        let secrets = Secrets::of("rtmp://0.0.0.0:1935/live/my%2Dkey");
        assert_eq!(
            secrets.mask("Unexpected stream my-key, expecting my%2Dkey"),
            "Unexpected stream ***, expecting ***"
        );
        assert_eq!(format!("{secrets:?}"), "Secrets(2)");
        assert_eq!(Secrets::of("http://h/x.ts").mask("x.ts is empty"), "x.ts is empty");
        let secrets = Secrets::of("http://u:12345@h/ rtmp://h/live/live");
        assert_eq!(secrets.mask("live: 123456 bytes, 12345, 12345"), "live: 123456 bytes, ***, ***");
    }

    proptest! {
        /// Any text comes through whole but for its secrets, and masking twice is masking once.
        #[test]
        fn any_text(text in any::<String>(), url in "[a-z:/@?#&=%.\\[\\]ü ]{0,60}") {
            for text in [text, url.clone(), format!("x http://{url}")] {
                let masked = mask(&text);
                prop_assert_eq!(mask(&masked), masked);
                let mut whole = String::new();
                walk(&text, &mut |part| match part {
                    Part::Shown(text) | Part::Secret(text) => whole.push_str(text),
                });
                prop_assert_eq!(whole, text);
            }
        }

        /// No secret is left, wherever it stands.
        #[test]
        fn no_secret_is_left(
            secret in "[A-Z0-9~!$+_-]{6,24}",
            place in 0..7,
            scheme in prop_oneof!["http", "https", "rtsp", "srt", "rtmp", "ftp"],
            before in "([a-z]{0,9}[ '(])?",
        ) {
            let url = match place {
                0 => format!("{scheme}://me:{secret}@host/a"),
                1 => format!("{scheme}://{secret}@host:1/a"),
                2 => format!("{scheme}://host/a?b={secret}&mode=x"),
                3 => format!("rtmp://host/live/{secret}"),
                4 => format!("{scheme}://host/live/me/{secret}/1.ts"),
                5 => format!("{scheme}://host/a?mode=x&{secret}"),
                _ => format!("{scheme}://host?streamid={secret}"),
            };
            let text = format!("{before}{url} failed");
            prop_assert!(!mask(&text).contains(&secret), "{}", mask(&text));
            let quoted = format!("bad stream {secret}: no");
            prop_assert!(!Secrets::of(&url).mask(&quoted).contains(&secret));
        }
    }
}
