//! What an encoder and we say to each other until it is on air, and the FLV that its media is from then on (Adobe's RTMP
//! specification 1.0, 5.2 and 7.2; FLV specification 10.1, annex E). Pure: bytes come in, bytes and [`Said`] come out.

use sha1::{Digest as _, Sha1};

use super::{
    amf::{self, Value},
    chunk::{Broken, MAX_MESSAGE, Message, Reader, SET_CHUNK_SIZE, write},
};

/// C1, C2, S1 and S2 are so long.
const HANDSHAKE: usize = 1536;
/// We want to hear of so many bytes of ours; and tell the other side as often as it asks.
const WINDOW: u32 = 2_500_000;
/// More than one whole message, with the chunk headers in it, does not wait.
const MAX_WAITING: usize = MAX_MESSAGE + (1 << 20);

const ACK: u8 = 3;
const CONTROL: u8 = 4;
const WINDOW_SIZE: u8 = 5;
const BANDWIDTH: u8 = 6;
const AUDIO: u8 = 8;
const VIDEO: u8 = 9;
const COMMAND_3: u8 = 17;
const DATA: u8 = 18;
const COMMAND: u8 = 20;

/// The application and stream name that an encoder must give.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamKey(String);

impl std::fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StreamKey(***)")
    }
}

impl StreamKey {
    /// What follows the port in the address, as in `live/key`.
    pub fn new(path: &str) -> Self {
        Self(path.trim_matches('/').to_owned())
    }

    /// Whether there is a key after the application's name. Without, any key is right.
    pub fn is_secret(&self) -> bool {
        self.0.contains('/')
    }

    /// Whether an encoder names another application. That is no secret.
    fn is_elsewhere(&self, app: &str, name: &str) -> bool {
        let given = [app, name].map(|part| part.trim_matches('/')).into_iter().find(|part| !part.is_empty());
        given.and_then(|given| given.split('/').next()) != self.0.split('/').next()
    }

    /// Whether an encoder gave the right one. How long this takes says nothing about where a wrong one differs.
    fn is_given(&self, app: &str, name: &str) -> bool {
        let (app, name) = (app.trim_matches('/'), name.trim_matches('/'));
        // Some encoders add words of their own, as in `key?user=x`; a key with such words may be meant, too.
        let name = if self.0.contains('?') { name } else { name.split('?').next().unwrap_or_default() };
        let given = match (self.is_secret(), app.is_empty(), name.is_empty()) {
            (false, ..) | (_, _, true) => app.to_owned(),
            (_, true, _) => name.to_owned(),
            _ => format!("{app}/{name}"),
        };
        let [ours, theirs] = [self.0.as_str(), &given].map(Sha1::digest);
        ours.iter().zip(&theirs).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

/// What has happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The encoder gave the right key: media follows.
    OnAir,
    /// It gave another.
    WrongKey,
    /// It named another application.
    WrongApplication,
    /// So much of an FLV file.
    Flv(Vec<u8>),
    /// It has ended its stream.
    Over,
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    key: StreamKey,
    stage: Stage,
    input: Vec<u8>,
    reader: Reader,
    app: String,
    /// The FLV header has been written.
    begun: bool,
    received: u32,
    acknowledged: u32,
    window: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Hello,
    Echo,
    Commands,
    OnAir,
    Closed,
}

impl Session {
    /// A connection on which nothing has come yet.
    pub fn new(key: StreamKey) -> Self {
        Self {
            key,
            stage: Stage::Hello,
            input: Vec::new(),
            reader: Reader::default(),
            app: String::new(),
            begun: false,
            received: 0,
            acknowledged: 0,
            window: WINDOW,
        }
    }

    /// Takes what has come; what is to be sent is added to `out`.
    ///
    /// # Errors
    /// [`Broken`] when it is not RTMP.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Vec<Said>, Broken> {
        self.input.extend_from_slice(bytes);
        self.received = self.received.wrapping_add(bytes.len() as u32);
        let mut said = Vec::new();
        let mut at = 0;
        while self.stage != Stage::Closed
            && let Some(len) = self.step(at, out, &mut said)?
        {
            at += len;
        }
        self.input.drain(..at);
        if self.input.len() > MAX_WAITING {
            return Err(Broken);
        }
        if self.stage == Stage::OnAir && self.received.wrapping_sub(self.acknowledged) >= self.window {
            self.acknowledged = self.received;
            write(2, ACK, 0, &self.received.to_be_bytes(), out);
        }
        Ok(said)
    }

    /// Takes a part from `at` on and returns its length; `None`: more must come.
    fn step(&mut self, at: usize, out: &mut Vec<u8>, said: &mut Vec<Said>) -> Result<Option<usize>, Broken> {
        let input = &self.input[at..];
        match self.stage {
            Stage::Hello => {
                if input.first().is_some_and(|version| *version != 3) {
                    return Err(Broken);
                }
                let Some(hello) = input.get(1..=HANDSHAKE) else { return Ok(None) };
                // The simple handshake: S1 without a digest, S2 the same as C1.
                out.push(3);
                out.extend([0; HANDSHAKE]);
                out.extend_from_slice(hello);
                self.stage = Stage::Echo;
                Ok(Some(1 + HANDSHAKE))
            }
            Stage::Echo if input.len() < HANDSHAKE => Ok(None),
            Stage::Echo => {
                self.stage = Stage::Commands;
                Ok(Some(HANDSHAKE))
            }
            Stage::Commands | Stage::OnAir => {
                let Some((len, message)) = self.reader.chunk(input)? else { return Ok(None) };
                if let Some(message) = message {
                    self.message(message, out, said);
                }
                Ok(Some(len))
            }
            Stage::Closed => Ok(None),
        }
    }

    fn message(&mut self, message: Message, out: &mut Vec<u8>, said: &mut Vec<Said>) {
        match message.kind {
            COMMAND => self.command(&amf::read(&message.body), out, said),
            COMMAND_3 => self.command(&amf::read(message.body.get(1..).unwrap_or_default()), out, said),
            WINDOW_SIZE => {
                if let Some(size) = message.body.first_chunk() {
                    self.window = u32::from_be_bytes(*size).max(1 << 16);
                }
            }
            AUDIO | VIDEO | DATA if self.stage == Stage::OnAir => said.push(Said::Flv(self.tag(&message))),
            _ => {}
        }
    }

    fn command(&mut self, values: &[Value], out: &mut Vec<u8>, said: &mut Vec<Said>) {
        let name = values.first().and_then(Value::text).unwrap_or_default();
        let number = match values.get(1) {
            Some(Value::Number(number)) => *number,
            _ => 0.0,
        };
        match name {
            "connect" => {
                let app = values.get(2).and_then(|about| about.get("app")).and_then(Value::text);
                self.app = app.unwrap_or_default().to_owned();
                write(2, WINDOW_SIZE, 0, &WINDOW.to_be_bytes(), out);
                write(2, BANDWIDTH, 0, &[&WINDOW.to_be_bytes()[..], &[2]].concat(), out);
                write(2, SET_CHUNK_SIZE, 0, &128u32.to_be_bytes(), out);
                let mut body = Vec::new();
                amf::write_text("_result", &mut body);
                amf::write_number(number, &mut body);
                amf::write_object(&[("fmsVer", "FMS/3,0,1,123")], &mut body);
                status(&mut body, "status", "NetConnection.Connect.Success", "welcome");
                write(3, COMMAND, 0, &body, out);
            }
            "publish" if self.stage == Stage::Commands => {
                let name = values.get(3).and_then(Value::text).unwrap_or_default();
                let right = self.key.is_given(&self.app, name);
                let (level, code, text) = match right {
                    true => ("status", "NetStream.Publish.Start", "on air"),
                    false => (
                        "error",
                        "NetStream.Publish.BadName",
                        "the application or the stream key is not the channel's",
                    ),
                };
                let mut body = Vec::new();
                amf::write_text("onStatus", &mut body);
                amf::write_number(0.0, &mut body);
                amf::write_null(&mut body);
                status(&mut body, level, code, text);
                if right {
                    // The stream begins.
                    write(2, CONTROL, 0, &[0, 0, 0, 0, 0, 1], out);
                    self.reader.allow_media();
                }
                write(3, COMMAND, 1, &body, out);
                self.stage = if right { Stage::OnAir } else { Stage::Closed };
                said.push(match right {
                    true => Said::OnAir,
                    false if self.key.is_elsewhere(&self.app, name) => Said::WrongApplication,
                    false => Said::WrongKey,
                });
            }
            "FCUnpublish" | "deleteStream" | "closeStream" if self.stage == Stage::OnAir => {
                self.stage = Stage::Closed;
                said.push(Said::Over);
            }
            // Everything else that wants an answer gets one that is good for it; of a new stream the number.
            _ if number > 0.0 => {
                let mut body = Vec::new();
                amf::write_text("_result", &mut body);
                amf::write_number(number, &mut body);
                amf::write_null(&mut body);
                match name {
                    "createStream" => amf::write_number(1.0, &mut body),
                    _ => amf::write_null(&mut body),
                }
                write(3, COMMAND, 0, &body, out);
            }
            _ => {}
        }
    }

    /// The message as a tag of an FLV file; the first comes with the file's header.
    fn tag(&mut self, message: &Message) -> Vec<u8> {
        let mut body = message.body.as_slice();
        let mut out = Vec::with_capacity(body.len() + 32);
        if message.kind == DATA {
            // `@setDataFrame` is said to the server; the file has what follows.
            const SET: &[u8] = b"\x02\x00\x0d@setDataFrame";
            body = body.strip_prefix(SET).unwrap_or(body);
        }
        if !std::mem::replace(&mut self.begun, true) {
            // ffmpeg waits for both pictures and sound if both are announced.
            let has = |name: &[u8]| body.windows(name.len()).any(|window| window == name);
            let told = message.kind == DATA;
            let video = !told || has(b"videocodecid") || has(b"width");
            let audio = !told || has(b"audiocodecid") || has(b"audiosamplerate");
            let flags = if video || audio { u8::from(audio) << 2 | u8::from(video) } else { 5 };
            out.extend([b'F', b'L', b'V', 1, flags, 0, 0, 0, 9, 0, 0, 0, 0]);
        }
        let len = (body.len() as u32).to_be_bytes();
        let [high, time @ ..] = message.timestamp.to_be_bytes();
        out.push(message.kind);
        out.extend_from_slice(&len[1..]);
        out.extend(time);
        out.extend([high, 0, 0, 0]);
        out.extend_from_slice(body);
        out.extend((body.len() as u32 + 11).to_be_bytes());
        out
    }
}

fn status(body: &mut Vec<u8>, level: &str, code: &str, text: &str) {
    amf::write_object(&[("level", level), ("code", code), ("description", text)], body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(session: &mut Session, app: &str, name: &str) -> (Vec<Said>, Vec<u8>) {
        let mut bytes = vec![3];
        bytes.extend([1; HANDSHAKE]);
        bytes.extend([2; HANDSHAKE]);
        let mut body = Vec::new();
        amf::write_text("connect", &mut body);
        amf::write_number(1.0, &mut body);
        amf::write_object(&[("app", app)], &mut body);
        write(3, COMMAND, 0, &body, &mut bytes);
        body.clear();
        amf::write_text("publish", &mut body);
        amf::write_number(2.0, &mut body);
        amf::write_null(&mut body);
        amf::write_text(name, &mut body);
        amf::write_text("live", &mut body);
        write(3, COMMAND, 1, &body, &mut bytes);
        // Media that comes along at once.
        write(4, VIDEO, 1, &[0x17, 0, 0, 0, 0], &mut bytes);
        let (mut said, mut out) = (Vec::new(), Vec::new());
        // However it was divided on the way.
        for part in bytes.chunks(997) {
            said.extend(session.push(part, &mut out).unwrap());
        }
        (said, out)
    }

    #[test]
    fn the_right_key_is_on_air() {
        let mut session = Session::new(StreamKey::new("/live/key"));
        let (said, out) = publish(&mut session, "live", "key");
        let [Said::OnAir, Said::Flv(flv)] = &said[..] else { panic!("{said:?}") };
        assert_eq!(flv[..13], *b"FLV\x01\x05\0\0\0\x09\0\0\0\0");
        assert_eq!(flv[13..], [9, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0x17, 0, 0, 0, 0, 0, 0, 0, 16]);
        assert_eq!(out[1 + HANDSHAKE..][..HANDSHAKE], [1; HANDSHAKE], "C1 comes back");
        assert!(out.windows(23).any(|window| window == b"NetStream.Publish.Start"));
    }

    #[test]
    fn another_key_is_not() {
        for (app, name) in [("live", "other"), ("other", "key"), ("live", ""), ("", "key"), ("live/key", "x")]
        {
            let (said, out) = publish(&mut Session::new(StreamKey::new("live/key")), app, name);
            let elsewhere = app == "other" || app.is_empty();
            let expected = if elsewhere { Said::WrongApplication } else { Said::WrongKey };
            assert_eq!(said, [expected], "{app} {name}");
            assert!(out.windows(25).any(|window| window == b"NetStream.Publish.BadName"));
        }
    }

    #[test]
    fn encoders_divide_the_path_as_they_like() {
        for (app, name) in [
            ("live/", "key"),
            ("live/key", ""),
            ("", "live/key"),
            ("/live", "/key"),
            ("live", "key?user=x&n=1"),
        ] {
            let (said, _) = publish(&mut Session::new(StreamKey::new("live/key")), app, name);
            assert_eq!(said[0], Said::OnAir, "{app} {name}");
        }
        let (said, _) = publish(&mut Session::new(StreamKey::new("live")), "live", "anything");
        assert_eq!(said[0], Said::OnAir, "no key is asked for");
    }

    #[test]
    fn what_is_no_rtmp_is_refused() {
        let mut session = Session::new(StreamKey::new("live/key"));
        assert_eq!(session.push(b"GET / HTTP/1.1\r\n\r\n", &mut Vec::new()), Err(Broken));
    }
}
