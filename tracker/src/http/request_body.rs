//! The body of a request, taken in as far as it may be.
//!
//! What strangers send is accounted to their household in bytes (`Front::bodies`), and of something long only the first
//! bytes are taken in until its signature has been checked there ([`Look`]).

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::{Response, StatusCode};
use minuet_guard::pool::Pool;

use super::body::Body;
use super::{BODY_TIMEOUT, text, try_later};

/// Bytes that are accounted at once.
const STEP: usize = 16 << 10;
/// The most bytes that are taken in before a look has said that more may come; a signed statement fits.
pub const UNCHECKED: usize = 8 << 10;

/// What a look at the first bytes says.
pub enum Look {
    /// There is too little to say.
    TooLittle,
    /// It may go on, up to so many bytes in all.
    GoOn(usize),
    /// It is refused: this is the answer, without the rest.
    Refuse(Box<Response<Body>>),
    /// The rest need not be kept: this is the answer once it has come.
    Answer(Box<Response<Body>>),
}

/// Reads a body of at most `limit` bytes; else the answer to give.
pub async fn read(bodies: &Pool, ip: IpAddr, body: Incoming, limit: usize) -> Result<Bytes, Response<Body>> {
    read_checked(bodies, ip, body, limit, |_| Look::GoOn(limit)).await
}

/// Reads a body of at most `limit` bytes, whose first bytes `look` checks. `look` is asked again whenever more has come,
/// until it says that the body may go on.
pub async fn read_checked(
    bodies: &Pool,
    ip: IpAddr,
    body: Incoming,
    limit: usize,
    look: impl FnMut(&[u8]) -> Look,
) -> Result<Bytes, Response<Body>> {
    match tokio::time::timeout(BODY_TIMEOUT, take_in(bodies, ip, body, limit, look)).await {
        Ok(taken) => taken,
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "the body came too slowly\n")),
    }
}

async fn take_in(
    bodies: &Pool,
    ip: IpAddr,
    mut body: Incoming,
    limit: usize,
    mut look: impl FnMut(&[u8]) -> Look,
) -> Result<Bytes, Response<Body>> {
    let too_long = |limit: usize| {
        text(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than the {limit} bytes allowed\n"))
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_long(limit));
    }
    let busy = || try_later("the tracker is taking in as much as it can; try again\n", 1);
    let mut account = bodies.take(ip, STEP as u64).map_err(|_| busy())?;
    let (mut taken, mut accounted) = (Vec::new(), STEP);
    let mut most = None;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = account.evicted() => return Err(busy()),
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| text(StatusCode::BAD_REQUEST, "the body ended early\n"))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = taken.len() + data.len();
        if length > most.unwrap_or(limit) {
            return Err(too_long(most.unwrap_or(limit)));
        }
        if length > accounted {
            let more = (length - accounted).next_multiple_of(STEP);
            account.grow(more as u64).map_err(|_| busy())?;
            accounted += more;
        }
        taken.extend_from_slice(&data);
        if most.is_none() {
            match look(&taken) {
                Look::TooLittle if taken.len() >= UNCHECKED => {
                    return Err(text(
                        StatusCode::BAD_REQUEST,
                        "the body does not begin with what is signed\n",
                    ));
                }
                Look::TooLittle => {}
                Look::GoOn(bytes) if taken.len() > bytes.min(limit) => {
                    return Err(too_long(bytes.min(limit)));
                }
                Look::GoOn(bytes) => most = Some(bytes.min(limit)),
                Look::Answer(answer) => {
                    drop((taken, account));
                    pass_over(body, limit - length).await;
                    return Err(*answer);
                }
                Look::Refuse(answer) => return Err(*answer),
            }
        }
    }
    Ok(taken.into())
}

/// Reads up to `most` bytes without keeping them: a client that is still sending may not listen for the answer.
async fn pass_over(mut body: Incoming, mut most: usize) {
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match most.checked_sub(length) {
            Some(left) => most = left,
            None => return,
        }
    }
}
