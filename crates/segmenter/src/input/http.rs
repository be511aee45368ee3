//! MPEG-TS over HTTP and HTTPS, as IPTV gateways and receivers send it: one endless answer, or a file with a length.
//!
//! What this library cannot read (SHOUTcast's status line, Digest authentication, other containers), ffmpeg perhaps can.
//! Where ffmpeg is to read in any case, only what the server says of a length, and its playlists, are looked at.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use minuet_node::error::cause;
use minuet_proto::mask;
use reqwest::{
    Client, ClientBuilder, Response, StatusCode,
    header::{CONTENT_RANGE, HeaderMap, RANGE, SET_COOKIE, WWW_AUTHENTICATE},
};
use tokio::{
    runtime::Handle,
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    InputError, Read,
    dash::Manifest,
    error::Listed,
    hls::{Aired, Media, News},
    native::{Looks, looks},
    playlist::{self, Playlist, Variant},
    redirects::{self, Refused},
};

/// How long a connection and the answer's head may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Lines of an answer's head that are read.
const MAX_HEADERS: usize = 1024;
/// Chunks that may wait to be read; then the server waits. The client library bounds each.
const MAX_CHUNKS: usize = 64;
/// A server that says so many bytes will come means that there is no end.
const NO_LENGTH: u64 = 1 << 40;
/// How often in a row a file is asked for from where it broke off, and how long it is waited before.
const MAX_RESUMES: u32 = 5;
const RESUME_WAIT: Duration = Duration::from_secs(1);
/// A file of which nothing has come for so long, while it was waited for, has broken off.
const STALLED: Duration = Duration::from_secs(10);
/// What some editors put before a text (U+FEFF).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// What the TLS library says of a server that answers in plain HTTP.
const NO_TLS: &str = "InvalidContentType";
/// What came is a web page: the player's, a login, a network's portal.
const PAGE: &str =
    "gives a web page in place of media: take the address of the stream itself, or log in first";

/// Who is to read the media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// We, if it is MPEG-TS.
    Ourselves,
    /// ffmpeg, whatever it is.
    Ffmpeg,
}

/// An answer that is being read.
#[derive(Debug)]
pub struct Http {
    chunks: Receiver<Result<Bytes, InputError>>,
    rest: Bytes,
    runtime: Handle,
    task: JoinHandle<()>,
    finite: Arc<AtomicBool>,
}

impl Http {
    /// Asks for `url` with these headers; of it `aired` has been on air if it is a playlist. Must be called where a runtime is
    /// entered.
    pub fn start(url: &str, insecure: bool, reader: Reader, headers: HeaderMap, aired: Aired) -> Self {
        let (out, chunks) = channel(MAX_CHUNKS);
        let runtime = Handle::current();
        let finite = Arc::new(AtomicBool::new(false));
        let (url, finite_too) = (url.to_owned(), Arc::clone(&finite));
        let request = Request { url, insecure, reader, headers, finite: finite_too, aired };
        let task = runtime.spawn(async move {
            let fetched = request.fetch(&out).await;
            // What we may not have, ffmpeg may, by the user's words.
            let for_ffmpeg = |error| match error {
                error @ (InputError::ForFfmpeg { .. }
                | InputError::Elsewhere { .. }
                | InputError::NothingNew { .. }) => error,
                _ => request.for_ffmpeg(String::new(), false, None),
            };
            let error = match (fetched, reader) {
                (fetched, Reader::Ourselves) => fetched.err(),
                (fetched, Reader::Ffmpeg) => fetched.err().map(for_ffmpeg),
            };
            if let Some(error) = error {
                let _ = out.send(Err(error)).await;
            }
        });
        Self { chunks, rest: Bytes::new(), runtime, task, finite }
    }

    /// Whether the server has said how long it is; known once bytes have come.
    pub fn is_finite(&self) -> bool {
        self.finite.load(Ordering::Relaxed)
    }

    pub(super) fn read(&mut self, buf: &mut [u8], patience: Duration) -> Result<Read, InputError> {
        if self.rest.is_empty() {
            let chunks = &mut self.chunks;
            match self.runtime.block_on(async { timeout(patience, chunks.recv()).await }) {
                Err(_) => return Ok(Read::Idle),
                Ok(None) => return Ok(Read::End),
                Ok(Some(chunk)) => self.rest = chunk?,
            }
        }
        let len = self.rest.len().min(buf.len());
        buf[..len].copy_from_slice(&self.rest.split_to(len));
        Ok(if len == 0 { Read::Idle } else { Read::Data(len) })
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a server does about the rest of a file.
enum Rest {
    /// It comes.
    Given(Response),
    /// Another try may bring it.
    NotNow,
    /// It gives whole files only, or the file is another one now.
    Never,
}

struct Request {
    url: String,
    insecure: bool,
    reader: Reader,
    headers: HeaderMap,
    finite: Arc<AtomicBool>,
    aired: Aired,
}

impl Request {
    fn name(&self) -> String {
        mask(&self.url)
    }

    fn failed(&self, reason: impl AsRef<str>) -> InputError {
        // A redirect's address may be in the reason.
        InputError::Http { input: self.name(), reason: mask(reason.as_ref()) }
    }

    fn for_ffmpeg(&self, why: impl Into<String>, finite: bool, listed: Option<Listed>) -> InputError {
        InputError::ForFfmpeg { input: self.name(), why: why.into(), finite, listed: listed.map(Box::new) }
    }

    fn client(&self) -> ClientBuilder {
        Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(redirects::policy())
            .default_headers(self.headers.clone())
            // Receivers, cameras and radio stations write heads that no RFC allows; ffmpeg reads them as well.
            .http1_ignore_invalid_headers_in_responses(true)
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_max_headers(MAX_HEADERS)
            // Some close a connection that they said to keep.
            .pool_max_idle_per_host(0)
            .danger_accept_invalid_certs(self.insecure)
    }

    /// Passes the answer on until it ends, which is an error unless the server had said how long it is.
    async fn fetch(&self, out: &Sender<Result<Bytes, InputError>>) -> Result<(), InputError> {
        let client = self.client().build().map_err(|error| self.failed(error.to_string()))?;
        let answer = timeout(CONNECT_TIMEOUT, client.get(&self.url).send())
            .await
            .map_err(|_| self.failed("does not answer"))?;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if self.wants_cookie(&error).await => {
                let why = "redirects to itself until it gets its cookie back";
                return Err(self.for_ffmpeg(why, false, None));
            }
            Err(error) => return Err(self.no_answer(&error)),
        };
        self.judge(&answer)?;
        let length = answer.content_length().filter(|length| *length < NO_LENGTH);
        self.finite.store(length.is_some(), Ordering::Relaxed);
        let base = answer.url().clone();
        let mut body = answer.bytes_stream();
        let mut head = Some(BytesMut::new());
        let (mut received, mut resumes) = (0, 0);
        loop {
            // What has no length may be silent for as long as whoever reads it lets it.
            let next = match length {
                Some(_) => timeout(STALLED, body.next()).await.ok(),
                None => Some(body.next().await),
            };
            let chunk = match next {
                Some(None) => break,
                Some(Some(Ok(chunk))) => chunk,
                broken => {
                    let cause = match broken {
                        Some(Some(Err(error))) => cause(&error),
                        _ => format!("nothing came for {} s", STALLED.as_secs()),
                    };
                    let Some(length) = length.filter(|_| head.is_none()) else {
                        return Err(self.failed(format!("broke off ({cause})")));
                    };
                    let early = |why| {
                        self.early(received, length, &format!("the connection broke off, {cause}, and {why}"))
                    };
                    if resumes >= MAX_RESUMES {
                        return Err(early("the server did not give the rest when it was asked again"));
                    }
                    resumes += 1;
                    sleep(RESUME_WAIT).await;
                    match self.resume(&client, received, length).await {
                        Rest::Given(rest) => body = rest.bytes_stream(),
                        Rest::NotNow => {}
                        Rest::Never => return Err(early("the server gives no parts of a file")),
                    }
                    continue;
                }
            };
            received += chunk.len() as u64;
            resumes = 0;
            let chunk = match head.take() {
                None => chunk,
                Some(mut begun) => {
                    begun.extend_from_slice(&chunk);
                    match looks(&begun) {
                        Looks::MpegTs if self.reader == Reader::Ffmpeg => {
                            return Err(self.for_ffmpeg("", length.is_some(), None));
                        }
                        Looks::MpegTs => begun.freeze(),
                        // Playlists are read whole.
                        Looks::Other if is_page(&begun) => return Err(self.failed(PAGE)),
                        Looks::Other if is_text(&begun) && begun.len() < playlist::MAX_LEN => {
                            head = Some(begun);
                            continue;
                        }
                        Looks::Other => {
                            // A text of any length may be a list of what goes on.
                            let finite = length.is_some() && !is_text(&begun);
                            return Err(self.for_ffmpeg("is not MPEG-TS", finite, None));
                        }
                        Looks::Short => {
                            head = Some(begun);
                            continue;
                        }
                    }
                }
            };
            if out.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        match head {
            Some(begun) => Err(self.short(&client, &begun, length.is_some(), &base).await),
            None if length.is_some() => Ok(()),
            None => Err(self.failed("ended")),
        }
    }

    /// Whether a circle of redirects is one of a portal that waits for its cookie, which ffmpeg brings back.
    async fn wants_cookie(&self, error: &reqwest::Error) -> bool {
        if !matches!(redirects::refused(error), Some(Refused::TooMany { one_host: true })) {
            return false;
        }
        let client = self.client().redirect(reqwest::redirect::Policy::none()).build();
        let Ok(client) = client else { return false };
        let asked = timeout(CONNECT_TIMEOUT, client.get(&self.url).send()).await;
        asked.is_ok_and(|answer| answer.is_ok_and(|answer| answer.headers().contains_key(SET_COOKIE)))
    }

    /// Why there is no answer at all.
    fn no_answer(&self, error: &reqwest::Error) -> InputError {
        let reason = cause(error);
        if error.is_connect() {
            let certificate = reason.contains("certificate") || reason.contains("Certificate");
            return match certificate {
                true => InputError::Certificate { input: self.name(), reason },
                false if reason.contains(NO_TLS) => {
                    self.failed("does not speak HTTPS on this port: write http:// in place of https://")
                }
                false => self.failed(format!("cannot be reached ({reason})")),
            };
        }
        if let Some(refused) = redirects::refused(error) {
            return self.failed(refused.to_string());
        }
        // An answer that is no HTTP, or leads somewhere that is none.
        self.for_ffmpeg(format!("gives no answer in HTTP ({})", mask(&reason)), false, None)
    }

    fn judge(&self, answer: &Response) -> Result<(), InputError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        if status == StatusCode::UNAUTHORIZED {
            let schemes = answer.headers().get_all(WWW_AUTHENTICATE).iter();
            let schemes: Vec<_> = schemes.filter_map(|scheme| scheme.to_str().ok()).collect();
            let other = schemes.iter().any(|scheme| !scheme.to_ascii_lowercase().starts_with("basic"));
            let with_name = self.url.split_once("://").is_some_and(|(_, rest)| {
                rest.split(['/', '?', '#']).next().is_some_and(|host| host.contains('@'))
            });
            if other && with_name {
                let scheme =
                    schemes.iter().find_map(|scheme| scheme.split(' ').next()).unwrap_or("another way");
                return Err(self.for_ffmpeg(format!("asks for the password by {scheme}"), false, None));
            }
            let bearer = |scheme: &&str| scheme.to_ascii_lowercase().starts_with("bearer");
            if schemes.iter().any(bearer) {
                return Err(self.failed(
                    "asks for a token: give it with --ffmpeg-args and ffmpeg's option -headers, as \
                     \"-headers 'Authorization: Bearer …'\"",
                ));
            }
            return Err(self.failed(match with_name {
                true => "does not accept the name and password in the address",
                false => "asks for a name and password: put NAME:PASSWORD@ before the host",
            }));
        }
        if is_missing(status) {
            return Err(self.failed(format!("answers {status}")));
        }
        Err(self.for_ffmpeg(format!("answers {status}"), false, None))
    }

    /// Asks for the rest of a file of `length` bytes that broke off after `received`.
    async fn resume(&self, client: &Client, received: u64, length: u64) -> Rest {
        let asked = client.get(&self.url).header(RANGE, format!("bytes={received}-")).send();
        let Ok(Ok(answer)) = timeout(CONNECT_TIMEOUT, asked).await else { return Rest::NotNow };
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                // Of the same file, from the byte that is wanted.
                let range = answer.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
                let total = [format!("/{length}"), "/*".to_owned()];
                let goes_on = range.is_some_and(|range| {
                    range.starts_with(&format!("bytes {received}-"))
                        && total.iter().any(|end| range.ends_with(end))
                });
                if goes_on { Rest::Given(answer) } else { Rest::Never }
            }
            status if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE => Rest::Never,
            _ => Rest::NotNow,
        }
    }

    /// A file that broke off and cannot go on.
    fn early(&self, received: u64, length: u64, reason: &str) -> InputError {
        let mega = |bytes: u64| bytes as f64 / 1e6;
        let came = format!("{:.1} MB of {:.1} MB", mega(received), mega(length));
        InputError::Early { input: self.name(), came, reason: mask(reason) }
    }

    /// What ended before it could be MPEG-TS: a playlist, or something for ffmpeg.
    async fn short(&self, client: &Client, body: &[u8], finite: bool, base: &url::Url) -> InputError {
        if body.is_empty() {
            return self.failed("gives an empty answer");
        }
        if is_page(body) {
            return self.failed(PAGE);
        }
        let text = std::str::from_utf8(body).ok();
        if let Some(manifest) = text.and_then(Manifest::read) {
            return self.manifest(manifest);
        }
        match text.and_then(|text| playlist::read(text, base)) {
            Some(Playlist::Entries(entries)) => InputError::Elsewhere {
                input: self.name(),
                to: entries,
            },
            Some(Playlist::Master(variants)) => self.best(client, variants).await,
            Some(Playlist::Hls) if body.starts_with(BYTE_ORDER_MARK) => self.failed(
                "is an HLS playlist that begins with a byte order mark, which ffmpeg does not read: have the server \
                 write it without (\"UTF-8\", not \"UTF-8 with BOM\")",
            ),
            Some(Playlist::Hls) if text.is_some_and(playlist::has_drm) => self.failed(
                "is an HLS playlist whose media is locked by DRM (SAMPLE-AES, or keys that a licence server gives): ask \
                 for the stream without it",
            ),
            Some(Playlist::Hls) => {
                let media = text.and_then(|text| Media::read(text, base));
                self.listed("is an HLS playlist".to_owned(), media, Listed::default())
            }
            None => self.for_ffmpeg("is not MPEG-TS", finite, None),
        }
    }

    /// What ffmpeg is to read of a playlist, if there is anything that was not on air.
    fn listed(&self, why: String, media: Option<Media>, mut listed: Listed) -> InputError {
        if let Some(media) = media {
            let news = self.aired.judge(&media);
            if matches!(news, News::Nothing | News::Over) {
                let (over, aired) = (news == News::Over, Box::new(Aired::all_of(&media)));
                return InputError::NothingNew { input: self.name(), over, stands: true, aired };
            }
            (listed.newest, listed.start) = (media.newest(), news.start());
        }
        self.for_ffmpeg(why, false, Some(listed))
    }

    /// What is to be done with a DASH manifest: nothing while it names what it did after the last connection.
    fn manifest(&self, manifest: Manifest) -> InputError {
        let mut skip = Duration::ZERO;
        if let Some(aired) = self.aired.manifest().filter(|_| manifest.names_segments()) {
            // How far the last connection came is not known. The first look after it takes what is named for aired.
            let stands = manifest.names_the_same(aired);
            if stands || !aired.names_segments() {
                let (over, aired) = (!manifest.live, Box::new(Aired::all_of_manifest(manifest)));
                return InputError::NothingNew { input: self.name(), over, stands, aired };
            }
            skip = manifest.repeats(aired);
        }
        self.for_ffmpeg(
            "is a DASH manifest",
            false,
            Some(Listed { manifest: true, skip, ..Listed::default() }),
        )
    }

    /// The best of the variants that can be had.
    async fn best(&self, client: &Client, variants: Vec<Variant>) -> InputError {
        let (mut listed, mut why_not) = (Listed::default(), String::new());
        for variant in variants {
            let media = match self.media(client, &variant.address).await {
                Ok(media) => media,
                Err(reason) => {
                    why_not = format!(
                        "the variant of {} kbit/s, {}, {}",
                        variant.rate / 1000,
                        mask(variant.address.as_str()),
                        mask(&reason)
                    );
                    listed.warnings.push(format!("of {} {why_not}: the next best is tried", self.name()));
                    continue;
                }
            };
            let text = base64::engine::general_purpose::STANDARD.encode(&variant.text);
            listed.playlist = Some(format!("data:application/vnd.apple.mpegurl;base64,{text}"));
            let more = if variant.subtitles { ", without its subtitles, which are text" } else { "" };
            let best = if listed.warnings.is_empty() { "the best" } else { "the best that can be had" };
            return self.listed(format!("is a playlist of variants: {best} is taken{more}"), media, listed);
        }
        self.failed(format!("is a playlist of variants, none of which can be had: {why_not}"))
    }

    /// A variant's media playlist; `None` where ffmpeg may be given one that we are not.
    ///
    /// # Errors
    /// Why nobody is given one, as the rest of a sentence.
    async fn media(&self, client: &Client, address: &url::Url) -> Result<Option<Media>, String> {
        let asked = async {
            let answer = client.get(address.clone()).send().await?;
            let (status, base) = (answer.status(), answer.url().clone());
            let mut body = answer.bytes_stream();
            let mut text = Vec::new();
            while let Some(chunk) = body.next().await {
                text.extend_from_slice(&chunk?);
                if text.len() > playlist::MAX_LEN {
                    break;
                }
            }
            Ok::<_, reqwest::Error>((status, base, text))
        };
        let (status, base, text) = timeout(CONNECT_TIMEOUT, asked)
            .await
            .map_err(|_| "does not answer".to_owned())?
            .map_err(|error| format!("cannot be had ({})", cause(&error)))?;
        if is_missing(status) {
            return Err(format!("answers {status}"));
        }
        if !status.is_success() || text.len() > playlist::MAX_LEN {
            return Ok(None);
        }
        let text = std::str::from_utf8(&text).unwrap_or_default();
        if playlist::has_drm(text) {
            return Err("is locked by DRM, which only a licence opens".to_owned());
        }
        match Media::read(text, &base) {
            None if !text.contains("#EXTM3U") => Err("is no playlist".to_owned()),
            media => Ok(media),
        }
    }
}

/// What is not there is not there for ffmpeg either.
fn is_missing(status: StatusCode) -> bool {
    let final_word = [StatusCode::NOT_FOUND, StatusCode::GONE, StatusCode::TOO_MANY_REQUESTS];
    status.is_server_error() || final_word.contains(&status)
}

/// Whether this is the beginning of a web page.
fn is_page(head: &[u8]) -> bool {
    let head = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head).trim_ascii_start();
    let begins = |tag: &[u8]| head.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag));
    begins(b"<!doctype html") || begins(b"<html")
}

/// Whether this is the beginning of a text. Playlists say so at once.
fn is_text(head: &[u8]) -> bool {
    let head = &head[..head.len().min(512)];
    match std::str::from_utf8(head) {
        Ok(text) => !text.contains('\0'),
        // It ends within a letter.
        Err(error) => error.error_len().is_none() && !head.contains(&0),
    }
}
