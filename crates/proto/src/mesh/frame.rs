//! Frames: messages as bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::codec::{self, DecodeError};
use super::head::{SIGNATURE_LEN, SignedHead};
use super::kept::{self, Kept};
use super::message::{
    Block, ByeReason, Extension, Hello, HelloFlags, MAX_ADDRESS_LEN, MAX_BITMAP_LEN, MAX_BLOCK_LEN,
    MAX_EXTENSION_LEN, MAX_EXTENSIONS, MAX_FRAME_LEN, MAX_HEAD_LEN, MAX_PEERS, MAX_PIECE_LEN, MAX_SERIALS,
    MAX_STATEMENT_LEN, MIN_BLOCK_LEN, Message, NodeId, PeerInfo, Request, SerialList, Window,
};
use super::serial::Serial;

/// A decoded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The message; `None` if its type is not known to this version, which is no error.
    pub message: Option<Message>,
    /// A block's payload, empty for all others.
    pub payload: Bytes,
    /// Bytes of type, fields and payload. All that comes in is charged for, also what is skipped.
    pub len: usize,
}

mod kind {
    pub const HELLO: u64 = 0;
    pub const BITFIELD: u64 = 1;
    pub const HAVE: u64 = 2;
    pub const DONT_HAVE: u64 = 3;
    pub const REQUEST: u64 = 4;
    pub const CANCEL: u64 = 5;
    pub const REJECT: u64 = 6;
    pub const BLOCK: u64 = 7;
    pub const HEAD: u64 = 8;
    pub const GET_HEADS: u64 = 9;
    pub const RECORD: u64 = 10;
    pub const PEERS: u64 = 11;
    pub const BYE: u64 = 12;
    pub const OFFER: u64 = 13;
    pub const STATE: u64 = 14;
}

impl Message {
    /// Bytes of the whole frame on the wire: length, header and payload.
    pub fn encoded_len(&self) -> usize {
        let body = self.body_len();
        codec::varint_len(body as u64).saturating_add(body)
    }

    /// Bytes of payload that follow the header: a block's length, 0 for all others.
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Block(block) => block.len as usize,
            Self::Kept(kept) => kept.payload_len(),
            _ => 0,
        }
    }

    /// Appends the frame, without a block's payload: the caller puts those `block.len` bytes after it.
    pub fn encode(&self, out: &mut BytesMut) {
        codec::put_varint(out, self.body_len() as u64);
        let put_kind = |out: &mut BytesMut, kind| codec::put_varint(out, kind);
        match self {
            Self::Hello(hello) => {
                put_kind(out, kind::HELLO);
                codec::put_varint(out, u64::from(hello.version));
                out.put_u8(hello.flags.to_byte());
                codec::put_varint(out, u64::from(hello.upload_kbps));
                for extension in &hello.extensions {
                    codec::put_varint(out, extension.id);
                    codec::put_varint(out, extension.data.len() as u64);
                    out.put_slice(&extension.data);
                }
            }
            Self::Bitfield(window) => {
                put_kind(out, kind::BITFIELD);
                codec::put_varint(out, window.first.get());
                out.put_slice(&window.bits);
            }
            Self::Have(serials) => {
                put_kind(out, kind::HAVE);
                put_serials(out, serials);
            }
            Self::DontHave(serials) => {
                put_kind(out, kind::DONT_HAVE);
                put_serials(out, serials);
            }
            Self::Request(request) => {
                put_kind(out, kind::REQUEST);
                codec::put_varint(out, request.serial.get());
                codec::put_varint(out, u64::from(request.due_in_ms));
            }
            Self::Offer(serial) => {
                put_kind(out, kind::OFFER);
                codec::put_varint(out, serial.get());
            }
            Self::Cancel(serial) => {
                put_kind(out, kind::CANCEL);
                codec::put_varint(out, serial.get());
            }
            Self::Reject(serial) => {
                put_kind(out, kind::REJECT);
                codec::put_varint(out, serial.get());
            }
            Self::Block(block) => {
                put_kind(out, kind::BLOCK);
                codec::put_varint(out, block.serial.get());
                codec::put_varint(out, u64::from(block.offset));
                codec::put_varint(out, u64::from(block.piece_len));
            }
            Self::Head(head) => {
                put_kind(out, kind::HEAD);
                out.put_slice(&head.signature);
                out.put_slice(&head.body);
            }
            Self::GetHeads { first, count } => {
                put_kind(out, kind::GET_HEADS);
                codec::put_varint(out, first.get());
                codec::put_varint(out, u64::from(*count));
            }
            Self::Record(record) => {
                put_kind(out, kind::RECORD);
                out.put_slice(record);
            }
            Self::State(state) => {
                put_kind(out, kind::STATE);
                out.put_slice(state);
            }
            Self::Peers(peers) => {
                put_kind(out, kind::PEERS);
                for peer in peers {
                    out.put_slice(&peer.node.0);
                    out.put_u8(peer.flags.to_byte());
                    codec::put_varint(out, u64::from(peer.upload_kbps));
                    codec::put_varint(out, peer.address.len() as u64);
                    out.put_slice(&peer.address);
                }
            }
            Self::Bye(reason) => {
                put_kind(out, kind::BYE);
                out.put_u8(reason.to_byte());
            }
            Self::Kept(kept) => kept.encode(out),
        }
    }

    /// Length of type, fields and payload.
    fn body_len(&self) -> usize {
        let varint = codec::varint_len;
        let number = |value: u32| varint(u64::from(value));
        // Every type number fits one byte.
        let kind = 1;
        match self {
            Self::Hello(hello) => {
                let extension =
                    |e: &Extension| sum([varint(e.id), varint(e.data.len() as u64), e.data.len()]);
                let extensions = sum(hello.extensions.iter().map(extension));
                sum([kind, number(hello.version), 1, number(hello.upload_kbps), extensions])
            }
            Self::Bitfield(window) => sum([kind, varint(window.first.get()), window.bits.len()]),
            Self::Have(serials) | Self::DontHave(serials) => sum([kind, serials_len(serials)]),
            Self::Request(request) => sum([kind, varint(request.serial.get()), number(request.due_in_ms)]),
            Self::Offer(serial) | Self::Cancel(serial) | Self::Reject(serial) => {
                sum([kind, varint(serial.get())])
            }
            Self::Block(block) => sum([
                kind,
                varint(block.serial.get()),
                number(block.offset),
                number(block.piece_len),
                block.len as usize,
            ]),
            Self::Head(head) => sum([kind, SIGNATURE_LEN, head.body.len()]),
            Self::GetHeads { first, count } => sum([kind, varint(first.get()), number(*count)]),
            Self::Record(statement) | Self::State(statement) => sum([kind, statement.len()]),
            Self::Peers(peers) => {
                let peer = |p: &PeerInfo| {
                    sum([32, 1, number(p.upload_kbps), varint(p.address.len() as u64), p.address.len()])
                };
                sum([kind, sum(peers.iter().map(peer))])
            }
            Self::Bye(_) => sum([kind, 1]),
            Self::Kept(kept) => kept.body_len(),
        }
    }

    /// Parses what follows a frame's length: type, fields and payload.
    fn decode_body(mut buf: Bytes) -> Result<Frame, DecodeError> {
        let len = buf.len();
        let kind = codec::get_varint(&mut buf, "message type")?;
        let mut payload = Bytes::new();
        let message = match kind {
            kind::HELLO => Self::Hello(get_hello(&mut buf)?),
            kind::BITFIELD => {
                let first = get_serial(&mut buf)?;
                let bits = take_rest(&mut buf, MAX_BITMAP_LEN, "bitmap")?;
                // The last bit, too, must be that of a serial.
                Serial::named(first.get().saturating_add((bits.len() as u64).saturating_mul(8)))?;
                Self::Bitfield(Window { first, bits })
            }
            kind::HAVE => Self::Have(get_serials(&mut buf)?),
            kind::DONT_HAVE => Self::DontHave(get_serials(&mut buf)?),
            kind::REQUEST => Self::Request(Request {
                serial: get_serial(&mut buf)?,
                due_in_ms: codec::get_varint_u32(&mut buf, "time until due")?,
            }),
            kind::OFFER => Self::Offer(get_serial(&mut buf)?),
            kind::CANCEL => Self::Cancel(get_serial(&mut buf)?),
            kind::REJECT => Self::Reject(get_serial(&mut buf)?),
            kind::BLOCK => {
                let (serial, offset, piece_len) = get_block_header(&mut buf)?;
                payload = take_rest(&mut buf, MAX_BLOCK_LEN as usize, "block")?;
                Self::Block(check_block(serial, offset, piece_len, payload.len())?)
            }
            kind::HEAD => {
                let signature = codec::get_array(&mut buf, "signature")?;
                Self::Head(SignedHead { signature, body: take_rest(&mut buf, MAX_HEAD_LEN, "head")? })
            }
            kind::GET_HEADS => Self::GetHeads {
                first: get_serial(&mut buf)?,
                count: codec::get_varint_u32(&mut buf, "head count")?,
            },
            kind::RECORD => Self::Record(take_rest(&mut buf, MAX_STATEMENT_LEN, "record")?),
            kind::STATE => Self::State(take_rest(&mut buf, MAX_STATEMENT_LEN, "state")?),
            kind::PEERS => Self::Peers(get_peers(&mut buf)?),
            kind::BYE => Self::Bye(ByeReason::from_byte(codec::get_u8(&mut buf, "reason")?)),
            kept::kind::WHOLE..=kept::kind::BLOCK => {
                let (kept, bytes) = Kept::decode(kind, &mut buf)?;
                payload = bytes;
                Self::Kept(kept)
            }
            _ => return Ok(Frame { message: None, payload, len }),
        };
        if buf.has_remaining() {
            return Err(DecodeError::Trailing);
        }
        Ok(Frame { message: Some(message), payload, len })
    }
}

impl Frame {
    /// Takes one whole frame from the front of `buf`; `Ok(None)` if it is not all there yet. After an error the
    /// stream is of no more use.
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Self>, DecodeError> {
        let mut peek = &buf[..];
        let Some(len) = codec::try_varint(&mut peek)? else { return Ok(None) };
        if len > MAX_FRAME_LEN as u64 {
            return Err(DecodeError::FrameTooLong);
        }
        let (prefix, len) = (buf.len().saturating_sub(peek.len()), len as usize);
        if peek.len() < len {
            return Ok(None);
        }
        buf.advance(prefix);
        Message::decode_body(buf.split_to(len).freeze()).map(Some)
    }

    /// Decodes a frame whose payload is kept apart: `header` is what [`Message::encode`] wrote. For transports,
    /// such as a simulator's, that pass payload by reference.
    pub fn decode_split(header: &Bytes, payload: Bytes) -> Result<Self, DecodeError> {
        let mut header = header.clone();
        let len = codec::get_varint(&mut header, "frame length")?;
        if len > MAX_FRAME_LEN as u64 {
            return Err(DecodeError::FrameTooLong);
        }
        if len != header.len().saturating_add(payload.len()) as u64 {
            return Err(DecodeError::Truncated("frame"));
        }
        if payload.is_empty() {
            return Message::decode_body(header);
        }
        let message = match codec::get_varint(&mut header, "message type")? {
            kind::BLOCK => {
                let (serial, offset, piece_len) = get_block_header(&mut header)?;
                Message::Block(check_block(serial, offset, piece_len, payload.len())?)
            }
            kept::kind::BLOCK => Message::Kept(Kept::decode_block(&mut header, payload.len())?),
            _ => return Err(DecodeError::Trailing),
        };
        if header.has_remaining() {
            return Err(DecodeError::Trailing);
        }
        Ok(Self { message: Some(message), payload, len: len as usize })
    }
}

impl HelloFlags {
    fn to_byte(self) -> u8 {
        u8::from(self.dialable)
            | u8::from(self.no_upload) << 1
            | u8::from(self.relay) << 2
            | u8::from(self.source) << 3
            | u8::from(self.elsewhere) << 4
    }

    fn from_byte(byte: u8) -> Self {
        Self {
            dialable: byte & 1 != 0,
            no_upload: byte & 2 != 0,
            relay: byte & 4 != 0,
            source: byte & 8 != 0,
            elsewhere: byte & 16 != 0,
        }
    }
}

impl ByeReason {
    fn to_byte(self) -> u8 {
        match self {
            Self::Leaving => 0,
            Self::Full => 1,
            Self::Replaced => 2,
            Self::Misbehaved => 3,
            Self::Other(byte) => byte,
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Leaving,
            1 => Self::Full,
            2 => Self::Replaced,
            3 => Self::Misbehaved,
            other => Self::Other(other),
        }
    }
}

/// The sum of a few lengths, none of which is beyond what memory holds.
fn sum(lengths: impl IntoIterator<Item = usize>) -> usize {
    lengths.into_iter().fold(0, usize::saturating_add)
}

fn get_serial(buf: &mut Bytes) -> Result<Serial, DecodeError> {
    Serial::named(codec::get_varint(buf, "serial")?)
}

fn get_block_header(buf: &mut Bytes) -> Result<(Serial, u32, u32), DecodeError> {
    Ok((
        get_serial(buf)?,
        codec::get_varint_u32(buf, "block offset")?,
        codec::get_varint_u32(buf, "piece length")?,
    ))
}

fn check_block(serial: Serial, offset: u32, piece_len: u32, len: usize) -> Result<Block, DecodeError> {
    let out_of_range = DecodeError::OutOfRange("block");
    let len = u32::try_from(len).map_err(|_| out_of_range)?;
    let end = u64::from(offset).saturating_add(u64::from(len));
    let small = len < MIN_BLOCK_LEN && end < u64::from(piece_len);
    if len == 0 || small || len > MAX_BLOCK_LEN || piece_len > MAX_PIECE_LEN || end > u64::from(piece_len) {
        return Err(out_of_range);
    }
    Ok(Block { serial, offset, len, piece_len })
}

fn take_rest(buf: &mut Bytes, max: usize, what: &'static str) -> Result<Bytes, DecodeError> {
    if buf.len() > max { Err(DecodeError::OutOfRange(what)) } else { Ok(buf.split_to(buf.len())) }
}

/// Serials as the first and then the distances, less one, to the end of the frame.
fn put_serials(out: &mut BytesMut, serials: &[Serial]) {
    let mut next = 0;
    for serial in serials {
        codec::put_varint(out, serial.get().wrapping_sub(next));
        next = serial.get().wrapping_add(1);
    }
}

fn serials_len(serials: &[Serial]) -> usize {
    let mut next = 0u64;
    let mut len = 0;
    for serial in serials {
        len = sum([len, codec::varint_len(serial.get().wrapping_sub(next))]);
        next = serial.get().wrapping_add(1);
    }
    len
}

fn get_serials(buf: &mut Bytes) -> Result<SerialList, DecodeError> {
    let mut serials = SerialList::new();
    let mut next = 0u64;
    while buf.has_remaining() {
        if serials.len() == MAX_SERIALS {
            return Err(DecodeError::OutOfRange("number of serials"));
        }
        let serial = Serial::named(next.saturating_add(codec::get_varint(buf, "serial")?))?;
        serials.push(serial);
        next = serial.get().saturating_add(1);
    }
    Ok(serials)
}

fn get_hello(buf: &mut Bytes) -> Result<Hello, DecodeError> {
    let version = codec::get_varint_u32(buf, "version")?;
    if version == 0 {
        return Err(DecodeError::OutOfRange("version"));
    }
    let flags = HelloFlags::from_byte(codec::get_u8(buf, "flags")?);
    let upload_kbps = codec::get_varint_u32(buf, "upload rate")?;
    let mut extensions = Vec::new();
    while buf.has_remaining() {
        if extensions.len() == MAX_EXTENSIONS {
            return Err(DecodeError::OutOfRange("number of extensions"));
        }
        let id = codec::get_varint(buf, "extension")?;
        extensions.push(Extension { id, data: codec::get_bytes(buf, MAX_EXTENSION_LEN, "extension")? });
    }
    Ok(Hello { version, flags, upload_kbps, extensions })
}

fn get_peers(buf: &mut Bytes) -> Result<Vec<PeerInfo>, DecodeError> {
    let mut peers = Vec::new();
    while buf.has_remaining() {
        if peers.len() == MAX_PEERS {
            return Err(DecodeError::OutOfRange("number of peers"));
        }
        peers.push(PeerInfo {
            node: NodeId(codec::get_array(buf, "node")?),
            flags: HelloFlags::from_byte(codec::get_u8(buf, "flags")?),
            upload_kbps: codec::get_varint_u32(buf, "upload rate")?,
            address: codec::get_bytes(buf, MAX_ADDRESS_LEN, "address")?,
        });
    }
    Ok(peers)
}
