//! The HTTP client of everything that a node fetches and posts.
//!
//! Rules:
//! - It judges whom it contacts by who named the URL: an address in the URL before each request, a name after it was resolved.
//!   Each request counts, even on a connection that is kept. A request that is not answered by success is not free.
//! - A redirect stays on its host and port, or goes from http to https on its host; at most [`MAX_REDIRECTS`].
//! - It keeps method and body when the server asks for that (307, 308), and when a POST only goes over to https: servers that
//!   send everybody to https mostly do so with 301. Any other redirect of a POST is an error that names the new address. If
//!   it were followed, it would become a GET (RFC 9110, 15.4), and what was posted would be lost without a word.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use minuet_guard::contact::{Site, Teller, may_follow};
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{HeaderMap, LOCATION},
};

use super::{Contact, Contacts, resolver::Judging};
use crate::Error;

/// Redirects that are followed for one request.
pub const MAX_REDIRECTS: usize = 3;

/// An HTTP client for what one teller names. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
    teller: Teller,
    contacts: Contacts,
    /// Who answered last. Its connection may be used again, without a name being resolved.
    answered: Arc<Mutex<Option<IpAddr>>>,
}

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// GET without a body, POST with one.
    pub body: Option<Bytes>,
    /// Headers besides those of every request.
    pub headers: HeaderMap,
}

impl Request {
    /// A POST of `body`.
    pub fn post(body: Bytes) -> Self {
        Self { body: Some(body), headers: HeaderMap::new() }
    }
}

impl Http {
    /// A client for URLs that `teller` names. Connections must come about within `connect_timeout`.
    ///
    /// # Errors
    /// The system's certificates cannot be used.
    pub fn new(contacts: Contacts, teller: Teller, connect_timeout: Duration) -> reqwest::Result<Self> {
        let mut builder = Client::builder()
            .user_agent(concat!("minuet/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(Judging { contacts: contacts.clone(), teller }));
        if teller != Teller::User {
            // A proxy would resolve names, and contact addresses, that nobody has judged.
            builder = builder.no_proxy();
        }
        Ok(Self { client: builder.build()?, teller, contacts, answered: Arc::default() })
    }

    /// Sends a request and gives the answer's head, whatever its status, once no redirect is left to follow.
    ///
    /// # Errors
    /// No answer; an address that is not to be contacted; a redirect that is not followed.
    pub async fn send(&self, mut url: Url, request: Request) -> Result<Response, Error> {
        for _ in 0..=MAX_REDIRECTS {
            let contact = self.judge(&url)?;
            let method = if request.body.is_some() { Method::POST } else { Method::GET };
            let mut sending = self.client.request(method, url.clone()).headers(request.headers.clone());
            if let Some(body) = &request.body {
                sending = sending.body(body.clone());
            }
            let response = sending.send().await?;
            let from = response.remote_addr().map(|addr| addr.ip());
            *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = from;
            let status = response.status();
            let location = response.headers().get(LOCATION).filter(|_| is_redirect(status));
            let Some(location) = location else {
                if status.is_success() {
                    self.note_success(contact, from);
                }
                return Ok(response);
            };
            let to = std::str::from_utf8(location.as_bytes()).ok().and_then(|to| url.join(to).ok());
            let to = to.ok_or_else(|| Error::Garbage("a redirect to what is no URL".into()))?;
            let kept = request.body.is_none() || keeps_body(status, &url, &to);
            if !kept || !may_follow(site(&url).as_ref(), site(&to).as_ref()) {
                return Err(Error::Moved { status: status.as_u16(), to: shown(&to) });
            }
            url = to;
        }
        Err(Error::Garbage(format!("more than {MAX_REDIRECTS} redirects in a row")))
    }

    /// The address that answered last.
    pub fn answered(&self) -> Option<IpAddr> {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges a request to an address that is known already; a name that is not resolved yet is judged when it is.
    fn judge(&self, url: &Url) -> Result<Option<Contact>, Error> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Error::Unreachable(format!("{} is no way to ask for anything here", url.scheme())));
        }
        if self.teller == Teller::User {
            return Ok(None);
        }
        let target = literal(url).or_else(|| self.answered());
        let port = url.port_or_known_default().unwrap_or(0);
        let opened = target.map(|ip| self.contacts.try_open(SocketAddr::new(ip, port), self.teller));
        opened.transpose().map_err(Error::Denied)
    }

    fn note_success(&self, contact: Option<Contact>, from: Option<IpAddr>) {
        match (contact, from) {
            (Some(contact), _) => contact.succeeded(),
            (None, Some(from)) if self.teller != Teller::User => self.contacts.succeeded(from),
            (None, _) => {}
        }
    }
}

/// The address in a URL, where it is no name.
pub(crate) fn literal(url: &Url) -> Option<IpAddr> {
    // With the brackets that a URL has around an IPv6 address.
    let host = url.host_str()?;
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether a POST that is redirected stays one.
fn keeps_body(status: StatusCode, from: &Url, to: &Url) -> bool {
    let to_https = from.scheme() == "http" && to.scheme() == "https";
    matches!(status.as_u16(), 307 | 308) || to_https && status != StatusCode::SEE_OTHER
}

struct OwnedSite(String, String, u16);

impl OwnedSite {
    fn as_ref(&self) -> Site<'_> {
        Site { scheme: &self.0, host: &self.1, port: self.2 }
    }
}

/// Scheme and host come in lower case from the parser.
fn site(url: &Url) -> OwnedSite {
    let host = url.host_str().unwrap_or_default().to_owned();
    OwnedSite(url.scheme().to_owned(), host, url.port_or_known_default().unwrap_or(0))
}

/// A URL as it may be shown: without name and password, and not without end.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // A URL that cannot have them has none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.as_str().chars().take(200).collect()
}
