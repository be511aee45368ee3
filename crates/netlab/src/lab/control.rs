//! Talking to a running lab: one line in, the answer out, over a Unix socket in the lab's folder.
//! `set TARGET key=value …` answers `ok`; `show` answers the figures as JSON; else `error: ` and a sentence.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream as AsyncStream},
    time::timeout,
};

use super::{Lab, LabError, identity::LabId};
use crate::plan::setting::MAX_TEXT;

/// Longest request in bytes: a change and the word before it.
const MAX_REQUEST: u64 = MAX_TEXT as u64 + 8;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(2);

/// The lab's side.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
}

impl Control {
    /// Opens the lab's socket.
    pub fn open(lab: &Lab) -> Result<Self, LabError> {
        let path = lab.id().control_socket();
        let listener = UnixListener::bind(&path);
        Ok(Self { listener: listener.map_err(LabError::system(format!("open {}", path.display())))? })
    }

    /// Answers requests, one after the other, until dropped.
    pub async fn serve(&self, lab: &Lab) {
        loop {
            match self.listener.accept().await {
                // One that is slow or goes away has only itself to blame.
                Ok((stream, _)) => drop(timeout(PATIENCE, answer(stream, lab)).await),
                // Out of file descriptors; waiting lets some be closed.
                Err(_) => tokio::time::sleep(PATIENCE).await,
            }
        }
    }
}

async fn answer(mut stream: AsyncStream, lab: &Lab) -> std::io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut request = String::new();
    BufReader::new(reader.take(MAX_REQUEST)).read_line(&mut request).await?;
    let reply = respond(&request, lab).unwrap_or_else(|error| format!("error: {error}"));
    writer.write_all(format!("{reply}\n").as_bytes()).await?;
    writer.shutdown().await
}

fn respond(request: &str, lab: &Lab) -> Result<String, LabError> {
    match request.trim_end().split_once(' ').unwrap_or((request.trim_end(), "")) {
        ("set", change) => lab.change(&change.parse()?).map(|()| "ok".to_owned()),
        ("show", "") => serde_json::to_string(&lab.figures())
            .map_err(|error| LabError::Refused(format!("the figures cannot be written: {error}"))),
        _ => Err(LabError::Refused("ask for `set TARGET key=value` or `show`".to_owned())),
    }
}

/// Sends a running lab a request, and returns its answer.
pub fn ask(id: &LabId, request: &str) -> Result<String, LabError> {
    let talk = || {
        let mut stream = UnixStream::connect(id.control_socket())?;
        stream.set_read_timeout(Some(PATIENCE * 2))?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    };
    let reply = talk().map_err(LabError::system(format!("reach lab {}", id.as_str())))?;
    match reply.trim_end().strip_prefix("error: ") {
        Some(error) => Err(LabError::Refused(error.to_owned())),
        None => Ok(reply.trim_end().to_owned()),
    }
}
