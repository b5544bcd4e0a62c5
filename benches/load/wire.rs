//! gRPC framing, and as much of the discovery protocol's protobuf as a load generator needs.
//!
//! The load must cost less than the server that it measures. Requests are therefore put together from parts
//! that all streams share, and responses are read as they arrive, without keeping them: of a large one only
//! the fields around its resources and their number. Small responses, and all responses of the scout, are
//! decoded.

use bytes::{BufMut, Bytes, BytesMut};

/// Maximum size of a response that is decoded.
pub(crate) const SMALL: usize = 16 << 10;

/// Variants of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// State of the world.
    Sotw,
    /// Incremental (delta).
    Delta,
}

/// Types that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    /// Clusters: all of them, by the legacy wildcard.
    Clusters,
    /// Endpoints, by name.
    Endpoints,
}

impl Type {
    /// Both types, in the order in which they are asked for.
    pub(crate) const ALL: [Self; 2] = [Self::Clusters, Self::Endpoints];

    /// Returns the type URL.
    pub(crate) fn url(self) -> &'static str {
        match self {
            Self::Clusters => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        }
    }

    fn of(url: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.url().as_bytes() == url)
    }
}

/// Head of a request: the fields that differ from stream to stream.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Head<'a> {
    /// Node id, in the first request of a stream.
    pub(crate) node: Option<&'a str>,
    /// Acknowledged version; SotW only.
    pub(crate) version: &'a [u8],
    /// Nonce of the acknowledged response.
    pub(crate) nonce: &'a [u8],
}

/// Encodes a gRPC message with a request, in two parts: the head, and `tail`, fields that all streams share.
pub(crate) fn request(variant: Variant, of: Type, head: Head<'_>, tail: &Bytes) -> [Bytes; 2] {
    // Field numbers of the node, the type and the nonce.
    let (node, type_url, nonce) = match variant {
        Variant::Sotw => (2, 4, 5),
        Variant::Delta => (1, 2, 6),
    };
    let mut message = BytesMut::with_capacity(192);
    message.put_bytes(0, 5);
    if let Some(id) = head.node {
        let mut inner = BytesMut::new();
        put_field(1, id.as_bytes(), &mut inner);
        put_field(2, b"load", &mut inner);
        put_field(node, &inner, &mut message);
    }
    if variant == Variant::Sotw && !head.version.is_empty() {
        put_field(1, head.version, &mut message);
    }
    put_field(type_url, of.url().as_bytes(), &mut message);
    if !head.nonce.is_empty() {
        put_field(nonce, head.nonce, &mut message);
    }
    let length = u32::try_from(message.len() - 5 + tail.len()).expect("requests are far below 4 GiB");
    message[1..5].copy_from_slice(&length.to_be_bytes());
    [message.freeze(), tail.clone()]
}

/// Encodes the names to subscribe to: field 3 of a request in either variant.
pub(crate) fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Bytes {
    let mut fields = BytesMut::new();
    for name in names {
        put_field(3, name.as_bytes(), &mut fields);
    }
    fields.freeze()
}

/// Encodes the resources that a delta client holds: field 5 of its first request, names with versions.
pub(crate) fn held<'a>(resources: impl IntoIterator<Item = (&'a str, &'a str)>) -> Bytes {
    let mut fields = BytesMut::new();
    for (name, version) in resources {
        let mut entry = BytesMut::new();
        put_field(1, name.as_bytes(), &mut entry);
        put_field(2, version.as_bytes(), &mut entry);
        put_field(5, &entry, &mut fields);
    }
    fields.freeze()
}

fn put_field(number: u8, value: &[u8], out: &mut BytesMut) {
    out.put_u8(number << 3 | 2);
    let mut length = value.len();
    while length >= 0x80 {
        out.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
    out.put_slice(value);
}

/// Fields that were read of a response.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    /// Type; none for a type that was not asked for.
    pub(crate) of: Option<Type>,
    /// Version of the whole response.
    pub(crate) version: Vec<u8>,
    /// Nonce, to be sent back.
    pub(crate) nonce: Vec<u8>,
    /// Number of resources.
    pub(crate) resources: u64,
    /// Number of removed resources.
    pub(crate) removed: u64,
    /// Decoded resources; none if the response was too large to be decoded.
    pub(crate) inside: Option<Vec<Resource>>,
}

/// Decoded resource.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    /// Name.
    pub(crate) name: String,
    /// Version; delta only.
    pub(crate) version: String,
    /// Name of the endpoints; clusters only.
    pub(crate) endpoints: String,
}

/// Decoder of responses out of chunks, however they are cut.
#[derive(Debug)]
pub(crate) struct Decoder {
    variant: Variant,
    look_into_all: bool,
    step: Step,
    /// Number of bytes left of the message.
    left: usize,
    response: Response,
    raw: Vec<Vec<u8>>,
    type_url: Vec<u8>,
}

#[derive(Debug)]
enum Step {
    /// The five bytes before a message.
    Prefix { have: u8, length: u32 },
    /// Varint: the key of a field, its value or its length.
    Number { of: Number, value: u64, shift: u8 },
    /// Number of bytes to skip.
    Skip(usize),
    /// Bytes of a field that is kept, and the number of missing ones.
    Keep { field: u64, left: usize, bytes: Vec<u8> },
}

#[derive(Debug, Clone, Copy)]
enum Number {
    Key,
    Plain,
    LengthOf(u64),
}

const PREFIX: Step = Step::Prefix { have: 0, length: 0 };
const KEY: Step = Step::Number { of: Number::Key, value: 0, shift: 0 };

/// Error: the peer did not send a discovery response.
#[derive(Debug)]
pub(crate) struct Malformed;

impl Decoder {
    /// Creates a decoder for the responses of one stream.
    pub(crate) fn new(variant: Variant, look_into_all: bool) -> Self {
        Self {
            variant,
            look_into_all,
            step: PREFIX,
            left: 0,
            response: Response::default(),
            raw: Vec::new(),
            type_url: Vec::new(),
        }
    }

    /// Takes the next chunk, and returns the responses that are complete with it.
    ///
    /// # Errors
    ///
    /// Fails if this is no discovery response; the stream is then of no use any more.
    pub(crate) fn feed(&mut self, mut chunk: &[u8]) -> Result<Vec<Response>, Malformed> {
        let mut complete = Vec::new();
        while !chunk.is_empty() {
            let taken = self.step(chunk)?;
            chunk = &chunk[taken..];
            if self.left == 0 && matches!(self.step, Step::Number { of: Number::Key, shift: 0, .. }) {
                self.step = PREFIX;
                complete.push(self.finish()?);
            }
        }
        Ok(complete)
    }

    /// Takes some bytes of a chunk, and returns their number.
    fn step(&mut self, chunk: &[u8]) -> Result<usize, Malformed> {
        match &mut self.step {
            Step::Prefix { have, length } => {
                if *have == 0 && chunk[0] != 0 {
                    return Err(Malformed); // Compressed, which was not offered.
                }
                *length = *length << 8 | u32::from(chunk[0]);
                *have += 1;
                if *have == 5 {
                    // The first byte has been shifted out.
                    self.left = *length as usize;
                    let inside = self.look_into_all || self.left <= SMALL;
                    self.response = Response { inside: inside.then(Vec::new), ..Response::default() };
                    self.step = KEY;
                }
                return Ok(1);
            }
            Step::Number { of, value, shift } => {
                *value |= u64::from(chunk[0] & 0x7f) << *shift;
                *shift += 7;
                if *shift > 63 {
                    return Err(Malformed);
                }
                let whole = (chunk[0] & 0x80 == 0).then_some((*of, *value));
                self.left = self.left.checked_sub(1).ok_or(Malformed)?;
                if let Some((of, value)) = whole {
                    self.step = self.after(of, value)?;
                }
                return Ok(1);
            }
            Step::Skip(left) => {
                let taken = (*left).min(chunk.len());
                *left -= taken;
                self.left = self.left.checked_sub(taken).ok_or(Malformed)?;
                if *left == 0 {
                    self.step = KEY;
                }
                return Ok(taken);
            }
            Step::Keep { .. } => {}
        }
        self.keep(chunk)
    }

    fn keep(&mut self, chunk: &[u8]) -> Result<usize, Malformed> {
        let Step::Keep { field, left, bytes } = &mut self.step else { return Err(Malformed) };
        let taken = (*left).min(chunk.len());
        bytes.extend_from_slice(&chunk[..taken]);
        *left -= taken;
        self.left = self.left.checked_sub(taken).ok_or(Malformed)?;
        if *left == 0 {
            let (field, bytes) = (*field, std::mem::take(bytes));
            self.step = KEY;
            self.take(field, bytes);
        }
        Ok(taken)
    }

    /// Returns the step after a number.
    fn after(&mut self, of: Number, value: u64) -> Result<Step, Malformed> {
        match of {
            Number::Plain => Ok(KEY),
            Number::Key => match (value & 7, value >> 3) {
                (0, _) => Ok(Step::Number { of: Number::Plain, value: 0, shift: 0 }),
                (1, _) => Ok(Step::Skip(8)),
                (2, field) => Ok(Step::Number { of: Number::LengthOf(field), value: 0, shift: 0 }),
                (5, _) => Ok(Step::Skip(4)),
                _ => Err(Malformed),
            },
            Number::LengthOf(field) => {
                let left = usize::try_from(value).map_err(|_| Malformed)?;
                let kept = match field {
                    2 => {
                        self.response.resources += 1;
                        self.response.inside.is_some()
                    }
                    6 if self.variant == Variant::Delta => {
                        self.response.removed += 1;
                        false
                    }
                    1 | 4 | 5 => true,
                    _ => false,
                };
                Ok(match (kept, left) {
                    (true, 0) => {
                        self.take(field, Vec::new());
                        KEY
                    }
                    (_, 0) => KEY,
                    (true, _) => Step::Keep { field, left, bytes: Vec::with_capacity(left.min(SMALL)) },
                    (false, _) => Step::Skip(left),
                })
            }
        }
    }

    fn take(&mut self, field: u64, bytes: Vec<u8>) {
        match field {
            1 => self.response.version = bytes,
            2 => self.raw.push(bytes),
            4 => self.type_url = bytes,
            _ => self.response.nonce = bytes,
        }
    }

    fn finish(&mut self) -> Result<Response, Malformed> {
        let mut response = std::mem::take(&mut self.response);
        response.of = Type::of(&std::mem::take(&mut self.type_url));
        if let (Some(inside), Some(of)) = (&mut response.inside, response.of) {
            for raw in self.raw.drain(..) {
                inside.push(resource(self.variant, of, &raw)?);
            }
        }
        self.raw.clear();
        Ok(response)
    }
}

/// Decodes a field `resources`.
fn resource(variant: Variant, of: Type, bytes: &[u8]) -> Result<Resource, Malformed> {
    let mut found = Resource::default();
    let any = match variant {
        Variant::Sotw => bytes,
        Variant::Delta => {
            found.version = text(field(bytes, 1)?);
            found.name = text(field(bytes, 3)?);
            field(bytes, 2)?
        }
    };
    let message = field(any, 2)?;
    if variant == Variant::Sotw {
        // Both types have their name in field 1.
        found.name = text(field(message, 1)?);
    }
    if of == Type::Clusters {
        let service_name = field(field(message, 3)?, 2)?;
        found.endpoints = if service_name.is_empty() { found.name.clone() } else { text(service_name) };
    }
    Ok(found)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns the value of a field that is a text or a message; empty if it is absent.
fn field(mut message: &[u8], wanted: u64) -> Result<&[u8], Malformed> {
    let mut found: &[u8] = &[];
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let length = match key & 7 {
            0 => {
                varint(&mut message)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).map_err(|_| Malformed)?,
            5 => 4,
            _ => return Err(Malformed),
        };
        let (value, rest) = message.split_at_checked(length).ok_or(Malformed)?;
        if key == wanted << 3 | 2 {
            found = value;
        }
        message = rest;
    }
    Ok(found)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or(Malformed)?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}
