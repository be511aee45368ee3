//! RTMP's chunk stream: messages cut into chunks, several at a time (Adobe's RTMP specification 1.0, 5.3). Pure.

use std::collections::HashMap;

/// Messages that are under way at the same time; encoders use four or so.
const MAX_STREAMS: usize = 32;
/// The greatest message of an encoder whose key was right: a key frame at 100 Mbit/s has 2 MB.
pub const MAX_MESSAGE: usize = 8 << 20;
/// The greatest before that: only commands come then.
pub const MAX_COMMAND: usize = 16 << 10;
/// Chunks are this long until a sender says otherwise.
const DEFAULT_CHUNK: usize = 128;

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub kind: u8,
    /// Milliseconds; wraps.
    pub timestamp: u32,
    /// What it carries.
    pub body: Vec<u8>,
}

/// The bytes are no RTMP, or too much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// Puts messages together.
#[derive(Debug)]
pub struct Reader {
    chunk: usize,
    limit: usize,
    streams: HashMap<u32, Stream>,
    /// Bytes of messages under way.
    held: usize,
}

#[derive(Debug, Default)]
struct Stream {
    timestamp: u32,
    delta: u32,
    length: usize,
    kind: u8,
    /// The time was in an extended field.
    extended: bool,
    body: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { chunk: DEFAULT_CHUNK, limit: MAX_COMMAND, streams: HashMap::new(), held: 0 }
    }
}

impl Reader {
    /// Messages may be as long as media is.
    pub fn allow_media(&mut self) {
        self.limit = MAX_MESSAGE;
    }

    /// Takes the chunk at the beginning of `bytes`: how long it is, and the message that it completes. `None`: it has not
    /// come whole.
    pub fn chunk(&mut self, bytes: &[u8]) -> Result<Option<(usize, Option<Message>)>, Broken> {
        let mut input = Input { bytes, at: 0 };
        let Some(step) = self.header(&mut input) else { return Ok(None) };
        let Header { id, format, time, length, kind, extended } = step;
        let known = self.streams.contains_key(&id);
        if format != 0 && !known || !known && self.streams.len() >= MAX_STREAMS {
            return Err(Broken);
        }
        let limit = self.limit;
        let stream = self.streams.entry(id).or_default();
        let begun = !stream.body.is_empty();
        let length = length.unwrap_or(stream.length);
        if length > limit || begun && format != 3 {
            return Err(Broken);
        }
        let missing = length - stream.body.len().min(length);
        let Some(payload) = input.take(missing.min(self.chunk)) else { return Ok(None) };
        // Nothing was changed before the chunk was known to be whole.
        if !begun {
            stream.length = length;
            stream.kind = kind.unwrap_or(stream.kind);
            match (format, time) {
                (0, Some(time)) => (stream.timestamp, stream.delta) = (time, 0),
                (_, Some(delta)) => {
                    stream.delta = delta;
                    stream.timestamp = stream.timestamp.wrapping_add(delta);
                }
                (_, None) => stream.timestamp = stream.timestamp.wrapping_add(stream.delta),
            }
            if format != 3 {
                stream.extended = extended;
            }
        }
        stream.body.extend_from_slice(payload);
        self.held += payload.len();
        if self.held > limit.saturating_mul(2) {
            return Err(Broken);
        }
        if stream.body.len() < stream.length {
            return Ok(Some((input.at, None)));
        }
        let body = std::mem::take(&mut stream.body);
        self.held -= body.len();
        let message = Message { kind: stream.kind, timestamp: stream.timestamp, body };
        self.control(&message)?;
        Ok(Some((input.at, Some(message))))
    }

    fn header(&self, input: &mut Input<'_>) -> Option<Header> {
        let first = *input.take(1)?.first()?;
        let id = match first & 0x3f {
            0 => 64 + u32::from(*input.take(1)?.first()?),
            1 => 64 + input.little(2)?,
            id => id.into(),
        };
        let format = first >> 6;
        let mut header = Header { id, format, time: None, length: None, kind: None, extended: false };
        if format < 3 {
            header.time = Some(input.big(3)?);
        }
        if format < 2 {
            header.length = Some(input.big(3)? as usize);
            header.kind = Some(*input.take(1)?.first()?);
        }
        if format == 0 {
            // The message stream: there is one.
            input.take(4)?;
        }
        if format < 3 {
            if header.time == Some(0x00ff_ffff) {
                header.time = Some(input.big(4)?);
                header.extended = true;
            }
        } else if self.streams.get(&id).is_some_and(|stream| stream.extended) {
            // Repeated in each chunk.
            input.take(4)?;
        }
        Some(header)
    }

    /// What messages say of the chunks themselves.
    fn control(&mut self, message: &Message) -> Result<(), Broken> {
        let number = || message.body.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        match message.kind {
            SET_CHUNK_SIZE => {
                let size = number().ok_or(Broken)?;
                if !(1..=0x00ff_ffff).contains(&size) {
                    return Err(Broken);
                }
                self.chunk = size as usize;
            }
            ABORT => {
                if let Some(stream) = self.streams.get_mut(&number().ok_or(Broken)?) {
                    self.held -= stream.body.len();
                    stream.body.clear();
                }
            }
            _ => {}
        }
        Ok(())
    }
}

struct Header {
    id: u32,
    format: u8,
    time: Option<u32>,
    length: Option<usize>,
    kind: Option<u8>,
    extended: bool,
}

/// A message of this type sets the length of chunks.
pub const SET_CHUNK_SIZE: u8 = 1;
const ABORT: u8 = 2;

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..)?.get(..len)?;
        self.at += len;
        Some(taken)
    }

    fn big(&mut self, len: usize) -> Option<u32> {
        Some(self.take(len)?.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn little(&mut self, len: usize) -> Option<u32> {
        Some(self.take(len)?.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }
}

/// A short message as one chunk, or as many as it needs.
pub fn write(id: u8, kind: u8, stream: u32, body: &[u8], out: &mut Vec<u8>) {
    out.extend([id, 0, 0, 0]);
    out.extend((body.len() as u32).to_be_bytes().into_iter().skip(1));
    out.push(kind);
    out.extend(stream.to_le_bytes());
    for (index, chunk) in body.chunks(DEFAULT_CHUNK).enumerate() {
        if index > 0 {
            out.push(0xc0 | id);
        }
        out.extend_from_slice(chunk);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(reader: &mut Reader, mut bytes: &[u8]) -> Result<Vec<Message>, Broken> {
        let mut messages = Vec::new();
        while let Some((len, message)) = reader.chunk(bytes)? {
            bytes = &bytes[len..];
            messages.extend(message);
        }
        Ok(messages)
    }

    #[test]
    fn messages_are_put_together() {
        let mut bytes = Vec::new();
        let long: Vec<u8> = (0..300u16).map(|n| n as u8).collect();
        write(3, 20, 0, &long, &mut bytes);
        write(2, SET_CHUNK_SIZE, 0, &4096u32.to_be_bytes(), &mut bytes);
        // Media on chunk stream 4: time 40, then a delta of 40 twice.
        bytes.extend([4, 0, 0, 40, 0, 0, 2, 9, 1, 0, 0, 0, 0xaa, 0xbb]);
        bytes.extend([0x80 | 4, 0, 0, 40, 0xcc, 0xdd, 0xc0 | 4, 0xee, 0xff]);
        let messages = read(&mut Reader::default(), &bytes).unwrap();
        let media: Vec<_> = messages.iter().filter(|message| message.kind == 9).collect();
        assert_eq!(messages[0].body, long);
        let times: Vec<u32> = media.iter().map(|message| message.timestamp).collect();
        assert_eq!((times, media[2].body.as_slice()), (vec![40, 80, 120], &[0xee, 0xff][..]));
    }

    #[test]
    fn an_extended_time_stands_in_each_chunk() {
        let mut bytes = vec![4, 0xff, 0xff, 0xff, 0, 0, 130, 9, 1, 0, 0, 0, 1, 0, 0, 0];
        bytes.extend([7; 128]);
        bytes.extend([0xc4, 1, 0, 0, 0, 8, 8]);
        let [message] = &read(&mut Reader::default(), &bytes).unwrap()[..] else { panic!("one") };
        assert_eq!((message.timestamp, message.body.len()), (1 << 24, 130));
    }

    #[test]
    fn what_is_too_long_or_no_rtmp_is_refused() {
        let huge = [4, 0, 0, 0, 0x20, 0, 0, 9, 1, 0, 0, 0];
        assert_eq!(read(&mut Reader::default(), &huge), Err(Broken));
        let mut bytes = Vec::new();
        write(2, SET_CHUNK_SIZE, 0, &0u32.to_be_bytes(), &mut bytes);
        assert_eq!(read(&mut Reader::default(), &bytes), Err(Broken));
        assert_eq!(read(&mut Reader::default(), &[0xc7, 1, 2]), Err(Broken), "goes on with nothing");
    }

    proptest! {
        #[test]
        fn whatever_comes_costs_a_bounded_amount(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut reader = Reader::default();
            let _ = read(&mut reader, &bytes);
            prop_assert!(reader.held <= 2 * MAX_COMMAND && reader.streams.len() <= MAX_STREAMS);
        }
    }
}
